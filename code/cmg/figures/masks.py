"""Masks drawn over the frames of clips: a block for every clip, a row for every mask, a column for every second."""

from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cmg.figures.style import BLUE, GREEN, HEIGHT, VERMILION, WIDTH, styled

COLOURS = GREEN, BLUE, VERMILION  # of the rows
TITLE, LABELS = 0.45, 0.9  # inches: above a clip, and left of its rows


class Clip(NamedTuple):
    """frames : uint8 [T, h, w, 3]; masks : dict label -> bool [T, h, w], the truth first."""

    title: str
    frames: np.ndarray
    masks: dict[str, np.ndarray]


def overlay(frames, masks, colour):
    """Colour the masks' pixels half. uint8 [T, h, w, 3], bool [T, h, w] -> uint8 [T, h, w, 3]."""
    tint = 0.5 * frames + 127.5 * np.array(to_rgb(colour))
    return np.where(masks[..., None], tint, frames).round().astype(np.uint8)


@styled
def draw(clips: list[Clip]) -> list[Figure]:
    """Pages of clips, all of them of the same number of seconds and masks."""
    seconds, height, width = clips[0].frames.shape[:3]
    rows = len(clips[0].masks)
    cell = (WIDTH - LABELS) / seconds * height / width  # inches of a frame's height
    block = TITLE + rows * cell
    per_page = max(1, int(HEIGHT / block))
    pages = []
    for first in range(0, len(clips), per_page):
        shown = clips[first:first + per_page]
        figure = Figure((WIDTH, len(shown) * block), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        blocks = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
        for part, clip in zip(blocks, shown):
            part.suptitle(clip.title)
            grid = part.subplots(rows, seconds, squeeze=False)
            for line, (label, masks), colour in zip(grid, clip.masks.items(), COLOURS):
                line[0].set_ylabel(label, rotation=0, ha="right", va="center")
                for axes, frame, mask in zip(line, overlay(clip.frames, masks, colour), masks):
                    axes.imshow(frame)
                    if mask.any() and not mask.all():
                        axes.contour(mask, [0.5], colors=colour, linewidths=1)
                    axes.set(xticks=[], yticks=[])
                    axes.spines[:].set_visible(False)
            for second, axes in enumerate(grid[-1]):
                axes.set_xlabel(f"{second + 1} s")
        pages.append(figure)
    return pages
