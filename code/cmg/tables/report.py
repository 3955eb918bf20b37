"""What `cmg.tables` makes of finished cells: mean ± std over pretraining seeds as Markdown, CSV, JSON and a
figure."""

import csv
import io
import json
import re
from pathlib import Path
from statistics import mean, stdev

from cmg.downstream.results import markdown_table
from cmg.figures import bars, lines
from cmg.figures.names import arrow_of, axis_label, figure_name
from cmg.figures.style import save
from cmg.files import write_atomically
from cmg.tables.cells import direction_of, numerics_of
from cmg.tables.differences import compare_rows, markdown_differences
from cmg.tables.latex import latex
from cmg.tables.paper import compare, markdown_comparison
from cmg.tables.sweep import markdown_sweep, spoken

MEANS = ("chance", "test_error", "match_rate", "match_chance", "used_codes", "code_overlap")  # over seeds, of a line
SPREAD = """\
±: standard deviation over pretraining seeds, each the mean of its probe seeds. Test error: standard error of one seed's
figure over the test clips, by clusters of clips that share something. Match rate: % of seconds with the same code in
both modalities; match chance: what independent draws from the two usages would have. Match rates compare at equal
numbers of codes alone. Code overlap does not look at pairs: shuffled clips have the same.
"""


def spread(values):
    """Mean and sample standard deviation (0 for one value)."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def summarise(cells) -> list[dict]:
    """A line for every row, evaluation, direction and metric of the cells.

    `value`, `own` (the same probe on its own modality), `bound` (a probe trained and tested on the target, the upper
    bound) and their `_std` are over the pretraining seeds that have a figure, each the mean of its probe seeds;
    `test_error`, `chance` and what is said of codes are means. `commits` are those that measured, `numerics` the
    versions of the arithmetic behind the figures.
    """
    groups = {}
    for cell in cells:
        for task, rows in cell.results().items():
            for row in rows:
                direction = direction_of(row)
                groups.setdefault((cell.name, task, direction, row["metric"]), []).append((cell.seed, row))
    lines = []
    for (name, task, direction, metric), found in groups.items():
        rows = [row for _, row in found]
        line = {"name": name, "task": task, "protocol": rows[0]["protocol"], "direction": direction, "metric": metric,
                "seeds": [seed for seed, _ in found], "values": [row["value"] for row in rows]}
        for key, field in (("value", "value"), ("own", "source_value"), ("bound", "target_value")):
            values = [row[field] for row in rows if row.get(field) is not None]
            line[key], line[f"{key}_std"] = spread(values) if values else (None, None)
        for field in MEANS:
            values = [row[field] for row in rows if row.get(field) is not None]
            line[field] = mean(values) if values else None
        line |= {field: rows[0].get(field) for field in ("n_test", "n_clusters")}
        line["commits"] = sorted({row["commit"] for row in rows})
        line["numerics"] = sorted({numerics_of(row) for row in rows})
        lines.append(line)
    return lines


def common_chance(summary, column):
    """Chance of a column; None where rows have their own, as in segmentation: a wrong query's figure."""
    values = [line["chance"] for line in summary if (line["task"], line["direction"], line["metric"]) == column]
    values = [value for value in values if value is not None]
    return mean(values) if values and max(values) - min(values) < 1 else None


def columns(summary, evaluations) -> list[tuple[str, str, str]]:
    """(evaluation, direction, metric) of every column, in the order of the table file."""
    shown = []
    for one in evaluations:
        metrics = one.metrics or tuple(line["metric"] for line in summary if line["task"] == one.name)[:1]
        for metric in metrics:
            shown += dict.fromkeys((line["task"], line["direction"], line["metric"]) for line in summary
                                   if (line["task"], line["metric"]) == (one.name, metric))
    return shown


def absent(summary, evaluations) -> list[str]:
    """What is asked for and in no result, a line a metric."""
    measured = {one.name: list(dict.fromkeys(line["metric"] for line in summary if line["task"] == one.name))
                for one in evaluations}
    return [f"evaluation {one.name!r}: no result has the metric {metric!r}; there are {', '.join(measured[one.name])}"
            for one in evaluations for metric in one.metrics if measured[one.name] and metric not in measured[one.name]]


def headers(shown, summary):
    """Names of columns; the metric where a task has several, the protocol where it is not strict."""
    several = {task for task, _, metric in shown if any(t == task and m != metric for t, _, m in shown)}
    protocol = {line["task"]: line["protocol"] for line in summary}
    return [f"{task}{f' {metric}' if task in several else ''} {direction}"
            + (" (paper)" if protocol[task] == "paper" and "paper" not in task else "")
            for task, direction, metric in shown]


def plus_minus(line, key):
    """A figure with its deviation over seeds; a single seed has none."""
    if line[key] is None:
        return "–"
    return f"{line[key]:.1f} ± {line[f'{key}_std']:.1f}" if len(line["seeds"]) > 1 else f"{line[key]:.1f}"


def number(line, key, digits=1):
    return "–" if line[key] is None else f"{line[key]:.{digits}f}"


def markdown(summary, evaluations, cells, sweep=None, published=None, differences=(), brief=False) -> str:
    """Transfer of every row in every column; unless it is to be brief, own modalities, upper bounds, errors, chance and
    sharing line by line; differences, as `compare_rows` has them; the same figures beside the published ones, where
    there are any; and what was tuned, where a sweep went before."""
    shown = columns(summary, evaluations)
    lines = {(line["name"], line["task"], line["direction"], line["metric"]): line for line in summary}
    names = list(dict.fromkeys(line["name"] for line in summary))
    accounts = [cell.account() for cell in cells]
    body = []
    for name in names:
        own = [account for account in accounts if account["name"] == name]
        found = [lines.get((name, *column)) for column in shown]
        body.append([name, *("–" if line is None else plus_minus(line, "value") for line in found),
                     str(len(own)), f"{mean(account['minutes'] for account in own):.1f}",
                     ", ".join(sorted({account["commit"] for account in own}))])
    chance = [common_chance(summary, column) for column in shown]
    body.append(["chance", *("–" if value is None else f"{value:.1f}" for value in chance), "", "", ""])
    wide = markdown_table(["transfer", *headers(shown, summary), "seeds", "minutes", "pretrained at"], body)
    order = [lines[(name, *column)] for name in names for column in shown if (name, *column) in lines]
    details = markdown_table(
        ["row", "task", "protocol", "direction", "metric", "transfer", "test error", "own modality", "upper bound",
         "chance", "match rate", "match chance", "codes", "code overlap", "clips", "clusters", "numerics", "seeds",
         "measured at"],
        [[line["name"], line["task"], line["protocol"], line["direction"], line["metric"],
          plus_minus(line, "value"), number(line, "test_error"), plus_minus(line, "own"), plus_minus(line, "bound"),
          number(line, "chance"), number(line, "match_rate"), number(line, "match_chance"),
          number(line, "used_codes", 0), number(line, "code_overlap", 2), number(line, "n_test", 0),
          number(line, "n_clusters", 0), ", ".join(map(str, line["numerics"])), str(len(line["seeds"])),
          ", ".join(line["commits"])] for line in order])
    parts = [f"{wide}\n", *older(summary), *([] if brief else [f"{details}\n", SPREAD])]
    if differences:
        parts.append(markdown_differences(differences, shown, headers(shown, summary)))
    comparison = compare(summary, shown, published or {})
    if comparison:
        parts.append(markdown_comparison(comparison))
    if sweep:
        parts.append(markdown_sweep(sweep, names))
    return "\n".join(parts)


def older(summary) -> list[str]:
    """The warning below a table that mixes versions of the arithmetic: which rows are of an older one."""
    newest = max(version for line in summary for version in line["numerics"])
    found = {}
    for line in summary:
        found.setdefault(line["name"], set()).update({*line["numerics"]} - {newest})
    named = [f"{name} ({', '.join(map(str, sorted(versions)))})" for name, versions in found.items() if versions]
    return [f"**Not one arithmetic.** Rows with figures of an older version than {newest}, not to be compared with the "
            f"others: {'; '.join(named)}. `cmg.CHANGES` says what has changed since.\n"] if named else []


def write_table(out, summary, evaluations, cells, sweep=None, published=None, references=None) -> str:
    """table.md, table.csv (a line for every figure), table.json (the same, every cell, trial and difference),
    table.tex, table.png and table.pdf -> a brief text to print.

    references : dict row -> the row that it is compared with.
    """
    out, shown = Path(out), columns(summary, evaluations)
    comparison = compare(summary, shown, published or {})
    paper = {(one["row"], one["task"], one["direction"], one["metric"]): one["published"]
             for one in comparison.get("figures", ())}
    differences = compare_rows(cells, shown, references or {})
    compared = {(one["row"], one["task"], one["direction"], one["metric"]): one for one in differences}
    flat = []
    for line in summary:
        flat.append(line | {key: " ".join(map(str, line[key])) for key in ("seeds", "values", "commits", "numerics")})
        key = line["name"], line["task"], line["direction"], line["metric"]
        flat[-1] |= {name: compared.get(key, {}).get(name) for name in ("reference", "difference", "low", "high")}
        flat[-1]["published"] = paper.get(key)
        if sweep:
            tuned = sweep["rows"][line["name"]]
            flat[-1]["trials"] = "; ".join(spoken(trial["flags"]) for trial in tuned["trials"])
            flat[-1]["chosen"] = spoken(tuned["trials"][tuned["chosen"]]["flags"])
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    content = {"lines": summary, "cells": [cell.account() for cell in cells], "sweep": sweep or {},
               "differences": differences, "comparison": comparison}
    text = markdown(summary, evaluations, cells, sweep, published, differences)
    write_atomically(out / "table.csv", buffer.getvalue())  # once all of it can be said
    write_atomically(out / "table.json", json.dumps(content, indent=1) + "\n")
    write_atomically(out / "table.md", text)
    chance = [common_chance(summary, column) for column in shown]
    write_atomically(out / "table.tex", latex(summary, shown, headers(shown, summary), chance))
    draw(out / "table.png", summary, evaluations, cells)
    return markdown(summary, evaluations, cells, sweep, published, differences, brief=True)


def swept(cells) -> str:
    """What the number at the end of every row's name counts: the flag that has this value in all rows."""
    flags = [set(zip(cell.flags, cell.flags[1:])) for cell in cells]
    numbers = [re.search(r"\d*$", cell.name)[0] for cell in cells]
    named = set.intersection(*({flag for flag, value in own if value == number} for own, number in zip(flags, numbers)))
    return min(named).removeprefix("--").replace("-", " ") if named else "number in the name of the row"


def titles(shown, summary, evaluations) -> dict[tuple[str, str], str]:
    """Printed names of all (evaluation, metric); with the evaluation's own where two would be the same."""
    task = {one.name: one.module.rpartition(".")[2] for one in evaluations}
    protocol = {line["task"]: line["protocol"] for line in summary}
    names = {(one, metric): figure_name(task[one], metric, protocol=protocol[one]) for one, _, metric in shown}
    return {key: name if [*names.values()].count(name) == 1 else f"{name} ({key[0]})" for key, name in names.items()}


def draw(path, summary, evaluations, cells):
    """Bars, or lines where all rows are named by a number (`AV 256`, `AV 400`): a sweep, over what the number counts.
    A panel for every evaluation and metric; whiskers are the standard deviation over pretraining seeds."""
    shown = [column for column in columns(summary, evaluations) if "rank" not in column[2]]  # ranks are no percentages
    found = {(line["name"], line["task"], line["direction"], line["metric"]): line for line in summary}
    rows = list(dict.fromkeys(line["name"] for line in summary))
    ends = {name: re.fullmatch(r"(.*?)\s*(\d+)", name) for name in rows}
    sweep = len(rows) > 1 and all(ends.values())

    def figures(name, own):
        cells = [found.get((name, *column), {}) for column in own]
        return [(cell.get("value"), cell.get("value_std")) for cell in cells]

    panels = []
    for (task, metric), title in titles(shown, summary, evaluations).items():
        own = [column for column in shown if (column[0], column[2]) == (task, metric)]
        chance = [common_chance(summary, column) for column in own]

        if sweep:
            curves = {}
            for name in rows:
                for (_, direction, _), figure in zip(own, figures(name, own)):
                    curve = ", ".join(filter(None, [ends[name][1], arrow_of(direction)]))
                    curves.setdefault(curve, []).append((int(ends[name][2]), *figure))
            panels.append(lines.Panel(title, axis_label(metric), curves, sorted({*chance} - {None})))
        else:
            panels.append(bars.Panel(title, axis_label(metric), [arrow_of(direction) for _, direction, _ in own],
                                     {name: figures(name, own) for name in rows}, chance))
    named = [cell for cell in cells if cell.name in rows]
    return save(lines.draw(panels, swept(named)) if sweep else bars.draw(panels), path) if panels else None
