"""Specific encoders Ψ, for what only one modality holds, and decoders, which rebuild the features from a code and Ψ.

They exist for pretraining only; downstream tasks never load them.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import whole
from cmg.configs import Config, setting
from cmg.models.toom_cook import conv3, conv_transpose3

LEAST_GRID = 5  # cells a side, which two 3×3 convolutions leave one of


@dataclass(frozen=True)
class SpecificConfig(Config):
    """Specific encoders Ψ.

    Attributes
    ----------
    specific_dim : channels of a grid's Ψ; 0 = 4 C, as published
    specific_steps : run Ψ and its terms at N random steps of a batch; 0 = all
    """

    specific_dim: int = setting(0, whole())
    specific_steps: int = setting(0, whole())


class Conv3(nn.Conv2d):
    """3×3 convolution of maps (N, C, H, W)."""

    def __init__(self, channels, width, padding=0, bias=True):
        super().__init__(channels, width, 3, padding=padding, bias=bias)

    def forward(self, x):
        return conv3(x, self.weight, self.bias, self.padding[0])


class Conv1(nn.Conv2d):
    """1×1 convolution of maps (N, C, H, W): a matrix product, whatever the order of the maps in memory."""

    def __init__(self, channels, width, bias=True):
        super().__init__(channels, width, 1, bias=bias)

    def forward(self, x):
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """relu(relu(x) + conv1(relu(conv3(relu(x))))), the in-place arithmetic of the released residual stack."""

    def __init__(self, width):
        super().__init__()
        self.conv3 = Conv3(width, width, padding=1, bias=False)
        self.conv1 = Conv1(width, width, bias=False)

    def forward(self, x):
        x = torch.relu(x)
        return torch.relu(x + self.conv1(torch.relu(self.conv3(x))))


class GridSpecific(nn.Module):
    """Ψ of a grid: [B, T, H, W, C] -> map [B, T, H-4, W-4, S], which the decoder reads, and its mean [B, T, S]."""

    def __init__(self, channels, width):
        super().__init__()
        self.convs = nn.Sequential(
            Conv3(channels, width // 2), nn.ReLU(), Conv3(width // 2, width), nn.ReLU(),
            Conv1(width, width), ResidualBlock(width),
        )
        self.out_dim = self.pooled_dim = width

    def forward(self, x):
        # [B, T, H, W, C] on disk *is* channels-last: the permute below is a view, no copy is made.
        maps = self.convs(x.flatten(0, 1).permute(0, 3, 1, 2))  # (B·T, S, H-4, W-4)
        pooled = self.pool(maps)  # (B·T, Y)
        maps = maps.permute(0, 2, 3, 1)  # (B·T, H-4, W-4, S)
        return maps.unflatten(0, x.shape[:2]), pooled.unflatten(0, x.shape[:2])

    def products(self, side):
        """(points, channels in, channels out) of 3×3 convolutions on a grid of this side, see `toom_cook.memory`."""
        first, second, residual = self.convs[0], self.convs[2], self.convs[-1].conv3
        return [(side**2, first.in_channels, first.out_channels),
                ((side - 2) ** 2, second.in_channels, second.out_channels),
                ((side - 2) ** 2, residual.in_channels, residual.out_channels)]

    def pool(self, maps):
        """What vCLUB reads of maps [n, S, h, w]."""
        return maps.mean((2, 3))


class VectorSpecific(nn.Module):
    """Ψ of vector features: Linear + ReLU, [B, T, C] -> [B, T, S]; the decoder and vCLUB read the same vector."""

    def __init__(self, in_dim, width):
        super().__init__()
        self.linear = nn.Linear(in_dim, width)
        self.out_dim = self.pooled_dim = width

    def forward(self, x):
        z = torch.relu(self.linear(x))
        return z, z


class GridDecoder(nn.Module):
    """Rebuild the grid from a code and Ψ's map: ([B, T, D], [B, T, h, w, S]) -> [B, T, h+4, w+4, C]."""

    def __init__(self, dim, width, channels):
        super().__init__()
        self.code = nn.Linear(dim, dim)
        self.up1 = nn.ConvTranspose2d(dim + width, width // 2, 3)
        self.residual = ResidualBlock(width // 2)
        self.up2 = nn.ConvTranspose2d(width // 2, channels, 3)
        self.out = nn.ConvTranspose2d(channels, channels, 1)

    def products(self, side):
        """As of `GridSpecific`."""
        width, channels = self.up2.in_channels, self.up2.out_channels
        return [((side - 2) ** 2, self.up1.in_channels - self.code.out_features, width), (side**2, width, width),
                (side**2, width, channels)]

    def forward(self, code, specific):
        B, T, h, w, S = specific.shape
        maps = specific.flatten(0, 1).permute(0, 3, 1, 2)  # (B·T, S, h, w)
        # up1 reads the code, repeated over the grid, and the map. It is linear: each part apart, then their sum.
        of_code, of_map = self.up1.weight.split([self.up1.in_channels - S, S])
        x = conv_transpose3(maps, of_map, self.up1.bias)
        x = x + constant_map(self.code(code).flatten(0, 1), of_code, h, w)
        x = torch.relu(conv_transpose3(self.residual(x), self.up2.weight, self.up2.bias))
        x = F.linear(x.movedim(1, -1), self.out.weight.flatten(1).T, self.out.bias)
        return x.unflatten(0, (B, T))


def constant_map(x, weight, h, w):
    """`conv_transpose2d` of vectors that are repeated over an h×w grid, as one matrix product.

    Each cell of the output is the vector times the sum of the taps that reach the cell: all nine in the middle, fewer
    at the border.

    x : Tensor[n, D]; weight : Tensor[D, S, p, q]. Returns Tensor[n, S, h+p-1, w+q-1], channels-last in memory.
    """
    def reached(size, taps):
        """Which taps reach which output row from some input row, [size + taps - 1, taps]."""
        source = torch.arange(size + taps - 1, device=x.device)[:, None] - torch.arange(taps, device=x.device)
        return ((source >= 0) & (source < size)).to(weight.dtype)

    rows, columns = reached(h, weight.shape[2]), reached(w, weight.shape[3])
    taps = torch.einsum("yp,dspq,xq->dyxs", rows, weight, columns)  # (D, h+p-1, w+q-1, S)
    return (x @ taps.flatten(1)).unflatten(1, taps.shape[1:]).permute(0, 3, 1, 2)


class VectorDecoder(nn.Module):
    """Rebuild vector features from a code and Ψ's vector: ([B, T, D], [B, T, S]) -> [B, T, C]."""

    def __init__(self, dim, width, out_dim):
        super().__init__()
        self.code = nn.Linear(dim, width)
        self.out = nn.Linear(2 * width, out_dim)

    def forward(self, code, specific):
        return self.out(torch.cat([self.code(code), specific], -1))


def build_specific(shape, width, grid=GridSpecific):
    """Ψ for inputs of `shape` = (T, H, W, C) or (T, C); `grid` : class of a grid's."""
    return grid(shape[-1], width) if len(shape) == 4 else VectorSpecific(shape[-1], width)


def cells(shape):
    """How many cells Ψ's map has for inputs of `shape`; 1 where it is a vector."""
    return math.prod(side - LEAST_GRID + 1 for side in shape[1:-1])


def build_decoder(shape, dim, width, out_dim):
    """The decoder that belongs to `build_specific(shape, width)`; `out_dim` is the width of what it rebuilds."""
    return GridDecoder(dim, width, out_dim) if len(shape) == 4 else VectorDecoder(dim, width, out_dim)
