"""FCID (Huang et al., ACL Findings 2025): fine, audio and video by seconds; coarse, with captions by clips, where the
codebook is (`cmg.models.clip_path`). It needs text.

L = L_rec(z; Ψ) + L_coarse_rec + L_commit + 0.5 L_cmcm + L_cpc + L_coarse + vCLUB(z^m; Ψ^m) + vCLUB(g; p):

* audio and video are rebuilt from the *continuous* z and Ψ; Cross-CPC and vCLUB read z as well;
* clips: c is rebuilt from the token of g and p, with a gradient into the target, as released; InfoNCE picks the caption
  for what is heard and seen, -log softmax_j( cos(g^m_i, g^text_j) / τ )_i in this direction alone; vCLUB between g and
  p of captions, and of audio and video as rows of one batch; MM-EMA, commitment and L_cmcm on clips.

Equal captions in a batch are each other's negatives, as published. Under `--preset official` the vCLUB of clips takes
the mean over D for that over time and sums over the batch. Choices of this project: Φ of text has the biLSTM of all
methods here (published: word vectors straight into one layer; `--layers 1` is published for all modalities); clips and
captions that do not exist are left out.
"""

from dataclasses import dataclass

import torch
from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.losses.club import CLUB
from cmg.losses.info_nce import contrast
from cmg.losses.masked import mse
from cmg.methods.codebook.baseline import Commitment, Reconstruction
from cmg.methods.codebook.dcid import Bounds, Disentangling
from cmg.methods.codebook.objective import Objective
from cmg.modalities import direction, modality
from cmg.models.clip_path import ClipModel
from cmg.models.specific import VectorDecoder


@dataclass(frozen=True)
class FcidConfig(Config):
    """Method fcid (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_coarse : InfoNCE from clips to captions
    coarse_temperature : cosine / temperature
    w_coarse_rec : clips rebuilt from their code and what is specific
    w_coarse_club : vCLUB between the two of a clip
    """

    w_coarse: float = setting(1.0, number(least=0))
    coarse_temperature: float = setting(0.1, number(above=0))
    w_coarse_rec: float = setting(1.0, number(least=0))
    w_coarse_club: float = setting(1.0, number(least=0))


class FineReconstruction(Reconstruction):
    """The features of seconds from z and Ψ."""

    def tokens(self, state, m):
        return state.semantic[m][:, state.steps]


class CaptionContrast(nn.Module):
    """InfoNCE from every modality with seconds to every one without."""

    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, state):
        points, exists = state.points, state.exists
        timed = [m for m in points if modality(m).timed]
        return {direction(a, b): contrast(points[a], exists[a], points[b], exists[b], self.temperature)
                for a in timed for b in points if b not in timed}


class ClipReconstruction(nn.Module):
    """MSE between c and D([code; p]), keys by modality."""

    def __init__(self, modalities, dim):
        super().__init__()
        self.decoders = nn.ModuleDict({m: VectorDecoder(dim, dim, dim) for m in modalities})

    def forward(self, state):
        losses = {}
        for m, decoder in self.decoders.items():
            clip, _, specific = (x.unsqueeze(1) for x in state.clips[m])  # (B, 1, D) each
            losses[m] = mse(decoder(state.quantized[m].straight, specific), clip, state.exists[m])
        return losses


class ClipCLUB(CLUB):
    """vCLUB of clips, [B, 1, D]."""


class ClipBounds(Bounds):
    """vCLUB between g and p of every path; the modalities of a path are rows of one batch.

    paths : dict name -> its modalities.
    """

    def __init__(self, paths, estimators, steps, lr):
        super().__init__(estimators, steps, lr)
        self.paths = paths

    def pair(self, state, name):
        clips = [state.clips[m] for m in self.paths[name]]
        x, y = (torch.cat([getattr(one, part) for one in clips]).unsqueeze(1) for part in ("general", "specific"))
        return x, y, torch.cat([state.exists[m] for m in self.paths[name]])


def reconstruction(blueprint):
    return FineReconstruction(blueprint.model, blueprint.specific, blueprint.config.encoder.dim)


def commitment(blueprint):
    """Clips teach each other, whatever their steps are."""
    cross = blueprint.config.objectives["baseline"].commitment == "cross"
    return blueprint.arithmetic(Commitment)(timed=None if cross else ())


def disentangling(blueprint):
    """As of dcid, of z also under the released arithmetic."""
    config = blueprint.config.objectives["dcid"]
    return Disentangling(blueprint.model, blueprint.specific, blueprint.config.encoder.dim, config.club_steps,
                         config.club_lr, blueprint.arithmetic(CLUB), config.club_reads)


def caption_contrast(blueprint):
    return CaptionContrast(blueprint.config.objectives["fcid"].coarse_temperature)


def clip_reconstruction(blueprint):
    return ClipReconstruction(blueprint.model.modalities, blueprint.config.encoder.dim)


def clip_bounds(blueprint):
    model, config, paths = blueprint.model, blueprint.config.objectives["dcid"], {}
    for m in model.modalities:
        paths.setdefault(model.path(m), []).append(m)
    estimator, dim = blueprint.arithmetic(ClipCLUB), blueprint.config.encoder.dim
    return ClipBounds(paths, {name: estimator(dim, dim) for name in paths}, config.club_steps, config.club_lr)


def refuse(config, features):
    """`UserError` where there are no captions, or nothing that they are of."""
    timed = [m for m in features.modalities if modality(m).timed]
    if not timed or len(timed) == len(features.modalities):
        raise UserError(f"--modalities {' '.join(features.modalities)}: fcid compares what is heard or seen with text; "
                        "expected video or audio, and text")


OBJECTIVE = Objective(
    "fcid", FcidConfig(),
    {"coarse": caption_contrast, "coarse_rec": clip_reconstruction, "coarse_club": clip_bounds},
    includes=("dcid", "cmcm"),
    sets={"w_cmcm": 0.5, "mm_ema": "attention", "commitment": "cross", "text_alignment": "clip"},
    replaces={"rec": reconstruction, "commit": commitment, "club": disentangling}, model=ClipModel,
    alignments=("clip",), paired=True, refuse=refuse,
)
