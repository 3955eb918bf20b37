"""Turn released features of other projects into one feature file: `python -m cmg.data.convert`.

    python -m cmg.data.convert ave --features AVE/ --annotations AVE/ --out ave.h5
    python -m cmg.data.convert zips --video vggsound/video/ --audio vggsound/audio/ --workers 8 --out pretrain.h5
    python -m cmg.data.convert howto --csv videos.csv --features HowTo/ --captions caption.pickle --out howto.h5
    python -m cmg.data.convert lists --list msrvtt_test.pkl --steps 48 --vectors GoogleNews.bin --out msrvtt.h5
    python -m cmg.data.convert path/to/mine.py --folder features/ --out mine.h5

Each layout has a reader in `cmg/data/readers/`; one of one's own is a file (`cmg/data/readers/contract.py` says what is
in it), or what an installed package declares under the entry point group cmg.readers.

Released features do not say which weights made them, so `sha256/<modality>` stays empty, and such a file joins no file
of `cmg.extract`: their weights may differ. If you know the weights, give --video-sha256 and --audio-sha256.
"""

import re
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cmg import plugins
from cmg.cli import Parser, command, most_are_good
from cmg.data.features import FeatureWriter
from cmg.data.readers.contract import Reader
from cmg.errors import UserError
from cmg.modalities import modality

READERS = {name: f"cmg.data.readers.{name}:Reader" for name in ("ave", "zips", "howto", "lists")}
BLOCK = 32  # clips written together
JOINED = "only files of the same weights are joined"


class Rounding:
    """Largest and mean absolute error of storing features as float16, over all of a set's numbers."""

    def __init__(self):
        self.largest, self.total, self.count = {}, {}, {}

    def add(self, errors):
        """errors : dict modality -> (largest, sum, count) of a clip."""
        for m, (largest, total, count) in errors.items():
            self.largest[m] = max(self.largest.get(m, 0.0), largest)
            self.total[m] = self.total.get(m, 0.0) + total
            self.count[m] = self.count.get(m, 0) + count

    def __str__(self):
        return "; ".join(f"{m}: largest error {self.largest[m]:.2g}, mean {self.total[m] / self.count[m]:.2g}"
                         for m in self.largest)


class Fitting:
    """How many clips were cut and padded, and how many rows they had."""

    def __init__(self):
        self.found = {}  # (modality, "cut" or "padded", rows of the file) -> rows of every such clip

    def add(self, clip):
        for m, rows in clip.rows.items():
            steps = len(clip.features[m])
            if rows != steps:
                self.found.setdefault((m, "cut" if rows > steps else "padded", steps), []).append(rows)

    def lines(self, number, seconds):
        """A line for each modality and kind. number : of clips; seconds : that a row is taken for."""
        for (m, done, steps), rows in sorted(self.found.items()):
            had = f"{min(rows)}" if min(rows) == max(rows) else f"{min(rows)} to {max(rows)}"
            taken = f"; a row is taken for {seconds:g} s" if modality(m).timed else ""
            yield f"{m}: {len(rows)} of {number} clips have {had} rows, {done} to {steps}{taken}"


class OtherShapes(Exception):
    """Most clips have shapes of their own, which are the first argument."""


def convert(reader, out, origin):
    """Write what a reader reads. Returns the number of clips, the bad ones as (id, reason), Rounding and Fitting.

    The shapes are those that most clips have. It takes those of the first one to be, and reads again if they are not.

    origin : dict modality -> what is known of its encoder, see `cmg.data.provenance`.
    """
    try:
        return convert_as(reader, out, origin, None)
    except OtherShapes as other:
        return convert_as(reader, out, origin, *other.args)


def convert_as(reader, out, origin, shapes):
    """`convert` with these shapes; of None with the first clip's, or `OtherShapes` if most clips have others."""
    rounding, fitting, left_out, waiting, number, seen = Rounding(), Fitting(), [], [], 0, Counter()
    clips = good_ones(reader, left_out)
    odd = ""  # the reason of clips of other shapes, which names the first one that has the right ones
    first = next((c for c in clips if shapes in (None, shapes_of(c)) or left_out.append((c.id, odd))), None)
    if first is None:
        reason = "; {}: {}".format(*left_out[0]) if left_out else ""
        raise UserError(f"none of the {len(reader)} clips could be read{reason}")
    wanted = shapes_of(first)
    attrs = {f"{name}/{m}": value for m in wanted for name, value in origin[m].items()}
    with FeatureWriter(out, wanted, attrs | {"source": reader.source}) as writer:
        for clip in chain([first], clips):
            seen[tuple(shapes_of(clip).items())] += 1
            if shapes_of(clip) != wanted:
                left_out.append((clip.id, odd))
                continue
            rounding.add(clip.errors)
            fitting.add(clip)
            waiting.append(clip)
            number += 1
            if len(waiting) == BLOCK:
                write(writer, waiting)
                waiting = []
        if waiting:
            write(writer, waiting)
        most = dict(seen.most_common(1)[0][0])
        if shapes is None and most != wanted:
            raise OtherShapes(most)
    left_out = [(name, reason or f"shapes differ from those of '{first.id}'") for name, reason in left_out]
    return number, left_out, rounding, fitting


def shapes_of(clip):
    return {m: x.shape for m, x in clip.features.items()}


def good_ones(reader, left_out):
    """The clips that could be read; the others are added to `left_out`."""
    for clip in tqdm(reader, unit="clip", disable=None):
        if clip.reason:
            left_out.append((clip.id, clip.reason))
        else:
            yield clip


def write(writer, clips):
    stack = [{m: np.stack([getattr(clip, part)[m] for clip in clips]) for m in clips[0].features}
             for part in ("features", "valid")]
    writer.append([clip.id for clip in clips], *stack)


def reader_of(name) -> type[Reader]:
    """The class of a layout, by name or file."""
    return plugins.find(name, READERS, "readers", "layout", lambda thing: isinstance(thing, type)
                        and issubclass(thing, Reader))


def parse(argv):
    """The class of the reader and the command line, checked."""
    words = [str(word) for word in (sys.argv[1:] if argv is None else argv)]
    given = [word for word in words[:1] if not word.startswith("-") and word not in READERS]
    readers = {name: reader_of(name) for name in (*READERS, *given)}
    parser = Parser(prog="cmg.data.convert", description=__doc__.splitlines()[0])
    layouts = parser.add_subparsers(dest="layout", required=True, parser_class=Parser,
                                    metavar=f"{{{','.join(READERS)},mine.py}}")
    for name, kind in readers.items():
        layout = layouts.add_parser(name, help=(kind.__doc__ or name).strip().splitlines()[0].rstrip("."))
        kind.add_flags(layout)
        for m, backbone in kind.backbones.items():
            layout.add_argument(f"--{m}-backbone", default=backbone, help="name to note in the file")
            layout.add_argument(f"--{m}-sha256", default="", help=f"of the weights, if you know them: {JOINED}")
        layout.add_argument("--out", required=True, help="feature file to write (.h5)")
        layout.add_argument("--overwrite", action="store_true", help="replace OUT")
    args = parser.parse_args(argv)
    for m in readers[args.layout].backbones:
        if not re.fullmatch(r"|[0-9a-f]{64}", getattr(args, f"{m}_sha256")):
            layouts.choices[args.layout].error(f"--{m}-sha256: expected 64 hexadecimal digits, lower case")
    return readers[args.layout], args


@command
def main(argv=None):
    kind, args = parse(argv)
    out = Path(args.out)
    if out.exists() and not args.overwrite:
        raise UserError(f"--out {out}: exists already; pass --overwrite to replace it")
    origin = {m: {"backbone": getattr(args, f"{m}_backbone"), "sha256": getattr(args, f"{m}_sha256")}
              | ({"seconds_per_step": kind.seconds_per_step} if modality(m).timed else {}) for m in kind.backbones}
    reader = kind(args)
    for m, known in reader.sha256.items():
        origin[m]["sha256"] = origin[m]["sha256"] or known
    number, left_out, rounding, fitting = convert(reader, out, origin)
    for name, reason in left_out:
        print(f"left out {name}: {reason}", file=sys.stderr)
    for line in fitting.lines(number, reader.seconds_per_step):
        print(f"note: {line}", file=sys.stderr)
    sizes = f"{reader.size / 1e6:.1f} MB before, {out.stat().st_size / 1e6:.1f} MB after"
    print(f"{out}: {number} clips, {len(left_out)} left out, {sizes}")
    print(f"float16 {rounding}")
    # Not of len(reader): a short video has fewer clips than it may have.
    most_are_good(out, number, number + len(left_out), "reasons above")


if __name__ == "__main__":
    main()
