"""The cells of a table: a run folder each, filled by processes of its own, and only as far as it is not done."""

import csv
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from cmg.downstream.clip_scores import read_clip_scores
from cmg.downstream.results import read_results
from cmg.errors import UserError
from cmg.files import parse_json, write_atomically
from cmg.modalities import TABLE
from cmg.tables.file import fill, read_settings, slug

NEEDED = {"metric", "source", "target", "protocol", "value", "chance", "n_test", "commit"}  # of a row of results.json
NAMES = NEEDED - {"value", "chance", "n_test"} | {"task"}
FIGURES = {"value", "chance", "n_test", "source_value", "target_value", "test_error", "match_rate", "match_chance",
           "used_codes", "code_overlap", "n_clusters"}  # a number each, or none where there is none


class Cell:
    """One run of a row: its folder, in --out or the folder given, and the commands that fill it; `begins` is the cell
    whose weights it begins with, if any.

    `cell.json` is written after every step, so it tells what is done: the flags that were pretrained with, and the
    arguments and minutes of every evaluation.
    """

    def __init__(self, name, flags, seed, evaluations, args, out=None, begins=None):
        self.name, self.seed, self.args, self.begins = name, seed, args, begins
        self.folder = Path(out or args.out) / f"{slug(name)}-seed{seed}"
        settings = read_settings(args.set) | {"run": [str(self.folder)]}
        self.flags = fill(flags, settings, f"row {name!r}")
        self.evaluations = evaluations
        self.calls = {one.name: fill(one.arguments, settings, f"evaluation {one.name!r}") for one in evaluations}
        self.record = read_record(self.folder / "cell.json")
        self.origin = {"begins": begins.name} if begins else {}
        if self.record and (names_only(self.record["flags"]), self.record.get("begins")) != (
                names_only(self.flags), self.origin.get("begins")):
            raise UserError(f"row {name!r}: {self.folder} was pretrained with other flags; expected the same, or "
                            "another name or --out")

    @property
    def pretrained(self):
        return self.record is not None

    def missing(self):
        """Evaluations that have not been made, or were made with other arguments."""
        done = self.record.get("evaluations", {}) if self.record else {}
        return [one for one in self.evaluations
                if one.name not in done or done[one.name]["arguments"] != names_only(self.calls[one.name])]

    @property
    def finished(self):
        return self.pretrained and not self.missing()

    def run(self, workers):
        """Pretrain and evaluate, as far as it is not done. Raises with the last line of what failed first."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.log = self.folder.parent / f"{self.folder.name}.log"
        if self.log.is_symlink() or self.log.exists() and not self.log.is_file():
            raise UserError(f"{self.log}: is a link or no file, and what a run prints would go elsewhere; expected it "
                            "moved away, or another --out")
        with open(self.log, "a") as log:
            try:
                # The children inherit the open file, and with it the lock: it holds as long as any of them lives.
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"row {self.name!r}, seed {self.seed}: another process is at work in {self.folder}") \
                    from None
            if not self.pretrained:
                self.pretrain(workers, log)
            failures = {}
            while waiting := [one for one in self.missing() if one.name not in failures]:
                try:
                    self.evaluate(waiting[0], workers, log)
                except UserError as error:
                    failures[waiting[0].name] = error
                    if waiting[0].chooses:  # the others would read another checkpoint than the one that it chooses
                        break
            for error in failures.values():
                raise error

    def pretrain(self, workers, log):
        before = []
        if self.begins:
            if not self.begins.pretrained:
                raise UserError(f"row {self.name!r}, seed {self.seed}: begins with {self.begins.name!r}, which failed")
            before = ["--init-from", str(self.begins.folder / "latest.pt")]
        self.call(workers, log, "cmg.pretrain", "--data", *self.args.data, *self.flags, *before, "--seed",
                  str(self.seed), "--out", str(self.folder), "--resume", "auto", "--device", self.args.device)
        self.note({"name": self.name, "seed": self.seed, "flags": self.flags, **self.origin, "evaluations": {}})

    def evaluate(self, one, workers, log):
        start = time.monotonic()
        out = self.folder / slug(one.name)
        if (out / "results.json").exists():
            # Outdated: rows that this evaluation has none for would stay, and a network trained on other codes.
            done = self.record.get("evaluations", {})
            self.note(self.record | {"evaluations": {name: done[name] for name in done if name != one.name}})
            shutil.rmtree(out)
        arguments = self.calls[one.name]
        self.call(workers, log, one.module, "--checkpoint", str(self.folder), *arguments,
                  "--out", str(out), "--device", self.args.device)
        rows = read_results(out)
        if not rows and "--choose-only" not in arguments:  # such a one tests nothing
            raise UserError(f"row {self.name!r}, seed {self.seed}: {one.module} wrote no results to {out}; expected a "
                            "task that does")
        for lack in (NEEDED - row.keys() for row in rows):
            if lack:
                raise UserError(f"row {self.name!r}, seed {self.seed}: {one.module} wrote results without "
                                f"{', '.join(sorted(lack))}; expected rows as those of cmg.downstream.ave")
        if rows:
            rows_of(out)
        # A new choice of the checkpoint outdates what was measured on the old one.
        kept = {} if one.chooses else self.record.get("evaluations", {})
        entry = {"arguments": names_only(arguments), "minutes": round((time.monotonic() - start) / 60, 3)}
        self.note(self.record | {"evaluations": kept | {one.name: entry}})

    def call(self, workers, log, module, *arguments):
        returncode = workers.call(log, module, *arguments)
        if returncode:
            told = self.log.read_text(errors="replace").strip().splitlines()
            last = told[-1] if told else f"{module} ended with status {returncode}"
            raise UserError(f"row {self.name!r}, seed {self.seed}: {last} (all of it: {self.log})")

    def note(self, record):
        self.record = record
        write_atomically(self.folder / "cell.json", json.dumps(record, indent=1) + "\n")

    # -- what there is to report -----------------------------------------------------------------------------------

    def results(self):
        """dict evaluation -> rows of its results.json, of all evaluations that are done."""
        missing = self.missing()
        return {one.name: rows_of(self.folder / slug(one.name))
                for one in self.evaluations if one not in missing}

    def clip_scores(self):
        """dict (evaluation, source, target, metric) -> `ClipScores`, of all that have them."""
        found = {(name, row["source"], row["target"], row["metric"]): read_clip_scores(self.folder / slug(name), row)
                 for name, rows in self.results().items() for row in rows}
        return {key: scores for key, scores in found.items() if scores is not None}

    def account(self):
        """Who made this cell, and how long it took: minutes and commit of the pretraining and of every evaluation."""
        done = self.record.get("evaluations", {})
        return {"name": self.name, "seed": self.seed, "folder": str(self.folder), **pretraining_of(self.folder),
                "evaluations": {name: {"commit": rows[0]["commit"], "numerics": numerics_of(rows[0]),
                                       "minutes": done[name]["minutes"]}
                                for name, rows in self.results().items()}}


def pretraining_of(folder) -> dict:
    """Commit of a run, version of its arithmetic, and minutes from the logged rates, so that interruptions and idle
    time between do not count."""
    try:
        made = parse_json((folder / "args.json").read_text(encoding="utf-8"))
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
            rows = [(int(row["step"]), float(row["train/clips_per_s"])) for row in csv.DictReader(file)]
        seconds = sum((b - a) * made["flags"]["batch_size"] / rate for (a, _), (b, rate) in zip(rows, rows[1:]))
        return {"commit": str(made["commit"]), "numerics": int(numerics_of(made)), "minutes": round(seconds / 60, 3)}
    except (ArithmeticError, AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError, csv.Error):
        raise UserError(f"{folder}: args.json and metrics.csv are not those of a run; expected another --out or this "
                        "folder moved away") from None


def read_record(path) -> dict | None:
    """A cell.json, None where there is none yet; `UserError` for anything else."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        record = None

    def words(part):
        return isinstance(part, list) and all(isinstance(word, str) for word in part)

    done = record.get("evaluations", {}) if isinstance(record, dict) and words(record.get("flags")) else None
    if not isinstance(done, dict) or not all(isinstance(one, dict) and words(one.get("arguments"))
                                             and _is_number(one.get("minutes")) for one in done.values()):
        raise UserError(f"{path}: no record of a cell; expected another --out")
    return record


def rows_of(folder) -> list[dict]:
    """The rows of a folder's results.json; `UserError` names what a table cannot be made of."""
    rows = read_results(folder)
    if not rows:
        raise UserError(f"{Path(folder) / 'results.json'}: holds no rows; expected those of cmg.downstream.ave")
    for number, row in enumerate(rows, 1):
        place = f"{Path(folder) / 'results.json'}: row {number}"
        if lack := NEEDED - row.keys():
            raise UserError(f"{place} lacks {', '.join(sorted(lack))}; expected rows as those of cmg.downstream.ave")
        for name, value in row.items():
            if name in NAMES and not isinstance(value, str):
                raise UserError(f"{place}: {name} is {value!r}; expected a text")
            if name in FIGURES and value is not None and not _is_number(value):
                raise UserError(f"{place}: {name} is {value!r}; expected a number")
        if not isinstance(numerics_of(row), int):
            raise UserError(f"{place}: numerics is {numerics_of(row)!r}; expected a whole number")
    return rows


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numerics_of(record) -> int:
    """The version of the arithmetic behind a row of results.json or an args.json (`cmg.CHANGES`)."""
    return record.get("numerics", 0)


def direction_of(row) -> str:
    """The key of a row's direction, as `cmg.modalities.direction` has it; of modalities that only the row's own feature
    files declare, and of no modality, the whole names."""
    return "2".join(TABLE[m].key if m in TABLE else m for m in (row["source"], row["target"]))


def names_only(arguments):
    """Arguments with every path reduced to its last part: a folder that moved holds the same results."""
    return [Path(word).name if "/" in word else word for word in arguments]


class Workers:
    """The processes that cells run in, `jobs` at once, each with its share of the cores."""

    def __init__(self, jobs):
        self.threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        self.running, self.stopped, self.lock = set(), False, threading.Lock()

    def call(self, log, module, *arguments):
        """Run a module, by its name or the path of its .py file, to its end -> exit status."""
        program = [module] if module.endswith(".py") else ["-m", module]
        package = str(Path(__file__).resolve().parents[2])  # the children find this very package, installed or not
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": path}
        with self.lock:
            if self.stopped:
                raise UserError("interrupted")
            child = subprocess.Popen([sys.executable, *program, *arguments], env=env, stdout=log, stderr=log)
            self.running.add(child)
        try:
            return child.wait()
        finally:
            with self.lock:
                self.running.discard(child)

    def stop(self):
        """End all processes and start no more."""
        with self.lock:
            self.stopped = True
            for child in self.running:
                child.terminate()


def fill_in(cells, jobs):
    """Run what the cells lack -> one line for every cell that failed. An interrupt ends the processes."""
    workers, failures, futures = Workers(jobs), [], {}

    def run(cell):
        wait([futures[cell.begins]] if cell.begins in futures else [])  # which was begun before
        cell.run(workers)
        print(f"done: {cell.name}, seed {cell.seed}", file=sys.stderr)

    with ThreadPoolExecutor(jobs) as pool:
        for cell in cells:
            futures[cell] = pool.submit(run, cell)
        try:
            for future in futures.values():
                try:
                    future.result()
                except UserError as error:  # the other cells go on
                    failures.append(str(error))
                    print(f"failed: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            workers.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures
