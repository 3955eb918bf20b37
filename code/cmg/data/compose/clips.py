"""Rows of clips: which recording and which image is there from which second on, drawn from a seed.

Four kinds, with the forms of what they are named after:

pretrain    10 s and a caption: one event, or two or three one after the other; some only heard, some only seen
ave         10 s, an event that is heard and seen at the same seconds, in some clips beside one that is only heard or
            only seen at others
avvp        10 s, up to three events, each heard and seen at seconds of its own, or only heard, or only seen; the images
            lie in quarters of the frame
s4          5 s, an image that is heard in one quarter, in half of the clips a silent one in another

A row is JSON: `id`, `kind`, `split`, `seconds`, lists `audio` and `visual` of events (`label`, `onset`, `offset` in
seconds, and `segments` [second, recording, start, length] or `frames` [second, image, quarter or -1]), and what the
kind adds.
"""

import zlib
from typing import Protocol

import numpy as np

SECONDS, S4_SECONDS = 10, 5
ONE_EVENT = 0.6  # of pretraining clips
ALONE = 0.04  # of their events are only heard, as many only seen
WHOLE = 0.6  # of AVE's events last as long as the clip, and of pretraining clips of one event 0.4
WHOLE_PRETRAIN = 0.4
DISTRACTED = 0.5  # of AVE's shorter events have another beside them
ONE_SIDED = 0.25  # of AVVP's further events are only heard, as many only seen
SPLITS = ("train", "val", "test")


class Material(Protocol):
    """What clips are made of; the indices in its events are those of its recordings and images."""

    name: str
    classes: list[str]
    sizes: dict[str, dict[str, int]]  # kind -> split -> number of clips
    sample_rate: int  # Hz, of the recordings
    audio_file: str  # of `files`: `audio` int16 [S], recordings one behind the other, and their `offsets` [R + 1]
    image_file: str  # `images` uint8 [N, H, W], drawn bright on dark, or [N, H, W, 3]
    files: dict[str, dict]  # name of an .npz -> its arrays, of the two `label` and `split` as well
    credits: list[tuple]  # source, title, author, licence, address

    def sound(self, kind, split, label, onset, offset, rng, like=None):
        """An event of `audio`; `like`: an event that it shall resemble but for its label."""

    def sight(self, split, label, onset, offset, quarter, rng):
        """An event of `visual`."""

    def caption(self, told, rng):
        """A sentence; told : (label, event of `audio` or None) of what happens, in the order of time."""


def compose(material: Material, seed) -> list[dict]:
    """All rows, kind by kind and split by split; those of a kind and split depend on nothing but the seed."""
    rows = []
    for kind, sizes in material.sizes.items():
        for split, number in sizes.items():
            rng = np.random.default_rng([seed, zlib.crc32(f"{kind}/{split}".encode())])
            for n in range(number):
                name = f"pre_{n:04d}" if kind == "pretrain" else f"{kind}_{split}_{n:03d}"
                seconds = S4_SECONDS if kind == "s4" else SECONDS
                row = {"id": name, "kind": kind, "split": split, "seconds": seconds}
                rows.append(row | MAKERS[kind](material, split, n % len(material.classes), rng))
    return rows


def share(labels, shares, rng):
    """The split of every item: these shares of each class, in a random order. [N] of text."""
    split = np.empty(len(labels), "<U5")
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(list(shares.values())) * len(own)).astype(int)
        for name, part in zip(shares, np.split(own, ends[:-1])):
            split[part] = name
    return split


def _span(rng, least, most):
    """Onset and offset of `least` to `most` seconds somewhere in the clip."""
    length = int(rng.integers(least, most + 1))
    onset = int(rng.integers(0, SECONDS - length + 1))
    return onset, onset + length


def _pretrain(material, split, _, rng):
    number = 1 if rng.random() < ONE_EVENT else int(rng.integers(2, 4))
    labels = rng.choice(len(material.classes), number, replace=False).tolist()
    if number == 1:
        spans = [(0, SECONDS) if rng.random() < WHOLE_PRETRAIN else _span(rng, 4, SECONDS - 1)]
    else:
        cuts = sorted(1 + rng.choice(SECONDS - 1, number - 1, replace=False))
        edges = [0, *map(int, cuts), SECONDS]
        spans = list(zip(edges, edges[1:]))
    audio, visual, told = [], [], []
    for label, span in zip(labels, spans):
        chance, heard = rng.random(), None
        if chance >= ALONE:
            heard = material.sound("pretrain", split, label, *span, rng)
            audio.append(heard)
        if chance < 1 - ALONE:
            visual.append(material.sight(split, label, *span, -1, rng))
        told.append((label, heard))
    return {"caption": material.caption(told, rng), "audio": audio, "visual": visual}


def _ave(material, split, label, rng):
    onset, offset = (0, SECONDS) if rng.random() < WHOLE else _span(rng, 2, SECONDS - 1)
    audio = [material.sound("ave", split, label, onset, offset, rng)]
    visual = [material.sight(split, label, onset, offset, -1, rng)]
    if offset - onset < SECONDS and rng.random() < DISTRACTED:
        other = _another(len(material.classes), [label], rng)
        first, last = max([(0, onset), (offset, SECONDS)], key=lambda gap: gap[1] - gap[0])
        begin = int(rng.integers(first, last))
        end = int(rng.integers(begin + 1, last + 1))
        if rng.random() < 0.5:
            audio.append(material.sound("ave", split, other, begin, end, rng, like=audio[0]))
        else:
            visual.append(material.sight(split, other, begin, end, -1, rng))
    return {"category": material.classes[label], "start": onset, "end": offset, "audio": audio, "visual": visual}


def _avvp(material, split, label, rng):
    labels, number = [label], rng.integers(1, 4)
    while len(labels) < number:
        labels.append(_another(len(material.classes), labels, rng))
    audio, visual = [], []
    for quarter, label in enumerate(labels):
        chance = rng.random() if quarter else 0.5
        if chance >= ONE_SIDED:
            audio.append(material.sound("avvp", split, label, *_span(rng, 1, SECONDS), rng))
        if chance < 1 - ONE_SIDED:
            visual.append(material.sight(split, label, *_span(rng, 1, SECONDS), quarter, rng))
    return {"weak": sorted(material.classes[label] for label in labels), "audio": audio, "visual": visual}


def _s4(material, split, label, rng):
    quarters = rng.permutation(4).tolist()
    audio = [material.sound("s4", split, label, 0, S4_SECONDS, rng)]
    visual = [material.sight(split, label, 0, S4_SECONDS, quarters[0], rng)]
    if rng.random() < 0.5:
        other = _another(len(material.classes), [label], rng)
        visual.append(material.sight(split, other, 0, S4_SECONDS, quarters[1], rng) | {"silent": True})
    return {"category": material.classes[label], "audio": audio, "visual": visual, "target": 0}


def _another(number, known, rng):
    """A label that is none of those known."""
    return int(rng.choice([label for label in range(number) if label not in known]))


MAKERS = {"pretrain": _pretrain, "ave": _ave, "avvp": _avvp, "s4": _s4}
