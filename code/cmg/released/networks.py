"""The released code's networks where they differ from the paper's: no masks, no spatial attention, another head."""

import torch
from torch import nn

from cmg.distributed import shared_rand
from cmg.models.block_codebook import BlockCodebook, BlockModel
from cmg.models.clip_path import ClipModel
from cmg.models.codebook import Codebook, sample
from cmg.models.residual import ResidualModel
from cmg.models.semantic import channel_attention
from cmg.models.specific import GridSpecific
from cmg.models.unified import UnifiedModel


class SummedGrid(nn.Module):
    """Channel attention and the *sum* over cells.

    The spatial attention takes a softmax over an axis of length one, so that every cell weighs 1, and three linear
    layers are dead; these are left out. It reads nothing but the mean over the grid, and takes that, [B, T, C], in the
    place of the grid, [B, T, H, W, C].
    """

    def __init__(self, channels, cells):
        super().__init__()
        self.channel, self.cells = channel_attention(channels), cells

    def forward(self, x):
        mean = x.flatten(2, 3).mean(2) if x.dim() == 5 else x  # (B, T, C)
        return self.cells * mean * (1 + self.channel(mean))


class ReleasedGridSpecific(GridSpecific):
    """vCLUB reads a head of the pooled map, [B, T, C], which feeds nothing else; the decoder reads the map."""

    def __init__(self, channels, width):
        super().__init__(channels, width)
        self.head = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, channels))
        self.pooled_dim = channels

    def pool(self, maps):
        return self.head(super().pool(maps))


class ReleasedModel(UnifiedModel):
    """A padded word is a word; of a grid only the mean is read."""

    def mask(self, valid):
        return torch.ones_like(valid)

    def fits(self, modality, shape):
        return super().fits(modality, shape) or tuple(shape[1:]) == self.shapes[modality][-1:]


class ReleasedCodebook(Codebook):
    """One update per modality in turn, each with its own decay, smoothed counts stored back; float64.

    A reset writes the vector alone. The next update makes every vector from its statistics anew, so that a reset code
    lives for one assignment: what selects it then brings it new statistics, or it falls back and is idle for another
    `reset_after` batches.

    The released quantiser does all this within its forward pass, before the optimiser's step: update, counters, reset.
    Here `update` does it after that step, from the same vectors and codes and in the same order. Nothing between reads
    the codebook, so that codes, losses and buffers of every step are the same. Two things are not: the released
    counters also count forward passes of evaluation, and statistics that are not finite are not skipped there.
    """

    dtype = torch.float64
    first_count = 0.0
    jitter = 1 / 1024  # half-width of the noise on a reset code
    recent = 100  # batches within which a code was selected beside which another restarts

    def moved(self, sums, counts):
        g, weight, count = self.decay, self.weight, self.count
        for s, n in zip(sums, counts):
            count = self.smoothed(g * count + (1 - g) * n)
            weight = g * weight + (1 - g) * s
        return weight / count.unsqueeze(1), weight, count

    def restarts(self, targets, real, finite, dead):
        """Beside a random code that was selected lately; such near-copies are told apart by what is specific to a
        modality, and sharing suffers."""
        noise = (2 * shared_rand(self.embedding.numel(), dead.device) - 1) * self.jitter
        beside = self.embedding[sample(~dead & (self.idle.amin(0) < self.recent), self.size)]
        return {"embedding": beside + noise.view_as(beside).to(beside.dtype)}, dead


class ReleasedBlockCodebook(BlockCodebook):
    """Smoothed counts stored back; float64; a reset writes the row alone, a near-copy of one that was used lately,
    which the next update undoes, as of `ReleasedCodebook`."""

    dtype = torch.float64
    first_count = 0.0
    jitter = 1e-3  # standard deviation of the noise on a reset row
    recent = 100

    def kept(self, count):
        return self.smoothed(count)

    def read(self, count):
        return count

    def restarts(self, targets, real, finite, dead):
        uniform = shared_rand(self.embedding.numel(), dead.device).clamp(1e-12, 1 - 1e-12)
        noise = self.jitter * torch.special.ndtri(uniform).view_as(self.embedding)  # normal, alike on all ranks
        beside = self.embedding[sample(~dead & (self.idle.amin(0) < self.recent), self.size)]
        return {"embedding": beside + noise.to(beside.dtype)}, dead


class ReleasedBlockModel(ReleasedModel, BlockModel):
    """The same of a model with blocks."""


class ReleasedClipModel(ReleasedModel, ClipModel):
    """The same of a model that quantises clips."""


class ReleasedResidualModel(ReleasedModel, ResidualModel):
    """The same of a model with two layers; Ψ reads the whole grid."""

    fits = UnifiedModel.fits
