"""Turn released features of other projects into one feature file: `python -m cmg.data.convert`.

    python -m cmg.data.convert ave --features AVE/ --annotations AVE/ --out ave.h5
    python -m cmg.data.convert zips --video vggsound/video/ --audio vggsound/audio/ --workers 8 --out pretrain.h5

`ave` reads `visual_feature.h5` and `audio_feature.h5` (dataset `avadataset`, one row per row of Annotations.txt) and,
if it is there, compares `labels.h5` with the annotations. The split files stay where they are: the tasks read them.
`zips` reads folders of `<id>.zip`, each one pickled array [seconds, …], as VGGSound-AVEL, AVVP, UCF and AVSBench
features come; an id must be in every folder given. Longer clips are cut, shorter ones repeat their last second and are
marked as shorter. Pickles are read without running what is in them.

Released features do not say which weights made them, so `sha256/<modality>` stays empty, and such a file joins no file
of `cmg.extract`: their weights may differ. If you know the weights, give --video-sha256 and --audio-sha256.
"""

import multiprocessing
import os
import re
import sys
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from cmg.cli import Parser, command, whole
from cmg.data.ave import SECONDS, read_rows, segment_labels
from cmg.data.features import FeatureWriter
from cmg.data.pickles import BadPickle, array_in_zip
from cmg.errors import UserError

BLOCK = 32  # clips converted and written together
AVE_FILES = {"video": "visual_feature.h5", "audio": "audio_feature.h5"}
JOINED = "only files of the same weights are joined"


class Rounding:
    """Largest and mean absolute error of storing features as float16, over all of a set's numbers."""

    def __init__(self):
        self.largest, self.total, self.count = {}, {}, {}

    def add(self, modality, x, half):
        error = np.abs(x.astype(np.float64) - half.astype(np.float64))
        self.merge(modality, error.max(initial=0.0), error.sum(), error.size)

    def merge(self, modality, largest, total, count):
        self.largest[modality] = max(self.largest.get(modality, 0.0), float(largest))
        self.total[modality] = self.total.get(modality, 0.0) + float(total)
        self.count[modality] = self.count.get(modality, 0) + count

    def __str__(self):
        return "; ".join(f"{m}: largest error {self.largest[m]:.2g}, mean {self.total[m] / self.count[m]:.2g}"
                         for m in self.largest)


class Clip(NamedTuple):
    """A converted clip, or a bad one with the reason."""

    id: str
    features: dict  # modality -> float16 ndarray [T, …]
    valid: dict  # modality -> bool ndarray [T]
    errors: dict  # modality -> (largest, sum, count)
    reason: str


def fit(x, seconds):
    """[t, …] -> [seconds, …] and valid [seconds]: cut, or padded with the last second as the public loaders do."""
    n = min(len(x), seconds)
    return np.concatenate([x[:n], np.repeat(x[n - 1 : n], seconds - n, axis=0)]), np.arange(seconds) < n


def convert_zip(job):
    """One clip of `zips`: job = (id, dict modality -> path, seconds)."""
    name, paths, seconds = job
    features, valid, errors = {}, {}, {}
    for m, path in paths.items():
        try:
            x = array_in_zip(path)
        except BadPickle as bad:
            return Clip(name, {}, {}, {}, f"{m}: {bad}")
        if x.ndim not in ((2, 4) if m == "video" else (2,)) or 0 in x.shape:
            return Clip(name, {}, {}, {}, f"{m}: shape {x.shape}, expected one row a second")
        x, valid[m] = fit(x, seconds)
        with np.errstate(over="ignore"):  # to inf, which is caught here
            features[m] = x.astype(np.float16)
        if not np.isfinite(features[m]).all():
            return Clip(name, {}, {}, {}, f"{m}: not finite in float16")
        rounding = Rounding()
        rounding.add(m, x, features[m])
        errors[m] = rounding.largest[m], rounding.total[m], rounding.count[m]
    return Clip(name, features, valid, errors, "")


def converted(jobs, workers):
    """Every job's clip, in the order of the jobs."""
    if workers == 0:
        yield from map(convert_zip, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        yield from pool.imap(convert_zip, jobs, chunksize=4)


def convert_zips(folders, seconds, workers, out, attrs):
    """Convert folders of `<id>.zip`: dict modality -> folder. Returns (clips, bad clips, Rounding, bytes read)."""
    found = {}
    for m, folder in folders.items():
        if not Path(folder).is_dir():
            raise UserError(f"--{m} {folder}: no such folder; expected one with <id>.zip files")
        for path in Path(folder).glob("*.zip"):
            found.setdefault(path.stem, {})[m] = path
    if not found:
        raise UserError(f"--{' --'.join(folders)}: no .zip files there")
    size = sum(path.stat().st_size for paths in found.values() for path in paths.values())
    jobs, bad = [], []
    for name, paths in sorted(found.items()):
        lacking = [m for m in folders if m not in paths]
        if lacking:
            bad.append((name, f"no {' or '.join(lacking)} file"))
        else:
            jobs.append((name, paths, seconds))
    if not jobs:
        raise UserError(f"--{' --'.join(folders)}: no id is in every folder")

    rounding, held, good = Rounding(), [], 0
    clips = converted(jobs, workers)
    first = next(_good(clips, bad), None)
    if first is None:
        raise UserError(f"none of the {len(found)} clips could be read; {bad[0][0]}: {bad[0][1]}")
    shapes = {m: x.shape for m, x in first.features.items()}
    with FeatureWriter(out, shapes, attrs) as writer:
        bar = tqdm(total=len(jobs), unit="clip", disable=None)
        for clip in chain([first], _good(clips, bad)):
            bar.update()
            if any(clip.features[m].shape != shapes[m] for m in shapes):
                bad.append((clip.id, f"shapes differ from those of '{first.id}'"))
                continue
            for m, error in clip.errors.items():
                rounding.merge(m, *error)
            held.append(clip)
            good += 1
            if len(held) == BLOCK:
                _write(writer, held)
                held = []
        bar.close()
        if held:
            _write(writer, held)
    return good, bad, rounding, size


def _good(clips, bad):
    """The clips that could be read; the others are added to `bad`."""
    for clip in clips:
        if clip.reason:
            bad.append((clip.id, clip.reason))
        else:
            yield clip


def _write(writer, clips):
    stack = [{m: np.stack([getattr(clip, part)[m] for clip in clips]) for m in clips[0].features}
             for part in ("features", "valid")]
    writer.append([clip.id for clip in clips], *stack)


def convert_ave(folder, annotations, out, attrs):
    """Convert the AVE release. Returns (clips, rows left out, Rounding, bytes read)."""
    folder = Path(folder)
    rows = [clip for _, clip in read_rows(Path(annotations) / "Annotations.txt")]
    sets = {}
    for m, name in AVE_FILES.items():
        try:
            sets[m] = h5py.File(folder / name)["avadataset"]
        except (OSError, KeyError):
            sets[m] = None
        if not isinstance(sets[m], h5py.Dataset) or sets[m].dtype.kind not in "fiu":
            raise UserError(f"{folder / name}: expected an HDF5 file with a dataset `avadataset` of numbers")
        if sets[m].shape[:2] != (len(rows), SECONDS) or sets[m].ndim not in ((3, 5) if m == "video" else (3,)):
            raise UserError(f"{folder / name}: shape {sets[m].shape}, expected {len(rows)} rows (Annotations.txt) of "
                            f"{SECONDS} seconds")
    _compare_labels(folder / "labels.h5", rows)
    seen, keep, bad = set(), [], []
    for row, clip in enumerate(rows):
        if clip.id in seen:
            bad.append((clip.id, f"row {row} of Annotations.txt: the same video again, its first row is kept"))
        else:
            seen.add(clip.id)
            keep.append(row)
    rounding = Rounding()
    with FeatureWriter(out, {m: x.shape[1:] for m, x in sets.items()}, attrs) as writer:
        for start in tqdm(range(0, len(keep), BLOCK), disable=None):
            block = keep[start : start + BLOCK]
            full = {m: x[block] for m, x in sets.items()}
            with np.errstate(over="ignore"):  # reported by the writer, with the clip's name
                half = {m: x.astype(np.float16) for m, x in full.items()}
            for m in sets:
                rounding.add(m, full[m], half[m])
            writer.append([rows[row].id for row in block], half)
    return len(keep), bad, rounding, sum((folder / name).stat().st_size for name in AVE_FILES.values())


def _compare_labels(path, rows):
    """Say for how many rows the released labels and the annotations differ: a sign of files that do not belong."""
    if not path.exists():
        return
    try:
        with h5py.File(path) as file:
            labels = file["avadataset"][:]
    except (OSError, KeyError):
        raise UserError(f"{path}: expected an HDF5 file with a dataset `avadataset`") from None
    classes = list(dict.fromkeys(clip.category for clip in rows))
    expected = (segment_labels(rows, classes) < len(classes)).numpy()
    if labels.shape[:2] != expected.shape or labels.ndim != 3:
        raise UserError(f"{path}: shape {labels.shape}, expected {expected.shape} and the classes")
    # Which column is which class differs between copies, but the background is always one column, the last.
    differ = int(((labels[:, :, -1] == 0) != expected).any(1).sum())
    print(f"{path.name}: event seconds of {len(rows) - differ} of {len(rows)} rows agree with Annotations.txt")


def parse(argv):
    """The command line, checked."""
    parser = Parser(prog="cmg.data.convert", description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True, parser_class=Parser)
    ave = kinds.add_parser("ave", help="the AVE release: visual_feature.h5 and audio_feature.h5")
    ave.add_argument("--features", required=True, help="folder with the two files, and labels.h5 if there is one")
    ave.add_argument("--annotations", required=True, help="folder with Annotations.txt")
    zips = kinds.add_parser("zips", help="folders of <id>.zip, each with one pickled array")
    zips.add_argument("--video", help="folder of video features")
    zips.add_argument("--audio", help="folder of audio features")
    zips.add_argument("--seconds", type=whole(1), default=SECONDS, help="steps per clip (T)")
    zips.add_argument("--workers", type=whole(), default=os.cpu_count(), help="processes; 0: work in this one")
    for kind in (ave, zips):
        kind.add_argument("--video-backbone", default="vgg19", help="name to note in the file")
        kind.add_argument("--audio-backbone", default="vggish", help="name to note in the file")
        for m in AVE_FILES:
            kind.add_argument(f"--{m}-sha256", default="", help="of the weights that made them, if you know: " + JOINED)
        kind.add_argument("--out", required=True, help="feature file to write (.h5)")
        kind.add_argument("--overwrite", action="store_true", help="replace OUT")
    args = parser.parse_args(argv)
    if args.kind == "zips" and not (args.video or args.audio):
        zips.error("--video or --audio is needed: a folder of <id>.zip files")
    for m in AVE_FILES:
        if not re.fullmatch(r"|[0-9a-f]{64}", getattr(args, f"{m}_sha256")):
            kinds.choices[args.kind].error(f"--{m}-sha256: expected 64 hexadecimal digits, lower case")
    return args


@command
def main(argv=None):
    args = parse(argv)
    out = Path(args.out)
    if out.exists() and not args.overwrite:
        raise UserError(f"--out {out}: exists already; pass --overwrite to replace it")
    folders = {m: getattr(args, m) for m in ("video", "audio") if args.kind == "zips" and getattr(args, m)}
    attrs = {"seconds_per_step": 1.0, "source": args.features if args.kind == "ave" else " ".join(folders.values())}
    for m in folders or AVE_FILES:
        attrs |= {f"backbone/{m}": getattr(args, f"{m}_backbone"), f"sha256/{m}": getattr(args, f"{m}_sha256")}
    if args.kind == "ave":
        good, bad, rounding, size = convert_ave(args.features, args.annotations, out, attrs)
    else:
        good, bad, rounding, size = convert_zips(folders, args.seconds, args.workers, out, attrs)
    for name, reason in bad:
        print(f"left out {name}: {reason}", file=sys.stderr)
    sizes = f"{size / 1e6:.1f} MB before, {out.stat().st_size / 1e6:.1f} MB after"
    print(f"{out}: {good} clips, {len(bad)} left out, {sizes}")
    print(f"float16 {rounding}")


if __name__ == "__main__":
    main()
