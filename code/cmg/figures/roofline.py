"""The roofline of a bench: what a device could reach at a step's intensity, and what the step reached."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cmg.figures.lines import MARKERS
from cmg.figures.style import COLOURS, INK, styled


@styled
def draw(device: str, product: float, copy: float, points: list[tuple[str, float, float]]) -> list[Figure]:
    """Intensity against speed, both logarithmic; the roof is a line, every step a point.

    Parameters
    ----------
    product, copy : the ceilings, GFLOP/s of the best matrix product and GB/s of the best copy
    points : (name, FLOP per byte, GFLOP/s) of every step
    """
    corner = product / copy  # FLOP per byte at which the two ceilings meet
    low = min(corner / 10, *(x / 2 for _, x, _ in points))
    high = max(corner * 10, *(2 * x for _, x, _ in points))
    figure = Figure((4.6, 3.2 + 0.17 * len(points)), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    axes.plot([low, corner, high], [low * copy, product, product], color=INK, label="ceiling")
    for number, (name, x, y) in enumerate(points):
        axes.plot(x, y, MARKERS[number % len(MARKERS)], color=COLOURS[number % len(COLOURS)], markersize=6,
                  markeredgecolor="white", label=name)
    axes.set_xlim(low, high)
    axes.set_ylim(min(low * copy, *(y / 2 for *_, y in points)), 2.5 * product)
    axes.annotate(f"best matrix product: {product:,.0f} GFLOP/s", (high, product), (-2, 4), ha="right", va="bottom",
                  textcoords="offset points")
    x = math.sqrt(low * corner)
    y = 1.12 * x * copy
    axes.text(x, y, f"best copy: {copy:,.0f} GB/s", ha="center", va="bottom", rotation=math.degrees(math.atan(y / x)),
              rotation_mode="anchor", transform_rotates_text=True)  # parallel to the slope of two logarithms
    for axis, (least, most) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_major_locator(LogLocator(subs=(1,) if most > 300 * least else (1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(True, axis="both")
    axes.set(xlabel="intensity, FLOP per byte moved", ylabel="speed, GFLOP/s", title=device)
    figure.legend(loc="outside lower center", ncols=1)
    return [figure]
