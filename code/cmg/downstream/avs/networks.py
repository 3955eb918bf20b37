"""Query-based video segmentation: frames and a query per frame to a mask per frame.

The network of AVSBench (Zhou et al., ECCV 2022): an image backbone with four stages, dilated convolutions that bring
each to C channels, TPAVI blocks that fuse the query into chosen stages, and a decoder that adds them up from coarse
to fine. There the query is a second's VGGish feature; here it is a second's code vector, of whichever modality.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from cmg.downstream.avs.backbones import BACKBONES

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
QUERY_WIDTH = 128  # of the benchmark's audio features, which TPAVI was made for


class Segmented(NamedTuple):
    """The network's output: mask logits [B, T, h, w]; of each fused stage its map and its aligned query."""

    logits: torch.Tensor
    maps: list  # of Tensor[B, T, C, H, W]
    queries: list  # of Tensor[B, T, C]


class QueryProjector(nn.Module):
    """A query of any width and scale to `QUERY_WIDTH`: [B, T, Q] -> [B, T, 128].

    The scale of code vectors differs by orders of magnitude between checkpoints, hence the LayerNorm.
    """

    def __init__(self, width):
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, QUERY_WIDTH))

    def forward(self, query):
        return self.project(query)


class Tpavi(nn.Module):
    """Temporal pixel-wise audio-visual interaction: every cell of every frame asks all others, by the query.

    With x_p the cell p of N = T·H·W, a_p the aligned query of its frame, and 1×1 convolutions θ, φ, g, µ:

        z_p = LayerNorm( x_p + BN(µ( 1/N Σ_q (θ(x_p)·φ(a_q)) g(x_q) )) )

    BN starts at zero, so that the block starts as LayerNorm(x). Matrix products are associative, and a_q is the same
    for all cells of a frame, so that

        1/N Σ_q (θ(x_p)·φ(a_q)) g(x_q) = θ(x_p)ᵀ · 1/T Σ_t φ(a_t) g(x̄_t)ᵀ ,   x̄_t = mean over cells.

    This costs a C/2 × C/2 matrix per clip instead of an N × N one (at 56×56 cells and 5 frames: 15,680²).

    Parameters
    ----------
    channels : C of the map.
    query_width : Q of the query.
    """

    def __init__(self, channels, query_width=QUERY_WIDTH):
        super().__init__()
        hidden = channels // 2
        self.align = nn.Linear(query_width, channels)
        self.theta, self.phi, self.g = (nn.Linear(channels, hidden) for _ in range(3))
        self.mu = nn.Linear(hidden, channels)
        self.scale = nn.BatchNorm1d(channels)
        nn.init.zeros_(self.scale.weight)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x, query):
        """x : Tensor[B, T, C, H, W], query : Tensor[B, T, Q] -> (z like x, aligned query Tensor[B, T, C])."""
        x = x.permute(0, 1, 3, 4, 2)  # (B, T, H, W, C)
        aligned = self.align(query)
        value = self.g(x.mean((2, 3)))  # (B, T, C/2)
        memory = self.phi(aligned).transpose(1, 2) @ value / x.shape[1]  # (B, C/2, C/2)
        y = self.mu(self.theta(x) @ memory[:, None, None])  # (B, T, H, W, C)
        y = self.scale(y.flatten(0, 3)).view_as(x)  # statistics over B·T·H·W
        return self.norm(x + y).permute(0, 1, 4, 2, 3), aligned


class DilatedSum(nn.Module):
    """The sum of 3×3 convolutions of several dilations: a stage's map to C channels, with a wide view."""

    def __init__(self, in_channels, channels, dilations, std):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(in_channels, channels, 3, padding=d, dilation=d) for d in dilations)
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=std)

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x):
        return x + self.convolutions(x)


class Decoder(nn.Module):
    """Four maps, from fine to coarse, to one logit per pixel: each is refined, added to the coarser ones, enlarged."""

    def __init__(self, channels, stages=4):
        super().__init__()
        self.enter = nn.ModuleList(ResidualUnit(channels) for _ in range(stages - 1))  # all but the coarsest
        self.leave = nn.ModuleList(ResidualUnit(channels) for _ in range(stages))
        hidden = max(16, channels // 8)  # fewer can all die in the ReLU, and then nothing is ever foreground
        self.shrink = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.last = nn.Sequential(
            nn.Conv2d(channels // 2, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1)
        )

    def forward(self, maps, size):
        """maps : list of Tensor[B·T, C, H, W]; size : (h, w) of the frames -> Tensor[B·T, 1, h, w]."""
        half = [max((side + 1) // 2, cells) for side, cells in zip(size, maps[0].shape[-2:])]  # none is shrunk
        # Sizes are given rather than doubled: sides that are no multiple of 32 do not come out even.
        sizes = [half, *(grid.shape[-2:] for grid in maps)]
        x = None
        for level in reversed(range(len(maps))):
            x = maps[level] if x is None else x + self.enter[level](maps[level])
            x = _enlarge(self.leave[level](x), sizes[level])
        return self.last(_enlarge(self.shrink(x), size))


def _enlarge(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class Segmenter(nn.Module):
    """Backbone, query projector, TPAVI at `fusion` stages, decoder.

    Parameters
    ----------
    query_width : Q, width of a query before the projector.
    backbone : "resnet50", "pvt_v2_b5" or "tiny".
    channels : C, of the decoder.
    dilations : of the convolutions that bring a stage to C channels.
    fusion : stages with a TPAVI block, 0 (finest) to 3 (coarsest).
    weights : the backbone's: "none", "imagenet" (downloaded) or a file.

    Example
    -------
    >>> net = Segmenter(256, "tiny", channels=16, dilations=(1,), fusion=(3,))
    >>> net(torch.rand(2, 5, 3, 64, 64), torch.randn(2, 5, 256)).logits.shape
    torch.Size([2, 5, 64, 64])
    """

    def __init__(self, query_width, backbone="pvt_v2_b5", channels=256, dilations=(3, 6, 12, 18), fusion=(0, 1, 2, 3),
                 weights="none"):
        super().__init__()
        self.backbone = BACKBONES[backbone](weights)
        self.query = QueryProjector(query_width)
        std = self.backbone.lateral_std
        self.lateral = nn.ModuleList(DilatedSum(c, channels, dilations, std) for c in self.backbone.channels)
        self.fusion = nn.ModuleDict({str(stage): Tpavi(channels) for stage in sorted(fusion)})
        self.decoder = Decoder(channels)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def encode(self, frames):
        """What does not depend on the query: frames [B, T, 3, h, w] in 0..1 -> four Tensor[B, T, C, H, W]."""
        x = (frames.flatten(0, 1) - self.mean) / self.std  # (B·T, 3, h, w)
        maps = (lateral(grid) for lateral, grid in zip(self.lateral, self.backbone(x)))
        return [grid.unflatten(0, frames.shape[:2]) for grid in maps]

    def segment(self, maps, query, size):
        """maps : of `encode`; query : Tensor[B, T, Q]; size : (h, w) of the frames -> Segmented."""
        query, maps, queries = self.query(query), list(maps), []
        for stage, block in self.fusion.items():
            maps[int(stage)], aligned = block(maps[int(stage)], query)
            queries.append(aligned)
        logits = self.decoder([grid.flatten(0, 1) for grid in maps], size)[:, 0]  # (B·T, h, w)
        fused = [maps[int(stage)] for stage in self.fusion]
        return Segmented(logits.unflatten(0, query.shape[:2]), fused, queries)

    def projections(self, maps, query):
        """What TPAVI multiplies at each fused stage, θ of the map and φ of the aligned query, as a list of pairs.

        maps : of `encode`; query : Tensor[B, T, Q] -> (Tensor[B, T, H, W, C/2], Tensor[B, T, C/2]) a stage.
        """
        query = self.query(query)
        return [(block.theta(maps[int(stage)].permute(0, 1, 3, 4, 2)), block.phi(block.align(query)))
                for stage, block in self.fusion.items()]

    def forward(self, frames, query):
        """frames : Tensor[B, T, 3, h, w] in 0..1; query : Tensor[B, T, Q] -> Segmented."""
        return self.segment(self.encode(frames), query, frames.shape[-2:])
