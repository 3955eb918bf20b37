"""RandAugment (Cubuk et al., NeurIPS 2020) of a clip's frames, on the device, as the published recipe applies it, in
timm's words `rand-m7-n4-mstd0.5-inc1`.

Operations, bounds and rounding are timm's. Its program changes one picture at a time on the host; here every clip of a
batch has draws of its own, from the stream that makes a run resumable and independent of its number of processes, and
all are changed at once: what maps a value to a value is a table of 256 entries a picture, what moves pixels a matrix.
"""

import torch
from torch.nn import functional as F

from cmg.methods.cmmixer.draws import own_draws

TABLES = ("brightness", "contrast", "invert", "posterize", "solarize", "solarize add", "autocontrast", "equalize")
BLENDS = ("colour", "sharpness")
MOVES = ("rotate", "shear x", "shear y", "translate x", "translate y")
OPERATIONS = (*TABLES, *BLENDS, *MOVES)
CHANCE = 0.5  # that an operation happens
MAGNITUDE, SPREAD = 0.7, 0.05  # mean and deviation of how much, 1 at the most
FILL = 115.0  # of what is moved in from outside; 0.45, the frames' mean in the published recipe


def rand_augment(pictures, layers):
    """So many operations one after another, drawn for each clip, the same at all positions of a clip.

    pictures : Tensor[B, P, 3, S, S], 0 to 1.
    """
    B, P = pictures.shape[:2]
    x = (255 * pictures).flatten(0, 1).float().round()  # (B P, 3, S, S)
    for draws in own_draws(B, layers, 4, device=pictures.device).unbind(1):
        choice, happens, level, side = draws.repeat_interleave(P, 0).unbind(1)
        choice = (len(OPERATIONS) * choice).long().masked_fill(happens >= CHANCE, len(OPERATIONS))
        level = (MAGNITUDE + SPREAD * torch.special.ndtri(level)).clamp(0, 1).float()
        x = changed(x, choice, level, torch.where(side < 0.5, -level, level))
    return (x / 255).view(pictures.shape).to(pictures.dtype)


def changed(x, choice, level, signed):
    """Pictures [N, 3, S, S] of 0 to 255, each by the operation of its number; beyond the last one, by none.

    level : Tensor[N], 0 to 1; signed : the same, or its negative.
    """
    def among(names):
        own = choice - OPERATIONS.index(names[0])
        return ((own >= 0) & (own < len(names)))[:, None, None, None], own.clamp(0, len(names) - 1)

    by_table, own = among(TABLES)
    levels = x.flatten(2).long()  # (N, 3, S S)
    mapped = tables(levels, own, level, signed).gather(2, levels).view_as(x)
    by_blend, own = among(BLENDS)
    poor = torch.where((own == 0)[:, None, None, None], grey(x), smoothed(x))
    blended = poor + factor(signed)[:, None, None, None] * (x - poor)
    by_move, own = among(MOVES)
    grid = F.affine_grid(matrices(own, signed), list(x.shape), align_corners=False)
    moved = F.grid_sample(x - FILL, grid, align_corners=False) + FILL
    x = torch.where(by_table, mapped, torch.where(by_blend, blended, torch.where(by_move, moved, x)))
    return x.round().clamp(0, 255)


def factor(signed):
    """Of a blend: 0 is the poor picture, 1 the picture as it is."""
    return (1 + 0.9 * signed).clamp_min(0.1)


def grey(x):
    """Brightness (ITU-R BT.601) of [N, 3, S, S]: [N, 1, S, S]. No table of weights, which a card would wait for."""
    red, green, blue = x.split(1, dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round()


def smoothed(x):
    """Each pixel five times and its eight neighbours once, by 13; the border stays."""
    inner = (9 * F.avg_pool2d(x, 3, stride=1) + 4 * x[..., 1:-1, 1:-1]) / 13
    return torch.cat([x[..., :1], torch.cat([x[..., :1, 1:-1], inner, x[..., -1:, 1:-1]], 2), x[..., -1:]], 3)


def matrices(own, signed):
    """Where a place's content comes from, by number among `MOVES`, for `affine_grid`: [N, 2, 3]. A shear leaves the
    corner at the top left where it is."""
    angle, shear, shift = torch.deg2rad(30 * signed), 0.3 * signed, 2 * 0.45 * signed
    one, none = torch.ones_like(signed), torch.zeros_like(signed)
    rows = [[angle.cos(), -angle.sin(), none, angle.sin(), angle.cos(), none],
            [one, shear, shear, none, one, none], [one, none, none, shear, one, shear],
            [one, none, shift, none, one, none], [one, none, none, none, one, shift]]
    every = torch.stack([torch.stack(row, 1) for row in rows], 1)  # (N, moves, 6)
    return every[torch.arange(len(own), device=own.device), own].view(-1, 2, 3)


def tables(levels, own, level, signed):
    """What becomes of each value, by number among `TABLES`: float [N, 3, 256].

    levels : int64 Tensor[N, 3, pixels].
    """
    value = torch.arange(256.0, device=levels.device)
    count = torch.zeros(*levels.shape[:2], 256, device=levels.device)
    count = count.scatter_add_(2, levels, torch.ones_like(levels, dtype=torch.float32))
    level, signed = level[:, None, None], signed[:, None, None]
    mean = grey(levels.float()[..., None]).mean((2, 3), keepdim=True)[..., 0].round()  # (N, 1, 1)
    unit = 2 ** (4 + (4 * level).floor())  # 4 bits are left, or fewer
    threshold = 256 - (256 * level).floor()
    there = count > 0
    least = torch.where(there, value, 256).amin(2, keepdim=True)
    most = torch.where(there, value, -1).amax(2, keepdim=True)
    stretched = torch.where(most > least, (value - least) * 255 / (most - least).clamp_min(1), value)
    every = [value * factor(signed), mean + factor(signed) * (value - mean), 255 - value,
             (value / unit).floor() * unit, torch.where(value < threshold, value, 255 - value),
             torch.where(value < 128, value + (110 * level).floor(), value), stretched, equalised(count, most, value)]
    every = torch.stack([table.expand_as(count) for table in every], 1).round().clamp(0, 255)  # (N, tables, 3, 256)
    return every[torch.arange(len(own), device=own.device), own]


def equalised(count, most, value):
    """The table that makes all values about equally frequent. count : of each value, [N, 3, 256]; most : the largest
    one that occurs, [N, 3, 1]."""
    step = ((count.sum(2, keepdim=True) - count.gather(2, most.long())) / 255).floor()
    below = count.cumsum(2) - count
    return torch.where(step > 0, ((below + (step / 2).floor()) / step.clamp_min(1)).floor(), value)
