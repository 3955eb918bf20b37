"""What reading a clip costs, beside a plain copy of as many bytes.

    python -m cmg.bench_loading --data features.h5 --out loading.json

A shuffled epoch from memory, from disk in blocks (as `--cache disk` reads), and from disk row by row (as a naive
loader would), the last two with the file dropped from the system's cache first. Microseconds per clip, features as
stored, no conversion.
"""

import argparse
import json
import os
import time

import torch

from cmg.cli import Parser, command, git_commit
from cmg.data.features import FeatureSet
from cmg.downstream.results import markdown_table, write_atomically
from cmg.training.feed import epoch_order, windows


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


def copies(features, batch_size, n):
    """n batches' worth of bytes, copied from one place in memory to another."""
    size = features.nbytes // len(features) * batch_size
    source, target = (torch.zeros(size, dtype=torch.uint8) for _ in range(2))
    for _ in range(n):
        yield target.copy_(source)


def measure(paths, batch_size, workers):
    disk = FeatureSet(paths, cache="disk")
    full, blocks = (epoch_order(len(disk), batch_size, 0, 0, blocks=b) for b in (False, True))
    clips, cpu = sum(map(len, full)), torch.device("cpu")
    list(copies(disk, batch_size, 1))
    found = {"copy": per_clip(copies(disk, batch_size, len(full)), clips)}
    forget(paths)
    found["disk, blocks"] = per_clip(windows(disk, blocks, cpu, workers), clips)
    forget(paths)
    found["disk, row by row"] = per_clip((disk.stored([row]) for rows in full for row in rows), clips)
    host = FeatureSet(paths, cache="host")
    list(host.stored(rows) for rows in full[:2])
    found["memory"] = per_clip((host.stored(rows) for rows in full), clips)
    return {"clips": clips, "bytes_per_clip": disk.nbytes // len(disk), "batch_size": batch_size,
            "us_per_clip": found, "commit": git_commit()}


@command
def main(argv=None):
    p = Parser(prog="cmg.bench_loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", nargs="+", required=True, help="feature files")
    p.add_argument("--batch-size", type=int, default=80)
    p.add_argument("--workers", type=int, default=0, help="reading processes")
    p.add_argument("--out", help="JSON file")
    args = p.parse_args(argv)
    record = measure(args.data, args.batch_size, args.workers)
    copy = record["us_per_clip"]["copy"]
    print(markdown_table(["source", "µs a clip", "times a copy"],
                         [[name, f"{us:.1f}", f"{us / copy:.1f}"] for name, us in record["us_per_clip"].items()]))
    if args.out:
        write_atomically(args.out, json.dumps(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    main()
