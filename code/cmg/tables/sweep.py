"""The sweep before a table: all trials of all rows, and of every row the trial that its cells are run with.

A trial is one run, OUT/trials/<row>-trial-<n>-seed1000, with the flags that the table file gives it. It is judged by
AVE's validation split alone, by the very score that chooses among the checkpoints of a run: the mean over directions
and over both figures, clip and segment. No trial is tested. Trials are kept, continued and refused as cells are.

OUT/sweep.json holds all trials of all rows, their scores, and which one was chosen.
"""

import json
import shlex
import sys
from pathlib import Path

from cmg.cli import of_shard
from cmg.downstream.results import markdown_table
from cmg.errors import UserError
from cmg.files import parse_json, write_atomically
from cmg.tables.cells import Cell, pretraining_of
from cmg.tables.file import slug
from cmg.tables.running import fill_in

SEED = 1000  # none that a table reports: no reported run was picked for its luck


def tune(table, names, args):
    """Run the trials of these rows as far as they are missing.

    Returns
    -------
    rows : dict name -> flags to run the row with; rows are absent of which a trial failed.
    record : content of sweep.json, {} where the table has no trials.
    failures : a line for every trial that failed.

    Raises
    ------
    UserError
        A trial that sweep.json holds is gone from the table file, or was run with other flags: what has been tried
        belongs in the account.
    """
    if not table.trials:
        return {name: table.rows[name] for name in names}, {}, []
    path, judge = Path(args.out) / "sweep.json", table.evaluations[0]
    before = _read(path)
    for name in names:
        tried = [trial["flags"] for trial in before.get(name, {}).get("trials", ())]
        if tried != [shlex.join(flags) for flags in table.trials[name]][: len(tried)]:
            raise UserError(f"row {name!r}: {path} has trials {', '.join(map(spoken, tried))}; expected all of them "
                            "in the table file, in this order, or another --out")
    judge = judge._replace(arguments=(*judge.arguments, "--choose-only"))
    cells = {name: [Cell(f"{name}, trial {n}", table.rows[name] + table.trial_flags + flags, SEED, [judge], args,
                         Path(args.out) / "trials") for n, flags in enumerate(table.trials[name], 1)]
             for name in names}
    trials = of_shard([cell for own in cells.values() for cell in own], args.shard)
    missing = [cell for cell in trials if not cell.finished]
    print(f"{len(trials)} trials, {len(trials) - len(missing)} finished before", file=sys.stderr)
    failures = fill_in(missing, args.jobs, args.device)
    finished = {name: own for name, own in cells.items() if all(cell.finished for cell in own)}
    if args.shard and len(finished) + len(failures) < len(cells):
        print(f"note: {len(cells) - len(finished)} rows wait for trials that other shards run; once these have ended, "
              "the same command goes on", file=sys.stderr)
    record = {name: before[name] for name in table.rows if name in before}
    for name, own in finished.items():
        trials = [{"flags": shlex.join(flags), **_outcome(cell, judge)}
                  for flags, cell in zip(table.trials[name], own)]
        best = max(range(len(trials)), key=lambda n: trials[n]["score"])  # the earlier one of equals
        record[name] = {"trials": trials, "chosen": best}
    content = {"seed": SEED, "judge": judge.name, "shared": shlex.join(table.trial_flags), "rows": record}
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    rows = {name: table.rows[name] + table.trials[name][record[name]["chosen"]] for name in finished}
    return rows, content, failures


def _read(path):
    """The rows of an earlier sweep.json."""
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))["rows"]
        for own in rows.values():
            own["trials"][own["chosen"]]
            for trial in own["trials"]:
                shlex.split(trial["flags"])
        return rows
    except FileNotFoundError:
        return {}
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
        raise UserError(f"{path}: no record of a sweep; expected another --out") from None


def _outcome(cell, judge):
    """Score of the trial's best checkpoint, its figures by direction, and what it took."""
    path = cell.folder / slug(judge.name) / "ave_sweep_strict.json"
    try:
        entries = parse_json(path.read_text(encoding="utf-8"))
        best = max(entries, key=lambda entry: float(entry["score"]))
    except (KeyError, OSError, RecursionError, TypeError, ValueError):
        raise UserError(f"{path}: no scores of checkpoints; expected another --out") from None
    spent = pretraining_of(cell.folder)
    return best | {"minutes": spent["minutes"], "commit": spent["commit"]}


def spoken(flags: str) -> str:
    return flags or "as it stands"


def markdown_sweep(record, names) -> str:
    """What was tuned, over which values, and what was chosen."""
    rows = {name: record["rows"][name] for name in names if name in record["rows"]}
    directions = [key for key in next(iter(rows.values()))["trials"][0] if "→" in key]
    lines = [[name, spoken(trial["flags"]), *(f"{trial[key]:.1f}" for key in ("score", *directions)),
              "chosen" if number == own["chosen"] else "", trial["commit"]]
             for name, own in rows.items() for number, trial in enumerate(own["trials"])]
    count = len(next(iter(rows.values()))["trials"])
    shared = f", {record['shared']}" if record["shared"] else ""
    head = (f"Tuned: {count} trials a row (seed {record['seed']}{shared}), judged on the validation split of "
            f"{record['judge']}, by the mean over directions and figures; directions are clip top-1.")
    return head + "\n\n" + markdown_table(["row", "trial", "score", *directions, "", "commit"], lines) + "\n"
