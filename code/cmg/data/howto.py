"""How clips are cut out of HowTo100M-style features: two kinds of pictures, one mel spectrogram, timed speech.

MultiSK (Swetha et al., ICCV 2023) and what it is built on read a video as 2-D features, a row a second, 3-D features,
1.5 rows a second, a log-mel spectrogram of 100 frames a second, and speech in timed segments. All functions are those
of the released code unless they say otherwise; times are in seconds, arrays are numpy's.
"""

import re
from typing import NamedTuple

import numpy as np

RATE, WINDOW, HOP = 16000, 400, 160  # samples: of a second, of a frame of the spectrogram, from one to the next
FRAMES = 64  # of the spectrogram in a step: what six strides of 2 make of one audio token
FPS_2D, FPS_3D = 1.0, 1.5
SECONDS, STEPS = 8, 12  # of a clip of HowTo100M
LONGER = ("cut", "nearest", "max-pool")
WORD = re.compile(r"[\w']+")


def words_of(text: str) -> list[str]:
    """Runs of word characters and apostrophes, their case kept, as word vectors are looked up.

    >>> words_of("Don't mix 2 cups, it's well-done!")
    ["Don't", 'mix', '2', 'cups', "it's", 'well', 'done']
    """
    return WORD.findall(text)


def frame_of(seconds: float) -> int:
    """The last frame of the spectrogram whose middle does not come after a moment; negative in the first 12.5 ms.

    >>> frame_of(8.0), frame_of(0.0)
    (798, -2)
    """
    return (int(seconds * RATE) - WINDOW // 2) // HOP


def seconds_of(frame: int) -> float:
    """The middle of a frame."""
    return (HOP * frame + WINDOW // 2) / RATE


def unit(x):
    """Rows of length 1; a row of zeros stays."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def resampled(x, n: int):
    """[t, …] -> [n, …]: row i is row ⌊i t / n⌋ of what was there, in float32 as torch's "nearest" takes it."""
    rows = np.floor(np.arange(n, dtype=np.float32) * (np.float32(len(x)) / np.float32(n))).astype(int)
    return x[np.minimum(rows, len(x) - 1)]


def pooled(x, kernel: int):
    """The largest value of every `kernel` rows; what is left over at the end is dropped. [t, D] -> [t // kernel, D]"""
    n = len(x) // kernel
    return x[: n * kernel].reshape(n, kernel, -1).max(1)


def video_tokens(flat, deep, n: int, longer: str = "cut"):
    """One row a step from both kinds of features: [t2, D2] and [t3, D3] -> [at most n, D2 + D3].

    The 2-D features are resampled to the length of the 3-D ones, each part of a row is brought to length 1, and the
    parts are joined. `longer` says what becomes of more than n rows: "cut" keeps the first n, "nearest" resamples both
    parts to n, "max-pool" first takes the largest value of every ⌊t/n⌋ rows, where the 2-D part has twice n or more.
    With n = 1 the latter is the released vector of a whole video.
    """
    m = len(deep)
    if m > n and longer != "cut":
        if longer == "max-pool" and len(flat) >= 2 * n:
            flat, deep = pooled(flat, len(flat) // n), pooled(deep, len(deep) // n)
        m = n
    return np.concatenate([unit(resampled(flat, m)), unit(resampled(deep, m))], axis=1)[:n]


def rows_between(x, start: float, end: float, fps: float, whole: bool = False):
    """The rows of a window: from the one that `start` falls into to the one that `end` falls into.

    whole : leave out the last one where `end` is its very beginning; the released code has both readings
    """
    first, last = int(start * fps), int(np.ceil(end * fps)) if whole else int(end * fps) + 1
    return x[first:last]


def frames_between(mel, start: float, end: float, most: int):
    """The columns of a window, at most so many: [M, F] -> [M, f]."""
    return mel[:, max(frame_of(start), 0) : max(frame_of(end), 0)][:, :most]


def audio_steps(mel, steps: int):
    """Maps of `FRAMES` frames from the columns of a window: [M, f] -> [t, FRAMES, M], t of them begun.

    Behind the last column stand zeros, as in the released code.
    """
    mel = mel[:, : steps * FRAMES]
    t = -(-mel.shape[1] // FRAMES)
    x = np.zeros((t * FRAMES, len(mel)), np.float32)
    x[: mel.shape[1]] = mel.T
    return x.reshape(t, FRAMES, len(mel))


class Speech(NamedTuple):
    """Timed segments in the order of time: start and end [S] in seconds, and what is said."""

    start: np.ndarray
    end: np.ndarray
    text: list[str]


class Window(NamedTuple):
    """A clip's part of a video, and which segments are spoken in it, in the order in which they were added."""

    start: float
    end: float
    segments: tuple[int, ...]


def snapped(start: float, end: float, speech: Speech, pick, least: float) -> Window:
    """A window moved to the speech that it touches.

    One of the segments that overlap with it is taken, and neighbours are added, the nearer one first, until at least
    `least` seconds are there. Without such a segment the window stays where it is and has no words.

    pick : function of a number n -> 0 … n − 1, which of the overlapping segments
    """
    touched = np.flatnonzero((speech.start < end) & (speech.end > start))
    if not len(touched):
        return Window(start, end, ())
    first = last = int(touched[pick(len(touched))])
    added, total = [first], len(speech.text)
    while speech.end[last] - speech.start[first] < least and (first > 0 or last + 1 < total):
        before = speech.start[first] - speech.end[first - 1] if first > 0 else np.inf
        after = speech.start[last + 1] - speech.end[last] if last + 1 < total else np.inf
        if before < after:
            first -= 1
            added.append(first)
        else:
            last += 1
            added.append(last)
    return Window(float(speech.start[first]), float(speech.end[last]), tuple(added))


def windows(number: int, length: float, speech: Speech, seconds: float, seed) -> list[Window]:
    """Up to `number` different windows of a video of `length` seconds, in the order of time, to 10 ms.

    seed : what the draw goes by: whole numbers of ≥ 0, those of the run and of the video
    """
    rng, found = np.random.default_rng(seed), {}
    for _ in range(number):
        start = rng.uniform(0, max(length - seconds, 0))
        start, end, segments = snapped(start, min(start + seconds, length), speech, rng.integers, seconds)
        start, end = round(start, 2), round(end, 2)
        found.setdefault((start, end), Window(start, end, segments))
    return sorted(found.values())
