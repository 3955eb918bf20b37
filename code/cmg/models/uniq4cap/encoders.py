"""What stage 1 aligns: encoders that turn the features of a clip, or the pieces of a caption, into tokens and a vector.

Sight and sound are tokens of a place and a second; in training half of them are dropped where that is asked for, so
that a clip is known by parts (UniQ4Cap §3.2). The original encoders are large transformers over pixels and over
spectrograms; here those are the backbones of extraction, and a small transformer stands on their features.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.losses.masked import clip_vectors


@dataclass(frozen=True)
class EncodersConfig(Config):
    """Aligned encoders.

    Attributes
    ----------
    aligned_width : width of the encoders
    aligned_layers : layers of each
    aligned_heads : heads of an attention
    aligned_dim : D, of the space that all share
    cells : side of the grid that a second of video is averaged to; 1 = a vector a second
    aligned_dropout : of attentions and feed-forwards
    """

    aligned_width: int = setting(128, whole(4, multiple_of=4))
    aligned_layers: int = setting(2, whole(1))
    aligned_heads: int = setting(4, whole(1))
    aligned_dim: int = setting(64, whole(1))
    cells: int = setting(1, whole(1))
    aligned_dropout: float = setting(0.1, number(least=0, below=1))


def context(config):
    """Pre-norm transformer layers with a norm at their end."""
    D = config.aligned_width
    layer = nn.TransformerEncoderLayer(D, config.aligned_heads, 4 * D, config.aligned_dropout, F.gelu,
                                       batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, config.aligned_layers, nn.LayerNorm(D), enable_nested_tensor=False)


def placed(tokens, width, device):
    """Sines and cosines of positions 0 … tokens - 1, [tokens, width] (Vaswani et al. 2017)."""
    scale = 10_000.0 ** -torch.linspace(0, 1, width // 2, device=device)
    angle = torch.arange(tokens, device=device).outer(scale)
    return torch.cat([angle.sin(), angle.cos()], 1)


def averaged(x, cells):
    """Tokens of features: [B, T, C] -> [B, T, C], and a grid [B, T, H, W, C] -> [B, T · cells², C], cell averages."""
    if x.dim() == 3:
        return x
    B, T = x.shape[:2]
    x = F.adaptive_avg_pool2d(x.flatten(0, 1).movedim(-1, 1), cells)  # (B T, C, cells, cells)
    return x.flatten(2).transpose(1, 2).reshape(B, -1, x.shape[1])


class ClipEncoder(nn.Module):
    """Sight or sound.

    shape : of one clip's features, (T, C) or (T, H, W, C).
    """

    def __init__(self, shape, config):
        super().__init__()
        D = config.aligned_width
        self.side = config.cells if len(shape) == 4 else 1
        self.read_norm, self.embed = nn.LayerNorm(shape[-1]), nn.Linear(shape[-1], D)
        self.place = nn.Parameter(0.02 * torch.randn(self.side**2, D))  # of a cell in its second
        self.context, self.project = context(config), nn.Linear(D, config.aligned_dim)
        self.register_buffer("aligned", torch.zeros((), dtype=torch.bool))  # whether it has learnt anything

    def forward(self, x, valid=None, uniform=None, dropped=0.0):
        """Tokens [B, N, D], and which of them exist, BoolTensor[B, N]; N = T · cells².

        x : Tensor[B, T, …]. valid : BoolTensor[B, T]. dropped : share of a clip's tokens that are left out.
        uniform : Tensor[B, N] in [0, 1), which decides which.
        """
        cells = self.side**2
        if valid is None:
            valid = x.new_ones(x.shape[:2], dtype=torch.bool)
        x = self.embed(self.read_norm(averaged(x.to(self.place.dtype), self.side)))
        T = x.shape[1] // cells
        x = (x.unflatten(1, (T, cells)) + placed(T, x.shape[2], x.device).to(x)[:, None] + self.place).flatten(1, 2)
        there = valid.repeat_interleave(cells, 1)  # (B, N)
        if uniform is not None:
            there = spared(there, uniform, dropped)
        # A clip of which nothing is there reads itself, so that no row is empty.
        return self.context(x, src_key_padding_mask=~there & there.any(1, keepdim=True)), there

    def vectors(self, tokens):
        """Tokens in the shared space, [B, N, aligned_dim]."""
        return self.project(tokens)

    def steps(self, tokens):
        """The same of seconds, unit vectors [B, T, aligned_dim]."""
        return F.normalize(self.vectors(tokens).unflatten(1, (-1, self.side**2)).mean(2), dim=-1)

    def pooled(self, tokens, there):
        """A unit vector a clip, [B, aligned_dim]: the mean of the tokens that exist."""
        return F.normalize(clip_vectors(self.vectors(tokens), there)[0], dim=-1)


class CaptionEncoder(nn.Module):
    """Captions as unit vectors of the shared space: what stands at their first position, which is a mark.

    vocabulary : V. words : L, pieces of a caption at most.
    """

    def __init__(self, vocabulary, words, config):
        super().__init__()
        D = config.aligned_width
        self.word, self.position = nn.Embedding(vocabulary, D), nn.Embedding(words, D)
        for embedding in (self.word, self.position):
            nn.init.normal_(embedding.weight, std=1 / math.sqrt(D))
        self.context, self.project = context(config), nn.Linear(D, config.aligned_dim)

    def forward(self, ids, pad=0):
        """ids int [..., L] -> [..., aligned_dim]."""
        flat = ids.flatten(0, -2).long()
        there = flat != pad
        x = self.word(flat) + self.position(torch.arange(flat.shape[1], device=flat.device))
        x = self.context(x, src_key_padding_mask=~there & there.any(1, keepdim=True))
        return F.normalize(self.project(x[:, 0]), dim=-1).unflatten(0, ids.shape[:-1])


def spared(there, uniform, dropped):
    """Which tokens stay when a share of every clip's is dropped, BoolTensor[B, N]: of what is there, one at least.

    there : BoolTensor[B, N]. uniform : Tensor[B, N] in [0, 1), which decides.
    """
    place = (uniform + ~there).argsort(1).argsort(1)  # what is there comes first, in random order
    stay = (there.sum(1, keepdim=True) * (1 - dropped)).ceil()
    return there & (place < stay)
