"""Turn released features of other projects into one feature file: `python -m cmg.data.convert`.

    python -m cmg.data.convert ave --features AVE/ --annotations AVE/ --out ave.h5
    python -m cmg.data.convert zips --video vggsound/video/ --audio vggsound/audio/ --workers 8 --out pretrain.h5
    python -m cmg.data.convert howto --csv videos.csv --features HowTo/ --captions caption.pickle --out howto.h5
    python -m cmg.data.convert lists --list msrvtt_test.pkl --steps 48 --vectors GoogleNews.bin --out msrvtt.h5
    python -m cmg.data.convert path/to/mine.py --folder features/ --out mine.h5

A killed run goes on where it was when started again. Bad clips are listed in OUT.failed.csv and do not stop the run.

Each layout has a reader in `cmg/data/readers/`; one of one's own is a file (`cmg/data/readers/contract.py` says what is
in it), or what an installed package declares under the entry point group cmg.readers.

Released features do not say which weights made them, so `sha256/<modality>` stays empty, and such a file joins no file
of `cmg.extract`: their weights may differ. If you know the weights, give --video-sha256 and --audio-sha256.
"""

import contextlib
import re
import sys
from pathlib import Path

from cmg import plugins
from cmg.cli import Parser, command, most_are_good
from cmg.data.progress import Progress
from cmg.data.readers.contract import AGAIN, Reader
from cmg.data.shards import Bad, Parts, require_free
from cmg.modalities import modality

READERS = {name: f"cmg.data.readers.{name}:Reader" for name in ("ave", "zips", "howto", "lists")}
JOINED = "only files of the same weights are joined"


def note_of(clips) -> dict:
    """What is kept beside a shard: the job that each clip is of, what rounding to float16 changed and what had other
    rows than the file has, see `added`."""
    rounding, fitting = {}, {}
    for clip in clips:
        added(rounding, clip.errors.items(), (max, sum_of, sum_of))
        for m, rows in clip.rows.items():
            if rows != (steps := len(clip.features[m])):
                key = f"{m} {'cut' if rows > steps else 'padded'} {steps}"
                added(fitting, [(key, (1, rows, rows))], (sum_of, min, max))
    return {"jobs": [clip.job for clip in clips], "rounding": rounding, "fitting": fitting}


def added(total, found, how):
    """Join numbers of the same key, place by place.

    rounding : modality -> (largest error, sum, count). fitting : "modality cut|padded steps" -> (clips, least, most
    rows)
    """
    for key, numbers in found:
        total[key] = [join(*pair) for join, *pair in zip(how, total[key], numbers)] if key in total else list(numbers)


def sum_of(a, b):
    return a + b


def account(parts, ids, seconds):
    """Lines on how many clips were cut or padded, and how much rounding changed. seconds : that a row is taken for."""
    rounding, fitting, ids = {}, {}, set(ids)
    for file, note in zip(parts.files, parts.notes):
        if ids.intersection(file.ids):
            added(rounding, note["rounding"].items(), (max, sum_of, sum_of))
            added(fitting, note["fitting"].items(), (sum_of, min, max))
    notes = []
    for key, (count, least, most) in sorted(fitting.items()):
        m, done, steps = key.split()
        had = f"{least}" if least == most else f"{least} to {most}"
        taken = f"; a row is taken for {seconds:g} s" if modality(m).timed else ""
        notes.append(f"{m}: {count} of {len(ids)} clips have {had} rows, {done} to {steps}{taken}")
    errors = (f"{m}: largest error {largest:.2g}, mean {total / count:.2g}"
              for m, (largest, total, count) in rounding.items())
    return notes, f"float16 {'; '.join(errors)}"


def whole_jobs(parts) -> dict[str, list[str]]:
    """Jobs of which all clips are in the shards -> their ids, in order. One with a bad clip is read again."""
    found, number = {}, {}
    for file, note in zip(parts.files, parts.notes):
        for name, (job, count) in zip(file.ids, note["jobs"]):
            found.setdefault(job, []).append(name)
            number[job] = count
    return {job: names for job, names in found.items() if len(names) == number[job]}


def convert(reader, parts, workers=0):
    """Read what is missing -> (ids of the good clips in the order of the jobs, the bad ones, Progress).

    The shapes are those that most clips have; the others are bad.
    """
    order = {job: names for job, names in whole_jobs(parts).items() if job in reader.jobs}
    jobs = {name: job for name, job in reader.jobs.items() if name not in order}
    progress = Progress(len(reader.jobs), len(order), workers, reader.unit)
    failed = [Bad(one.id, reader.place(one.id), one.reason) for one in reader.bad]
    for one in failed:
        progress.say(f"bad clip {one.id}: {one.reason}")
    failed += parts.collect(read(reader, jobs, order, parts.ids()), progress)
    ids, odd = parts.usual([name for job in reader.jobs for name in order.get(job, ())])
    job_of = {name: job for job, names in order.items() for name in names}
    other = [Bad(name, reader.place(job_of[name]), f"shapes differ from those of '{ids[0]}'") for name in odd]
    for one in other:
        progress.say(f"bad clip {one.id}: {one.reason}")
    return ids, failed + other, progress


def read(reader, jobs, order, there):
    """The clips of some jobs as `Parts.collect` takes them, less those that are there; puts the ids into `order`."""
    taken = {name for names in order.values() for name in names}
    for name, clips in zip(jobs, reader.read(jobs), strict=True):
        order[name], fresh, bad = [], [], []
        for clip in clips:
            if clip.reason or clip.id in taken:
                bad.append(Bad(clip.id, reader.place(name), clip.reason or AGAIN))
                continue
            taken.add(clip.id)
            order[name].append(clip.id)
            if clip.id not in there:
                fresh.append(clip._replace(job=(name, len(clips))))
        yield fresh, bad, {}


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
    require_free(args.out, args.overwrite)
    origin = {m: {"backbone": getattr(args, f"{m}_backbone"), "sha256": getattr(args, f"{m}_sha256")}
              | ({"seconds_per_step": kind.seconds_per_step} if modality(m).timed else {}) for m in kind.backbones}
    reader = kind(args)
    for m, known in reader.sha256.items():
        origin[m]["sha256"] = origin[m]["sha256"] or known
    attrs = {f"{name}/{m}": value for m, own in origin.items() for name, value in own.items()}
    flags = {name: value for name, value in vars(args).items() if name not in ("out", "overwrite", "workers")}
    own = plugins.digest(plugins.file_of(args.layout), "layout") if plugins.is_file(args.layout) else {}
    settings = {"flags": flags, "attrs": attrs, "files": own}
    with contextlib.closing(Parts(args.out, settings, attrs | {"source": reader.source}, overwrite=args.overwrite,
                                  work="conversion", note=note_of)) as parts:
        ids, failed, progress = convert(reader, parts, reader.workers)
        notes, rounding = account(parts, ids, reader.seconds_per_step)
        parts.finish(ids, failed, progress)
    for line in notes:
        print(f"note: {line}", file=sys.stderr)
    before = f"{reader.size / 1e6:.1f} MB before, " if reader.size else ""
    print(f"{before}{Path(args.out).stat().st_size / 1e6:.1f} MB after; {rounding}")
    most_are_good(args.out, len(ids), len(ids) + len(failed), f"reasons in {parts.failed_csv}")


if __name__ == "__main__":
    main()
