"""The built-in synthetic set (`--data synthetic`): tri-modal event clips whose shared semantics are known.

A clip is ten seconds with an event of one class. Each modality renders the event through a random map of its own, so
that raw features of one modality say nothing about another, and buries it under a nuisance of its own that carries
more variance than the class: a scene in video, a recording channel in audio, a style in text. What the modalities
share is what a codebook has to find: the class, and when it happens.

    h = s · c_k · [the event is on] + nuisance (constant over a clip) + noise (per step)      latent
    x = relu(h A + b)                                                                         feature

c_k, A, b and the nuisance's subspace are random but fixed per modality: they are the *world*. In video the event lights
up a few cells of the grid, at a place that is nuisance. In text one or two words of the caption name the class; words
are not aligned to seconds. Audio and video may disagree by a second about an event's start or end, and pretraining
clips may hold a second event of another class. The other seconds are background.

What makes real clips hard is asked for by settings: many classes (`classes`) in families whose members differ in detail
(`families`), nuisances that come back from clip to clip (`scenes`), so that a modality's clips are more alike by scene
than by class, events that are only seen or only heard (`lone`), seconds that disagree (`misalign`), captions that name
only some of what happens (`told`).

The set is written as feature files and an annotation folder in AVE's format, and read back like any other data.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmg.cli import number, whole
from cmg.configs import Config, setting, with_values
from cmg.data import synthetic_captions as composed
from cmg.data.features import FeatureWriter
from cmg.data.synthetic_world import make_world, render_audio, render_grid, render_text, rng_of
from cmg.errors import UserError
from cmg.files import write_atomically
from cmg.modalities import BUILT_IN, Modality, declare

RECIPE = 1  # raise it when the same settings give other arrays, so that old caches are not mistaken for new ones
SPLITS = ("train", "val", "test")
SHORTEST = 3  # seconds of the shortest event; one of them may be lost to misalignment
LATER = ("families", "scenes", "lone", "told", "grids", "captions")  # settings that older sets do not name
BLOCK = 250  # clips made at once: bounds the memory, and every block has its own random stream


@dataclass(frozen=True)
class SyntheticSpec:
    """Everything the set depends on; equal specs give equal files.

    Attributes
    ----------
    seed : of the world and of all clips; not the seed of a training run
    clips : unlabelled pretraining clips
    ave_clips : labelled clips in train, val and test
    classes : K
    seconds : T
    video_shape : (H, W, C) of one second of video
    audio_dim, text_dim : features of one second of audio, of one word
    words : L, words a caption holds at most
    difficulty : factor on nuisance and noise
    misalign : probability that audio and video differ by a second at one end of an event
    second_event : share of pretraining clips with a second event of another class
    families : classes of a family, which have most in common; 1: all are different
    scenes : different scenes of video, channels of audio, styles of text; 0: every clip has its own
    lone : share of pretraining clips whose first event is only seen or only heard, either as often
    told : chance that a caption names an event
    grids : names of further modalities, which see what video sees, in a world of their own
    captions : K, composed captions a clip, which are then its text, of clips that are composed as well
        (`cmg.data.synthetic_captions`); 0: word vectors
    """

    seed: int = 0
    clips: int = 1000
    ave_clips: tuple[int, int, int] = (300, 100, 100)
    classes: int = 10
    seconds: int = 10
    video_shape: tuple[int, int, int] = (7, 7, 64)
    audio_dim: int = 64
    text_dim: int = 64
    words: int = 10
    difficulty: float = 1.0
    misalign: float = 0.3
    second_event: float = 0.3
    families: int = 1
    scenes: int = 0
    lone: float = 0.0
    told: float = 1.0
    grids: tuple[str, ...] = ()
    captions: int = 0

    def __post_init__(self):
        object.__setattr__(self, "grids", tuple(self.grids))
        for name in self.grids:
            if name in BUILT_IN:
                raise UserError(f"--synthetic-grids {name}: the set has {', '.join(BUILT_IN)} already; expected "
                                "another name")
            declare(Modality(name, name, ("grids", "vectors")), "--synthetic-grids")
        if self.captions > composed.MOST:
            raise UserError(f"--synthetic-captions is {self.captions}, expected at most {composed.MOST}")
        for name, least in (("clips", 1), ("classes", 2)):
            if getattr(self, name) < least:
                raise UserError(f"--synthetic-{name} is {getattr(self, name)}, expected at least {least}")
        if self.seconds < 2 * SHORTEST or self.words < 3:
            raise UserError(f"clips of {self.seconds} seconds and {self.words} words, expected at least 6 and 3")
        for name in ("misalign", "second_event", "lone", "told"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--synthetic-{name.replace('_', '-')} is {getattr(self, name)}, expected a share from "
                                "0 to 1")
        if not 0 <= self.difficulty <= 100:  # false for nan too; above 100 float16 would overflow
            raise UserError(f"--synthetic-difficulty is {self.difficulty}, expected a number from 0 to 100")


class SyntheticFiles(NamedTuple):
    pretrain: Path  # feature file, ids syn_pre_00000 …
    ave: Path  # feature file, ids syn_train_00000 …, syn_val_…, syn_test_…
    annotations: Path  # folder in AVE's format


class Events(NamedTuple):
    """What happens in n clips, before any feature is made. A clip holds a first event and perhaps a second one, E = 2;
    composed ones have E = 5 slots."""

    label: np.ndarray  # int [n, E], -1 where there is no such event
    video: np.ndarray  # int [n, E, 2], [onset, offset) in seconds
    audio: np.ndarray  # int [n, E, 2]


@dataclass(frozen=True)
class SyntheticConfig(Config):
    """Built-in synthetic set (--data synthetic).

    Attributes
    ----------
    synthetic_clips : pretraining clips
    synthetic_classes : event classes
    synthetic_difficulty : factor on nuisance and noise
    synthetic_second_event : share of pretraining clips with a second event of another class
    synthetic_families : classes of a family, which differ in detail alone; 1: none
    synthetic_scenes : different scenes, sound channels and styles of words; 0: every clip has its own
    synthetic_lone : share of pretraining clips whose event is only seen or only heard
    synthetic_misalign : chance that sight and sound disagree by a second about an end of an event
    synthetic_told : chance that a caption names an event
    synthetic_grids : further modalities of these names, depth say, that see what video sees
    synthetic_captions : captions of a clip, which are then its text, of clips composed for them; 0: word vectors, or
        four captions for a method that reads them
    """

    synthetic_clips: int = setting(SyntheticSpec.clips, whole(1))
    synthetic_classes: int = setting(SyntheticSpec.classes, whole(2))
    synthetic_difficulty: float = setting(SyntheticSpec.difficulty, number(least=0))
    synthetic_second_event: float = setting(SyntheticSpec.second_event, number(least=0))
    synthetic_families: int = setting(SyntheticSpec.families, whole(1))
    synthetic_scenes: int = setting(SyntheticSpec.scenes, whole())
    synthetic_lone: float = setting(SyntheticSpec.lone, number(least=0))
    synthetic_misalign: float = setting(SyntheticSpec.misalign, number(least=0))
    synthetic_told: float = setting(SyntheticSpec.told, number(least=0))
    synthetic_grids: list = setting((), several=True, metavar="NAME")
    synthetic_captions: int = setting(SyntheticSpec.captions, whole())


def synthetic_spec(flags):
    """The `SyntheticSpec` that flags ask for, a dict that may be older than a flag."""
    config = with_values(SyntheticConfig(), flags)
    return SyntheticSpec(**{name.removeprefix("synthetic_"): value for name, value in vars(config).items()})


def synthetic_files(root=None, spec=SyntheticSpec()):
    """Write the set into `root/synthetic-<hash of spec>` unless it lies there already -> SyntheticFiles.

    Several processes may do so at once: every file is renamed into place complete, and all write the same.

    Parameters
    ----------
    root : folder that holds such sets; the checkout's `data/` if None.
    """
    folder = Path(root or _data_folder()) / f"synthetic-{_digest(spec)}"
    files = SyntheticFiles(folder / "pretrain.h5", folder / "ave.h5", folder / "annotations")
    texts = {split: files.annotations / f"{split}Set.txt" for split in SPLITS}
    everything, categories = files.annotations / "Annotations.txt", files.annotations / "categories.txt"
    done = folder / "settings.json"  # written last
    if all(path.is_file() for path in (files.pretrain, files.ave, *texts.values(), everything, categories, done)):
        return files

    world = make_world(spec)
    _write_features(files.pretrain, spec, world, {"pre": sample_events(spec, "pre")})
    events = {split: sample_events(spec, split) for split in SPLITS}
    _write_features(files.ave, spec, world, events)
    rows = {split: _annotation_rows(split, events[split]) for split in SPLITS}
    for split, path in texts.items():
        write_atomically(path, rows[split])
    write_atomically(everything, "".join(rows.values()))
    write_atomically(categories, "".join(f"{_class_name(k)}\n" for k in range(spec.classes)))
    write_atomically(done, json.dumps(_settings(spec), indent=2) + "\n")
    return files


def sample_events(spec, split):
    """Classes and spans of all clips of a split ("pre", "train", "val", "test").

    Only pretraining clips hold second events, so that the labels of the others tell all that happens in them.

    Returns
    -------
    Events
    """
    rng = rng_of(spec, "events", split)
    n, T = _size(spec, split), spec.seconds
    if spec.captions:
        return Events(*composed.sample_composed(rng, n, spec.classes, T))
    first = rng.permutation(np.arange(n) % spec.classes)
    second = (first + rng.integers(1, spec.classes, n)) % spec.classes
    two = rng.random(n) < (spec.second_event if split == "pre" else 0.0)
    label = np.stack([first, np.where(two, second, -1)], axis=1)  # [n, 2]
    # A lone event has the whole clip to itself; two share it, split at a random second, in random order.
    cut = rng.integers(SHORTEST, T - SHORTEST + 1, n)
    low = np.where(two[:, None], np.stack([np.zeros_like(cut), cut], axis=1), 0)  # [n, 2]
    high = np.where(two[:, None], np.stack([cut, np.full_like(cut, T)], axis=1), T)
    swap = rng.random(n) < 0.5
    low[swap], high[swap] = low[swap, ::-1], high[swap, ::-1]
    length = rng.integers(SHORTEST, high - low + 1)
    onset = low + rng.integers(0, high - low - length + 1)
    video = np.stack([onset, onset + length], axis=2)  # [n, 2, 2]
    shift = rng.choice([-1, 1], (n, 2)) * (rng.random((n, 2)) < spec.misalign)
    end = np.eye(2, dtype=int)[rng.integers(0, 2, (n, 2))]  # [n, 2, 2], which end moves
    audio = np.clip(video + end * shift[..., None], low[..., None], high[..., None])
    if split == "pre" and spec.lone:
        draws = rng_of(spec, "lone", split).random(n)
        video[draws < spec.lone / 2, 0] = 0  # heard alone
        audio[(draws >= spec.lone / 2) & (draws < spec.lone), 0] = 0
    return Events(label, video, audio)


def _write_features(path, spec, world, splits):
    """One feature file with the clips of `splits`: name -> Events."""
    shapes = {
        "video": (spec.seconds, *spec.video_shape),
        "audio": (spec.seconds, spec.audio_dim),
        "text": (spec.words, spec.text_dim),
        **{m: (spec.seconds, *spec.video_shape) for m in spec.grids},
    }
    attrs = {"seconds_per_step": 1.0, "source": f"synthetic, recipe {RECIPE}, {json.dumps(_settings(spec))}"}
    for m, maps in world.items():
        # The world is to this set what an encoder's weights are to a real one: features of two worlds do not mix.
        attrs[f"backbone/{m}"] = "synthetic"
        attrs[f"sha256/{m}"] = hashlib.sha256(b"".join(part.tobytes() for part in maps)).hexdigest()
    dtypes, known = dict.fromkeys(shapes, "float16"), {}
    if spec.captions:
        shapes["text"], dtypes["text"] = (spec.captions, composed.LENGTH), "int32"
        known = {"text": composed.vocabulary(spec.classes)}
        attrs["sha256/text"] = known["text"].sha256
    with FeatureWriter(path, shapes, attrs, dtypes, known) as writer:
        for split, events in splits.items():
            for start in range(0, len(events.label), BLOCK):
                block = Events(*(part[start : start + BLOCK] for part in events))
                rng = {m: rng_of(spec, m, f"{split}/{start}") for m in shapes}
                real = np.ones((len(block.label), spec.seconds), bool)
                text, words = (composed.render_captions(*block, spec.captions, known["text"]) if known
                               else render_text(world["text"], block.label, spec, rng["text"]))
                features = {
                    "audio": render_audio(world["audio"], block.label, block.audio, spec, rng["audio"]),
                    "text": text,
                } | {m: render_grid(world[m], block.label, block.video, spec, rng[m]) for m in ("video", *spec.grids)}
                ids = [clip_id(split, start + i) for i in range(len(block.label))]
                writer.append(ids, features, {m: words if m == "text" else real for m in shapes})


def _annotation_rows(split, events):
    """AVE's `category&id&quality&onset&offset`; an event counts while audio and video both show it, what is only seen
    while it is seen."""
    video = events.video[:, 0]
    audio = np.where(events.audio[:, 0].any(1, keepdims=True), events.audio[:, 0], video)
    onset, offset = np.maximum(video[:, 0], audio[:, 0]), np.minimum(video[:, 1], audio[:, 1])
    rows = zip(events.label[:, 0], onset, offset, strict=True)
    return "".join(f"{_class_name(k)}&{clip_id(split, i)}&good&{on}&{off}\n" for i, (k, on, off) in enumerate(rows))


def _class_name(k):
    return f"class_{k:02d}"


def clip_id(split, number):
    return f"syn_{split}_{number:05d}"


def _size(spec, split):
    return spec.clips if split == "pre" else spec.ave_clips[SPLITS.index(split)]


def _settings(spec):
    """What is written of a spec, of later settings what is not as before them: so older sets are known again."""
    before = asdict(SyntheticSpec())
    return {name: value for name, value in asdict(spec).items() if name not in LATER or value != before[name]}


def _digest(spec):
    recipes = [RECIPE, composed.RECIPE] if spec.captions else [RECIPE]
    return hashlib.sha256(json.dumps([*recipes, _settings(spec)]).encode()).hexdigest()[:10]


def _data_folder():
    """`data/` of the checkout this module lies in; of the current folder when the package is installed elsewhere."""
    checkout = Path(__file__).resolve().parents[3]
    return checkout / "data" if (checkout / "code" / "cmg").is_dir() else Path("data")
