"""The house in one picture: its rooms in layers, and the walk of a batch through them.  `python -m cmg.figures.house`

    python -m cmg.figures.house --out figs/house.svg

Rooms are the packages and modules that the docstring of `cmg` lists, line by line; a room imports only from its own
line and from those above it (tests/test_house.py). The walk names, for every station of the data, the module it is in.
"""

import ast
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import cmg
from cmg.cli import Parser, command
from cmg.figures.style import INK, ORANGE, PALE, WIDTH, save, styled

PACKAGE = Path(cmg.__file__).parent


class Station(NamedTuple):
    """Where the data are on their way, and the module that has them there."""

    what: str
    module: str


# What happens to a clip from its file to a line of a table.
WALK = (
    Station("files", "extract/media.py"),
    Station("features", "data/feature_file.py"),
    Station("batch", "training/batches.py"),
    Station("encoders", "models/semantic.py"),
    Station("codebook", "models/codebook.py"),
    Station("losses", "methods/codebook/unicode.py"),
    Station("step", "training/loop.py"),
    Station("checkpoint", "training/checkpoint.py"),
    Station("tokens", "downstream/tokens.py"),
    Station("probe", "downstream/probing.py"),
    Station("results", "downstream/results.py"),
    Station("table", "tables/report.py"),
)


def layers() -> list[list[str]]:
    """The rooms, a list a line of the docstring of `cmg`, the lowest layer first."""
    lines = [line[4:].split("  ")[0] for line in cmg.__doc__.splitlines() if line.startswith("    ")]
    return [line.split(", ") for line in lines]


def purpose_of(room) -> str:
    """The first sentence of a room's docstring, or what fits of it: up to a colon, or else to a comma."""
    path = PACKAGE / room / "__init__.py"
    path = path if path.exists() else PACKAGE / f"{room}.py"
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).partition("\n\n")[0].replace("\n", " ")
    said = re.split(r": |\. ", said)[0].rstrip(".")
    return said if len(said) < 60 else said.partition(",")[0]


@styled
def draw() -> list[Figure]:
    """One page: above, the layers with what each room is for; below, the walk of a batch."""
    found, steps = layers(), 6
    figure = Figure((WIDTH, 0.62 * len(found) + 1.9), layout="constrained")
    rooms, walk = figure.subplots(2, 1, height_ratios=[0.62 * len(found), 1.5])
    rooms.set_title("The rooms of cmg: each imports from its own line and from those above", loc="left")
    for row, names in enumerate(found):
        width = 1 / len(names)
        for column, name in enumerate(names):
            _box(rooms, column * width, -row, width, name, purpose_of(name), INK)
    rooms.set(xlim=(0, 1), ylim=(1 - len(found), 1))
    walk.set_title("The walk of a clip, and the module that it is in", loc="left")
    for number, station in enumerate(WALK):
        row, column = divmod(number, steps)
        column = steps - 1 - column if row % 2 else column  # there and back
        _box(walk, column / steps, -row, 1 / steps, station.what, station.module.replace("/", "/ "), ORANGE)
        if number + 1 < len(WALK):
            head, tail = _arrow(number, steps)
            walk.annotate("", head, tail, arrowprops={"arrowstyle": "->", "color": INK, "lw": 1})
    walk.set(xlim=(0, 1), ylim=(1 - len(WALK) // steps, 1))
    for axes in (rooms, walk):
        axes.set_axis_off()
    return [figure]


def _box(axes, x, y, width, name, text, edge):
    gap = 0.006
    axes.add_patch(FancyBboxPatch((x + gap, y + 0.08), width - 2 * gap, 0.84, boxstyle="round,pad=0,rounding_size=0.01",
                                  facecolor=PALE, edgecolor=edge, linewidth=0.8))
    axes.text(x + width / 2, y + 0.75, name, ha="center", va="center", fontweight="bold", fontsize=7)
    axes.text(x + width / 2, y + 0.36, textwrap.fill(text, int(width * 125)), ha="center", va="center", fontsize=4.8)


def _arrow(number, steps):
    """(head, tail) of the arrow from a station to the next one: along its line, or down to the next line."""
    row, column = divmod(number, steps)
    if column + 1 == steps:
        x = (0.5 if row % 2 else steps - 0.5) / steps
        return (x, -row - 0.09), (x, 0.09 - row)
    border = ((steps - 1 - column) if row % 2 else column + 1) / steps
    step = -0.008 if row % 2 else 0.008
    return (border + step, 0.5 - row), (border - step, 0.5 - row)


def missing() -> list[str]:
    """Stations of the walk whose module does not exist, and rooms that no line of the docstring names."""
    named = {re.sub(r"^(bench).*", r"\1", room) for line in layers() for room in line}
    there = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()
             if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem[0] != "_"}
    unnamed = {re.sub(r"^(bench).*", r"\1", name) for name in there} - named
    return sorted([*unnamed, *(one.module for one in WALK if not (PACKAGE / one.module).exists())])


@command
def main(argv=None):
    p = Parser(prog="cmg.figures.house", description=__doc__.split("\n")[0])
    p.add_argument("--out", default="figs/house.svg", help="the picture; a PDF goes beside it")
    print(save(draw(), p.parse_args(argv).out))


if __name__ == "__main__":
    main()
