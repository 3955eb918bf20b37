"""The one style of all pictures, their pages, and how they are written: as PNG (or SVG) and as PDF.

A kind of picture is a module here with a function `draw` that returns its pages as Matplotlib figures, at the size at
which they are printed; `save` writes them. pyplot, with its global state, is never touched.
"""

import math
import textwrap
from contextlib import ExitStack
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from cmg.files import replacing

# Okabe and Ito's colours, which are told apart by colour-blind readers as well; grey stands for their black.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY, YELLOW = COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#787878", "#F0E442")
INK, PALE = "#282828", "#DEDEDE"
WIDTH, HEIGHT = 7.2, 9.2  # inches: the most that a page has
POINT = 8  # of the text
LONGEST = 75  # characters in a line of a legend
CHANCE = {"colors": INK, "linestyles": (0, (4, 2)), "linewidths": 1.0, "zorder": 3}  # of a mark at chance

styled = matplotlib.rc_context({
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": POINT,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.titlesize": POINT + 1, "axes.labelsize": POINT, "axes.edgecolor": INK, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.labelcolor": INK,
    "grid.color": PALE, "grid.linewidth": 0.8, "xtick.color": INK, "ytick.color": INK, "text.color": INK,
    "xtick.labelsize": POINT, "ytick.labelsize": POINT, "legend.fontsize": POINT, "legend.frameon": False,
    "figure.titlesize": POINT + 2, "figure.dpi": 200, "savefig.dpi": 200, "savefig.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.06,
    "lines.linewidth": 1.4, "lines.markersize": 4, "errorbar.capsize": 2, "hatch.linewidth": 1.0,
    "pdf.fonttype": 42, "svg.hashsalt": "cmg",  # TrueType, which journals ask for; equal data give equal files
})


@styled
def save(pages: list[Figure], path) -> Path:
    """Write the pages as `path`, `path` with _2, _3, … and all of them as one PDF beside it: all files, or none.

    Parameters
    ----------
    path : of a .png or .svg file; later pages of an earlier picture of this name are removed.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    with ExitStack() as written:
        vector = written.enter_context(replacing(path.with_suffix(".pdf")))
        with PdfPages(vector, metadata={"CreationDate": None}) as pdf:
            for number, page in enumerate(pages):
                unfinished = written.enter_context(replacing(page_path(path, number)))
                page.savefig(unfinished, format=kind, metadata={"Date": None} if kind == "svg" else None)
                pdf.savefig(page)
    number = len(pages)
    while (outdated := page_path(path, number)).exists():
        outdated.unlink()
        number += 1
    return path


def page_path(path: Path, number: int) -> Path:
    return path.with_stem(f"{path.stem}_{number + 1}") if number else path


def width_of(text: str) -> float:
    """Inches that a text takes, at the size of all text."""
    return max((TextPath((0, 0), line, size=POINT).get_extents().width / 72 for line in text.split("\n")
                if line.strip()), default=0.0)


def balanced(n: int, columns: int) -> int:
    """Columns of n panels, at most so many, that leave the fewest places of the last line empty."""
    return math.ceil(n / math.ceil(n / columns))


def panel_pages(panels, needed: float, keys: dict, title="", height=2.0):
    """Pages of panels, side by side as far as they fit, with one legend below.

    Parameters
    ----------
    panels : list of anything with a `title` and a `ylabel`; on a page, panels of equal labels share their scale
    needed : inches of width that the widest panel asks for
    keys : dict name -> the artist that shows it in the legend
    height : inches of a panel

    Yields
    ------
    (Figure, list of (Axes, panel)) of every page, the axes still empty.
    """
    columns = balanced(len(panels), min(3, max(1, int(WIDTH / needed))))
    width = WIDTH if columns > 1 else min(max(needed, WIDTH / 2), WIDTH)
    names = [textwrap.fill(name, int(width / WIDTH * LONGEST)) for name in keys]
    per_line = balanced(len(names), max(1, int(width / (max(map(width_of, names)) + 0.6))))
    below = 0.17 * math.ceil(len(names) / per_line) * max(name.count("\n") + 1 for name in names) + 0.1
    per_page = columns * max(1, int((HEIGHT - below) / height))
    for first in range(0, len(panels), per_page):
        shown, scales, found = panels[first:first + per_page], {}, []
        rows = math.ceil(len(shown) / columns)
        figure = Figure((width, rows * height + below + 0.25 * bool(title)), layout="constrained")
        for place, panel in enumerate(shown, 1):
            axes = figure.add_subplot(rows, columns, place, sharey=scales.get(panel.ylabel))
            scales.setdefault(panel.ylabel, axes)
            axes.set_title("\n".join(textwrap.wrap(panel.title, int(width / columns / 0.08))))
            axes.set_ylabel(panel.ylabel)
            axes.grid(axis="y")
            found.append((axes, panel))
        if title:
            figure.suptitle(title)
        figure.legend(keys.values(), names, loc="outside lower center", ncols=per_line)
        yield figure, found
        for axes, _ in found:  # after the caller has drawn, for panels that share a scale shall all fit in
            axes.set_ylim(0, max(1, axes.get_ylim()[1]))
