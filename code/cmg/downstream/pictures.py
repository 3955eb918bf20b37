"""Pictures that tasks leave beside their results, drawn with Pillow: second-by-second heat maps and matrices."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cmg.files import replacing

CELL = 14  # pixels
HIT, MISSED, MADE_UP, TRUTH, PREDICTION, EMPTY = (
    (44, 140, 80), (240, 190, 60), (200, 70, 60), (60, 60, 60), (60, 100, 180), (238, 238, 238),
)


def draw_events(path, clips, classes: list[str]) -> Path:
    """What was predicted, what is true, and both at once, for some clips one below the other.

    Parameters
    ----------
    clips : list of (name, prediction, truth) with bool arrays [T, K]; classes that neither holds are left out.
    """
    shown = [(name, p, t, np.flatnonzero((p | t).any(0))) for name, p, t in clips]
    T = len(clips[0][1])
    margin = 8 + 7 * max(len(name) for name in classes)
    width = margin + 3 * (T * CELL + CELL)
    height = sum(3 * CELL + CELL * max(len(rows), 1) for *_, rows in shown) + 2 * CELL
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    top = 4
    for name, prediction, truth, rows in shown:
        draw.text((4, top), name, "black")
        top += CELL
        for panel, title in enumerate(("prediction", "truth", "overlap")):
            draw.text((margin + panel * (T + 1) * CELL, top), title, "black")
        top += CELL + 2
        for k in rows:
            draw.text((4, top), classes[k], "black")
            for t in range(T):
                p, g = prediction[t, k], truth[t, k]
                overlap = HIT if p and g else MADE_UP if p else MISSED if g else EMPTY
                for panel, colour in enumerate((PREDICTION if p else EMPTY, TRUTH if g else EMPTY, overlap)):
                    left = margin + (panel * (T + 1) + t) * CELL
                    draw.rectangle([left, top, left + CELL - 2, top + CELL - 2], fill=colour)
            top += CELL
        top += CELL - 2
    draw.text((4, top), "overlap: green hit, red made up, yellow missed", "black")
    return save(image, path)


def draw_matrix(path, matrix, rows: list[str], columns: list[str], title: str) -> Path:
    """A matrix of shares in 0..1, darker for more, with names of its rows and numbers of its columns."""
    matrix = np.asarray(matrix, dtype=float).clip(0, 1)
    margin = 8 + 7 * max(len(name) for name in rows)
    size = CELL * 2
    width = max(margin + size * len(columns) + 4, 8 + 7 * len(title))
    image = Image.new("RGB", (width, size * (len(rows) + 2)), "white")
    draw = ImageDraw.Draw(image)
    draw.text((4, 4), title, "black")
    for c, name in enumerate(columns):
        draw.text((margin + c * size + 4, size), name[:4], "black")
    for r, name in enumerate(rows):
        top = (r + 2) * size
        draw.text((4, top + 8), name, "black")
        for c, value in enumerate(matrix[r]):
            shade = int(255 * (1 - value))
            left = margin + c * size
            draw.rectangle([left, top, left + size - 2, top + size - 2], fill=(shade, shade, 255 - (255 - shade) // 3))
    return save(image, path)


def save(image, path) -> Path:
    """Write a PNG, atomically."""
    with replacing(path) as part:
        image.save(part, format="PNG")
    return Path(path)
