"""A confusion matrix, with the classes on both axes."""

import numpy as np
from matplotlib.figure import Figure

from cmg.figures.style import POINT, styled, width_of

CELL = 0.27, 0.12  # inches: of few classes, of many
MANY = 24  # classes; from there on cells are small and hold no numbers


@styled
def draw(matrix, classes: list[str], title: str) -> list[Figure]:
    """Shares of each true class (a row) that were answered by each class (a column).

    Parameters
    ----------
    matrix : [K, K] in 0..1
    """
    percent = 100 * np.asarray(matrix, float)
    few = len(classes) < MANY
    size = CELL[0 if few else 1] * len(classes)
    name = max(map(width_of, classes))
    figure = Figure((max(size, 1.5) + name + 1.3, max(size, 1.5) + name + 0.8), layout="compressed")
    axes = figure.add_subplot()
    places = np.arange(len(classes))
    mesh = axes.pcolormesh(np.arange(len(classes) + 1) - 0.5, np.arange(len(classes) + 1) - 0.5, percent,
                           cmap="Blues", vmin=0, vmax=100, edgecolors="white", linewidth=0.3)
    for row, column in zip(*np.nonzero(percent.round())) if few else ():
        axes.text(column, row, f"{percent[row, column]:.0f}", ha="center", va="center", fontsize=POINT - 1.5,
                  color="white" if percent[row, column] > 60 else "black")
    font = POINT if few else POINT - 1.5
    axes.set_xticks(places, classes, rotation=90, fontsize=font)
    axes.set_yticks(places, classes, fontsize=font)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(title=title, xlabel="answer", ylabel="true class", aspect="equal")
    axes.invert_yaxis()
    figure.colorbar(mesh, ax=axes, label="share of the true class, %", fraction=0.05, pad=0.02)
    return [figure]
