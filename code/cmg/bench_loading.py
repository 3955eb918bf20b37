"""What reading a clip costs, beside a plain copy of as many bytes and beside the layout of the released features.

    python -m cmg.bench_loading --data features.h5 --out loading.json
    python -m cmg.bench_loading --data raw.h5 --videos clips/        # and beside a loader that decodes the media

A shuffled epoch from memory, from disk in blocks (as `--cache disk` reads), and from disk row by row (as a naive
loader would). Microseconds per clip, features as stored, float16 as a rule; "as float32" is what a step on the CPU is
given, while a card converts by itself. "cold" means that the files were dropped from this system's cache first (a
virtual machine's host may still hold them), "warm" that they had just been read.

The released layout is a folder per modality, a zip file per clip, and in it one pickle of a float64 array. The first
clips are written that way beside the feature file and read as the public loader reads them: open, unpickle, stack,
convert to float32. Taken for granted, in that layout's favour: pickles of protocol 4 (older ones take twice as long)
and zip files that store without compressing, which spares inflating but makes cold reads longer. Left out, likewise in
its favour: text, for which the public loader runs BERT on every batch, labels, and the way from a reading process to
the training one.

With --videos, the media that raw clips (`frames`, `melimage`) were extracted from, the first of them are also made from
these anew, in this process, as a loader does that keeps nothing: decoded, resized and transformed by the backbones that
the feature file names, at the sizes that it holds.
"""

import json
import os
import pickle
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

from cmg.cli import Parser, command, git_commit, whole
from cmg.data.features import FeatureSet
from cmg.downstream.results import markdown_table
from cmg.errors import UserError
from cmg.extract.backbones import BACKBONES, Choice
from cmg.extract.clips import find_media
from cmg.extract.workers import Extractor, Job, Recipe
from cmg.files import write_atomically
from cmg.training.batches import epoch_order, on_device, windows
from cmg.training.host import keep_freed_memory

RELEASED = 200  # clips in the released layout: at the published sizes 2 MB each
DECODED = 20  # clips that are decoded


def forget(paths):
    """Ask the system to drop the files from its cache, so that the next read is a disk's. Linux only."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def per_clip(batches, clips):
    """Microseconds per clip that it takes to draw all batches."""
    began = time.perf_counter()
    for _ in batches:
        pass
    return 1e6 * (time.perf_counter() - began) / clips


def median_per_clip(epoch, clips):
    """The same for what `epoch()` yields: the median of five passes, since one from memory is soon over."""
    return statistics.median(per_clip(epoch(), clips) for _ in range(5))


def copier(features, batch_size):
    """A function that copies a batch's worth of bytes from one place in memory to another."""
    size = features.nbytes // len(features) * batch_size
    source, target = (torch.ones(size, dtype=torch.uint8) for _ in range(2))  # zeros might be one page over and over
    return lambda: target.copy_(source)


def write_released(features, rows, folder):
    """Write audio and video of some clips in the released layout: `folder/<modality>/<row>.zip`, the list of them."""
    paths = []
    for m in (m for m in features.modalities if m != "text"):
        (Path(folder) / m).mkdir()
        for row in rows:
            paths.append(Path(folder) / m / f"{row}.zip")
            with zipfile.ZipFile(paths[-1], "w", zipfile.ZIP_STORED) as archive:
                clip = features.stored([row])[m][0].double().numpy()
                archive.writestr(f"{row}.pkl", pickle.dumps(clip, protocol=4))
    return paths


def read_released(folder, modalities, batches):
    """Yield batches as the public loader makes them: modality -> float32 Tensor[B, *shape], through float64 arrays."""
    for rows in batches:
        clips = {m: [] for m in modalities}
        for row in rows:
            for m in modalities:
                with zipfile.ZipFile(Path(folder) / m / f"{row}.zip") as archive, archive.open(f"{row}.pkl") as file:
                    # unpickled freely, as there: these are bytes that `write_released` has just written
                    clips[m].append(pickle.loads(file.read()))
        yield {m: torch.from_numpy(np.asarray(x)).float() for m, x in clips.items()}


def measure_released(features, batch_size, folder):
    """Microseconds per clip in the released layout, cold and warm."""
    modalities = [m for m in features.modalities if m != "text"]
    n = min(RELEASED, len(features))
    order = epoch_order(n, min(batch_size, n), 0, 0)
    clips = sum(map(len, order))
    forget(write_released(features, range(n), folder))
    cold = per_clip(read_released(folder, modalities, order), clips)
    warm = median_per_clip(lambda: read_released(folder, modalities, order), clips)
    return {"released layout, cold": cold, "released layout, warm": warm}


def measure_decoding(features, places):
    """Microseconds per clip that it takes to decode the media in `places` and to make the clips' pictures of them."""
    known = features.provenance
    for m, kind in features.kinds.items():
        if kind not in ("frames", "maps") or known[m].backbone not in BACKBONES.get(m, {}):
            raise UserError(f"--videos: {m} holds {kind} of {known[m].backbone or 'a backbone that is not known'}; "
                            "expected raw clips, which this project extracted")
    media, _ = find_media(places)
    found = [media[name] for name in features.ids if name in media][:DECODED]
    if not found:
        raise UserError(f"--videos {' '.join(places)}: none of the {len(features)} clips is there; expected the media "
                        "that they were extracted from")
    first = features.modalities[0]
    rate = round(1 / (known[first].seconds_per_step or 1))
    choices = tuple(Choice(m, known[m].backbone, side=features.shapes[m][1], rate=rate) for m in features.modalities)
    extractor = Extractor(Recipe(choices, seconds=features.shapes[first][0] // rate, words=0))
    jobs = [Job(Path(one.path).stem, one.path, (), one.sound) for one in found]

    def pictures():
        for outcome in map(extractor, jobs):
            if outcome.reason:
                raise UserError(f"--videos: {outcome.job.path}: {outcome.reason}; expected the media that --data was "
                                "extracted from")
            yield outcome

    next(pictures())  # loads the backbones
    return per_clip(pictures(), len(jobs))


def measure(paths, batch_size, workers, videos=()):
    disk = FeatureSet(paths, cache="disk")
    full, blocks = (epoch_order(len(disk), batch_size, 0, 0, blocks=b) for b in (False, True))
    clips, cpu = sum(map(len, full)), torch.device("cpu")
    if disk.modalities == ("text",):
        raise UserError(f"--data {paths[0]}: holds text alone, which the released layout has no files for; "
                        "expected audio or video")
    try:
        with tempfile.TemporaryDirectory(dir=Path(paths[0]).resolve().parent) as folder:  # on the same disk
            found = measure_released(disk, batch_size, folder)
    except OSError as error:
        raise UserError(f"{Path(paths[0]).parent}: cannot write the released layout here ({error.strerror})") from None
    if videos:
        found["decoded"] = measure_decoding(disk, videos)
    keep_freed_memory()  # as in training on a CPU; the public loader had to do without, as it does
    copy = copier(disk, batch_size)
    found["copy"] = median_per_clip(lambda: (copy() for _ in full), clips)
    forget(paths)
    found["disk, blocks, cold"] = per_clip(windows(disk, blocks, cpu, workers), clips)
    found["disk, blocks, warm"] = median_per_clip(lambda: windows(disk, blocks, cpu, workers), clips)
    forget(paths)
    found["disk, row by row, cold"] = per_clip((disk.stored([row]) for rows in full for row in rows), clips)
    host = FeatureSet(paths, cache="host")
    found["memory"] = median_per_clip(lambda: (host.stored(rows) for rows in full), clips)
    found["memory, as float32"] = median_per_clip(lambda: on_device(host, full, cpu), clips)
    return {"clips": clips, "bytes_per_clip": disk.nbytes // len(disk), "batch_size": batch_size,
            "us_per_clip": found, "commit": git_commit()}


@command
def main(argv=None):
    p = Parser(prog="cmg.bench_loading", description=__doc__)
    p.add_argument("--data", nargs="+", required=True, help="feature files")
    p.add_argument("--videos", nargs="+", help="folders or lists of the media that they were extracted from")
    p.add_argument("--batch-size", type=whole(1), default=80, help="clips read at once")
    p.add_argument("--workers", type=whole(), default=0, help="reading processes")
    p.add_argument("--out", help="JSON file")
    args = p.parse_args(argv)
    record = measure(args.data, args.batch_size, args.workers, args.videos or ())
    found = record["us_per_clip"]
    rivals = {"than the released layout, cold": "released layout, cold", "warm": "released layout, warm",
              "than decoding": "decoded"}
    rivals = {title: found[name] for title, name in rivals.items() if name in found}
    print(markdown_table(
        ["source", "µs a clip", "times a copy", *(f"faster {title}" for title in rivals)],
        [[name, f"{us:.1f}", f"{us / found['copy']:.1f}", *(f"{rival / us:.1f}" for rival in rivals.values())]
         for name, us in found.items()]))
    if args.out:
        write_atomically(args.out, json.dumps(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    main()
