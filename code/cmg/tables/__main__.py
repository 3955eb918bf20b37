r"""Tables of results as commands: run what is missing, then print mean ± std over pretraining seeds.

    python -m cmg.tables digits --data pretrain.h5 --set ave=ave.h5 annotations=AVE/ \
        --seeds 0 1 2 --jobs 2 --out checkpoint/digits

The table file names the rows, which are flags of cmg.pretrain, and the tasks that every row is evaluated on (see
cmg/tables/file.py). A cell is a run folder OUT/<row>-seed<seed>, pretrained and evaluated in processes of their own;
all that they print is in OUT/<row>-seed<seed>.log. What is finished is not done again, neither a pretraining nor a
single evaluation: a task added to the table file runs alone. An interrupted pretraining continues. A cell that another
commit made is kept, and the table says so.

Every row is compared with the first, or with the `reference` that the table file names: mean difference over the same
seeds and test clips, with a 95 % interval (see cmg/tables/differences.py).

Where the table file gives rows several trials, these come first, and every row is run with the flags of the trial that
does best on AVE's validation split (see cmg/tables/sweep.py). Where published figures lie beside it, the table has them
beside its own, and how far the rows come in the same order (see cmg/tables/paper.py).

Writes table.md, table.csv, table.json, table.png and table.pdf into OUT.
"""

import sys
from pathlib import Path

from cmg.cli import Parser, command, of_shard, require_folder, shard, whole
from cmg.downstream.results import printed
from cmg.errors import UserError
from cmg.tables.cells import Cell
from cmg.tables.file import fill, find_table, read_settings, read_table
from cmg.tables.paper import read_published
from cmg.tables.report import absent, summarise, write_table
from cmg.tables.running import fill_in
from cmg.tables.sweep import tune


def parser():
    p = Parser(prog="cmg.tables", description=__doc__)
    p.add_argument("table", help="table file, in TOML, or the name of one of the package's, such as digits")
    p.add_argument("--data", nargs="+", required=True, help="feature files to pretrain on, or: synthetic")
    p.add_argument("--set", nargs="+", action="append", default=[], metavar="NAME=VALUE",
                   help="what stands for {NAME} in the table file, feature files and annotation folders say")
    p.add_argument("--seeds", type=whole(), nargs="+", default=[0, 1, 2],
                   help="of pretraining, one run of a row for each")
    p.add_argument("--rows", nargs="+", help="only the rows of these names, and those that they begin with")
    p.add_argument("--tasks", nargs="+", help="only the evaluations of these names")
    p.add_argument("--jobs", type=whole(1), default=1, help="runs side by side, each with OMP_NUM_THREADS threads; if "
                   "that is not set, the cores are shared out among them")
    p.add_argument("--device", nargs="+", default=["auto"], metavar="DEVICE",
                   help="auto, cpu, cuda, cuda:N; runs side by side are dealt to several in turn")
    p.add_argument("--shard", type=shard, metavar="I/N", help="run only every N-th cell, and make no table: for "
                   "several machines, or an array of jobs; without it the same command makes the table of all")
    p.add_argument("--out", required=True, help="folder of the runs and of the table")
    return p


def chosen(flag, wanted, named, path):
    """Those of `named` (dict or list with .name) that the flag asks for, all by default."""
    unknown = [name for name in wanted or () if name not in named]
    if unknown:
        raise UserError(f"{flag} {unknown[0]!r}: not in {path}, which has {', '.join(named)}")
    return [name for name in named if not wanted or name in wanted]


@command
def main(argv=None):
    args = parser().parse_args(argv)
    require_folder(args.out)
    args.table = find_table(args.table)
    table = read_table(args.table)
    names = table.with_starts(chosen("--rows", args.rows, list(table.rows), args.table))
    tasks = chosen("--tasks", args.tasks, [one.name for one in table.evaluations], args.table)
    evaluations = [one for one in table.evaluations if one.name in tasks]
    published = read_published(args.table)
    settings = read_settings(args.set)
    # what --set lacks is told before the trials, not after
    filled = {name: fill(table.rows[name], settings, f"row {name!r}") for name in names}
    table = table._replace(rows=table.rows | filled)
    for one in evaluations:
        if any(one.name in table.tasks[name] for name in names):
            fill(one.arguments, settings | {"run": ["run"]}, f"evaluation {one.name!r}")
    rows, sweep, failed = tune(table, names, args)
    cells = {}
    for name, flags in rows.items():
        own = [one for one in evaluations if one.name in table.tasks[name]]
        for seed in dict.fromkeys(args.seeds):
            start = cells.get((table.starts.get(name), seed))
            cells[name, seed] = Cell(name, flags, seed, own, args, start=start)
    # Seed by seed, so that a table that is stopped early has all of its rows.
    own = sorted(cells.values(), key=lambda cell: args.seeds.index(cell.seed))
    firsts = of_shard([cell for cell in own if not cell.start], args.shard)  # what begins with one goes where it is
    own = [cell for cell in own if cell.first in firsts]
    missing = [cell for cell in own if not cell.finished]
    print(f"{len(own)} cells, {len(own) - len(missing)} finished before", file=sys.stderr)
    failures = fill_in(missing, args.jobs, args.device)
    present = [cell for cell in cells.values() if cell.pretrained]
    if any(cell.results() for cell in present) and not args.shard:
        summary = summarise(present)
        for line in absent(summary, evaluations):
            print(f"note: {line}", file=sys.stderr)
        text = write_table(args.out, summary, evaluations, present, sweep, published, table.references)
        print(f"{printed(text)}\n{Path(args.out) / 'table.md'}")
    if failed or failures:
        trials = f"{len(failed)} trials and " if failed else ""
        raise UserError(f"{trials}{len(failures)} of {len(own)} cells failed; first: {(failed + failures)[0]}")


if __name__ == "__main__":
    main()
