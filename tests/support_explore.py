"""What tests of the page of codes share: features of few clips, and what a page says."""

import csv
import json

import numpy as np

from cmg.data.features import FeatureWriter
from cmg.explore.page import MARK
from cmg.extract.hashed import words_of

SHAPES = {"video": (4, 2, 2, 6), "audio": (4, 6), "text": (5, 5)}
CODES = 7
HOSTILE = '<img src=x onerror="hurt=1"><!-- \u2028 \\'  # as the name of a clip, and as a label
CAPTIONS = ["A bell", "a small bell, it rings", '</script><b onclick="hurt=1">rain']  # of clips in turn


def caption(number):
    return CAPTIONS[number % len(CAPTIONS)]


def write_features(path, ids, shapes=SHAPES):
    """Random features, of which some steps do not exist; of text as many as captions have words."""
    rng = np.random.default_rng(0)
    valid = {}
    for m, shape in shapes.items():
        steps = [len(words_of(caption(n))) for n in range(len(ids))] if m == "text" else \
            rng.integers(2, shape[0] + 1, len(ids))
        valid[m] = np.arange(shape[0]) < np.array(steps)[:, None]
    with FeatureWriter(path, shapes, {"backbone/text": "hash"}, "float32") as writer:
        writer.append(ids, {m: rng.normal(size=(len(ids), *shape)) for m, shape in shapes.items()}, valid)
    return path


def write_table(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def data_of(folder):
    """What data.js of a page says."""
    text = (folder / "data.js").read_text(encoding="utf-8")
    assert text.startswith(f"{MARK}const CMG = ") and text.endswith(";\n")
    return json.loads(text.removeprefix(f"{MARK}const CMG = ").removesuffix(";\n"))
