"""From seconds to clips, before quantisation (FCID, ACL Findings 2025): one vector of a clip is what can be shared with
its caption, and what cannot.

    c = Linear( mean_t z ),   g = ReLU( Linear_gen c ),   p = ReLU( Linear_spe c )

One set of three maps for all modalities that have seconds, one of its own for each that has none. The codebook
quantises g. Read out, every second of video and audio goes through the path alone (the mean of one second is the
second); a caption has one code, which stands at each of its words.
"""

from typing import NamedTuple

import torch
from torch import nn

from cmg.losses.masked import clip_vectors
from cmg.modalities import modality as row_of
from cmg.models.unified import UnifiedModel


class ClipVectors(NamedTuple):
    """c, g and p of clips, Tensor[.., D] each."""

    clip: torch.Tensor
    general: torch.Tensor
    specific: torch.Tensor


class ClipPath(nn.Module):
    """The three maps: mean vectors [.., D] -> ClipVectors."""

    def __init__(self, dim):
        super().__init__()
        self.clip, self.general, self.specific = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, mean):
        clip = self.clip(mean)
        parts = clip, torch.relu(self.general(clip)), torch.relu(self.specific(clip))
        return ClipVectors(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in parts))


class ClipModel(UnifiedModel):
    """Φ of every modality, the paths to clips, and a codebook of clips."""

    first = ("video", "audio", "text")  # the released code hands its codebook video in the place of audio

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        dim = self.token_dim
        self.paths = nn.ModuleDict({name: ClipPath(dim) for name in dict.fromkeys(map(self.path, self.modalities))})

    @staticmethod
    def path(modality):
        """Name of the path that a modality takes."""
        return "timed" if row_of(modality).timed else modality

    @property
    def decoded(self):
        """Words are rebuilt as clips alone."""
        return tuple(m for m in self.modalities if row_of(m).timed)

    def clips(self, semantic, valid):
        return {m: self.paths[self.path(m)](clip_vectors(z, valid[m])[0]) for m, z in semantic.items()}

    def points(self, modality, semantic, valid=None):
        path = self.paths[self.path(modality)]
        if row_of(modality).timed:
            return path(semantic).general
        valid = torch.ones_like(semantic[..., 0], dtype=torch.bool) if valid is None else valid
        return path(clip_vectors(semantic, valid)[0]).general.unsqueeze(1).expand_as(semantic)
