"""`cmg.tables`: trials before a table, judged on validation alone, and the order of rows beside the published one."""

import csv
import itertools
import json
from statistics import mean

import numpy as np
import pytest
from scipy.stats import spearmanr
from support_tables import AVE, AVVP, Finished, row, rows, run

from cmg.errors import UserError
from cmg.tables.file import read_table
from cmg.tables.paper import compare, read_published, spearman
from cmg.tables.report import summarise, write_table
from support import TABLES

TWO = AVE + """
defaults = "--lr 1"
trial_flags = "--epochs 2"
rows = [
    {name = "a", flags = "--method smit", trials = ["--lr 3"]},
    {name = "b",                          trials = ["--lr 0.5"]},
]
"""


def test_trials_of_a_table_file(tmp_path):
    """The first trial is the row as it stands; one row more or less tuned than the others is refused."""
    file = tmp_path / "t.toml"
    file.write_text(TWO)
    table = read_table(file)
    assert table.trials == {"a": [[], ["--lr", "3"]], "b": [[], ["--lr", "0.5"]]}
    assert table.trial_flags == ["--epochs", "2"]
    assert table.rows == {"a": ["--lr", "1", "--method", "smit"], "b": ["--lr", "1"]}
    tuned = '{name = "a", trials = ["--lr 3"]}'
    for text, said in [
            (f'rows = [{tuned}, {{name = "b"}}]', "row 'b': 1 of 2 trials; expected as many as 'a' has"),
            ('rows = [{name = "a", trials = ["--lr 3", "--lr  3"]}]',
             "row 'a': trials: '--lr 3' is tried already; expected other flags"),
            ('rows = [{name = "a", trials = [""]}]', "row 'a': trials: '' is tried already; expected other flags"),
            (f'trial_flags = "--lr 1"\n{rows(a="")}', "trial_flags and no trials; expected rows with trials")]:
        file.write_text(AVE + text)
        with pytest.raises(UserError) as error:
            read_table(file)
        assert str(error.value) == f"{file}: {said}"
    file.write_text(AVE.replace("--data", "--protocol paper --data") + f"rows = [{tuned}]")
    with pytest.raises(UserError, match="nothing to judge them by; expected an evaluation by ave, strict"):
        read_table(file)


def test_table_1_tunes_all_methods_alike():
    table = read_table(TABLES / "table1.toml")
    assert {len(trials) for trials in table.trials.values()} == {2} and len(table.trials) == 12
    for name in ("S-MiT", "MST", "TURN", "CODIS", "CMCM"):
        assert table.trials[f"DCID+{name}"] == table.trials[name]


def test_rows_run_with_the_flags_of_their_best_trial(tmp_path, processes, capsys):
    made = run(tmp_path, TWO + AVVP)
    assert processes.calls == ["pretrain", "ave"] * 4 + ["pretrain", "ave", "avvp"] * 2
    pretrained = [[*call[2:-8], call[call.index("--seed") + 1]] for call in processes.arguments if "--resume" in call]
    assert pretrained == [
        ["--lr", "1", "--method", "smit", "--epochs", "2", "1000"],
        ["--lr", "1", "--method", "smit", "--epochs", "2", "--lr", "3", "1000"],
        ["--lr", "1", "--epochs", "2", "1000"], ["--lr", "1", "--epochs", "2", "--lr", "0.5", "1000"],
        ["--lr", "1", "--method", "smit", "--lr", "3", "0"], ["--lr", "1", "0"]]
    tested = [call for call, task in zip(processes.arguments, processes.calls) if task == "ave"]
    assert ["--choose-only" in call for call in tested] == [True] * 4 + [False] * 2
    sweep = json.loads((tmp_path / "o" / "sweep.json").read_text())
    assert (sweep["seed"], sweep["judge"], sweep["shared"]) == (1000, "ave", "--epochs 2")
    assert [sweep["rows"][name]["chosen"] for name in "ab"] == [1, 0]
    second = sweep["rows"]["a"]["trials"][1]
    assert second == {"flags": "--lr 3", "checkpoint": "epoch_000.pt", "epoch": 0, "score": 3.0, "video → audio": 6.0,
                      "audio → video": 0, "minutes": 0.5, "commit": "c0"}
    assert made["sweep"] == sweep
    with open(tmp_path / "o" / "table.csv", newline="") as file:
        told = {line["name"]: (line["trials"], line["chosen"]) for line in csv.DictReader(file)}
    assert told == {"a": ("as it stands; --lr 3", "--lr 3"), "b": ("as it stands; --lr 0.5", "as it stands")}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]]
             for line in (tmp_path / "o" / "table.md").read_text().splitlines()]
    assert ["a", "--lr 3", "3.0", "6.0", "0.0", "chosen", "c0"] in lines
    assert ["b", "--lr 0.5", "0.5", "1.0", "0.0", "", "c0"] in lines
    assert "Tuned: 2 trials a row (seed 1000, --epochs 2)" in (tmp_path / "o" / "table.md").read_text()

    done = len(processes.calls)
    run(tmp_path, TWO + AVVP)  # finished trials and cells alike
    assert len(processes.calls) == done
    run(tmp_path, TWO + AVVP, "--seeds", "0", "1")  # another seed does not tune again
    assert processes.calls[done:] == ["pretrain", "ave", "avvp"] * 2
    more = TWO.replace('["--lr 3"]', '["--lr 3", "--lr 9"]').replace('["--lr 0.5"]', '["--lr 0.5", "--lr 9"]')
    for other, said in [(TWO.replace("--lr 3", "--lr 4"), "has trials as it stands, --lr 3; expected all of them"),
                        (more.replace('"--lr 3", "--lr 9"', '"--lr 9", "--lr 3"'),
                         "has trials as it stands, --lr 3; expected all of them"),
                        (TWO.replace("--epochs 2", "--epochs 3"), "a-trial-1-seed1000 was pretrained with other flags"),
                        (more, "a-seed0 was pretrained with other flags")]:
        with pytest.raises(SystemExit):
            run(tmp_path, other + AVVP)
        assert said in capsys.readouterr().err


def test_a_row_waits_for_its_trials(tmp_path, processes, capsys):
    """A trial that fails stops its row alone; nothing is chosen among the rest."""
    processes.fails = {"0.5"}
    with pytest.raises(SystemExit):
        run(tmp_path, TWO)
    told = capsys.readouterr().err
    assert "1 trials and 0 of 1 cells failed; first: row 'b, trial 2', seed 1000: pretrain says why" in told
    assert set(json.loads((tmp_path / "o" / "sweep.json").read_text())["rows"]) == {"a"}
    assert (tmp_path / "o" / "a-seed0").exists() and not (tmp_path / "o" / "b-seed0").exists()
    processes.fails = set()
    made = run(tmp_path, TWO)
    assert {line["name"] for line in made["lines"]} == {"a", "b"}
    run(tmp_path, TWO, "--rows", "b")  # the other row's trials stay in the account
    assert set(json.loads((tmp_path / "o" / "sweep.json").read_text())["rows"]) == {"a", "b"}


def test_trials_start_only_where_everything_is_given(tmp_path, processes, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, TWO + 'evaluations.more = {task = "retrieval", flags = "--data {elsewhere}"}\n')
    assert "--set elsewhere=…: missing" in capsys.readouterr().err and not processes.calls


# -- beside the paper ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours, paper, rho", [
    ([1, 2, 3, 4], [10, 20, 30, 40], 1), ([1, 2, 3], [3, 1, 2], 1 - 6 * 6 / (3 * 8)),  # 1 − 6 Σd² / n(n²−1)
    ([1, 1, 2], [1, 2, 3], 3**0.5 / 2),  # ranks 1.5 1.5 3 and 1 2 3: covariance 1.5 over √(1.5 · 2)
    ([1], [2], None), ([1, 1, 1], [1, 2, 3], None), ([1, 2, 3], [5, 5, 5], None)])
def test_order_beside_the_papers(ours, paper, rho):
    """None where there is no order: fewer than two rows, or equal figures."""
    names = range(len(ours))
    summary = [{"name": n, "task": "ave", "direction": "v2a", "metric": "accuracy", "value": ours[n]} for n in names]
    found = compare(summary, [("ave", "v2a", "accuracy")], {(n, "ave", "v2a"): paper[n] for n in names})["spearman"]
    assert [one["rho"] for one in found] == 2 * [rho if rho is None else pytest.approx(rho)]  # also over the means


def test_p_of_an_order_is_the_share_of_all_orders():
    """Enumerated up to eight rows, against scipy's ρ of every order; beyond, a share of random ones."""
    paper = [3.0, 1.0, 4.0, 1.5, 9.0, 2.0]
    for ours in ([10, 20, 60, 30, 40, 50], [1, 2, 2, 2, 5, 9]):
        rho = spearmanr(ours, paper).statistic
        rhos = np.array([spearmanr(order, paper).statistic for order in itertools.permutations(ours)])
        assert spearman(zip(ours, paper)) == (pytest.approx(rho), pytest.approx(np.mean(abs(rhos) > abs(rho) - 1e-9)))
    assert spearman(zip(range(4), range(4)))[1] == pytest.approx(2 / 24)  # of all orders, it and its reverse
    ours = np.random.default_rng(0).permutation(12)
    found = spearman(zip(ours, range(12)))
    assert found == spearman(zip(ours, range(12)))
    assert found[1] == pytest.approx(spearmanr(ours, range(12)).pvalue, abs=0.01)  # of Student's t


def test_comparison_by_hand(tmp_path):
    """Rows that the paper lacks stay out; the mean is over the rows that have every column."""
    ours = {"x": (10.0, 90.0), "y": (20.0, 50.0), "z": (30.0, 70.0), "new": (99.0, 1.0), "half": (5.0, None)}
    cells = [Finished(name, 0, {"ave": [row("accuracy", v2a), row("segment_accuracy", 50.0)]
                                + ([row("accuracy", a2v, "video", source="audio")] if a2v else [])})
             for name, (v2a, a2v) in ours.items()]
    file = tmp_path / "t.toml"
    file.write_text('evaluations.ave = {task = "ave", metrics = ["accuracy", "segment_accuracy"]}\n' + rows(x=""))
    paper = {"x": (1, 3), "y": (2, 2), "z": (3, 1), "half": (4, 9), "gone": (7, 7)}
    lines = [f"{name},ave,{direction},{size},{value + (size == '24K') * 40}\n" for name, values in paper.items()
             for direction, value in zip(("v2a", "a2v"), values) for size in ("24K", "40K")]
    (tmp_path / "t.paper.csv").write_text("# where from\nrow,task,direction,pretraining,value\n" + "".join(lines))
    evaluations, summary = read_table(file).evaluations, summarise(cells)
    published = read_published(file)
    assert len(published) == 10 and published["z", "ave", "a2v"] == 1
    write_table(tmp_path / "o", summary, evaluations, cells, published=published)
    found = json.loads((tmp_path / "o" / "table.json").read_text())["comparison"]
    assert [(one["row"], one["direction"], one["value"], one["published"]) for one in found["figures"]] == [
        ("x", "v2a", 10, 1), ("y", "v2a", 20, 2), ("z", "v2a", 30, 3), ("half", "v2a", 5, 4),
        ("x", "a2v", 90, 3), ("y", "a2v", 50, 2), ("z", "a2v", 70, 1)]
    # v2a: ranks 2 3 4 1 and 1 2 3 4, Σd² = 12; a2v: 3 1 2 and 3 2 1, Σd² = 2; means 50 35 50 and 2 2 2
    assert [(one["task"], one["direction"], one["rows"]) for one in found["spearman"]] == [
        ("ave", "v2a", 4), ("ave", "a2v", 3), ("mean", "", 3)]
    assert [one["rho"] for one in found["spearman"]] == [pytest.approx(1 - 6 * 12 / 60), pytest.approx(0.5), None]
    text = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in (tmp_path / "o" / "table.md").read_text().splitlines()]
    assert ["row", "ave accuracy v2a", "ave accuracy a2v", "mean"] in text
    assert ["z", "30.0 / 3.0", "70.0 / 1.0", "50.0 / 2.0"] in text and ["half", "5.0 / 4.0", "–", "–"] in text
    assert ["Spearman's ρ", "-0.20", "0.50", "–"] in text and ["p of ρ", "0.917", "1.000", "–"] in text
    with open(tmp_path / "o" / "table.csv", newline="") as csv_file:
        by = {(line["name"], line["direction"], line["metric"]): line["published"] for line in csv.DictReader(csv_file)}
    assert (by["z", "v2a", "accuracy"], by["z", "v2a", "segment_accuracy"], by["new", "v2a", "accuracy"]) == (
        "3.0", "", "")
    assert compare(summary, [("ave", "v2a", "accuracy")], {}) == {}


@pytest.mark.parametrize("text, said", [
    ("a,b\n", "columns \\['a', 'b'\\]"), ("row,task,direction,pretraining,value\nx,ave,v2a,40K,high\n", "'high'"),
    ("row,task,direction,pretraining,value\n" + 2 * "x,ave,v2a,40K,1\n", "x ave v2a twice")])
def test_broken_published_figures_are_one_line(tmp_path, text, said):
    (tmp_path / "t.paper.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_published(tmp_path / "t.toml")
    assert read_published(tmp_path / "other.toml") == {}


def test_published_figures_of_the_repository():
    """Means of the four columns, added up from the paper's tables by hand, and names that the table files have."""
    directions = [(task, direction) for task in ("ave", "avvp") for direction in ("v2a", "a2v")]
    means = {"Baseline": 6.6, "S-MiT": 17.9, "MST": 22.5, "CODIS": 30.1, "TURN": 29.9, "CMCM": 39.1, "DCID+S-MiT": 41.8,
             "DCID+TURN": 45.0, "DCID+MST": 46.6, "DCID+CODIS": 48.1, "DCID+CMCM": 50.2, "Uni-Code": 57.4}
    one, two, three = (read_published(TABLES / f"table{n}.toml") for n in (1, 2, 3))
    assert len(one) == 48 and len(two) == 32
    for name, value in means.items():
        assert mean(one[(name, *column)] for column in directions) == pytest.approx(value, abs=0.051)
    for column in directions:
        assert two[("Uni-Code", *column)] == one[("Uni-Code", *column)]
        assert two[("without MM-EMA", *column)] == one[("DCID+CMCM", *column)]
    assert three["Uni-Code", "ucf-vgg", "v2a"] == 67.1 and three["without CLUB", "ucf-vgg", "a2v"] == 9.59
    for number, published in ((1, one), (2, two), (3, three)):
        rows = {name for name, _, _ in published} - {"labeled modality"}
        assert rows <= set(read_table(TABLES / f"table{number}.toml").rows)
