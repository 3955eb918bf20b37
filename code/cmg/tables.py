"""Tables of results as commands: run what is missing, then print mean ± std over seeds.

    python -m cmg.tables scripts/tables/digits.txt --data pretrain.h5 --eval-data ave.h5 --annotations AVE/ \
        --seeds 0 1 2 --jobs 2 --out checkpoint/digits

A table file has a line per row, `name: flags of cmg.pretrain`; a row named `*` is put before all others' flags; `#`
begins a comment. Every cell is a run folder OUT/<name>-seed<seed>, pretrained and validated on AVE (strict) in
processes of their own. A finished cell is not run again, an interrupted one continues. Writes table.md, table.csv and
table.json into OUT.
"""

import argparse
import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from cmg.cli import Parser, command
from cmg.downstream.results import markdown_table, write_atomically
from cmg.errors import UserError

# header, metric of results.json, its field
COLUMNS = [
    ("transfer", "accuracy", "value"),
    ("own modality", "accuracy", "source_value"),
    ("segment transfer", "segment_accuracy", "value"),
    ("segment own", "segment_accuracy", "source_value"),
]


def read_table(path):
    """Rows of a table file: dict name -> list of flags, in order; `UserError` names the line that is broken."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such table file")
    rows, common = {}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, colon, flags = line.partition(":")
        name = name.strip()
        if not colon or not name or name in rows:
            raise UserError(f"{path}, line {number}: expected `name: flags`, every name once")
        if name == "*":
            common = shlex.split(flags)
        else:
            rows[name] = common + shlex.split(flags)
    if not rows:
        raise UserError(f"{path}: no rows; expected lines `name: flags`")
    return rows


def slug(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Cell:
    """One run of a row: its folder, and the two commands that fill it."""

    def __init__(self, name, flags, seed, args):
        self.name, self.seed = name, seed
        self.folder = Path(args.out) / f"{slug(name)}-seed{seed}"
        self.flags, self.args = flags, args

    @property
    def finished(self):
        return (self.folder / "cell.json").exists()

    def run(self, threads):
        """Pretrain and validate. Output goes to cell.log in the folder's place; raises with its last line."""
        synthetic = self.args.data == ["synthetic"]
        where = [] if synthetic else ["--annotations", self.args.annotations]
        self.call(threads, "cmg.pretrain", "--data", *self.args.data, *self.flags, "--seed", str(self.seed),
                  "--out", str(self.folder), "--resume", "auto", "--device", self.args.device)
        self.call(threads, "cmg.downstream.ave", "--checkpoint", str(self.folder), "--data",
                  *(self.args.data if synthetic else self.args.eval_data), *where, "--device", self.args.device)
        record = {"name": self.name, "seed": self.seed, "flags": self.flags}
        write_atomically(self.folder / "cell.json", json.dumps(record, indent=1) + "\n")

    def call(self, threads, module, *arguments):
        package = str(Path(__file__).resolve().parents[1])  # the children find this very package, installed or not
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        log = self.folder.with_suffix(".log")
        with open(log, "a") as file:
            done = subprocess.run([sys.executable, "-m", module, *arguments], env=env, stdout=file, stderr=file)
        if done.returncode:
            last = log.read_text(errors="replace").strip().splitlines()[-1]
            raise UserError(f"row {self.name!r}, seed {self.seed}: {last} (all of it: {log})")

    def results(self):
        """(minutes of pretraining, rows of results.json that belong to this table)."""
        rows = json.loads((self.folder / "results.json").read_text())
        rows = [row for row in rows if row["task"] == "ave" and row["protocol"] == "strict"]
        return self.minutes(), rows

    def minutes(self):
        """Training time from the logged rates, so that interruptions and idle time between them do not count."""
        batch = json.loads((self.folder / "args.json").read_text())["flags"]["batch_size"]
        with open(self.folder / "metrics.csv", newline="") as file:
            rows = [(int(row["step"]), float(row["train/clips_per_s"])) for row in csv.DictReader(file)]
        return sum((b - a) * batch / rate for (a, _), (b, rate) in zip(rows, rows[1:])) / 60


def spread(values):
    """Mean and sample standard deviation (0 for one value)."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def summarise(cells):
    """One record per (row, direction): mean and std over seeds of every column, and what the codebook shares."""
    groups = {}
    for cell in cells:
        minutes, rows = cell.results()
        for row in rows:
            group = groups.setdefault((cell.name, f"{row['source'][0]}2{row['target'][0]}"), [])
            group.append((cell.seed, minutes, row))
    table = []
    for (name, direction), found in groups.items():
        line = {"name": name, "direction": direction, "seeds": len({seed for seed, _, _ in found})}
        for header, metric, field in COLUMNS:
            values = [row[field] for _, _, row in found if row["metric"] == metric]
            if values:
                line[header], line[f"{header} std"] = spread(values)
        clip = [(minutes, row) for _, minutes, row in found if row["metric"] == "accuracy"]
        for header, field in (("chance", "chance"), ("match rate", "match_rate"), ("overlap", "code_overlap")):
            values = [row[field] for _, row in clip if row[field] is not None]
            line[header] = mean(values) if values else None
        line["minutes"] = mean(minutes for minutes, _ in clip)
        line["commit"] = ", ".join(sorted({row["commit"] for _, row in clip}))
        table.append(line)
    return table


def markdown(table):
    def cell(line, header, digits=1):
        value = line.get(header)
        if value is None:
            return "–"
        spread_ = f" ± {line[f'{header} std']:.1f}" if f"{header} std" in line else ""
        return f"{value:.{digits}f}{spread_}"

    headers = [header for header, _, _ in COLUMNS]
    return markdown_table(
        ["pretraining", "direction", *headers, "chance", "match rate", "overlap", "seeds", "minutes"],
        [[line["name"], line["direction"], *(cell(line, h) for h in headers), cell(line, "chance"),
          cell(line, "match rate"), cell(line, "overlap", 2), str(line["seeds"]), cell(line, "minutes")]
         for line in table],
    )


def write_table(out, table):
    buffer = io.StringIO()
    fields = list(dict.fromkeys(key for line in table for key in line))
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomically(Path(out) / "table.csv", buffer.getvalue())
    write_atomically(Path(out) / "table.json", json.dumps(table, indent=1) + "\n")
    write_atomically(Path(out) / "table.md", markdown(table) + "\n")


def parser():
    p = Parser(prog="cmg.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("table", help="table file")
    p.add_argument("--data", nargs="+", required=True, help="feature files to pretrain on, or: synthetic")
    p.add_argument("--eval-data", nargs="+", help="feature files of AVE; not needed with synthetic")
    p.add_argument("--annotations", help="AVE's annotation folder; not needed with synthetic")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--rows", nargs="+", help="only the rows of these names")
    p.add_argument("--jobs", type=int, default=1, help="runs side by side; the cores are shared out among them")
    p.add_argument("--device", default="auto")
    p.add_argument("--out", required=True, help="folder of the runs and of the table")
    return p


@command
def main(argv=None):
    args = parser().parse_args(argv)
    rows = read_table(args.table)
    unknown = [name for name in args.rows or () if name not in rows]
    if unknown:
        raise UserError(f"--rows {unknown[0]!r}: not in {args.table}, which has {', '.join(rows)}")
    if args.data != ["synthetic"] and not (args.eval_data and args.annotations):
        raise UserError("--eval-data and --annotations: expected AVE's features and annotation folder")
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: expected at least 1")
    rows = {name: flags for name, flags in rows.items() if not args.rows or name in args.rows}
    cells = [Cell(name, flags, seed, args) for seed in args.seeds for name, flags in rows.items()]
    missing = [cell for cell in cells if not cell.finished]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} finished before", file=sys.stderr)
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)

    def fill(cell):
        cell.run(threads)
        print(f"done: {cell.name}, seed {cell.seed}", file=sys.stderr)

    failures = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for future in [pool.submit(fill, cell) for cell in missing]:
            try:
                future.result()
            except UserError as error:  # the other cells go on
                failures.append(str(error))
    finished = [cell for name in rows for cell in cells if cell.name == name and cell.finished]
    if finished:
        table = summarise(finished)
        write_table(args.out, table)
        print(markdown(table) + f"\n\n{Path(args.out) / 'table.md'}")
    if failures:
        raise UserError(f"{len(failures)} of {len(cells)} cells failed; first: {failures[0]}")


if __name__ == "__main__":
    main()
