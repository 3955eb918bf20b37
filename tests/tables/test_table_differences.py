"""Rows less their reference: intervals over seeds and clusters, by hand, by simulation, and in the table's files."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_rel
from support_tables import Finished, row, rows

from cmg.downstream.clip_scores import ClipScores, write_clip_scores
from cmg.tables.cells import Cell
from cmg.tables.differences import compare_rows, excludes_zero, interval
from cmg.tables.file import read_table
from cmg.tables.report import summarise, write_table

COLUMN = ("ave", "v2a", "accuracy")
KEY = ("ave", "video", "audio", "accuracy")


def test_one_seed_or_one_cluster_is_a_t_interval():
    d = np.random.default_rng(0).normal(1, 2, 40)
    for x, clusters in ((d[None], np.arange(40)), (d[:, None], np.zeros(1))):  # clips, seeds
        expected = ttest_1samp(d, 0).confidence_interval()
        assert interval(x, clusters) == pytest.approx((d.mean(), expected.low, expected.high))
    assert interval(np.ones((1, 5)), np.zeros(5)) is None
    assert interval(np.zeros((3, 4)), np.arange(4)) == (0, 0, 0)


def test_two_ways_by_hand():
    """Two seeds, three clips: A = 3 · 2 · 1² · 2, B by clip means 1, 3, 8, E by what is left, in plain sums."""
    d = np.array([[1.0, 2.0, 6.0], [1.0, 4.0, 10.0]])  # seed means 3 and 5, clip means 1, 3, 8, mean 4
    a = 3 * ((3 - 4) ** 2 + (5 - 4) ** 2) / 1
    b = 2 * ((1 - 4) ** 2 + (3 - 4) ** 2 + (8 - 4) ** 2) / 2
    e = sum((d[s, c] - (3, 5)[s] - (1, 3, 8)[c] + 4) ** 2 for s in range(2) for c in range(3)) / 2
    square = a + b - e
    half = t.ppf(0.975, square**2 / (a**2 / 1 + b**2 / 2 + e**2 / 2)) * (square / 6) ** 0.5
    assert (a, b, e) == (6, 26, 2)
    assert interval(d, np.arange(3)) == pytest.approx((4, 4 - half, 4 + half))
    assert interval(np.repeat(d, 7, 1), np.repeat(np.arange(3), 7)) == pytest.approx((4, 4 - half, 4 + half))


def test_unequal_clusters_count_by_their_clips():
    """One seed: the error is the sandwich's of the mean over clips, G / (G − 1) Σ (cluster's sum of what is left)²."""
    d, clusters = np.array([[5.0, 1, 0, 3, -1, 4]]), np.array(["a", "a", "a", "b", "b", "c"])
    left = [6 - 6, 2 - 4, 4 - 2]
    half = t.ppf(0.975, 2) * (3 / 2 * sum(x**2 for x in left)) ** 0.5 / 6
    assert interval(d, clusters) == pytest.approx((2, 2 - half, 2 + half))


@pytest.mark.parametrize("seed_std, cluster_std", [(2.0, 8.0), (6.0, 3.0), (0.0, 5.0), (0.0, 0.0)])
def test_nineteen_of_twenty_intervals_hold_the_truth(seed_std, cluster_std):
    """Three seeds, 40 clusters of 3 clips; where neither varies the interval may be wider, never narrower."""
    rng, clusters, held = np.random.default_rng(1), np.repeat(np.arange(40), 3), 0
    for _ in range(2000):
        d = (5 + rng.normal(0, seed_std, (3, 1)) + rng.normal(0, cluster_std, (1, 40)).repeat(3, 1)
             + rng.normal(0, 10, (3, 120)))
        _, low, high = interval(d, clusters)
        held += low <= 5 <= high
    assert 0.935 <= held / 2000 <= (0.97 if seed_std or cluster_std else 1)


def cells_of(scores, names=None):
    """Cells of rows with these scores, dict row -> [seeds, clips], two clips a cluster."""
    found = []
    for name, own in scores.items():
        for seed, x in enumerate(own):
            ids = np.array(names[name] if names else [f"c{n}" for n in range(len(x))])
            known = ClipScores(ids, np.array([f"p{int(one[1:]) // 2}" for one in ids]), np.array(x, float))
            found.append(Finished(name, seed, {"ave": [row("accuracy", float(np.mean(x)))]}, {KEY: known}))
    return found


def test_rows_are_paired_by_seed_and_clip():
    rng = np.random.default_rng(2)
    scores = {"ref": rng.normal(50, 20, (3, 8)), "row": rng.normal(60, 20, (3, 8))}
    (line,) = compare_rows(cells_of(scores), [COLUMN], {"ref": "ref", "row": "ref"})
    d = scores["row"] - scores["ref"]
    assert (line["difference"], line["low"], line["high"]) == pytest.approx(interval(d, np.arange(8) // 2))
    assert (line["row"], line["reference"], line["seeds"], line["clips"], line["clusters"]) == (
        "row", "ref", [0, 1, 2], 8, 4)
    # Another order of the clips, and one that the other row lacks: those that both have, by name.
    names = {"ref": [f"c{n}" for n in range(8)], "row": [f"c{n}" for n in (7, 6, 5, 4, 3, 2, 1, 9)]}
    (line,) = compare_rows(cells_of(scores, names), [COLUMN], {"row": "ref"})
    d = scores["row"][:, :7] - scores["ref"][:, 7:0:-1]
    assert (line["difference"], line["low"], line["high"]) == pytest.approx(
        interval(d, np.array([3, 3, 2, 2, 1, 1, 0])))
    assert line["clips"] == 7


def test_figures_without_scores_are_compared_over_seeds():
    ours, theirs = [50.0, 60.0, 55.0], [40.0, 52.0, 41.0]
    cells = [Finished(name, seed, {"ave": [row("accuracy", value)]}) for name, own in (("a", theirs), ("b", ours))
             for seed, value in enumerate(own)]
    (line,) = compare_rows(cells, [COLUMN], {"a": "a", "b": "a"})
    expected = ttest_rel(ours, theirs).confidence_interval()
    assert (line["difference"], line["low"], line["high"]) == pytest.approx(
        (np.mean(ours) - np.mean(theirs), expected.low, expected.high))
    assert (line["clips"], line["clusters"]) == (None, None)
    (line,) = compare_rows(cells[:1] + cells[3:], [COLUMN], {"b": "a"})  # one seed in common
    assert (line["difference"], line["low"], line["high"], line["seeds"]) == (10, None, None, [0])
    assert compare_rows(cells[1:2] + cells[3:4], [COLUMN], {"b": "a"}) == []  # none
    assert not excludes_zero(line) and excludes_zero({"low": 1, "high": 2}) and not excludes_zero({"low": 0, "high": 2})


def test_table_has_the_differences(tmp_path):
    scores = {"ref": [[0, 0, 100, 100]] * 2, "more": [[0, 100, 100, 100]] * 2, "all": [[100, 100, 100, 100]] * 2}
    cells, file = cells_of(scores), tmp_path / "t.toml"
    file.write_text('evaluations.ave = {task = "ave"}\n' + rows(ref="", more="", all=""))
    table = read_table(file)
    text = write_table(tmp_path / "o", summarise(cells), table.evaluations, cells, references=table.references)
    whole = (tmp_path / "o" / "table.md").read_text()
    assert {*text.splitlines()} < {*whole.splitlines()} and "| own modality |" in whole and "own" not in text
    lines = json.loads((tmp_path / "o" / "table.json").read_text())["differences"]
    ends = {line["row"]: (line["difference"], line["low"], line["high"]) for line in lines}
    half = t.ppf(0.975, 1) * 25  # cluster means of 50 and 0, equal in both seeds; of 100 and 0
    assert ends == {"more": pytest.approx((25, 25 - half, 25 + half)),
                    "all": pytest.approx((50, 50 - 2 * half, 50 + 2 * half))}
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["row", "less", "ave v2a"] in found
    assert ["more", "ref", f"+25.0 [{25 - half:+.1f}, {25 + half:+.1f}]"] in found
    assert "pretraining seeds\nand test clusters" in text
    with open(tmp_path / "o" / "table.csv", newline="") as csv_file:
        line = next(line for line in csv.DictReader(csv_file) if line["name"] == "more")
    assert (line["reference"], float(line["difference"]), float(line["high"])) == (
        "ref", 25, pytest.approx(25 + half))


def test_a_cell_reads_the_scores_beside_its_results(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text('evaluations."ave new" = {task = "ave"}\n' + rows(ref=""))
    folder = tmp_path / "ref-seed0"
    (folder / "ave-new").mkdir(parents=True)
    (folder / "cell.json").write_text(json.dumps({"flags": [], "evaluations": {"ave new": {
        "arguments": [], "minutes": 1}}}))
    (folder / "ave-new" / "results.json").write_text(json.dumps([row("accuracy", 50.0) | {"task": "ave"},
                                                                 row("segment_accuracy", 50.0) | {"task": "ave"}]))
    known = ClipScores(np.array(["a", "b"]), np.array(["p", "q"]), np.array([0.0, 100.0]))
    write_clip_scores(folder / "ave-new", "ave", "strict", {KEY[1:]: known})
    table = read_table(file)
    cell = Cell("ref", [], 0, table.evaluations, type("Args", (), {"out": tmp_path, "set": []}))
    ((key, found),) = cell.clip_scores().items()
    assert key == ("ave new", *KEY[1:]) and all(np.array_equal(a, b) for a, b in zip(found, known))
