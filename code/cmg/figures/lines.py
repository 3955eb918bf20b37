"""Lines over a number: figures against the size of a codebook, and the course of training."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cmg.figures.style import CHANCE, COLOURS, INK, panel_pages, styled

FEW = 12  # points at most are marked and have whiskers
DECADES = 8  # the largest over the smallest number from which on the axis is logarithmic, if points are few
MARKERS = "osDv^P"


class Panel(NamedTuple):
    """One axes of lines.

    lines : dict name -> [(x, value, std)]; None for what was not measured
    chance : values to mark
    """

    title: str
    ylabel: str
    lines: dict[str, list[tuple]]
    chance: list[float] = []


@styled
def draw(panels: list[Panel], xlabel: str, title="") -> list[Figure]:
    """Pages of panels; a name has the same colour in all of them."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    few = max(len(points) for panel in panels for points in panel.lines.values()) <= FEW
    keys = {name: Line2D([], [], **look(number, few)) for number, name in enumerate(names)}
    if any(panel.chance for panel in panels):
        keys["chance"] = Line2D([], [], color=INK, linestyle=CHANCE["linestyles"], linewidth=CHANCE["linewidths"])
    pages = []
    for figure, found in panel_pages(panels, 2.4, keys, title):
        for axes, panel in found:
            for number, name in enumerate(names):
                if name in panel.lines:
                    x, value, std = np.array(panel.lines[name], float).T
                    axes.errorbar(x, value, np.where(std > 0, std, np.nan) if few else None, label=name,
                                  elinewidth=0.8, **look(number, few))
            for value in panel.chance:
                axes.axhline(value, color=INK, linestyle=CHANCE["linestyles"], linewidth=CHANCE["linewidths"],
                             label="chance")
            axes.set_xlabel(xlabel)
            axis_of_few(axes, panel) if few else axes.set_xlim(left=0)
        pages.append(figure)
    return pages


def axis_of_few(axes, panel):
    """Ticks at the points themselves, logarithmic where they span much."""
    xs = sorted({x for points in panel.lines.values() for x, *_ in points})
    if xs[0] > 0 and xs[-1] >= DECADES * xs[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(xs, [f"{x:g}" for x in xs])


def look(number: int, marked: bool) -> dict:
    """Of a line: after all colours they come again, dotted."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": ":" if number >= len(COLOURS) else "-",
            "marker": MARKERS[number % len(MARKERS)] if marked else None}
