"""`things`: a weight-free video backbone, edges and colours of each thing that a frame shows.

What is drawn or photographed is told by histograms of oriented gradients (HOG, Dalal and Triggs 2005) and by colours,
of each thing by itself: three small things beside each other are described as the same three would be alone and large,
so that what is learnt of one kind of frame holds for the other. A thing is a group of edges without a wide gap; where
quarters of the frame are black and others filled to their rims, a filled one is a picture by itself.

Chosen by linear readers on validation material, as `cepstra` was (docs/front_end.md).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from cmg.extract.pixels import LUMA, ZOOM, look, region, shrink

GRID = 5
SIDE = 28  # of the pictures that edges and colours are taken from
BINS = 4  # of each colour in the histogram
FAINT = 0.02  # strength of an edge that counts for half beside none at all
FINE = 56  # side of the pictures that things are found in
GAP = 5  # pixels of these: edges that are nearer to each other belong to one thing
MOST = 4  # things of a frame
SHARE = 0.05  # of the strongest edge: less is none; of all edges of the frame: a group with less is no thing
STILL = 0.02  # squared difference of colour, -1 to 1, below which nothing is an edge: the grain of a dark frame
BLACK = -0.8  # brightness below which nothing is shown
RIM = 0.5  # share of a quarter's outermost pixels that are not black, if it is filled


class Things:
    """Of each second its mean frame; of each cell 14 values of its own and 388 of the thing that is nearest to it.

    cell   edges in 8 directions, and mean and deviation of three opponent colours, where the cell is
    thing  edges in 4 directions at 7×7 places and in 8 at 2×2, mean and deviation of opponent colours at 4×4 places,
           and a histogram of 4×4×4 colours: all in the square that holds its edges (`pixels.region`), so that size and
           place do not matter

    Example
    -------
    >>> Things()([np.zeros((2, 120, 160, 3), np.uint8)]).shape
    (1, 5, 5, 402)
    """

    name = "things"
    modality = "video"
    sha256 = ""
    expects = ()
    shape = (GRID, GRID, 8 + 6 + 4 * 49 + 8 * 4 + 6 * 16 + BINS**3)

    def __call__(self, steps):
        x = torch.stack([torch.stack([shrink(frame) for frame in frames]).mean(0) for frames in steps]) / 127.5 - 1
        found = [pictures(frame) or things(frame) for frame in x]
        alone = torch.cat([f.alone for f in found])  # (n, 3, 112, 112), n ≥ T
        square = region(brightness(alone))
        near = torch.stack([look(channel, *square) for channel in alone.unbind(1)], 1)  # (n, 3, 28, 28)
        grey, colours = brightness(near), opponent(near)
        parts = [histograms(grey, 4, 7), histograms(grey, 8, 2), moments(colours, 4), palette(near)]
        described = torch.cat([part.flatten(1) for part in parts], 1)  # (n, 388)
        first = np.cumsum([0] + [len(f.alone) for f in found[:-1]])  # of each frame's things
        nearest = torch.from_numpy(np.stack([f.nearest + n for f, n in zip(found, first)]))  # (T, 5, 5)
        own = [normalised(F.adaptive_avg_pool2d(gradients(F.avg_pool2d(brightness(x), ZOOM), 8), GRID)),
               moments(opponent(F.avg_pool2d(x, ZOOM)), GRID)]
        return torch.cat([torch.cat(own, 1).permute(0, 2, 3, 1), described[nearest]], 3).numpy()


class Found(NamedTuple):
    """alone : Tensor[n, 3, 112, 112], the frame with one of its n ≥ 1 things each.
    nearest : int ndarray [5, 5], the thing that is nearest to the middle of each cell."""

    alone: torch.Tensor
    nearest: np.ndarray


def pictures(frame):
    """The filled quarters of a frame Tensor[3, 112, 112] of -1 to 1, each enlarged to all of it: a photo then has the
    features that it would have alone, and its border none. None, unless quarters are black and others filled."""
    side = frame.shape[1] // 2
    quarters = frame.view(3, 2, side, 2, side).permute(1, 3, 0, 2, 4).flatten(0, 1)  # (4, 3, 56, 56)
    lit = quarters.amax(1) > BLACK  # (4, 56, 56)
    rims = torch.cat([lit[:, 0], lit[:, -1], lit[:, :, 0], lit[:, :, -1]], 1)  # (4, 224)
    filled, black = rims.float().mean(1) > RIM, lit.float().mean((1, 2)) < SHARE
    if not filled.any() or not black.any():
        return None
    shown = filled.nonzero()[:, 0]
    middle = (np.arange(GRID) + 0.5) / GRID
    away = [np.hypot(*np.meshgrid(middle - (0.25 + q // 2 / 2), middle - (0.25 + q % 2 / 2), indexing="ij"))
            for q in shown.tolist()]
    return Found(F.interpolate(quarters[shown], scale_factor=2.0, mode="nearest"), np.stack(away).argmin(0))


def things(frame):
    """Those of a frame Tensor[3, 112, 112] of -1 to 1. A frame without edges is one thing, all of it."""
    fine = F.pad(F.avg_pool2d(frame, 2), (1, 1, 1, 1), mode="replicate")  # (3, 58, 58)
    steps = (fine[:, 1:-1, 2:] - fine[:, 1:-1, :-2]) ** 2 + (fine[:, 2:, 1:-1] - fine[:, :-2, 1:-1]) ** 2
    energy = steps.mean(0).numpy()  # (56, 56), of colours that are equally bright as well
    edges = energy > max(STILL, SHARE * energy.max())
    if not edges.any():
        return Found(frame[None], np.zeros((GRID, GRID), int))
    groups, number = ndimage.label(ndimage.binary_dilation(edges, np.ones((GAP, GAP))))
    groups = groups * edges
    strength = ndimage.sum_labels(energy, groups, np.arange(1, number + 1))
    order = np.argsort(-strength, kind="stable")[:MOST]
    order = order[strength[order] >= SHARE * strength.sum()]
    masks = groups == 1 + order[:, None, None]  # (n, 56, 56)
    away = np.stack([ndimage.distance_transform_edt(~mask) for mask in masks])
    middle = ((np.arange(GRID) + 0.5) * FINE / GRID).astype(int)
    return Found(apart(frame, masks), away[:, middle[:, None], middle].argmin(0))


def apart(frame, masks):
    """A frame [3, 112, 112] with one of its things each, the others painted over with its median colour: n frames.
    masks : bool ndarray [n, 56, 56], the edges of things. The only thing of a frame keeps all that is around it."""
    if len(masks) == 1:
        return frame[None]
    around = torch.from_numpy(ndimage.binary_dilation(masks, np.ones((1, GAP + 2, GAP + 2))))
    around = around.repeat_interleave(2, 1).repeat_interleave(2, 2)  # (n, 112, 112)
    ground = frame.flatten(1).median(1).values[:, None, None]
    return torch.where(around[:, None], frame, ground)


def brightness(x):
    """RGB [T, 3, S, S] -> [T, S, S]."""
    return torch.einsum("tchw,c->thw", x, torch.tensor(LUMA))


def gradients(grey, directions):
    """Strength of brightness changes by direction, a direction and its opposite apart: [T, S, S] -> [T, d, S, S]. A
    gradient counts for a direction with the fourth power of the cosine of the angle between them, below 90°."""
    dx = F.pad(grey[:, :, 2:] - grey[:, :, :-2], (1, 1))
    dy = F.pad(grey[:, 2:] - grey[:, :-2], (0, 0, 1, 1))
    strength = torch.sqrt(dx**2 + dy**2)
    angles = [2 * math.pi * d / directions for d in range(directions)]
    along = torch.stack([(math.cos(a) * dx + math.sin(a) * dy).clamp_min(0) for a in angles], 1)
    return along**4 / strength.clamp_min(1e-6)[:, None] ** 3


def histograms(grey, directions, places):
    """HOG of pictures [T, 28, 28]: [T, directions, places, places]. Places overlap, a pixel counts for those around it
    by its distance, so that no stroke jumps from one to the next."""
    step = SIDE // places  # an even number
    ramp = (torch.arange(step) + 0.5) / step**2
    window = torch.cat([ramp, ramp.flip(0)])  # a triangle of 2·step values, sum 1
    window = torch.outer(window, window).expand(directions, 1, -1, -1)
    found = gradients(grey, directions)
    return normalised(F.conv2d(found, window, stride=step, padding=step // 2, groups=directions))


def normalised(energy):
    """Edges [T, d, k, k] beside the strength of all edges around the place, and its root: the same picture with less
    contrast has the same."""
    square = F.pad(energy.pow(2).sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return (energy / (F.avg_pool2d(square, 3, stride=1).sqrt() + FAINT)).sqrt()


def opponent(x):
    """RGB [T, 3, S, S] -> brightness, red less green, yellow less blue."""
    red, green, blue = x.unbind(1)
    return torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], 1)


def moments(x, places):
    """Mean and deviation in each of places × places blocks: [T, C, S, S] -> [T, 2 C, places, places]."""
    mean = F.adaptive_avg_pool2d(x, places)
    return torch.cat([mean, (F.adaptive_avg_pool2d(x**2, places) - mean**2).clamp_min(0).sqrt()], 1)


def palette(x):
    """Roots of the shares of colours: RGB of -1 to 1 [T, 3, S, S] -> [T, 64]."""
    level = ((x + 1) / 2 * BINS).long().clamp(0, BINS - 1)  # (T, 3, S, S)
    colour = (level[:, 0] * BINS + level[:, 1]) * BINS + level[:, 2]
    return F.one_hot(colour.flatten(1), BINS**3).float().mean(1).sqrt()
