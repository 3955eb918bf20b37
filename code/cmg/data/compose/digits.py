"""Spoken digits (FSDD) and handwritten ones (MNIST's test images), as material for clips.

An event is spoken by one speaker, another of his recordings every second; an image stays as long as the event. The
splits are FSDD's own (takes 0 to 4 are test, 5 to 9 val here), and of the images 70, 10 and 20 % of each digit. AVE's
val and test clips are made of the first three takes of a split and leave the others to `scripts/digit_ave.py`, which
draws more clips. For `scripts/digit_pair.py` the folder holds the 8×8 digits of scikit-learn.
"""

import re
import wave
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from cmg.data.compose.clips import SPLITS, share
from cmg.data.compose.sources import FSDD, MNIST_IMAGES, files_of, mnist
from cmg.errors import UserError

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SIZES = {
    "ave": {"train": 300, "val": 60, "test": 60},
    "avvp": {"train": 300, "val": 60, "test": 100},
    "s4": {"train": 200, "val": 50, "test": 50},
    "pretrain": {"train": 1500},
}
TAKES = {"test": range(0, 5), "val": range(5, 10), "train": range(10, 50)}
AVE_TAKES = 3  # of a speaker and digit, of AVE's val and test clips
SAMPLE_RATE = 8000
IMAGE_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
SOURCES = (FSDD, MNIST_IMAGES)
LICENCES = [("fsdd", "Free Spoken Digit Dataset", "Z. Jackson and six speakers", "CC BY-SA 4.0", FSDD.url),
            ("mnist", "MNIST", "Y. LeCun, C. Cortes, C. J. C. Burges", "CC BY-SA 3.0", MNIST_IMAGES.url),
            ("optdigits", "Optical Recognition of Handwritten Digits", "E. Alpaydin, C. Kaynak", "as in scikit-learn",
             "https://archive.ics.uci.edu/dataset/80")]


class Digits:
    """A `cmg.data.compose.clips.Material`."""

    name, sample_rate, classes, sizes = "digits", SAMPLE_RATE, CLASSES, SIZES
    audio_file, image_file = "audio_fsdd_8k.npz", "images_mnist.npz"

    def __init__(self, place, seed):
        names, sounds = read_recordings(files_of(FSDD, place))
        label, speaker, take = (np.array(part) for part in zip(*names))
        split = np.array([next(one for one, takes in TAKES.items() if n in takes) for n in take])
        self.speakers = sorted(set(speaker.tolist()))
        images, image_label = mnist(place)
        image_split = share(image_label, IMAGE_SHARES, np.random.default_rng([seed, 0]))
        small = load_digits()
        self.files = {
            self.audio_file: {
                "audio": np.concatenate(sounds), "offsets": np.cumsum([0, *map(len, sounds)]), "label": label,
                "speaker": np.array(self.speakers), "speaker_id": np.searchsorted(self.speakers, speaker),
                "take": take, "split": split, "sample_rate": SAMPLE_RATE},
            self.image_file: {"images": images, "label": image_label, "split": image_split},
            "images_optdigits8x8.npz": {"images": small.images.astype(np.uint8), "label": small.target},
        }
        self.credits = LICENCES
        self._takes = {(s, k, who): np.flatnonzero((split == s) & (label == k) & (speaker == who))
                       for s in SPLITS for k in range(len(CLASSES)) for who in self.speakers}
        self._images = {(s, k): np.flatnonzero((image_split == s) & (image_label == k))
                        for s in SPLITS for k in range(len(CLASSES))}

    def sound(self, kind, split, label, onset, offset, rng, like=None):
        who = like["speaker"] if like else str(rng.choice(self.speakers))
        takes = self._takes[split, label, who]
        if kind == "ave" and split != "train":
            takes = takes[:AVE_TAKES]
        segments = [[second, int(rng.choice(takes)), 0.0, 1.0] for second in range(onset, offset)]
        return {"label": label, "onset": onset, "offset": offset, "speaker": who, "segments": segments}

    def sight(self, split, label, onset, offset, quarter, rng):
        image = int(rng.choice(self._images[split, label]))
        frames = [[second, image, quarter] for second in range(onset, offset)]
        return {"label": label, "onset": onset, "offset": offset, "frames": frames}

    def caption(self, told, rng):
        return " then ".join(f"the digit {CLASSES[label]}" for label, _ in told)


def read_recordings(paths):
    """[(digit, speaker, take)] and [int16 samples] of FSDD's files, digit by digit, speaker by speaker, by take."""
    found = {}
    for path in paths:
        named = re.fullmatch(r"(\d)_(\w+)_(\d+)", Path(path).stem)
        try:
            with wave.open(str(path)) as file:
                form = file.getnchannels(), file.getsampwidth(), file.getframerate()
                sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        except (wave.Error, EOFError, ValueError) as error:
            raise UserError(f"{path}: no WAV file ({error})") from None
        if named is None or form != (1, 2, SAMPLE_RATE) or int(named[3]) >= TAKES["train"].stop:
            raise UserError(f"{path}: {form[0]} channels, {8 * form[1]} bits, {form[2]} Hz; expected "
                            f"<digit>_<speaker>_<take 0 to 49>.wav of one channel, 16 bits, {SAMPLE_RATE} Hz")
        found[int(named[1]), named[2], int(named[3])] = sound
    return sorted(found), [found[name] for name in sorted(found)]
