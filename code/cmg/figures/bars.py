"""Grouped bars with error bars and chance: figures of several rows in several directions, a panel for every metric."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cmg.figures.style import CHANCE, COLOURS, INK, WIDTH, panel_pages, styled, width_of

BAR = 0.075, 0.28  # inches: the least and the most width of a bar
FILL = 0.8  # share of a group's width that its bars take
HATCHES = (None, "/////", "xxxxx", "....", "|||||")
AXIS = 0.55  # inches that the labels of an axis take


class Panel(NamedTuple):
    """One axes of bars.

    groups : names of the groups of bars, below the axis
    bars : dict row -> [(value, std) of every group], None for what was not measured
    chance : of every group, or None
    """

    title: str
    ylabel: str
    groups: list[str]
    bars: dict[str, list[tuple]]
    chance: list[float | None]


@styled
def draw(panels: list[Panel], title="") -> list[Figure]:
    """Pages of panels. A panel whose groups do not fit into the width of a page goes on in the next one."""
    rows = list(dict.fromkeys(row for panel in panels for row in panel.bars))
    group = len(rows) * BAR[0] / FILL  # inches
    panels = [piece for panel in panels for piece in pieces(panel, max(1, int((WIDTH - AXIS) / group)))]
    most = max(len(panel.groups) for panel in panels)
    keys = {row: Patch(**look(number)) for number, row in enumerate(rows)}
    if any(value is not None for panel in panels for value in panel.chance):
        keys["chance"] = Line2D([], [], color=INK, linestyle=CHANCE["linestyles"], linewidth=CHANCE["linewidths"])
    pages = []
    for figure, found in panel_pages(panels, AXIS + max(most * group, 1.5), keys, title):
        for axes, panel in found:
            inches = figure.get_figwidth() / axes.get_gridspec().ncols - AXIS
            draw_panel(axes, panel, rows, inches / len(panel.groups))
        pages.append(figure)
    return pages


def pieces(panel: Panel, size: int) -> list[Panel]:
    """The panel in parts of at most so many groups, about equally many in each."""
    parts = np.array_split(np.arange(len(panel.groups)), -(-len(panel.groups) // size))
    return [panel._replace(groups=[panel.groups[i] for i in part], chance=[panel.chance[i] for i in part],
                           bars={row: [values[i] for i in part] for row, values in panel.bars.items()})
            for part in parts]


def draw_panel(axes, panel: Panel, rows: list[str], inches: float):
    """Fill the axes; a group has so many inches. A row of which nothing was measured takes no place in the panel."""
    shown = [row for row in rows if any(value is not None for value, _ in panel.bars.get(row, ()))]
    width = min(FILL / max(1, len(shown)), BAR[1] / inches)
    x = np.arange(len(panel.groups))
    left = x - width * len(shown) / 2
    for place, row in enumerate(shown):
        value, std = np.array(panel.bars[row], float).T  # None becomes nan: no bar, no whisker
        axes.bar(left + (place + 0.5) * width, value, 0.9 * width, label=row, **look(rows.index(row)),
                 yerr=np.where(std > 0, std, np.nan), error_kw={"elinewidth": 0.8, "ecolor": INK})
    marked = [i for i in x if panel.chance[i] is not None]
    if marked:
        axes.hlines([panel.chance[i] for i in marked], left[marked], left[marked] + width * len(shown), **CHANCE,
                    label="chance")
    crowded = max(map(width_of, panel.groups)) > 0.9 * inches
    axes.set_xticks(x, panel.groups, **({"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}))
    axes.tick_params("x", length=0)
    axes.set_xlim(-0.5, len(x) - 0.5)


def look(number: int) -> dict:
    """Of the bars of a row: after all colours they come again, hatched, each time in another way."""
    return {"facecolor": COLOURS[number % len(COLOURS)], "edgecolor": "white", "linewidth": 0,
            "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)]}
