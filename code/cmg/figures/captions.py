"""What is seen and heard in a few clips, second by second, with the captions that belong to them and those that were
written."""

import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cmg.extract.media import SAMPLE_RATE
from cmg.figures.style import BLUE, HEIGHT, WIDTH, styled

ROW, LINE = 0.62, 0.15  # inches: of a modality, of a line of text
LONGEST = 110  # characters in a line
PEAKS = 50  # a second, of a waveform's outline
HIGHEST = 72  # pixels of a frame that is drawn


class CaptionedClip(NamedTuple):
    """A clip of the figure.

    name : str
    streams : dict modality -> features [T, C] or [T, H, W, C], frames uint8 [T, H, W, 3], or a wave [T · SAMPLE_RATE]
    sentences : dict who says it -> str
    """

    name: str
    streams: dict
    sentences: dict


def change(x):
    """How far features are from the clip's median, mean over channels: of a grid each cell, [T, H, W, C] -> [T, H, W];
    of vectors a number a second, [T, C] -> [T]. What stays the same all the time, such as a scene, is 0."""
    x = np.asarray(x, np.float32)
    return np.abs(x - np.median(x, 0)).mean(-1)


@styled
def draw(clips: list[CaptionedClip], title: str) -> list[Figure]:
    """Pages of clips, for every modality frames or, of waves and vectors, an outline: seconds on x."""
    texts = [[line for who, said in clip.sentences.items()
              for line in textwrap.wrap(f"{who}: {said}", LONGEST, subsequent_indent="    ")] for clip in clips]
    pages, room = [[]], HEIGHT
    for clip, text in zip(clips, texts):
        height = ROW * len(clip.streams) + LINE * (len(text) + 3)
        if pages[-1] and height > room:
            pages.append([])
            room = HEIGHT
        pages[-1].append((clip, text))
        room -= height
    return [draw_page(page, title) for page in pages]


def draw_page(clips, title) -> Figure:
    height = sum(ROW * len(clip.streams) + LINE * (len(text) + 3) for clip, text in clips)
    figure = Figure((WIDTH, height + 0.4), layout="constrained")
    all_axes = iter(figure.subplots(sum(len(clip.streams) for clip, _ in clips), 1, squeeze=False)[:, 0])
    for clip, text in clips:
        for n, (name, x) in enumerate(clip.streams.items()):
            axes = next(all_axes)
            seconds = draw_stream(axes, np.asarray(x))
            axes.set(ylabel=name, yticks=[], xticks=range(seconds + 1), xlim=(0, seconds))
            axes.spines[:].set_visible(False)
            axes.tick_params("x", length=0, labelbottom=n == len(clip.streams) - 1)
            if not n:
                axes.set_title(clip.name, loc="left")
        axes.set_xlabel("\n".join(["time, s", *text]), loc="left")
    figure.suptitle(title)
    return figure


def draw_stream(axes, x) -> int:
    """Frames or grids side by side, or an outline; returns how many seconds there are."""
    if x.ndim == 1:
        peaks = np.abs(x).reshape(-1, SAMPLE_RATE // PEAKS).max(1)
        axes.stairs(peaks, np.arange(len(peaks) + 1) / PEAKS, baseline=-peaks, fill=True, color=BLUE)
        return len(peaks) // PEAKS
    if x.dtype == np.uint8:
        step = -(-x.shape[1] // HIGHEST)
        shown, gap = x[:, ::step, ::step], 255
    else:
        shown, gap = change(x), np.nan
    if shown.ndim == 1:
        axes.stairs(shown, range(len(shown) + 1), baseline=-shown, fill=True, color=BLUE)
    else:  # a gap after each: [T, H, W, …] -> [H, T · (W + 1), …]
        shown = np.pad(shown, [(0, 0), (0, 0), (0, 1), *[(0, 0)] * (shown.ndim - 3)], constant_values=gap)
        shown = shown.swapaxes(0, 1).reshape(shown.shape[1], -1, *shown.shape[3:])
        axes.imshow(shown, extent=(0, len(x), 0, 1), aspect="auto", cmap="magma", interpolation="nearest")
    return len(x)
