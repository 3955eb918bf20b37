"""Each modality's share in the use of every code, as in the paper's Fig. 4."""

import numpy as np
from matplotlib.figure import Figure

from cmg.figures.style import COLOURS, WIDTH, styled


@styled
def draw(names: list[str], shares) -> list[Figure]:
    """A column for every code, parted from below.

    Parameters
    ----------
    shares : [modalities, codes] in 0..1, sums over modalities are 1; in the order in which codes stand side by side
    """
    percent = 100 * np.asarray(shares, float)
    tops = percent.cumsum(0)
    codes = percent.shape[1]
    figure = Figure((WIDTH, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for name, top, own, colour in zip(names, tops, percent, COLOURS):
        axes.stairs(top, np.arange(codes + 1), baseline=top - own, fill=True, color=colour, linewidth=0, label=name)
    axes.set_xlim(0, codes)
    axes.set_ylim(0, 100)
    axes.set_xlabel(f"{codes} codes in use, sorted by the share of {names[0]}")
    axes.set_ylabel("share in the use of a code, %")
    figure.legend(loc="outside lower center", ncols=len(names))
    return [figure]
