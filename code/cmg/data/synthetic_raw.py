"""The built-in synthetic set as raw clips, for methods that read no features: small frames and small spectrograms.

The clips, their events and their annotations are those of `cmg.data.synthetic`. A picture is what a second of audio is
there: a random map of the event, a nuisance that lasts for the clip, and noise,

    h = s · c_k · [the event is on] + nuisance + noise,    x = relu(h A + b),

whose values are pixels, a world of their own for frames and for spectrograms. Frames are uint8 [T, 16, 16, 3], maps are
float16 [T, 16, 16], both with pixels of two by two: 20 KB a clip.
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
from cmg.data.synthetic_world import make_world, render_audio
from cmg.errors import UserError

RECIPE = 1  # raise it when the same settings give other pictures
CELLS, REPEAT = 8, 2  # pictures of 8×8 cells, a cell of 2×2 pixels
WHITE = 8.0  # x of the brightest pixel
CAPTIONS = 4  # of a clip, for a method that reads them, unless --synthetic-captions says otherwise
SHAPES = {"video": (CELLS, CELLS, 3), "audio": (CELLS, CELLS)}


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
    worlds = make_world(replace(spec, video_shape=(1, 1, 3 * CELLS**2), audio_dim=CELLS**2, grids=()))
    shapes = {m: (spec.seconds, CELLS * REPEAT, CELLS * REPEAT, *shape[2:]) for m, shape in SHAPES.items()}
    attrs = {"seconds_per_step": 1.0, "source": f"synthetic, raw recipe {RECIPE}, {json.dumps(asdict(spec))}"}
    attrs |= {f"backbone/{m}": "synthetic" for m in shapes}
    with FeatureWriter(path, shapes, attrs, {"video": "uint8", "audio": "float16"}) as writer:
        for split in splits:
            events = sample_events(spec, split)
            for start in range(0, len(events.label), BLOCK):
                block = Events(*(part[start : start + BLOCK] for part in events))
                n = len(block.label)
                writer.append(ids[:n], {m: pictures(m, worlds[m], block, spec, f"{split}/{start}") for m in shapes})
                ids = ids[n:]


def pictures(modality, world, events, spec, block):
    """Pictures of the events of a block of clips: uint8 [n, T, 16, 16, 3] or float32 [n, T, 16, 16]."""
    rng = np.random.default_rng([spec.seed, zlib.crc32(f"raw/{modality}/{block}".encode())])
    spans = {"video": events.video, "audio": events.audio}[modality]
    x = render_audio(world, events.label, spans, spec, rng)  # (n, T, cells)
    x = x.reshape(*x.shape[:2], *SHAPES[modality]).repeat(REPEAT, axis=2).repeat(REPEAT, axis=3)
    return (255 * np.clip(x / WHITE, 0, 1)).round().astype(np.uint8) if modality == "video" else x
