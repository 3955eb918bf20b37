"""The released code's networks where they differ from the paper's: no masks, no spatial attention, another head."""

import torch
from torch import nn

from cmg.distributed import shared_rand
from cmg.models.codebook import Codebook, sample
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
    """One update per modality in turn, each with its own decay, smoothed counts stored back; float64."""

    dtype = torch.float64
    first_count = 0.0
    jitter = 1 / 1024  # half-width of the noise on a reset code

    def moved(self, sums, counts):
        g, weight, count = self.decay, self.weight, self.count
        for s, n in zip(sums, counts):
            count = self.smoothed(g * count + (1 - g) * n)
            weight = g * weight + (1 - g) * s
        return weight / count.unsqueeze(1), weight, count

    def restarts(self, targets, real, finite, dead):
        """Beside a random living code; such near-copies are told apart by what is specific to a modality, and sharing
        suffers."""
        noise = (2 * shared_rand(self.embedding.numel(), dead.device) - 1) * self.jitter
        return self.embedding[sample(~dead, self.size)] + noise.view_as(self.embedding).to(self.embedding.dtype), dead
