"""Events second by second: which were found, missed and made up, an axes for every clip."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cmg.figures.style import GREEN, HEIGHT, PALE, VERMILION, YELLOW, styled

COLOURS = {"hit": GREEN, "missed": YELLOW, "made up": VERMILION}
ROW, CLIP = 0.19, 0.42  # inches: of a class, and of a clip around its classes


@styled
def draw(clips, classes: list[str], title: str) -> list[Figure]:
    """Pages of clips, classes on y, seconds on x.

    Parameters
    ----------
    clips : list of (name, prediction, truth) with bool arrays [T, K]; classes that neither holds are left out
    """
    shown = [(name, {"hit": p & t, "missed": t & ~p, "made up": p & ~t}, np.flatnonzero((p | t).any(0)))
             for name, p, t in clips]
    pages, room = [[]], HEIGHT
    for clip in shown:
        height = CLIP + ROW * max(1, len(clip[-1]))
        if pages[-1] and height > room:
            pages.append([])
            room = HEIGHT
        pages[-1].append(clip)
        room -= height
    return [draw_page(page, len(clips[0][1]), classes, title) for page in pages]


def draw_page(clips, seconds: int, classes: list[str], title: str) -> Figure:
    rows = [max(1, len(own)) for *_, own in clips]
    figure = Figure((5.4, CLIP * len(clips) + ROW * sum(rows) + 0.9), layout="constrained")
    all_axes = figure.subplots(len(clips), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (name, cells, own) in zip(all_axes, clips):
        for row, k in enumerate(own):
            axes.broken_barh([(0, seconds)], (row - 0.4, 0.8), facecolor=PALE, zorder=0.5)
            for kind, colour in COLOURS.items():
                axes.broken_barh(runs(cells[kind][:, k]), (row - 0.4, 0.8), facecolor=colour, label=kind)
        axes.set_yticks(range(len(own)), [classes[k] for k in own])
        axes.set_ylim(max(len(own), 1) - 0.5, -0.5)
        if not len(own):
            axes.text(seconds / 2, 0, "no event, and none predicted", ha="center", va="center")
        axes.set_title(name, loc="left")
        axes.set_xlim(0, seconds)
        axes.set_xticks(range(0, seconds + 1, max(1, seconds // 10)))
        axes.tick_params("y", length=0)
        axes.spines["left"].set_visible(False)
    all_axes[-1].set_xlabel("time, s")
    figure.suptitle(title)
    figure.legend([Patch(facecolor=colour) for colour in COLOURS.values()], COLOURS, loc="outside lower center",
                  ncols=len(COLOURS))
    return figure


def runs(there) -> list[tuple[int, int]]:
    """(first second, number of seconds) of every unbroken run.

    >>> runs(np.array([True, True, False, True]))
    [(0, 2), (3, 1)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int))).reshape(-1, 2)
    return [(int(first), int(last - first)) for first, last in edges]
