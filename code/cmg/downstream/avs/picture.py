"""Masks over the frames of test clips, as one figure: true ones, and what each query gives."""

import math
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cmg.figures.style import styled

# Okabe and Ito's colours, which are told apart by colour-blind readers as well.
COLOURS = {"truth": (0, 158, 115), "source": (86, 180, 233), "target": (230, 159, 0)}
COLUMNS = 2  # of clips
SIDE, LABELS = 0.9, 1.35  # inches: a frame, the names of its rows
GAP = 0.04  # between frames, in sides of a frame


class Masks(NamedTuple):
    """What one query gives for a clip: BoolTensor[T, h, w], and the IoU of each frame, Tensor[T] in 0..1."""

    masks: torch.Tensor
    iou: torch.Tensor


class MaskedClip(NamedTuple):
    """A clip of the figure.

    title : str
    frames : uint8 Tensor[T, h, w, 3]
    truth : BoolTensor[T, h, w]
    predicted : dict name of a query -> Masks; one, or the source's and then the target's
    """

    title: str
    frames: torch.Tensor
    truth: torch.Tensor
    predicted: dict


def tinted(frames, masks, colour):
    """Colour the masks' pixels half. uint8 Tensor[T, h, w, 3], BoolTensor[T, h, w] -> uint8 Tensor[T, h, w, 3]."""
    tint = torch.tensor(colour, dtype=torch.float32)
    return torch.where(masks[..., None], 0.5 * frames + 0.5 * tint, frames.float()).round().to(torch.uint8)


@styled
def draw(clips: list[MaskedClip]) -> list[Figure]:
    """One page, a panel per clip: a row for the true masks and for every query's, a column for every second."""
    seconds, n_rows = len(clips[0].frames), 1 + len(clips[0].predicted)
    columns = min(COLUMNS, len(clips))
    lines = math.ceil(len(clips) / columns)
    figure = Figure((columns * (LABELS + seconds * SIDE), lines * (n_rows * SIDE + 0.55) + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels[len(clips):]:
        panel.remove()
    for panel, clip in zip(panels, clips):
        _fill_panel(panel, clip)
    names = ["true mask", *clips[0].predicted]
    handles = [Patch(color=_unit(colour), label=name) for name, colour in zip(names, COLOURS.values())]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return [figure]


def _fill_panel(panel, clip):
    rows = {"true mask": clip.truth}
    for name, (masks, iou) in clip.predicted.items():
        rows[f"{name}\nIoU {_percent(iou.mean())}"] = masks
    for row, (masks, colour) in enumerate(zip(rows.values(), COLOURS.values())):
        for second, frame in enumerate(tinted(clip.frames, masks, colour)):
            left, right, top, bottom = second, second + 1 - GAP, row, row + 1 - GAP
            panel.imshow(frame.numpy(), extent=(left, right, bottom, top))
            _outline(panel, masks[second].numpy(), (left, right, top, bottom), colour)
    for row, (_, iou) in enumerate(clip.predicted.values(), 1):
        for second, value in enumerate(iou):
            panel.text(second + 0.03, row + 0.03, _percent(value), va="top", fontsize=6, color="white",
                       bbox={"facecolor": "black", "alpha": 0.6, "pad": 0.8, "linewidth": 0})
    middle = (1 - GAP) / 2
    panel.set(title=clip.title, xlim=(0, len(clip.frames) - GAP), ylim=(len(rows) - GAP, 0), aspect="equal")
    panel.set_xticks(np.arange(len(clip.frames)) + middle, [f"second {t + 1}" for t in range(len(clip.frames))])
    panel.set_yticks(np.arange(len(rows)) + middle, rows)
    panel.title.set_fontsize(9)
    panel.tick_params(length=0, labelsize=8)
    panel.spines[:].set_visible(False)


def _outline(panel, mask, box, colour):
    """The edge of a mask inside a box (left, right, top, bottom), which shows on frames of the tint's own colour."""
    if mask.any():
        left, right, top, bottom = box
        height, width = mask.shape
        x = left + (np.arange(-1, width + 1) + 0.5) / width * (right - left)
        y = top + (np.arange(-1, height + 1) + 0.5) / height * (bottom - top)
        panel.contour(x, y, np.pad(mask.astype(float), 1), levels=[0.5], colors=[_unit(colour)], linewidths=1)


def _percent(share):
    return f"{100 * float(share):.0f} %"


def _unit(colour):
    return tuple(value / 255 for value in colour)
