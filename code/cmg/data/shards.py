"""The making of a feature file that may be interrupted at any moment: finished clips in shards, bad ones in a list.

`cmg.extract` and `cmg.data.convert` make clips; from there on all is here. What is a clip's own fault is listed in
`<out>.failed.csv` and the run goes on; what is nobody's fault, a disk or memory, ends it in one line, and the same
command goes on from the shards. The file appears when all of it is there.
"""

import contextlib
import csv
import glob
import json
import shutil
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmg.data.feature_file import FeatureFile, FeatureWriter
from cmg.errors import UserError, refusal
from cmg.files import locked, parse_json, replacing, write_atomically

SHARD = 64  # finished clips per shard, and
PATIENCE = 60  # seconds until a smaller one is written: no more than these is lost when the run is killed


class Bad(NamedTuple):
    """A clip that is left out: where it was read from, and why it could not be."""

    id: str
    path: str
    reason: str


class Parts:
    """The folder `<out>.parts` of shards, each a valid feature file of up to `SHARD` clips, and the settings.

    Parameters
    ----------
    out : path of the feature file.
    settings : all that the shards depend on, as JSON can hold it; only the same go on.
    attrs : of the feature file; `<name>/<modality>` goes into those that hold the modality.
    dtypes, vocabularies : as `FeatureWriter` takes them.
    overwrite : whether shards of other settings may be replaced.
    work : what it is that is unfinished, for messages.
    share : (i, n) of one of several commands, on machines of their own, which has the folder `<out>.parts-i-of-n`. The
        one without a share takes over what is in all of these.
    note : function of the clips of a shard -> what JSON can hold, kept beside it; `notes` has it for every file.

    Raises
    ------
    UserError : the folder holds the shards of other settings, is not ours, or another process is at work in it (until
        that one's `close`, or end).
    """

    def __init__(self, out, settings, attrs, dtypes="float16", vocabularies=None, overwrite=False, work="extraction",
                 note=None, share=None):
        self.out, self.attrs, self.dtypes, self.vocabularies = Path(out), attrs, dtypes, vocabularies
        self.folder = self.out.with_name(self.out.name + ".parts" + ("-{}-of-{}".format(*share) if share else ""))
        others = () if share else self.out.parent.glob(f"{glob.escape(self.out.name)}.parts-*-of-*")
        self.folders = [self.folder, *sorted(others)]
        self.failed_csv = self.out.with_name(self.out.name + ".failed.csv")
        self.work, self.note = work, note
        with contextlib.ExitStack() as stack:
            for folder in self.folders:
                self._settle(folder, json.dumps(settings, indent=1) + "\n", overwrite, stack)
            self._hold = stack.pop_all()
        own, *others = ([FeatureFile(path) for path in sorted(folder.glob("shard-*.h5"))] for folder in self.folders)
        self.files = [*own, *chain(*others)]
        self.notes = [parse_json(beside(file.path).read_text()) for file in self.files] if note else []
        self._next = 1 + max((int(file.path.stem.partition("-")[2]) for file in own), default=-1)
        self._held, self._written = [], time.monotonic()

    def _settle(self, folder, wanted, overwrite, stack):
        """Make a folder, or make sure that what is in it was made with the same settings; hold it."""
        settings = folder / "settings.json"
        # a run that was killed at its very start leaves a settings.json that is half written, under another name
        if folder.exists() and any(".tmp-" not in path.name for path in folder.iterdir()):
            if not settings.is_file():
                raise UserError(f"{folder}: in the way, it is no unfinished {self.work}; remove it")
            stack.enter_context(locked(folder))
            if settings.read_text() == wanted:
                merging = f"{glob.escape(self.out.name)}.tmp-*"  # of which one with a share knows nothing
                merged = self.out.parent.glob(merging) if folder.suffix == ".parts" else ()
                for stale in (*folder.glob("*.tmp-*"), *merged):
                    stale.unlink()
                return
            if not overwrite:
                raise UserError(
                    f"{folder}: unfinished {self.work} with other settings; "
                    "repeat those to resume it, remove the folder, or pass --overwrite"
                )
            shutil.rmtree(folder)
        with replacing(settings) as unfinished:
            stack.enter_context(locked(folder))
            unfinished.write_text(wanted)

    def close(self):
        """Let others at the folder."""
        self._hold.close()

    def ids(self):
        """Ids of the clips in the shards on disk."""
        return {name for file in self.files for name in file.ids}

    def collect(self, results, progress) -> list[Bad]:
        """Take clips as they are finished; returns the bad ones.

        results : yields for every piece of work its good clips (with `id`, `features` and `valid`), its bad ones, and
            a dict of the seconds that it took.

        Raises
        ------
        UserError : what is no clip's fault, and how to go on.
        """
        failed = []
        try:
            for clips, bad, spent in results:
                for one in bad:
                    progress.say(f"bad clip {one.id}: {one.reason}")
                failed += bad
                with progress.writes():
                    for clip in clips:
                        self.add(clip)
                progress.finished(**spent)
        except (UserError, OSError, MemoryError, RuntimeError) as error:
            line = str(error) if isinstance(error, UserError) else refusal(error)
            if line is None:
                raise
            self.flush()
            kept = f"; the same command goes on, {self.folder} keeps {len(self.ids())} clips" if self.files else ""
            raise UserError(f"{line}{kept}") from None
        finally:
            progress.close()
            with progress.writes():
                self.flush()
        return failed

    def add(self, clip):
        """Take a finished clip; each `SHARD` of them become a shard, or those of `PATIENCE` seconds."""
        self._held.append(clip)
        if len(self._held) == SHARD or time.monotonic() - self._written > PATIENCE:
            self.flush()

    def flush(self):
        """Write what is held as a shard, or as one for all of the same shapes."""
        self._written = time.monotonic()
        while self._held:
            shapes = shapes_of(self._held[0])
            clips = [clip for clip in self._held if shapes_of(clip) == shapes]
            path = self.folder / f"shard-{self._next:06d}.h5"
            if self.note:  # first, so that a shard never lacks it
                note = json.dumps(self.note(clips))
                write_atomically(beside(path), note)
                self.notes.append(parse_json(note))
            with self._writer(path, shapes) as writer:
                writer.append(
                    [clip.id for clip in clips],
                    {m: np.stack([clip.features[m] for clip in clips]) for m in shapes},
                    {m: np.stack([clip.valid[m] for clip in clips]) for m in shapes},
                )
            self.files.append(FeatureFile(path))
            self._next += 1
            self._held = [clip for clip in self._held if shapes_of(clip) != shapes]

    def _writer(self, path, shapes, vocabularies=None):
        attrs = {name: value for name, value in self.attrs.items() if name.partition("/")[2] in ("", *shapes)}
        return FeatureWriter(path, shapes, attrs, self.dtypes, vocabularies)

    def usual(self, ids):
        """Clips of the shapes that most of these have, of equally many the first's, and the others: two lists of
        ids."""
        shapes = {name: tuple(file.shapes.items()) for file in self.files for name in file.ids}
        most = max(Counter(shapes[name] for name in ids).items(), key=lambda found: found[1], default=(None, 0))[0]
        return [name for name in ids if shapes[name] == most], [name for name in ids if shapes[name] != most]

    def leave(self, failed, progress):
        """Say how the share of one of several machines has ended."""
        print(f"{self.folder}: {len(self.ids())} clips, {len(failed)} bad, {progress.seconds():.0f} s; once all shares "
              f"are there, the same command without --shard makes {self.out}")
        print(progress)

    def finish(self, ids, failed, progress):
        """List the bad clips, make the final file of those with these ids, in this order and of one shape, and say so;
        `UserError` if there are none."""
        write_failed(self.failed_csv, failed)
        number = len(ids) + len(failed)
        if not ids:
            self.discard()
            raise UserError(f"none of the {number} clips could be read; reasons in {self.failed_csv}")
        with progress.writes():
            shapes = self.merge(ids)
        shown = ", ".join(f"{m} {'x'.join(map(str, shape))}" for m, shape in shapes.items())
        bad = f"{len(failed)} bad (listed in {self.failed_csv})" if failed else "0 bad"
        print(f"{self.out}: {len(ids)} clips ({shown}), {bad}, {progress.seconds():.0f} s")
        print(progress)

    def merge(self, ids):
        """Write the clips of these ids as the final file, remove the folders; returns the clips' shapes."""
        row_of = {name: (file, row) for file in self.files for row, name in enumerate(file.ids)}
        first = row_of[ids[0]][0]
        with self._writer(self.out, first.shapes, self.vocabularies) as writer:
            for start in range(0, len(ids), SHARD):
                block = ids[start : start + SHARD]
                features = {m: np.empty((len(block), *x), first.dtypes[m]) for m, x in first.shapes.items()}
                valid = {m: np.empty((len(block), x[0]), bool) for m, x in first.shapes.items()}
                for file in {row_of[name][0] for name in block}:
                    here = [i for i, name in enumerate(block) if row_of[name][0] is file]
                    rows = [row_of[block[i]][1] for i in here]
                    for m in first.shapes:
                        features[m][here], valid[m][here] = file.read(m, rows)
                    file.close()  # a large set has more shards than a process may have open files
                writer.append(block, features, valid)
        self.discard()
        return first.shapes

    def discard(self):
        """Remove the folders."""
        for folder in self.folders:
            shutil.rmtree(folder)


def require_free(out, overwrite) -> Path:
    """The path of a feature file that can be written; `UserError` where something is in the way."""
    out = Path(out)
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder, expected the name of a file (.h5)")
    if out.exists() and not overwrite:
        raise UserError(f"--out {out}: exists already; pass --overwrite to replace it")
    return out


def beside(path) -> Path:
    """Where the note of a shard is."""
    return path.with_suffix(".json")


def shapes_of(clip):
    return {m: x.shape for m, x in clip.features.items()}


def write_failed(path, failed):
    """List the bad clips (id, path, reason), or remove the list of an earlier run if there are none."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    with (replacing(path) as unfinished,
          open(unfinished, "w", newline="", encoding="utf-8", errors="backslashreplace") as file):
        table = csv.writer(file)
        table.writerow(Bad._fields)
        table.writerows(sorted(failed))
