"""The pickled lists of MSR-VTT and YouCook2, as MultiSK and EAO read them: features and captions of whole clips.

A list of dicts: `id`; `2d` [t2, D2] and `3d` [t3, D3], or `2d_full` and `3d_full` (YouCook2's validation list), as in
`cmg.data.readers.howto`; `audio` [40, F], log-mel of 100 frames a second, which a clip may lack; `caption`, a text or
several; `eval_caption`, the one that is tested with, in the place of all others. A file of clips has one text a clip,
the first. All of them make a file of their own, `--modalities text`, the k-th of a clip with the id `<clip>#<k>`:
retrieval takes it as --text-data, pretraining as one more file of --data.

The released evaluation takes 48 steps and 3072 frames of MSR-VTT, 72 and 4608 of YouCook2 (--steps). What is longer is
cut, or resampled (--longer). Clips whose features nobody has are not in the lists at all: `python -m
cmg.downstream.retrieval --expected 1000` (YouCook2: 3350) counts them as wrong.
"""

import sys
from pathlib import Path

import numpy as np

from cmg.cli import whole
from cmg.data import howto
from cmg.data.captions import ids_of
from cmg.data.pickles import BadPickle, floats, value_in
from cmg.data.readers import contract
from cmg.data.readers.contract import bad, clip, once
from cmg.data.readers.howto import add_vector_flags, with_words
from cmg.data.word_vectors import WordVectors
from cmg.errors import UserError

MELS = 40


class Reader(contract.Reader):
    """Pickled lists of MSR-VTT and YouCook2: id, 2d, 3d, audio, caption, eval_caption."""

    backbones = {"video": "resnet152+resnext101", "audio": "logmel40", "text": "word2vec"}
    seconds_per_step = howto.SECONDS / howto.STEPS

    @staticmethod
    def add_flags(parser):
        parser.add_argument("--list", required=True, help="pickle of a list of dicts")
        parser.add_argument("--modalities", nargs="+", choices=tuple(Reader.backbones), help="that the file holds; "
                            "text alone: all captions of every clip; default: video audio, and text with --vectors")
        parser.add_argument("--steps", type=whole(1), default=48, help="of a clip; 1.5 are a second")
        parser.add_argument("--longer", choices=howto.LONGER, default="cut", help="what becomes of more steps: the "
                            "first are taken, or all are resampled, before that the largest of several taken")
        add_vector_flags(parser)

    def __init__(self, flags):
        self.flags, self.source = flags, flags.list
        self.wanted = flags.modalities or ["video", "audio", *["text"] * bool(flags.vectors)]
        if ("text" in self.wanted) != bool(flags.vectors):
            raise UserError("--vectors: goes with text in --modalities, and text with --vectors")
        try:
            entries = value_in(flags.list)
        except BadPickle as problem:
            raise UserError(f"--list {flags.list}: {problem}; expected a pickle of a list of dicts") from None
        if not isinstance(entries, list) or not all(isinstance(one, dict) and "id" in one for one in entries):
            raise UserError(f"--list {flags.list}: expected a list of dicts, each with an id")
        if not entries:
            raise UserError(f"--list {flags.list}: an empty list")
        self.jobs, self.bad = once((str(entry["id"]), entry) for entry in entries)
        self.vectors = WordVectors(flags.vectors) if flags.vectors else None
        self.sha256 = {"text": self.vectors.sha256} if self.vectors else {}
        self.size = Path(flags.list).stat().st_size
        several = sum(len(captions_of(entry)) > 1 for entry in self.jobs.values())
        if several and self.vectors and self.wanted != ["text"]:
            print(f"note: {several} of {len(self.jobs)} clips have several captions, the first of each is taken; "
                  "--modalities text makes a file of all", file=sys.stderr)

    def read(self, jobs):
        for name, entry in jobs.items():
            try:
                yield self.captions(name, entry) if self.wanted == ["text"] else [self.clip(name, entry)]
            except BadPickle as problem:
                yield [bad(name, str(problem))]

    def clip(self, name, entry):
        """A clip, its first caption with it; `BadPickle` says what is wrong with the entry."""
        arrays, steps = {}, self.flags.steps
        if "video" in self.wanted:
            flat, deep = (rows_of(entry, key) for key in ("2d", "3d"))
            arrays["video"] = howto.video_tokens(flat, deep, steps, self.flags.longer)
        if "audio" in self.wanted:
            mel = np.zeros((MELS, 0), np.float32) if entry.get("audio") is None else floats(entry["audio"])
            if mel.ndim != 2 or len(mel) != MELS:
                raise BadPickle(f"audio: shape {mel.shape}, expected {MELS} bands and frames")
            arrays["audio"] = howto.audio_steps(mel, steps)
        texts = captions_of(entry)
        if self.vectors and not (texts and texts[0].strip()):
            raise BadPickle("an empty caption")
        one = clip(name, arrays, steps, ("audio",))
        return with_words(one, texts[0], self.vectors, self.flags.words) if self.vectors and not one.reason else one

    def captions(self, name, entry):
        """All captions of a clip, numbered as `cmg.data.captions` numbers them."""
        texts = captions_of(entry)
        said = [text for text in texts if text.strip()]
        empty = [bad(name, "an empty caption")] * (len(said) < max(1, len(texts)))
        words = (self.vectors.of(howto.words_of(text), self.flags.words) for text in said)
        return empty + [clip(one, {"text": x}, self.flags.words, ("text",))
                        for one, x in zip(ids_of(name, len(said)), words)]


def rows_of(entry, key):
    """The rows [t, D] under a key, or under `<key>_full`."""
    found = entry.get(key, entry.get(f"{key}_full"))
    if found is None:
        raise BadPickle(f"no '{key}'; expected rows of features")
    found = floats(found)
    if found.ndim != 2 or 0 in found.shape:
        raise BadPickle(f"{key}: shape {found.shape}, expected rows of features")
    return found


def captions_of(entry) -> list[str]:
    """What a clip is described by, the caption that is tested with alone where there is one."""
    found = entry.get("eval_caption")
    if found is None:
        found = entry.get("caption")
    return [str(one) for one in ([found] if isinstance(found, str) else [] if found is None else found)]
