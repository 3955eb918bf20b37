"""Folders of `<id>.zip`, each one pickled array [seconds, …], as VGGSound-AVEL, AVVP, UCF and AVSBench features come,
or of `<id>.npy`.

An id must be in every folder given. Longer clips are cut, shorter ones repeat their last second and are marked as
shorter. Pickles are read without running what is in them, and none in a .npy.
"""

import os
from functools import partial
from pathlib import Path

from cmg.cli import whole
from cmg.data.ave import SECONDS
from cmg.data.pickles import BadPickle, array_in_npy, array_in_zip, foreign
from cmg.data.readers import contract
from cmg.data.readers.contract import bad, clip, in_processes
from cmg.errors import UserError
from cmg.files import gone

ARRAYS = {".zip": array_in_zip, ".npy": array_in_npy}


class Reader(contract.Reader):
    """Folders of <id>.zip, each with one pickled array, or of <id>.npy."""

    backbones = {"video": "vgg19", "audio": "vggish"}

    @staticmethod
    def add_flags(parser):
        parser.add_argument("--video", help="folder of video features")
        parser.add_argument("--audio", help="folder of audio features")
        parser.add_argument("--seconds", type=whole(1), default=SECONDS, help="steps per clip (T)")
        parser.add_argument("--workers", type=whole(), default=os.cpu_count(), help="processes; 0: work in this one")

    def __init__(self, flags):
        folders = {m: getattr(flags, m) for m in self.backbones if getattr(flags, m)}
        if not folders:
            raise UserError("--video or --audio is needed: a folder of <id>.zip or <id>.npy files")
        found = {}
        for m, folder in folders.items():
            if not Path(folder).is_dir():
                raise UserError(f"--{m} {folder}: no such folder; expected one with <id>.zip or <id>.npy files")
            for path in sorted(Path(folder).iterdir()):
                if path.suffix not in ARRAYS or foreign(path.name):
                    continue
                if m in found.setdefault(path.stem, {}):
                    raise UserError(f"--{m} {path}: beside {found[path.stem][m].name}; expected one of the two")
                found[path.stem][m] = path
        if not found:
            raise UserError(f"--{' --'.join(folders)}: no .zip or .npy files there")
        self.found = found
        self.jobs = {name: paths for name, paths in sorted(found.items()) if len(paths) == len(folders)}
        if not self.jobs:
            raise UserError(f"--{' --'.join(folders)}: no id is in every folder")
        self.bad = [bad(name, f"no {' or '.join(m for m in folders if m not in paths)} file")
                    for name, paths in sorted(found.items()) if name not in self.jobs]
        self.source, self.seconds, self.workers = " ".join(folders.values()), flags.seconds, flags.workers
        self.size = sum(path.stat().st_size for paths in self.jobs.values() for path in paths.values() if path.exists())

    def read(self, jobs):
        # of what is there now, the end is no fault of the clip's
        absent = {name: "; ".join(reasons) for name, paths in jobs.items()
                  if (reasons := [f"{m}: {reason}" for m, path in paths.items() if (reason := gone(path))])}
        there = [job for job in jobs.items() if job[0] not in absent]
        found = in_processes(partial(read_clip, seconds=self.seconds), there, self.workers, lost)
        for name in jobs:
            yield [bad(name, absent[name])] if name in absent else next(found)

    def place(self, name):
        return " and ".join(map(str, self.found[name].values()))


def lost(job, how) -> list[contract.Clip]:
    """In the place of a clip whose reading took its process down."""
    return [bad(job[0], f"the process that read it died ({how})")]


def read_clip(job, seconds):
    """The clip of a job, (id, dict modality -> path)."""
    name, paths = job
    arrays = {}
    for m, path in paths.items():
        try:
            arrays[m] = ARRAYS[path.suffix](path)
        except BadPickle as problem:
            return [bad(name, f"{m}: {problem}")]
        if arrays[m].ndim not in ((2, 4) if m == "video" else (2,)):
            return [bad(name, f"{m}: shape {arrays[m].shape}, expected one row a second")]
    return [clip(name, arrays, seconds)]
