"""HowTo100M and sets like it, as MultiSK and EAO read them: several clips are cut out of every video.

    features/<path>_2d.npz        `features` [t, D2], a row a second (ResNet-152)
    features/<path>_3d.npz        `features` [t, D3], 1.5 rows a second (ResNeXt-101); or <path>.npz
    features/<path>_spec.npz      `arr_0` [40, F], log-mel, 100 frames a second; may lie in --audio-features
    caption.pickle                id -> {start, end, text}, the speech in timed segments
    videos.csv                    a column `path`, whose last part is the id

Of every video up to --windows clips are drawn, by the seed and the video's name, of 8 seconds each: a clip is moved to
speech that it overlaps with, and neighbouring segments are added, the nearer first, until there are 8 seconds (see
`cmg.data.howto.snapped`). A clip is called `<id>_<start>_<end>`, so that `strict` knows the video. It has 12 steps of
pictures, 2-D and 3-D features side by side, 12 steps of sound of 64 frames each (a frame is 10 ms: sound is 0.32 s
shorter than pictures), and up to 20 word vectors of what is said. A longer clip's first 12 steps are taken.

Where this differs from the released code:
* windows are drawn once, not anew in every epoch; more of them are a larger --windows;
* the words of a clip stand in the order of time. The release appends neighbours in the order in which they were added:
  --text-order added;
* sound is that of the same seconds. The release takes the 8 seconds that begin 4 seconds after a clip with speech
  begins, always forward, and shifts no clip without: --audio-shift 4;
* a damaged or missing file leaves out the video, with its reason, instead of making zeros of it; and so does a video
  in which nobody speaks, where the file has text: --keep-silent.
"""

import os
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from cmg.cli import number, whole
from cmg.data import howto
from cmg.data.howto import SECONDS, STEPS, Speech
from cmg.data.pickles import BadPickle, array_in_npz, value_in
from cmg.data.readers import contract
from cmg.data.readers.contract import bad, clip, in_processes, once
from cmg.data.word_vectors import WordVectors
from cmg.errors import UserError
from cmg.files import read_columns

SILENT = Speech(np.zeros(0), np.zeros(0), [])
APART = 5  # seconds by which the features of a video may differ in length


def add_vector_flags(parser):
    """What makes text of words."""
    parser.add_argument("--vectors", help="word vectors, a .bin of word2vec or a .kv of gensim; without them the file "
                        "holds no text")
    parser.add_argument("--words", type=whole(1), default=20, help="known words of a clip, at most")


class Reader(contract.Reader):
    """HowTo100M: folders of <id>_2d.npz, _3d.npz and _spec.npz, and caption.pickle; several clips a video."""

    backbones, unit = {"video": "resnet152+resnext101", "audio": "logmel40", "text": "word2vec"}, "video"
    seconds_per_step = SECONDS / STEPS

    @staticmethod
    def add_flags(parser):
        parser.add_argument("--csv", required=True, help="list of the videos, with a column `path`")
        parser.add_argument("--features", required=True, help="folder that these paths are in")
        parser.add_argument("--audio-features", help="folder of the spectrograms; default: --features")
        parser.add_argument("--captions", help="caption.pickle, the speech; without it clips are moved to none")
        add_vector_flags(parser)
        parser.add_argument("--windows", type=whole(1), default=10, help="clips of a video, at most")
        parser.add_argument("--seed", type=whole(), default=0, help="of the draw of the clips")
        parser.add_argument("--audio-shift", type=number(least=0), default=0.0, metavar="SECONDS",
                            help="take the sound of clips with speech so much later; the released code: 4")
        parser.add_argument("--text-order", choices=("time", "added"), default="time",
                            help="of neighbouring segments; the released code: added")
        parser.add_argument("--keep-silent", action="store_true", help="keep videos without any speech, their clips "
                            "without words, as the released code does")
        parser.add_argument("--workers", type=whole(), default=os.cpu_count(), help="processes; 0: work in this one")

    def __init__(self, flags):
        if flags.vectors and not flags.captions:
            raise UserError("--vectors: goes with --captions, whose words they are of")
        self.flags, self.source, self.workers = flags, flags.features, flags.workers
        self.jobs, self.bad = once(((Path(path).name, path) for path, in read_columns(flags.csv, "path") if path),
                                   "the same video again, the first is kept")
        if not self.jobs:
            raise UserError(f"--csv {flags.csv}: lists no videos")
        self.speech = speech_in(flags.captions) if flags.captions else {}
        if flags.captions and not any(name in self.speech for name in self.jobs):
            raise UserError(f"--captions {flags.captions}: none of its {len(self.speech)} ids is a video of --csv; it "
                            f"has '{next(iter(self.speech), '')}', --csv '{next(iter(self.jobs))}'")
        self.vectors = WordVectors(flags.vectors) if flags.vectors else None
        self.sha256 = {"text": self.vectors.sha256} if self.vectors else {}

    def read(self, jobs):
        said, wrong = {}, {}
        for name in jobs:
            try:
                said[name] = of_pickle(self.speech[name]) if name in self.speech else SILENT
            except BadPickle as problem:
                wrong[name] = f"speech: {problem}"
                continue
            if self.vectors and not said[name].text and not self.flags.keep_silent:
                wrong[name] = "text: no speech; --keep-silent keeps it, without words"
        there = [(name, path, said[name]) for name, path in jobs.items() if name not in wrong]
        found = in_processes(partial(clips_of, flags=self.flags), there, self.workers, lost)
        for name in jobs:
            yield [bad(name, wrong[name])] if name in wrong else [
                one if one.reason or self.vectors is None else with_words(one, text, self.vectors, self.flags.words)
                for one, text in next(found)]

    def place(self, name):
        return str(Path(self.flags.features) / self.jobs[name])


def lost(job, how):
    """In the place of the clips of a video whose reading took its process down."""
    return [(bad(job[0], f"the process that read it died ({how})"), "")]


def with_words(one, text, vectors, most):
    """A clip with the vectors of what is said in it."""
    said = clip(one.id, {"text": vectors.of(howto.words_of(text), most)}, most, ("text",))
    return said if said.reason else one._replace(**{part: getattr(one, part) | getattr(said, part)
                                                    for part in ("features", "valid", "rows", "errors")})


def speech_in(path) -> dict:
    """The content of a caption.pickle, id -> what there is of it."""
    try:
        found = value_in(path)
    except BadPickle as problem:
        raise UserError(f"--captions {path}: {problem}; expected a pickle of id -> start, end, text") from None
    if not isinstance(found, dict):
        raise UserError(f"--captions {path}: holds {type(found).__name__}; expected a dict of id -> start, end, text")
    return found


def of_pickle(entry) -> Speech:
    """A video's segments, in the order of time and without empty ones; `BadPickle` says what is wrong with them."""
    try:
        start, end = (np.asarray(entry[name], np.float64).reshape(-1) for name in ("start", "end"))
        text = [str(one) for one in entry["text"]]
    except (KeyError, TypeError, ValueError, IndexError):
        raise BadPickle("expected start, end and text of every segment") from None
    if not len(start) == len(end) == len(text):
        raise BadPickle(f"{len(start)} starts, {len(end)} ends and {len(text)} texts; expected as many of each")
    if not (np.isfinite(start) & np.isfinite(end) & (end >= start)).all():
        raise BadPickle("a segment that ends before it starts, or at no time")
    kept = [k for k in np.argsort(start, kind="stable") if text[k].strip()]
    return Speech(start[kept], end[kept], [text[k] for k in kept])


def clips_of(job, flags):
    """All clips of a video with their words: [(Clip, text)], or the reason that there are none.

    job : (id, path, Speech)
    """
    name, path, speech = job
    base, sound = Path(flags.features) / path, Path(flags.audio_features or flags.features) / path
    files = {"2-D": beside(base, "_2d"), "3-D": beside(base, "_3d"), "sound": beside(sound, "_spec")}
    if not files["3-D"].exists():
        files["3-D"] = beside(base, "")
    arrays = {}
    for folder in filter(None, (flags.features, flags.audio_features)):
        if not Path(folder).is_dir():  # which is no fault of the video's
            raise UserError(f"{folder}: the folder is gone")
    for what, file in files.items():
        try:
            arrays[what] = array_in_npz(file, "arr_0" if what == "sound" else "features")
        except BadPickle as problem:
            return [(bad(name, f"{file}: {problem}"), "")]
        if arrays[what].ndim != 2 or 0 in arrays[what].shape:
            return [(bad(name, f"{file}: shape {arrays[what].shape}, expected rows of features"), "")]
    flat, deep, mel = arrays.values()
    lengths = {"2-D": len(flat) / howto.FPS_2D, "3-D": len(deep) / howto.FPS_3D,
               "sound": howto.seconds_of(mel.shape[1])}
    length = min(lengths.values())
    if max(lengths.values()) - length > APART:
        told = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in lengths.items())
        return [(bad(name, f"unequal lengths: {told}"), "")]
    return [one_clip(name, window, flat, deep, mel, speech, flags) for window in
            howto.windows(flags.windows, length, speech, SECONDS, (flags.seed, zlib.crc32(name.encode())))]


def beside(base, ending) -> Path:
    return base.with_name(f"{base.name}{ending}.npz")


def one_clip(name, window, flat, deep, mel, speech, flags):
    """A clip and what is said in it."""
    start, end, segments = window
    later = start + flags.audio_shift
    heard = (later, later + SECONDS) if segments and flags.audio_shift else (start, end)
    pictures = howto.video_tokens(howto.rows_between(flat, start, end, howto.FPS_2D),
                                  howto.rows_between(deep, start, end, howto.FPS_3D), STEPS)
    sound = howto.audio_steps(howto.frames_between(mel, *heard, STEPS * howto.FRAMES), STEPS)
    order = sorted(segments) if flags.text_order == "time" else segments
    return (clip(f"{name}_{start:.2f}_{end:.2f}", {"video": pictures, "audio": sound}, STEPS, ("audio",)),
            " ".join(speech.text[k] for k in order))
