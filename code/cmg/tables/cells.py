"""The cells of a table: a run folder each, filled by processes of its own, and only as far as it is not done."""

import csv
import fcntl
import json
import math
import os
import re
import shutil
import time
from pathlib import Path

from cmg.downstream.clip_scores import read_clip_scores
from cmg.downstream.results import read_results
from cmg.errors import UserError
from cmg.files import parse_json, write_atomically
from cmg.modalities import TABLE
from cmg.tables.file import fill, read_settings, slug

LAST = 4096  # bytes of a log in which its last line of progress is looked for
NEEDED = {"metric", "source", "target", "protocol", "value", "chance", "n_test", "commit"}  # of a row of results.json
NAMES = NEEDED - {"value", "chance", "n_test"} | {"task"}
FIGURES = {"value", "chance", "n_test", "source_value", "target_value", "test_error", "match_rate", "match_chance",
           "used_codes", "code_overlap", "n_clusters"}  # a number each, or none where there is none


class Cell:
    """One run of a row: its folder, in --out or the folder given, and the commands that fill it.

    `cell.json` is written after every step, so it tells what is done: the flags that were pretrained with, and the
    arguments and minutes of every evaluation. `start` is the cell whose weights it begins with.
    """

    def __init__(self, name, flags, seed, evaluations, args, out=None, start=None):
        self.name, self.seed, self.args, self.start = name, seed, args, start
        self.folder = Path(out or args.out) / f"{slug(name)}-seed{seed}"
        self.log, self.doing = self.folder.parent / f"{self.folder.name}.log", ""
        settings = read_settings(args.set) | {"run": [str(self.folder)]}
        self.flags = fill(flags, settings, f"row {name!r}")
        self.flags += ["--init-from", str(start.folder)] if start else []
        self.evaluations = evaluations
        self.calls = {one.name: fill(one.arguments, settings, f"evaluation {one.name!r}") for one in evaluations}
        self.record = self.recorded()

    def recorded(self):
        """What cell.json says, None where there is none yet."""
        record = read_record(self.folder / "cell.json")
        if record and names_only(record["flags"]) != names_only(self.flags):
            raise UserError(f"row {self.name!r}: {self.folder} was pretrained with other flags; expected the same, or "
                            "another name or --out")
        return record

    @property
    def first(self):
        """The cell that begins with no other, from which this one comes."""
        return self.start.first if self.start else self

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

    def __str__(self):
        return f"{self.name}, seed {self.seed}"

    def run(self, workers, device):
        """Pretrain and evaluate on a device, as far as it is not done. Raises with the last line of what failed
        first."""
        self.device = device
        self.folder.parent.mkdir(parents=True, exist_ok=True)
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
            self.record = self.recorded()  # another process may have finished it while this one waited its turn
            if not self.pretrained:
                self.call(workers, log, "cmg.pretrain", "--data", *self.args.data, *self.flags,
                          "--seed", str(self.seed), "--out", str(self.folder), "--resume", "auto",
                          "--device", device)
                self.note({"name": self.name, "seed": self.seed, "flags": self.flags, "evaluations": {}})
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
                  "--out", str(out), "--device", self.device)
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
        self.doing = module.removeprefix("cmg.")
        returncode = workers.call(log, module, *arguments)
        if returncode:
            told = self.log.read_text(errors="replace").strip().splitlines()
            last = told[-1] if told else f"{module} ended with status {returncode}"
            raise UserError(f"row {self.name!r}, seed {self.seed}: {last} (all of it: {self.log})")

    def note(self, record):
        self.record = record
        write_atomically(self.folder / "cell.json", json.dumps(record, indent=1) + "\n")

    def progress(self):
        """(what it is at, in words; the part of its pretraining that is done), as its log says."""
        if self.doing != "pretrain":
            return self.doing, float(bool(self.doing))
        with open(self.log, "rb") as log:
            log.seek(-min(LAST, self.log.stat().st_size), os.SEEK_END)
            steps = re.findall(rb"^step (\d+) of (\d+)", log.read(), re.M)
        if not steps:
            return "pretrain begins", 0.0
        done, total = map(int, steps[-1])
        return f"pretrain, step {done} of {total}", done / total

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
        """Who made this cell, and how long it took: minutes and commit of the pretraining and of every evaluation. Its
        folder is told as seen from the table's, which a record may leave without its machine's paths."""
        done = self.record.get("evaluations", {})
        evaluations = {name: {"commit": rows[0]["commit"], "numerics": numerics_of(rows[0]),
                              "minutes": done[name]["minutes"]} for name, rows in self.results().items()}
        return {"name": self.name, "seed": self.seed, "folder": os.path.relpath(self.folder, self.args.out),
                **pretraining_of(self.folder), "evaluations": evaluations}


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
        path = Path(folder) / "results.json"
        what = "holds no rows" if path.exists() else "no such file"
        raise UserError(f"{path}: {what}; expected those of a task, such as cmg.downstream.ave")
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
