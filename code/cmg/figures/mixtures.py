"""What a masked autoencoder of mixtures sees and rebuilds: a line of pictures for every clip."""

import numpy as np
from matplotlib.figure import Figure

from cmg.figures.style import WIDTH, styled

CELL = 1.05  # inches a line is high


@styled
def draw(clips, columns) -> list[Figure]:
    """A line a clip, a column a kind of picture.

    Parameters
    ----------
    clips : dict name of a clip -> list of arrays, a column each: [H, W, 3] in 0..1 in colours, or [H, W], whose row 0
        is drawn at the bottom, as a spectrogram is
    columns : list of their titles
    """
    figure = Figure((WIDTH, CELL * len(clips) + 0.3), layout="constrained")
    axes = figure.subplots(len(clips), len(columns), squeeze=False)
    for line, (name, pictures) in zip(axes, clips.items()):
        limits = [x for x in pictures if np.ndim(x) == 2]
        low, high = np.percentile(np.concatenate([x.ravel() for x in limits]), (1, 99)) if limits else (0, 1)
        for place, picture in zip(line, pictures):
            if np.ndim(picture) == 2:
                place.imshow(picture, origin="lower", aspect="auto", vmin=low, vmax=max(high, low + 1e-6))
            else:
                place.imshow(np.clip(picture, 0, 1), aspect="auto", interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
            for side in place.spines.values():
                side.set_visible(False)
        line[0].set_ylabel(name if len(name) < 18 else f"{name[:15]}…")
    for place, title in zip(axes[0], columns):
        place.set_title(title)
    return [figure]
