"""Sounds of the world (ESC-10) and photos (CIFAR-10's test photos), as material for clips.

A recording sounds as long as its event; one that is over sooner, as a bark is, begins again at a whole second. Every
second of an event shows another photo. The splits are ESC's folds (1 to 3 are train, 4 val, 5 test), which keep what
was cut from one source together, and of the photos 60, 20 and 20 % of each class. A class of sounds always goes with
the same class of photos: two show what is heard (dog, rooster), two what is near (sea waves, helicopter), and six have
nothing to do with it and must be learnt from the pairs.
"""

import re
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from cmg.data.compose.clips import SPLITS, share
from cmg.data.compose.sources import CIFAR, ESC10, cifar, files_of
from cmg.errors import UserError

try:
    import av
except ImportError:  # an extra
    av = None

SIZES = {
    "ave": {"train": 240, "val": 60, "test": 300},
    "avvp": {"train": 240, "val": 60, "test": 100},
    "pretrain": {"train": 1200},
}
SAMPLE_RATE, SECONDS = 16_000, 5  # of a recording
FOLDS = {"1": "train", "2": "train", "3": "train", "4": "val", "5": "test"}
PHOTO_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
FRAME = SAMPLE_RATE // 20  # 50 ms
QUIET = 0.05  # of the loudest frame: below is silence before and after a sound
# Folder of ESC-10, name of the class, class of CIFAR-10, two sentences.
PAIRS = [
    ("001 - Dog bark", "dog", "dog", "a dog is barking", "the bark of a dog"),
    ("002 - Rain", "rain", "frog", "it is raining", "rain falls on the ground"),
    ("003 - Sea waves", "sea_waves", "ship", "waves roll onto the beach", "the sea with its waves"),
    ("004 - Baby cry", "crying_baby", "cat", "a baby cries", "the crying of a small child"),
    ("005 - Clock tick", "clock_tick", "automobile", "a clock ticks", "the tick of a clock"),
    ("006 - Person sneeze", "sneezing", "deer", "somebody sneezes", "the sneeze of a person"),
    ("007 - Helicopter", "helicopter", "airplane", "a helicopter flies by", "the blades of a helicopter"),
    ("008 - Chainsaw", "chainsaw", "truck", "a chainsaw is at work", "the engine of a chainsaw"),
    ("009 - Rooster", "rooster", "bird", "a rooster is crowing", "the cry of a rooster"),
    ("010 - Fire crackling", "crackling_fire", "horse", "a fire crackles", "burning wood in a fire"),
]
CREDIT = re.compile(r"^- \*\*\[(\S+\.ogg)\]\(\S+\)\*\*:\s+clip derived from \[(.*)\]\((\S+)\) by \*(.*)\* \(\[(.*?)\]",
                    re.MULTILINE)
SOURCES = (ESC10, CIFAR)


class Nature:
    """A `cmg.data.compose.clips.Material`."""

    name, sample_rate, sizes = "nature", SAMPLE_RATE, SIZES
    audio_file, image_file = "audio_esc10_16k.npz", "images_cifar10.npz"
    classes = [pair[1] for pair in PAIRS]

    def __init__(self, place, seed):
        paths = files_of(ESC10, place)
        folders = [pair[0] for pair in PAIRS]
        paths.sort(key=lambda path: (path.parent.name, path.name))
        if strange := {path.parent.name for path in paths} - set(folders):
            raise UserError(f"{paths[0].parents[1]}: folder {min(strange)!r}; expected the ten of ESC-10")
        label = np.array([folders.index(path.parent.name) for path in paths])
        split = np.array([FOLDS[path.name[0]] for path in paths])
        sounds = [decode(path) for path in paths]
        credits = read_credits(paths[0].parents[1] / "README.md")
        if lacking := [path.name for path in paths if path.name not in credits]:
            raise UserError(f"{paths[0].parents[1] / 'README.md'}: no author of {lacking[0]}; expected one of each "
                            "recording")
        self.titles = [in_words(credits[path.name][0]) for path in paths]
        photos, photo_label, photo_classes = cifar(place)
        shown = [photo_classes.index(pair[2]) for pair in PAIRS]
        photo_label = np.array([shown.index(one) for one in photo_label])
        photo_split = share(photo_label, PHOTO_SHARES, np.random.default_rng([seed, 0]))
        self.files = {
            self.audio_file: {
                "audio": np.concatenate(sounds), "offsets": np.cumsum([0, *map(len, sounds)]), "label": label,
                "fold": np.array([int(path.name[0]) for path in paths]), "split": split,
                "name": np.array([path.name for path in paths]), "sample_rate": SAMPLE_RATE},
            self.image_file: {"images": photos, "label": photo_label, "split": photo_split},
        }
        self.credits = [(path.name, *(credits[path.name][i] for i in (0, 2, 3, 1))) for path in paths]
        self.credits.append(("cifar10", "CIFAR-10", "A. Krizhevsky, V. Nair, G. Hinton", "none stated", CIFAR.url))
        self._spans = [active(sound) for sound in sounds]
        places = [(s, k) for s in SPLITS for k in range(len(PAIRS))]
        self._recordings = {(s, k): np.flatnonzero((split == s) & (label == k)) for s, k in places}
        self._photos = {(s, k): np.flatnonzero((photo_split == s) & (photo_label == k)) for s, k in places}

    def sound(self, kind, split, label, onset, offset, rng, like=None):
        recording = int(rng.choice(self._recordings[split, label]))
        start, length = self._spans[recording]
        period = int(np.ceil(length))
        segments = [[second, recording, start, min(length, float(offset - second))]
                    for second in range(onset, offset, period)]
        return {"label": label, "onset": onset, "offset": offset, "segments": segments}

    def sight(self, split, label, onset, offset, quarter, rng):
        photos = rng.choice(self._photos[split, label], offset - onset, replace=False).tolist()
        frames = [[onset + n, photo, quarter] for n, photo in enumerate(photos)]
        return {"label": label, "onset": onset, "offset": offset, "frames": frames}

    def caption(self, told, rng):
        """Of every event the title that its author gave the recording, or one of the sentences, equally often."""
        said = []
        for label, heard in told:
            title = self.titles[heard["segments"][0][1]] if heard else ""
            said.append(str(rng.choice([title or PAIRS[label][3], *PAIRS[label][3:]])))
        return ", then ".join(said)


def decode(path):
    """Five seconds of a recording, mono, 16 kHz: int16 [80000], silence where it is shorter."""
    if av is None:
        raise UserError("ESC-10's recordings need PyAV: install this project with its extra [extract]")
    try:
        with av.open(str(path)) as box:
            rate = box.streams.audio[0].rate
            mono = av.AudioResampler("flt", "mono", rate)
            frames = [part for frame in [*box.decode(audio=0), None] for part in mono.resample(frame)]
            sound = np.concatenate([part.to_ndarray().reshape(-1) for part in frames])
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise UserError(f"{path}: cannot be decoded ({error})") from None
    common = np.gcd(rate, SAMPLE_RATE)
    sound = resample_poly(sound.astype(np.float64), SAMPLE_RATE // common, rate // common)[: SAMPLE_RATE * SECONDS]
    samples = (np.clip(sound, -1, 1) * 32767).round().astype(np.int16)
    return np.pad(samples, (0, SAMPLE_RATE * SECONDS - len(samples)))


def active(sound):
    """Where a recording sounds: start and length in seconds, from the first frame that is not quiet to the last."""
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    level = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(level > QUIET * level.max())
    if not len(loud):
        return 0.0, len(sound) / SAMPLE_RATE
    begin, end = (float(n) * FRAME / SAMPLE_RATE for n in (loud[0], loud[-1] + 1))
    return round(begin, 2), round(end - begin, 2)


def read_credits(path):
    """dict file -> (title, address, author, licence), as ESC-10's page has them."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; expected ESC-10's page with the authors of the recordings")
    return {name: rest for name, *rest in CREDIT.findall(path.read_text(encoding="utf-8"))}


def in_words(title):
    """A title as a caption: without the ending of a file and marks written as \\u200b, in lower case words.

    >>> in_words("My_Dog George.wav")
    'my dog george'
    """
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"\.\w{2,4}$|\\u[0-9a-f]{4}", "", title).lower()))
