"""A table beside the paper's: published figures, and how far the rows come in the same order.

Published figures stand in a file beside the table file, `table1.paper.csv` beside `table1.toml`: columns row, task,
direction, pretraining and value, lines of # as comments; rows and tasks are called as in the table file. Compared are
the figures of one pretraining set, 40K, with the first metric of the task: metrics, data and sizes differ, so nothing
is compared but the order of the rows: by Spearman's ρ, with p, the share of all orders of the rows, or of RESAMPLES
random ones where there are more, whose ρ is as far from 0.
"""

import csv
from pathlib import Path

import numpy as np
from scipy.stats import permutation_test, rankdata

from cmg.downstream.results import markdown_table
from cmg.errors import UserError
from cmg.files import read_text

PRETRAINING = "40K"  # clips; the set that the paper's ablations use
RESAMPLES = 99_999  # exact up to eight rows


def read_published(path) -> dict[tuple[str, str, str], float]:
    """Published figures by (row, task, direction) of the file beside a table file; none where there is no such file.

    Raises
    ------
    UserError
        Other columns, a value that is no number, or a figure given twice.
    """
    path = Path(path).with_suffix(".paper.csv")
    if not path.is_file():
        return {}
    lines = [line for line in read_text(path, "published figures").splitlines()
             if line and not line.startswith("#")]
    reader, found = csv.DictReader(lines), {}
    if reader.fieldnames != ["row", "task", "direction", "pretraining", "value"]:
        raise UserError(f"{path}: columns {reader.fieldnames}; expected row, task, direction, pretraining, value")
    for line in reader:
        if line["pretraining"] != PRETRAINING:
            continue
        key = line["row"], line["task"], line["direction"]
        if key in found:
            raise UserError(f"{path}: {' '.join(key)} twice; expected one figure")
        try:
            found[key] = float(line["value"])
        except (TypeError, ValueError):
            raise UserError(f"{path}: {' '.join(key)} is {line['value']!r}; expected a number") from None
    return found


def compare(summary, shown, published) -> dict:
    """Our rows beside the published ones.

    Parameters
    ----------
    summary : list of dict, lines as `cmg.tables.report.summarise` makes them
    shown : list of (task, direction, metric), the columns of the table; the first metric of a task and direction is
        the one that is compared
    published : dict (row, task, direction) -> figure

    Returns
    -------
    dict with `figures`, a list of {row, task, direction, metric, value, published}; and `spearman`, a list of {task,
    direction, rows, rho, p}, the last of them over the means of all columns, for the rows that have all. Empty where
    nothing is there to compare.
    """
    ours = {(line["name"], line["task"], line["direction"], line["metric"]): line["value"] for line in summary}
    names = list(dict.fromkeys(line["name"] for line in summary))
    firsts = {}
    for task, direction, metric in shown:
        firsts.setdefault((task, direction), metric)
    figures, pairs = [], {}
    for (task, direction), metric in firsts.items():
        for name in names:
            value, paper = ours.get((name, task, direction, metric)), published.get((name, task, direction))
            if value is not None and paper is not None:
                figures.append({"row": name, "task": task, "direction": direction, "metric": metric, "value": value,
                                "published": paper})
                pairs.setdefault((task, direction), {})[name] = value, paper
    if not pairs:
        return {}
    complete = [name for name in names if all(name in column for column in pairs.values())]
    means = {name: tuple(np.mean([column[name] for column in pairs.values()], 0).tolist()) for name in complete}
    correlations = [{"task": task, "direction": direction, "rows": len(column)}
                    | dict(zip(("rho", "p"), spearman(column.values())))
                    for (task, direction), column in [*pairs.items(), (("mean", ""), means)]]
    return {"pretraining": PRETRAINING, "figures": figures, "spearman": correlations,
            "means": {name: {"value": value, "published": paper} for name, (value, paper) in means.items()}}


def spearman(pairs) -> tuple[float, float] | tuple[None, None]:
    """Spearman's ρ of (value, published) pairs and its two-sided p among permutations of the rows; None without two
    different values on either side."""
    sides = [rankdata(side) for side in zip(*pairs)]
    if not sides or any(len(set(side)) < 2 for side in sides):
        return None, None
    ours, theirs = ((ranks - ranks.mean()) / (ranks.std() * len(ranks) ** 0.5) for ranks in sides)
    found = permutation_test((ours,), lambda x, axis: (x * theirs).sum(axis), permutation_type="pairings",
                             vectorized=True, n_resamples=RESAMPLES, batch=10_000, rng=0)
    return float(found.statistic), float(found.pvalue)


def markdown_comparison(comparison) -> str:
    """Ours / published, a row a line, then the correlations."""
    columns = [(one["task"], one["direction"]) for one in comparison["spearman"][:-1]]
    cells = {(one["row"], one["task"], one["direction"]): one for one in comparison["figures"]}
    metrics = {(one["task"], one["direction"]): one["metric"] for one in comparison["figures"]}

    def both(found):
        return "–" if found is None else f"{found['value']:.1f} / {found['published']:.1f}"

    lines = [[name, *(both(cells.get((name, *column))) for column in columns), both(comparison["means"].get(name))]
             for name in dict.fromkeys(one["row"] for one in comparison["figures"])]
    for title, key, digits in (("Spearman's ρ", "rho", 2), ("p of ρ", "p", 3)):
        lines.append([title, *("–" if one[key] is None else f"{one[key]:.{digits}f}"
                               for one in comparison["spearman"])])
    lines.append(["rows", *(str(one["rows"]) for one in comparison["spearman"])])
    titles = [f"{task} {metrics[task, direction]} {direction}" for task, direction in columns]
    head = (f"This table / the paper's, pretrained on {comparison['pretraining']}. Data, sizes and metrics differ: "
            "only the order of the rows compares.")
    return head + "\n\n" + markdown_table(["row", *titles, "mean"], lines) + "\n"
