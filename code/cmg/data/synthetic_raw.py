"""The built-in synthetic set as raw clips, for methods that read no features: small frames and small spectrograms.

The clips, their events and their annotations are those of `cmg.data.synthetic`. An event is a disc that is seen and a
tone that is heard, and says in both how it goes on:

    seen                                    heard
    colour                                  overtones                               the class
    height, which changes from second to    pitch                                   of the event in this clip
    second
    size                                    loudness                                of the event in this clip

Each modality buries it under what the other knows nothing of: frames have a background of two colours, a grey box, the
disc's way from side to side, and noise; spectrograms have a floor, a hum, clicks, the tone's beat, and noise.

Frames are uint8 [T, 32, 32, 3], maps float16 [T, 32, 32] (columns of time, bands) in decibels: 50 KB a clip.
"""

import json
import zlib
from dataclasses import asdict, replace

import numpy as np

from cmg.data.features import FeatureFile, FeatureWriter
from cmg.data.synthetic import (
    BLOCK,
    SPLITS,
    Events,
    SyntheticFiles,
    sample_events,
    synthetic_files,
    synthetic_spec,
)
from cmg.data.synthetic_world import presence
from cmg.errors import UserError

RECIPE = 2  # raise it when the same settings give other pictures
SIDE = 32
CAPTIONS = 4  # of a clip, for a method that reads them, unless --synthetic-captions says otherwise
SHAPES = {"video": (SIDE, SIDE, 3), "audio": (SIDE, SIDE)}
LOWEST, COMPASS, SPACING = 3, 12, 2.5  # bands: of the lowest pitch, between it and the highest, between overtones
OVERTONES = 6  # of class k those that are 1 among the binary digits of k + 1
SILENCE = -60.0  # dB


def asked_for(paths) -> bool:
    """Whether --data names the built-in set in the place of feature files; `UserError` where it names both."""
    if "synthetic" in paths and len(paths) > 1:
        raise UserError(f"--data {' '.join(paths)}: synthetic cannot be joined with feature files")
    return "synthetic" in paths


def files_for(kinds, flags) -> SyntheticFiles:
    """The set as a method reads it: features, or raw clips where it reads no vectors; captions where it reads tokens.

    kinds : of `cmg.modalities.KINDS`, what the method reads. flags : dict of settings, `synthetic_…` among them.
    """
    spec = synthetic_spec(flags)
    if "tokens" in kinds and not spec.captions:
        spec = replace(spec, captions=CAPTIONS)
    return synthetic_files(spec=spec) if "vectors" in kinds else raw_files(None, spec)


def raw_files(root, spec) -> SyntheticFiles:
    """Write the raw clips beside the features of the same spec, unless they lie there already; arguments as of
    `cmg.data.synthetic.synthetic_files`."""
    files = synthetic_files(root, spec)
    folder = files.pretrain.parent
    raw = SyntheticFiles(folder / f"raw{RECIPE}_pretrain.h5", folder / f"raw{RECIPE}_ave.h5", files.annotations)
    for path, features, splits in ((raw.pretrain, files.pretrain, ("pre",)), (raw.ave, files.ave, SPLITS)):
        if not path.is_file():
            write_raw(path, spec, splits, FeatureFile(features).ids)
    return raw


def write_raw(path, spec, splits, ids):
    """One feature file of raw clips; ids : of all clips of these splits, in order."""
    shapes = {m: (spec.seconds, *shape) for m, shape in SHAPES.items()}
    attrs = {"seconds_per_step": 1.0, "source": f"synthetic, raw recipe {RECIPE}, {json.dumps(asdict(spec))}"}
    attrs |= {f"backbone/{m}": "synthetic" for m in shapes}
    with FeatureWriter(path, shapes, attrs, {"video": "uint8", "audio": "float16"}) as writer:
        for split in splits:
            events = sample_events(spec, split)
            for start in range(0, len(events.label), BLOCK):
                block = Events(*(part[start : start + BLOCK] for part in events))
                n = len(block.label)
                writer.append(ids[:n], clips(block, spec, f"{split}/{start}"))
                ids = ids[n:]


def clips(events, spec, block):
    """Both modalities of the events of a block of clips: uint8 [n, T, 32, 32, 3] and float32 [n, T, 32, 32]."""
    def stream(name):
        return np.random.default_rng([spec.seed, zlib.crc32(f"raw/{name}/{block}".encode())])

    shared, T = stream("shared"), spec.seconds
    height = between(shared.random((*events.label.shape, 2)), T)  # [n, 2, T], 0 to 1
    size = shared.random(events.label.shape)  # [n, 2]
    return {"video": frames(events, height, size, spec, stream("video")),
            "audio": maps(events, height, size, spec, stream("audio"))}


def between(ends, T):
    """T values from the first of two to the second, evenly: [..., 2] -> [..., T]."""
    return ends[..., :1] + (ends[..., 1:] - ends[..., :1]) * np.linspace(0, 1, T)


def over(values):
    """Numbers [...] that spread over the pixels of a picture, or over its columns and bands: float32 [..., 1, 1]."""
    return np.asarray(values, np.float32)[..., None, None]


def frames(events, height, size, spec, rng):
    """Frames uint8 [n, T, 32, 32, 3]; row 0 is the top."""
    n, T = len(events.label), spec.seconds
    y, x = np.meshgrid(*[np.linspace(0, 1, SIDE, dtype=np.float32)] * 2, indexing="ij")
    picture = background(n, x, y, spec.difficulty, rng)[:, None].repeat(T, 1)  # (n, T, 32, 32, 3)
    across = between(rng.random((n, 2, 2)), T)
    on = presence(events.label, events.video, T)  # (n, T, 2)
    for event in range(2):
        row, column = over(0.9 - 0.8 * height[:, event]), over(0.1 + 0.8 * across[:, event])  # (n, T, 1, 1)
        inside = over(0.09 + 0.13 * size[:, event, None]) - np.sqrt((x - column) ** 2 + (y - row) ** 2)
        disc = np.clip(SIDE * inside + 0.5, 0, 1) * over(on[..., event])  # (n, T, 32, 32), its edge is soft
        hue = events.label[:, event, None] / spec.classes - np.arange(3) / 3
        colour = np.clip(0.5 + np.cos(2 * np.pi * hue), 0, 1).astype(np.float32)  # (n, 3)
        picture += disc[..., None] * (colour[:, None, None, None] - picture)
    picture += 0.03 * spec.difficulty * rng.standard_normal(picture.shape, dtype=np.float32)
    return (255 * np.clip(picture, 0, 1)).round().astype(np.uint8)


def background(n, x, y, difficulty, rng):
    """From one colour to another in a direction of its own, and a grey box: float32 [n, 32, 32, 3]."""
    first, second = 0.35 + 0.25 * difficulty * (rng.random((2, n, 1, 1, 3)) - 0.5)
    turn = over(rng.random(n) * 2 * np.pi)
    along = np.clip(0.5 + np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5), 0, 1)[..., None]  # (n, 32, 32, 1)
    column, row = over(rng.random((2, n)))
    wide, high = over(0.06 + 0.1 * rng.random((2, n)))
    grey = over(0.5 + 0.5 * difficulty * (rng.random(n) - 0.5))
    box = (abs(x - column) < wide) & (abs(y - row) < high)
    return np.where(box[..., None], grey[..., None], along * first + (1 - along) * second).astype(np.float32)


def maps(events, height, size, spec, rng):
    """Spectrograms float32 [n, T, 32, 32] in decibels: columns of time, and bands."""
    n, T, much = len(events.label), spec.seconds, spec.difficulty
    band, time = np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32)[:, None] / SIDE
    tilt, hum = over(rng.random((2, n, 1)) - 0.5)  # (n, 1, 1, 1)
    floor = SILENCE + much * (10 * tilt * (band / SIDE - 0.5) + 12 * np.exp(-((band - (hum + 0.5) * SIDE) ** 2) / 2))
    clicks = abs(time - over(rng.random((n, T)))) < 0.02  # (n, T, time, 1)
    picture = floor + 12 * much * clicks  # (n, T, time, bands)
    beat = 2 * np.pi * (over(rng.random((n, 2))) + over(1 + 3 * rng.random((n, 2))) * time)  # (n, 2, time, 1)
    on = presence(events.label, events.audio, T)  # (n, T, 2)
    for event in range(2):
        pitch = LOWEST + COMPASS * height[:, event, :, None] + SPACING * np.arange(1 + OVERTONES)  # (n, T, partials)
        has = np.insert((events.label[:, event, None] + 1) >> np.arange(OVERTONES) & 1, 0, 1, axis=1)  # (n, partials)
        partials = np.exp(-((band - pitch[..., None]) ** 2) / 1.2) * has[:, None, :, None]  # (n, T, partials, bands)
        loud = 25 + 25 * over(size[:, event]) + 5 * np.cos(beat[:, event])  # (n, time, 1)
        tone = loud[:, None] * (partials.max(2) * on[..., event, None])[:, :, None]
        picture = np.maximum(picture, SILENCE + tone)
    return (picture + 2 * much * rng.standard_normal(picture.shape)).astype(np.float32)
