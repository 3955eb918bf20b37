"""Charts of results with Pillow: grouped bars with error bars, and lines over a number. Values are 0 to 100."""

import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from cmg.downstream.pictures import save

# Okabe and Ito's colours, which are told apart by colour-blind readers as well.
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (120, 120, 120),
           (240, 228, 66))
INK, GRID = (40, 40, 40), (222, 222, 222)
PLOT, TOP, LEFT, SIZE, STRIPE = 260, 26, 56, 13, 3  # pixels: height of the plot, its margins, the font, stripes


class Series(NamedTuple):
    """A line: points (x, value, std); a value None is left out."""

    name: str
    points: list[tuple]


class Canvas:
    """An image with a 0 to 100 axis on the left and a legend below; drawn at twice its size."""

    def __init__(self, width, legend, title, labels=()):
        self.font = ImageFont.load_default(2 * SIZE)
        longest = max((self.font.getlength(name) for name in legend), default=0) / 2 + 30
        self.per_line = max(1, int((width - LEFT) // longest))
        self.legend, self.longest = legend, longest
        self.labels = 4 * (SIZE + 3) if labels else SIZE + 8
        self.height = TOP + PLOT + self.labels + (SIZE + 7) * math.ceil(len(legend) / self.per_line) + 14
        self.width = width
        self.image = Image.new("RGB", (2 * width, 2 * self.height), "white")
        self.pen = ImageDraw.Draw(self.image)
        for value in range(0, 101, 20):
            self.line([(LEFT, self.y(value)), (width - 8, self.y(value))], GRID if value else INK)
            self.text(LEFT - 6, self.y(value), str(value), "rm")
        self.text(4, 2, title, "lt")
        self._draw_legend()

    def y(self, value):
        return TOP + PLOT * (1 - min(max(value, 0), 100) / 100)

    def line(self, points, colour=INK, width=1):
        self.pen.line([(2 * x, 2 * y) for x, y in points], fill=colour, width=2 * width)

    def box(self, left, top, right, bottom, colour):
        self.pen.rectangle([2 * left, 2 * top, 2 * right, 2 * bottom], fill=colour)

    def patch(self, left, top, right, bottom, number):
        """A box in the colour of a number; after all colours they come again, striped."""
        self.box(left, top, right, bottom, COLOURS[number % len(COLOURS)])
        for stripe in range(1, math.ceil((bottom - top) / STRIPE)) if number >= len(COLOURS) else ():
            self.line([(left, bottom - stripe * STRIPE), (right, bottom - stripe * STRIPE)], "white")

    def text(self, x, y, text, anchor="mm"):
        self.pen.text((2 * x, 2 * y), text, INK, self.font, anchor=anchor)

    def whisker(self, x, value, deviation):
        if deviation:
            low, high = self.y(value - deviation), self.y(value + deviation)
            self.line([(x, low), (x, high)])
            for y in (low, high):
                self.line([(x - 2, y), (x + 2, y)])

    def _draw_legend(self):
        for number, name in enumerate(self.legend):
            row, column = divmod(number, self.per_line)
            x, y = LEFT + column * self.longest, TOP + PLOT + self.labels + 12 + row * (SIZE + 7)
            self.patch(x, y - 5, x + 12, y + 5, number)
            self.text(x + 17, y, name, "lm")

    def wrapped(self, x, y, text, width):
        """Text below a group of bars, broken into lines at blanks."""
        lines = [""]
        for word in text.replace("_", " ").split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.font.getlength(longer) > 2 * width:
                lines.append(word)
            else:
                lines[-1] = longer
        for number, line in enumerate(lines[:4]):
            self.text(x, y + number * (SIZE + 2), line, "ma")


def draw_bars(path, groups: list[str], rows, chance: list[float | None], title: str) -> Path:
    """A group of bars for every column, a colour for every row, dashes at chance, if it has one.

    Parameters
    ----------
    rows : list of (name, [(value or None, std) of every group])
    """
    bar = max(6 if len(groups) > 4 else 10, 22 - 2 * len(rows))
    group = max(len(rows) * bar + 18, 72)
    canvas = Canvas(max(LEFT + group * len(groups) + 12, 420), [name for name, _ in rows], title, groups)
    for g, name in enumerate(groups):
        left = LEFT + g * group + (group - len(rows) * bar) / 2
        for r, (_, values) in enumerate(rows):
            value, deviation = values[g]
            if value is not None:
                x = left + r * bar
                canvas.patch(x, canvas.y(value), x + bar - 2, canvas.y(0), r)
                canvas.whisker(x + bar / 2 - 1, value, deviation)
        for dash in range(0, len(rows) * bar if chance[g] is not None else 0, 8):
            y = canvas.y(chance[g])
            canvas.line([(left + dash, y), (left + dash + 4, y)], INK)
        canvas.wrapped(LEFT + (g + 0.5) * group, TOP + PLOT + 6, name, group - 4)
    return save(canvas.image, path)


def draw_lines(path, series: list[Series], title: str, width=640, scale=None) -> Path:
    """Lines over a number; its values stand side by side at equal distances, or by `scale`, a function to 0..1."""
    xs = sorted({point[0] for one in series for point in one.points})
    canvas = Canvas(width, [one.name for one in series], title)
    place = {x: scale(x) if scale else (i + 0.5) / len(xs) for i, x in enumerate(xs)}

    def at(x):
        return LEFT + place[x] * (width - LEFT - 20)

    marked = xs if len(xs) <= 12 else xs[:: math.ceil(len(xs) / 8)]
    for x in marked:
        canvas.text(at(x), TOP + PLOT + 6, f"{x:g}", "mt")
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        points = [(at(x), canvas.y(value)) for x, value, *_ in one.points if value is not None]
        if len(points) > 1:
            canvas.line(points, colour, 2)
            if number >= len(COLOURS):  # hollow, as the patch of the legend is striped
                canvas.line(points, "white", 1)
        for x, value, deviation in one.points:
            if value is not None and len(xs) <= 12:
                canvas.whisker(at(x), value, deviation)
                canvas.box(at(x) - 3, canvas.y(value) - 3, at(x) + 3, canvas.y(value) + 3, colour)
    return save(canvas.image, path)


def draw_shares(path, names: list[str], shares, title: str) -> Path:
    """A column for every code, parted from below by shares [names][codes] that sum to 1."""
    codes = len(shares[0])
    step = max(1, 640 // codes)
    canvas = Canvas(max(LEFT + step * codes + 12, 420), names, title)
    for k in range(codes):
        below = 0.0
        for number, own in enumerate(shares):
            bottom, below = below, below + 100 * own[k]
            if own[k]:
                left = LEFT + k * step
                canvas.box(left, canvas.y(below), left + step - 0.5, canvas.y(bottom), COLOURS[number % len(COLOURS)])
    return save(canvas.image, path)
