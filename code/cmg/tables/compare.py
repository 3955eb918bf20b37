"""Any finished runs side by side: `python -m cmg.tables.compare RUN …`

    python -m cmg.tables.compare checkpoint/mine checkpoint/other
    python -m cmg.tables.compare ours=checkpoint/a0 ours=checkpoint/a1 theirs=checkpoint/b0 --out figs/compared

A run is a folder with the `results.json` that tasks have left in it; nothing is run here. Runs of one name are one row,
mean ± std over their pretraining seeds; without NAME= a run has its folder's name, and runs whose flags differ in
nothing but the seed have that of the first. Every other row is compared with the first by paired differences
(`cmg.tables.differences`). Without --out the table is printed; with it, table.md, table.csv, table.json, table.tex
(booktabs, best in bold), table.png and table.pdf are written.
"""

import json
from pathlib import Path

from cmg.cli import Parser, command, require_folder
from cmg.downstream.clip_scores import read_clip_scores
from cmg.downstream.results import printed
from cmg.errors import UserError
from cmg.files import parse_json, read_text
from cmg.tables.cells import numerics_of, pretraining_of, rows_of
from cmg.tables.differences import compare_rows
from cmg.tables.file import Evaluation
from cmg.tables.report import columns, markdown, summarise, write_table

FREE = {"seed", "out", "data", "device", "workers", "cache", "resume", "log_every", "save_every", "timeout_minutes",
        "report_to"}


class FinishedRun:
    """A run folder as a cell of a table; see `cmg.tables.cells.Cell`. An evaluation is a task under a protocol."""

    def __init__(self, folder, name):
        self.folder, self.name = Path(folder), name
        args = self.folder / "args.json"
        try:
            flags = parse_json(read_text(args, "the folder of a run of cmg.pretrain"))["flags"]
            self.seed = int(flags["seed"])
            self.flags = json.dumps({key: flags[key] for key in sorted(flags) if key not in FREE})
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{args}: not the args.json of a run; expected the folder of one") from None
        self._results = {}
        for row in rows_of(self.folder):
            if row["value"] is not None:
                words = row["task"], row.get("gallery"), None if row["protocol"] == "strict" else row["protocol"]
                self._results.setdefault(" ".join(filter(None, words)), []).append(row)

    def results(self):
        return self._results

    def clip_scores(self):
        found = {(name, row["source"], row["target"], row["metric"]): read_clip_scores(self.folder, row)
                 for name, rows in self._results.items() for row in rows}
        return {key: scores for key, scores in found.items() if scores is not None}

    def account(self):
        return {"name": self.name, "seed": self.seed, "folder": str(self.folder), **pretraining_of(self.folder),
                "evaluations": {name: {"commit": rows[0]["commit"], "numerics": numerics_of(rows[0])}
                                for name, rows in self._results.items()}}


def open_runs(given) -> list[FinishedRun]:
    """Runs as the command line names them, `FOLDER` or `NAME=FOLDER`.

    Raises
    ------
    UserError : no run, a run without results, or two of one name and seed.
    """
    runs, names = [], {}
    for word in given:
        name, mark, folder = word.partition("=")
        run = FinishedRun(*((folder, name) if mark else (word, Path(word).name)))
        if not mark:
            run.name = names.setdefault(run.flags, run.name)
        for other in runs:
            if (other.name, other.seed) == (run.name, run.seed):
                raise UserError(f"{run.folder}: of the same name ({run.name}) and seed as {other.folder}; expected "
                                "another, by NAME=FOLDER")
            if other.name == run.name and other.flags != run.flags:
                raise UserError(f"{run.folder}: has other flags than {other.folder}; expected another name, by "
                                "NAME=FOLDER")
        runs.append(run)
    return runs


def parser():
    p = Parser(prog="cmg.tables.compare", description=__doc__)
    p.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="run folders with a results.json")
    p.add_argument("--tasks", nargs="+", help="only these, as in results.json; default: all")
    p.add_argument("--metrics", nargs="+", help="only these, as in results.json; default: all")
    p.add_argument("--out", help="folder of the table; default: it is printed")
    return p


@command
def main(argv=None):
    args = parser().parse_args(argv)
    if args.out:
        require_folder(args.out)
    runs = open_runs(args.runs)
    found = {}
    for run in runs:
        for name, rows in run.results().items():
            found.setdefault(name, {}).update(dict.fromkeys(row["metric"] for row in rows))
    for flag, wanted, known in (("--tasks", args.tasks, found),
                                ("--metrics", args.metrics, {m: None for own in found.values() for m in own})):
        for name in wanted or ():
            if name not in known:
                raise UserError(f"{flag} {name}: in no results.json; there are {', '.join(known)}")
    evaluations = [Evaluation(name, kept, f"cmg.downstream.{name.split()[0]}", ()) for name, metrics in found.items()
                   if not args.tasks or name in args.tasks
                   if (kept := tuple(m for m in metrics if not args.metrics or m in args.metrics))]
    summary = [line for line in summarise(runs) if any((line["task"], line["metric"]) == (one.name, metric)
                                                       for one in evaluations for metric in one.metrics)]
    if not summary:
        raise UserError("--tasks, --metrics: no figure is left; expected a metric of these tasks")
    references = dict.fromkeys((run.name for run in runs), runs[0].name)
    if args.out:
        text = write_table(args.out, summary, evaluations, runs, references=references)
        print(f"{printed(text)}\n{Path(args.out) / 'table.md'}")
    else:
        differences = compare_rows(runs, columns(summary, evaluations), references)
        print(printed(markdown(summary, evaluations, runs, differences=differences)))


if __name__ == "__main__":
    main()
