"""What tests of captions share: sizes of tiny models, and clips with composed captions."""

import numpy as np

from cmg.data.features import FeatureWriter
from cmg.data.synthetic_captions import render_captions, sample_composed, vocabulary

TINY = {"caption_width": 16, "caption_layers": 2, "caption_heads": 2, "caption_hidden": 32, "queries": 4,
        "source_width": 16, "contrast_dim": 8}
ALIGNED = {"aligned_width": 16, "aligned_layers": 1, "aligned_heads": 2, "aligned_dim": 8}


def flags(settings):
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def write_captioned(path, n=32, captions=2, absent=(), classes=6, seconds=6, prefix="clip", seed=0):
    """A feature file of composed clips, each with its captions."""
    rng = np.random.default_rng(seed)
    label, video, audio = sample_composed(rng, n, classes, seconds)
    words = vocabulary(classes)
    ids, exists = render_captions(label, video, audio, captions, words)
    exists[list(absent)] = False
    ids[list(absent)] = 0
    known = np.random.default_rng(1)  # what the classes look and sound like
    world = {"video": known.standard_normal((classes, 12)), "audio": known.standard_normal((classes, 10))}
    t, features = np.arange(seconds)[None, :, None], {}
    for m, spans in (("video", video), ("audio", audio)):
        on = (spans[:, None, :, 0] <= t) & (t < spans[:, None, :, 1])  # (n, seconds, slots)
        features[m] = on @ world[m][label] + 0.1 * rng.standard_normal((n, seconds, world[m].shape[1]))
    shapes = {"video": (seconds, 12), "audio": (seconds, 10), "text": ids.shape[1:]}
    dtypes = {"video": "float32", "audio": "float32", "text": "int32"}
    attrs = {"backbone/text": "test", "sha256/text": words.sha256}
    with FeatureWriter(path, shapes, attrs, dtypes, {"text": words}) as writer:
        valid = {m: np.ones((n, seconds), bool) for m in world} | {"text": exists}
        writer.append([f"{prefix}{i}" for i in range(n)], features | {"text": ids}, valid)
    return str(path)
