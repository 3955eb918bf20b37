"""`hog`: a weight-free video backbone, edges and colours of a frame on a 5×5 grid.

What is drawn or photographed is told by histograms of oriented gradients (HOG, Dalal and Triggs 2005), of the frame's
colours and of what its regions look like. As the receptive field of a convolutional network's last map is larger than
the frame, every cell has all of this, and beside it what is at the cell.

Chosen by linear readers on validation material, as `cepstra` was (docs/front_end.md).
"""

import math

import torch
import torch.nn.functional as F

from cmg.extract.pixels import LUMA, ZOOM, look, region, shrink

GRID = 5
SIDE = 28  # of the pictures that edges and colours are taken from
BINS = 4  # of each colour in the histogram
FAINT = 0.02  # strength of an edge that counts for half beside none at all


class Hog:
    """Of each second its mean frame; of each cell 14 values of its own and 388 that all cells share.

    own     edges in 8 directions, and mean and deviation of three opponent colours, where the cell is
    shared  edges in 4 directions at 7×7 places and in 8 at 2×2, both in the square that holds the frame's edges
            (`pixels.region`), so that size and place of a single thing do not matter; mean and deviation of opponent
            colours at 4×4 places; a histogram of 4×4×4 colours

    Example
    -------
    >>> Hog()([np.zeros((2, 120, 160, 3), np.uint8)]).shape
    (1, 5, 5, 402)
    """

    name = "hog"
    modality = "video"
    sha256 = ""
    expects = ()
    shape = (GRID, GRID, 8 + 6 + 4 * 49 + 8 * 4 + 6 * 16 + BINS**3)

    def __call__(self, steps):
        x = torch.stack([torch.stack([shrink(frame) for frame in frames]).mean(0) for frames in steps]) / 127.5 - 1
        grey = torch.einsum("tchw,c->thw", x, torch.tensor(LUMA))  # (T, 112, 112)
        near = look(grey, *region(grey))  # (T, 28, 28)
        small = F.avg_pool2d(x, ZOOM)  # (T, 3, 28, 28)
        whole = F.avg_pool2d(grey, ZOOM)
        colours = opponent(small)
        own = torch.cat([normalised(F.adaptive_avg_pool2d(gradients(whole, 8), GRID)), moments(colours, GRID)], 1)
        shared = [histograms(near, 4, 7), histograms(near, 8, 2), moments(colours, 4), palette(small)]
        shared = torch.cat([part.flatten(1) for part in shared], 1)  # (T, 388)
        own = own.permute(0, 2, 3, 1)  # (T, 5, 5, 14)
        return torch.cat([own, shared[:, None, None].expand(-1, GRID, GRID, -1)], 3).numpy()


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
