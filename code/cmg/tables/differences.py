"""Rows against a row that they are to beat: paired differences, with intervals over pretraining seeds and test clips.

Two runs of the same seed are tested on the same clips, so what is compared are the differences d[s, i] of seed s and
clip i. Seeds and clusters of clips are both drawn: another pretraining, or another test set, gives another difference.
With the S × G cluster means u (unequal clusters weighted as the mean over clips has them), and the mean squares of the
two-way analysis of variance, of seeds A, of clusters B, of what is left E, the mean difference has the variance

    (A + B − E) / SG,    at least A / SG and B / SG,

and a t distribution with Satterthwaite's degrees of freedom, (A + B − E)² / (A²/(S−1) + B²/(G−1) + E²/((S−1)(G−1))).
A bootstrap of three seeds would be a third too narrow in variance and know nothing of the t. One seed leaves the
clips' part alone, figures without scores of clips the seeds' part: then it is the paired t interval.
"""

import numpy as np
from scipy.stats import t

from cmg.downstream.clip_scores import ClipScores, cluster_sums
from cmg.downstream.results import markdown_table
from cmg.tables.cells import direction_of

LEVEL = 0.95
HEAD = """\
Differences: row less reference in pairs of one seed and the same test clips, with 95 % intervals over pretraining seeds
and test clusters. \\*: excludes zero. s: over seeds alone, where clips have no scores. Each interval stands for itself:
of twenty comparisons of equals, one excludes zero.
"""


def interval(d, clusters) -> tuple[float, float, float] | None:
    """Mean of differences d [S, N] of S seeds and N clips, and the ends of its interval; None of a single seed and
    cluster. clusters : [N]."""
    seeds = d.mean(1, keepdims=True)  # (S, 1)
    sizes = cluster_sums(np.ones(d.shape[1]), clusters)  # (G,)
    u = seeds + (cluster_sums(d, clusters) - seeds * sizes) * len(sizes) / d.shape[1]  # (S, G), rows with mean `seeds`
    (s, g), centre = u.shape, u.mean()
    a = g * ((u.mean(1) - centre) ** 2).sum() / (s - 1) if s > 1 else 0.0
    b = s * ((u.mean(0) - centre) ** 2).sum() / (g - 1) if g > 1 else 0.0
    if s == g == 1:
        return None
    left = u - u.mean(1, keepdims=True) - u.mean(0) + centre
    e = (left**2).sum() / ((s - 1) * (g - 1)) if s > 1 and g > 1 else 0.0
    square, terms = max((a + b - e, [(a, s - 1), (b, g - 1), (e, (s - 1) * (g - 1))]), (a, [(a, s - 1)]),
                        (b, [(b, g - 1)]), key=lambda one: one[0])
    if not square:
        return centre, centre, centre
    freedom = square**2 / sum(x**2 / n for x, n in terms if n)
    half = t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(square / (s * g))
    return float(centre), float(centre - half), float(centre + half)


def compare_rows(cells, shown, references) -> list[dict]:
    """Every row less its reference, in every column where both have a seed in common.

    Parameters
    ----------
    cells : they have name, seed, `results()` and `clip_scores()`
    shown : list of (task, direction, metric)
    references : dict row -> the row that it is compared with

    Returns
    -------
    list of {row, reference, task, direction, metric, seeds, clips, clusters, difference, low, high}; clips and clusters
    are None where clips have no scores, low and high where there is nothing to tell them by.
    """
    found = {}
    for cell in cells:
        scores = cell.clip_scores()
        for task, rows in cell.results().items():
            for row in (row for row in rows if row["value"] is not None):
                own = scores.get((task, row["source"], row["target"], row["metric"]))
                found.setdefault((cell.name, task, direction_of(row), row["metric"]), {})[cell.seed] = row["value"], own
    lines = []
    for name, reference in references.items():
        for column in shown if name != reference else ():
            ours, theirs = found.get((name, *column), {}), found.get((reference, *column), {})
            if seeds := [seed for seed in ours if seed in theirs]:
                pairs = [(ours[seed], theirs[seed]) for seed in seeds]
                line = dict(zip(("row", "reference", "task", "direction", "metric"), (name, reference, *column)))
                lines.append(line | {"seeds": seeds} | _difference(pairs))
    return lines


def _difference(pairs) -> dict:
    """Of (value, scores) pairs, one a seed."""
    scores = [own for pair in pairs for _, own in pair]
    d, clusters, clips = np.array([[a - b] for (a, _), (b, _) in pairs]), np.zeros(1), None
    if all(isinstance(own, ClipScores) for own in scores):
        names = set.intersection(*(set(own.names) for own in scores))
        kept = [[n for n, name in sorted(enumerate(own.names), key=lambda one: one[1]) if name in names]
                for own in scores]
        x = np.array([own.scores[rows] for own, rows in zip(scores, kept)])  # (2S, N), clips by their names
        d, clusters, clips = x[::2] - x[1::2], scores[0].clusters[kept[0]], len(names)
    mean, low, high = interval(d, clusters) or (float(d.mean()), None, None)
    return {"clips": clips, "clusters": clips and len(np.unique(clusters)), "difference": mean, "low": low,
            "high": high}


def excludes_zero(line) -> bool:
    return line["low"] is not None and not line["low"] <= 0 <= line["high"]


def markdown_differences(lines, shown, titles) -> str:
    """A row a line, its difference and interval in every column; titles : of the columns."""
    cells = {(line["row"], line["task"], line["direction"], line["metric"]): line for line in lines}

    def cell(line):
        if line is None:
            return "–"
        if line["low"] is None:
            return f"{line['difference']:+.1f}"
        ends = f"[{line['low']:+.1f}, {line['high']:+.1f}]{'' if line['clips'] else ' s'}"
        return f"{line['difference']:+.1f} {ends}" + (" *" if excludes_zero(line) else "")

    rows = [[name, reference, *(cell(cells.get((name, *column))) for column in shown)]
            for name, reference in dict.fromkeys((line["row"], line["reference"]) for line in lines)]
    return HEAD + "\n" + markdown_table(["row", "less", *titles], rows) + "\n"
