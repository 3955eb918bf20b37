"""Augmentation of pictures on the device: random resized crop, flip and erasing, each clip with draws of its own.
RandAugment has a file of its own."""

import math

import torch
from torch.nn import functional as F

from cmg.methods.cmmixer.draws import own_draws

RATIO = (3 / 4, 4 / 3)  # of a crop's sides
ERASED, ERASED_RATIO = (0.02, 1 / 3), (0.3, 10 / 3)  # share of the area, ratio of the sides (Zhong et al., AAAI 2020)


def between(draws, low, high):
    """Uniform draws brought between two bounds."""
    return low + (high - low) * draws


def sides(area, ratio, low, high):
    """Height and width, as shares of the picture's, of a rectangle of this area; its ratio is drawn in the logarithm.
    A side is never longer than the picture's."""
    root = (between(ratio, math.log(low), math.log(high)) / 2).exp()
    return (area.sqrt() / root).clamp(max=1), (area.sqrt() * root).clamp(max=1)


def crop_and_flip(pictures, least, flip):
    """A random part of each clip's pictures in their full size, mirrored in half of the clips; the same at all
    positions of a clip.

    pictures : Tensor[B, P, C, H, W]. least : share of the area that a part has at the least; 1 leaves all there.
    """
    B, P = pictures.shape[:2]
    area, ratio, row, column, side = own_draws(B, 5, device=pictures.device).unbind(1)
    height, width = sides(between(area, least, 1), ratio, *RATIO)
    if least == 1:
        height, width = torch.ones_like(height), torch.ones_like(width)
    mirrored = torch.where(side < 0.5, -width, width) if flip else width
    x, y = (2 * draw - 1 for draw in (column, row))  # of the centre, within what the part leaves free
    none = torch.zeros_like(x)
    theta = torch.stack([torch.stack([mirrored, none, x * (1 - width)], 1),
                         torch.stack([none, height, y * (1 - height)], 1)], 1).to(pictures.dtype)  # (B, 2, 3)
    flat = pictures.flatten(0, 1)
    grid = F.affine_grid(theta.repeat_interleave(P, 0), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, padding_mode="reflection", align_corners=False).view(pictures.shape)


def erase(pictures, chance):
    """A random rectangle of a clip's pictures set to 0, the mean, in a share `chance` of the clips; the same at all
    positions of a clip."""
    B, _, _, H, W = pictures.shape
    happens, area, ratio, row, column = own_draws(B, 5, device=pictures.device).unbind(1)
    height, width = sides(between(area, *ERASED), ratio, *ERASED_RATIO)
    top, left = row * (1 - height), column * (1 - width)
    rows, columns = ((torch.arange(n, device=pictures.device) + 0.5) / n for n in (H, W))
    down = (rows >= top[:, None]) & (rows < (top + height)[:, None])  # (B, H)
    across = (columns >= left[:, None]) & (columns < (left + width)[:, None])  # (B, W)
    gone = down[:, :, None] & across[:, None] & (happens < chance)[:, None, None]
    return pictures.masked_fill(gone[:, None, None], 0)
