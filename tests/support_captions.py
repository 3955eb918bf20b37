"""What tests of captions share: sizes of tiny models, and clips with composed captions."""

import numpy as np

from cmg.data.features import FeatureWriter
from cmg.data.synthetic_captions import render_captions, vocabulary

TINY = {"caption_width": 16, "caption_layers": 2, "caption_heads": 2, "caption_hidden": 32, "queries": 4,
        "source_width": 16, "contrast_dim": 8}
ALIGNED = {"aligned_width": 16, "aligned_layers": 1, "aligned_heads": 2, "aligned_dim": 8}


def flags(settings):
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def write_captioned(path, n=32, captions=2, absent=(), classes=6, seconds=6, prefix="clip"):
    """A feature file of clips in which sight and sound show one or two events, each with its captions."""
    rng = np.random.default_rng(0)
    labels = np.stack([np.arange(n) % classes, (np.arange(n) // classes) % (classes + 1) - 1], 1)
    labels[:, 1] = np.where(labels[:, 1] == labels[:, 0], -1, labels[:, 1])
    spans = np.array([[[0, 2], [3, 6]]] * n)
    words = vocabulary(classes)
    ids, exists = render_captions(labels, spans, seconds, captions, words)
    exists[list(absent)] = False
    ids[list(absent)] = 0
    world = {"video": rng.standard_normal((classes, 12)), "audio": rng.standard_normal((classes, 10))}
    features = {}
    for m, directions in world.items():
        x = 0.1 * rng.standard_normal((n, seconds, directions.shape[1]))
        x[:, :2] += directions[labels[:, 0], None]
        x[:, 3:] += directions[labels[:, 1], None] * (labels[:, 1] >= 0)[:, None, None]
        features[m] = x
    shapes = {"video": (seconds, 12), "audio": (seconds, 10), "text": ids.shape[1:]}
    dtypes = {"video": "float32", "audio": "float32", "text": "int32"}
    attrs = {"backbone/text": "test", "sha256/text": words.sha256}
    with FeatureWriter(path, shapes, attrs, dtypes, {"text": words}) as writer:
        valid = {m: np.ones((n, seconds), bool) for m in world} | {"text": exists}
        writer.append([f"{prefix}{i}" for i in range(n)], features | {"text": ids}, valid)
    return str(path)
