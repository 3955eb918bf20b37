"""What is seen and heard in a few clips, second by second, with the captions that belong to them and those that were
written."""

import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cmg.figures.style import BLUE, HEIGHT, WIDTH, styled

ROW, LINE = 0.62, 0.15  # inches: of a modality, of a line of text
LONGEST = 110  # characters in a line


class CaptionedClip(NamedTuple):
    """A clip of the figure.

    name : str
    streams : dict modality -> features [T, C] or [T, H, W, C]
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
    """Pages of clips, for every modality frames or, of vectors, an outline: seconds on x."""
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
            axes, shown = next(all_axes), change(x)
            seconds = len(shown)
            if shown.ndim == 3:  # frames side by side, a gap between them: [H, T · (W + 1)]
                shown = np.pad(shown, [(0, 0), (0, 0), (0, 1)], constant_values=np.nan).transpose(1, 0, 2)
                axes.imshow(shown.reshape(len(shown), -1), extent=(0, seconds, 0, 1), aspect="auto", cmap="magma",
                            interpolation="nearest")
            else:  # as the outline of a waveform
                axes.stairs(shown, range(seconds + 1), baseline=-shown, fill=True, color=BLUE)
            axes.set(ylabel=name, yticks=[], xticks=range(seconds + 1), xlim=(0, seconds))
            axes.spines[:].set_visible(False)
            axes.tick_params("x", length=0, labelbottom=n == len(clip.streams) - 1)
            if not n:
                axes.set_title(clip.name, loc="left")
        axes.set_xlabel("\n".join(["time, s", *text]), loc="left")
    figure.suptitle(title)
    return figure
