"""`cmg.tables`: mean and std over seeds, and cells that are run once, side by side, in processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import pytest
from support_tables import AVE, AVVP, Finished, Processes, row, rows, run

from cmg import tables
from cmg.data.synthetic import SyntheticSpec, synthetic_files
from cmg.errors import UserError
from cmg.tables import report
from cmg.tables.__main__ import main
from cmg.tables.cells import Cell
from cmg.tables.file import read_table
from cmg.tables.report import columns, common_chance, draw, markdown, summarise, write_table
from cmg.tables.running import Workers


def test_summary_is_mean_and_std_over_seeds(tmp_path):
    values = [70.0, 80.0, 84.0]
    cells = [Finished("row", seed, {"ave": [row("accuracy", v), row("segment_accuracy", v / 2)]})
             for seed, v in enumerate(values)]
    cells[0].results()["avvp"] = [row("precision", 30.0, "video", "paper", "audio"), row("f1", 20.0, "video", "paper")]
    summary = summarise(cells)
    line = summary[0]
    assert (line["task"], line["direction"], line["metric"], line["seeds"]) == ("ave", "v2a", "accuracy", [0, 1, 2])
    assert line["value"] == pytest.approx(mean(values)) and line["value_std"] == pytest.approx(stdev(values))
    assert line["own"] == pytest.approx(mean(values) + 1) and line["values"] == values
    assert (line["chance"], line["match_rate"], line["code_overlap"]) == (10.0, 40.0, None)
    file = tmp_path / "t.toml"
    file.write_text('evaluations.ave = {task = "ave", metrics = ["segment_accuracy", "accuracy"]}\n' + AVVP
                    + rows(row=""))
    evaluations = read_table(file).evaluations
    assert columns(summary, evaluations) == [
        ("ave", "v2a", "segment_accuracy"), ("ave", "v2a", "accuracy"), ("avvp", "a2v", "precision")]
    header, _, own, chance, _, titles, _, *details = markdown(summary, evaluations, cells).splitlines()
    details, notes = details[:3], details[3:]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "transfer", "ave segment_accuracy v2a", "ave accuracy v2a", "avvp a2v (paper)", "seeds", "minutes",
        "pretrained at"]
    assert [cell.strip() for cell in own.split("|")[1:-1]] == [
        "row", "39.0 ± 3.6", "78.0 ± 7.2", "30.0", "3", "1.5", "abc"]
    assert [cell.strip() for cell in chance.split("|")[1:5]] == ["chance", "10.0", "10.0", "10.0"]
    told = [dict(zip(*([cell.strip() for cell in line.split("|")] for line in (titles, own)))) for own in details]
    assert told[1]["own modality"] == "79.0 ± 7.2" and [line["seeds"] for line in told] == ["3", "3", "1"]
    assert notes[1].startswith("±: standard deviation over pretraining seeds, each the mean of its probe seeds.")


def test_lines_say_what_is_known_of_test_set_and_codes():
    known = {"test_error": 2.0, "n_clusters": 60, "match_chance": 3.0, "used_codes": 40}
    cells = [Finished("row", seed, {"ave": [row("accuracy", 70.0) | {key: x + seed for key, x in known.items()}]})
             for seed in (0, 1)] + [Finished("old", 0, {"ave": [row("accuracy", 70.0)]})]
    new, old = summarise(cells)
    assert {key: new[key] for key in known} == {"test_error": 2.5, "n_clusters": 60, "match_chance": 3.5,
                                                "used_codes": 40.5}
    assert {old[key] for key in known} == {None}


def test_rows_of_an_older_arithmetic_are_named(tmp_path):
    """A row of results.json without a version is of version 0; nothing is said where all rows are of one."""
    found = {"new": 3, "mixed": 2, "old": None}
    cells = [Finished(name, seed, {"ave": [row("accuracy", 50.0) | ({} if version is None or seed else
                                                                    {"numerics": version})]})
             for name, version in found.items() for seed in (0, 1) if name != "new" or not seed]
    summary = summarise(cells)
    assert [line["numerics"] for line in summary] == [[3], [0, 2], [0]]
    file = tmp_path / "t.toml"
    file.write_text('evaluations.ave = {task = "ave"}\n' + rows(new=""))
    evaluations = read_table(file).evaluations
    table = markdown(summary, evaluations, cells)
    assert "of an older version than 3, not to be compared with the others: mixed (0, 2); old (0). " in table
    details = table[table.index("| numerics |"):].splitlines()[2:5]
    assert [line.split("|")[-4].strip() for line in details] == ["3", "0, 2", "0"]
    assert "older version" not in markdown(summary[2:], evaluations, cells[3:])
    write_table(tmp_path / "o", summary, evaluations, cells)
    with open(tmp_path / "o" / "table.csv", newline="") as lines:
        assert [line["numerics"] for line in csv.DictReader(lines)] == ["3", "0 2", "0"]


def test_accounts_say_the_arithmetic_of_every_step(tmp_path, processes):
    made = run(tmp_path, AVE + rows(a=""))
    assert (made["cells"][0]["numerics"], made["cells"][0]["evaluations"]["ave"]["numerics"]) == (0, 0)
    folder = tmp_path / "o" / "a-seed0"
    for path, change in ((folder / "args.json", lambda content: content | {"numerics": 3}),
                         (folder / "ave" / "results.json", lambda found: [one | {"numerics": 2} for one in found])):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    made = run(tmp_path, AVE + rows(a=""))
    assert (made["cells"][0]["numerics"], made["cells"][0]["evaluations"]["ave"]["numerics"]) == (3, 2)


def test_chance_of_a_column_only_where_rows_share_it(tmp_path, monkeypatch):
    """In segmentation a row's chance is its own: what a wrong query reads."""
    cells = [Finished("row", 0, {"avs": [row("miou", 75.0)]}), Finished("other", 0, {"avs": [row("miou", 64.0)]})]
    cells[1].results()["avs"][0]["chance"] = 60.0
    summary, column = summarise(cells), ("avs", "v2a", "miou")
    assert common_chance(summary, column) is None and common_chance(summary[:1], column) == 10.0
    file = tmp_path / "t.toml"
    file.write_text('evaluations.avs = {task = "avs", metrics = ["miou"]}\n' + rows(row="", other=""))
    evaluations = read_table(file).evaluations
    line = next(line for line in markdown(summary, evaluations, cells).splitlines() if line.startswith("| chance"))
    assert line.split("|")[2].strip() == "–"
    (panel,) = drawn(monkeypatch, report.bars, tmp_path, cells, evaluations)
    assert panel.chance == [None] and panel.bars == {"row": [(75.0, 0.0)], "other": [(64.0, 0.0)]}
    assert (panel.title, panel.ylabel, panel.groups) == ("AVS-S4 mean IoU", "mean IoU, %", ["V→A"])


def drawn(monkeypatch, kind, tmp_path, cells, evaluations):
    """The panels that `draw` gives to a kind of picture."""
    given = []
    monkeypatch.setattr(kind, "draw", lambda *asked, draw=kind.draw: given.append(asked) or draw(*asked))
    draw(tmp_path / "t.png", summarise(cells), evaluations, cells)
    assert (tmp_path / "t.png").exists() and (tmp_path / "t.pdf").exists()
    ((panels, *rest),) = given
    return panels if not rest else (panels, *rest)


def test_picture_has_a_panel_for_every_evaluation_and_metric(tmp_path, monkeypatch):
    found = {"ave": [row("accuracy", 40.0), row("segment_accuracy", 20.0), row("accuracy", 30.0, "video", "strict",
                                                                               "audio")],
             "ave-60": [row("accuracy", 50.0)], "avvp paper": [row("precision", 7.0, protocol="paper")],
             "retrieval": [row("codes_r10", 5.0), row("codes_median_rank", 50.0)]}
    file = tmp_path / "t.toml"
    file.write_text('''
        evaluations.ave = {task = "ave", metrics = ["accuracy", "segment_accuracy"]}
        evaluations.ave-60 = {task = "ave", flags = "--checkpoint x"}
        evaluations."avvp paper" = {task = "avvp"}
        evaluations.retrieval = {task = "retrieval", metrics = ["codes_r10", "codes_median_rank"]}
        rows = [{name = "row"}]
        ''')
    cells = [Finished("row", seed, found) for seed in (0, 1)] + [Finished("other", 0, {"ave": found["ave"][:1]})]
    panels = drawn(monkeypatch, report.bars, tmp_path, cells, read_table(file).evaluations)
    assert [(panel.title, panel.ylabel, panel.groups) for panel in panels] == [
        ("AVE clip top-1 (ave)", "accuracy, %", ["V→A", "A→V"]), ("AVE segment accuracy", "accuracy, %", ["V→A"]),
        ("AVE clip top-1 (ave-60)", "accuracy, %", ["V→A"]), ("AVVP precision (paper)", "precision, %", ["V→A"]),
        ("Retrieval R@10 of codes", "recall, %", ["V→A"])]
    assert panels[0].bars == {"row": [(40.0, 0.0), (30.0, 0.0)], "other": [(40.0, 0.0), (None, None)]}
    assert panels[0].chance == [10.0, 10.0] and panels[1].bars["other"] == [(None, None)]


def test_picture_of_a_sweep_is_lines_over_what_was_swept(tmp_path, monkeypatch):
    cells = [Finished(f"AV {n}", seed, {"ave": [row("accuracy", float(n + seed))]})
             for n in (32, 64) for seed in (0, 2)]
    for cell in cells:
        cell.flags = ["--epochs", "64", "--codes", cell.name.split()[1], "--batch-size", "32"]
    file = tmp_path / "t.toml"
    file.write_text('evaluations.ave = {task = "ave"}\nrows = [{name = "AV 32"}, {name = "AV 64"}]\n')
    panels, number = drawn(monkeypatch, report.lines, tmp_path, cells, read_table(file).evaluations)
    assert number == "codes"
    assert panels == [report.lines.Panel("AVE clip top-1", "accuracy, %", {"AV, V→A": [
        (32, 33.0, pytest.approx(2**0.5)), (64, 65.0, pytest.approx(2**0.5))]}, [10.0])]
    cells[0].flags = cells[1].flags = ["--codes", "33"]
    assert report.swept(cells) == "number in the name of the row"


def test_only_what_is_missing_is_run(tmp_path, processes, capsys):
    made = run(tmp_path, AVE + rows(a="--lr 1"))
    assert processes.calls == ["pretrain", "ave"]
    assert made["cells"][0]["minutes"] == pytest.approx((20 + 10) / 60, abs=1e-3) and made["cells"][0]["commit"] == "c0"
    run(tmp_path, AVVP + AVE + rows(a="--lr 1"))  # a task more
    assert processes.calls[2:] == ["avvp"]
    made = run(tmp_path, AVVP + AVE + rows(a="--lr 1", b="--lr 2"))  # a row more
    assert processes.calls[3:] == ["pretrain", "ave", "avvp"]
    assert {(line["name"], line["task"]) for line in made["lines"]} == {(n, t) for n in "ab" for t in ("ave", "avvp")}
    run(tmp_path, AVVP + AVE + rows(a="--lr 1", b="--lr 2"), "--set", "ave=moved/a.h5", "--tasks", "avvp")
    assert len(processes.calls) == 6
    with pytest.raises(SystemExit):
        run(tmp_path, AVE + rows(a="--lr 3"))
    assert "row 'a':" in capsys.readouterr().err and len(processes.calls) == 6


STAGES = """rows = [{name = "one", flags = "--lr 1", tasks = []}, {name = "two", flags = "--lr 2", init_from = "one"},
    {name = "three", init_from = "two", tasks = ["avvp"]}, {name = "alone"}]\n"""


def test_a_row_begins_with_another_of_the_same_seed(tmp_path, processes):
    """The other one is run before it, also where it was not asked for; a row has its own tasks, or none and no line."""
    made = run(tmp_path, AVE + AVVP + STAGES, "--seeds", "1", "0", "--jobs", "2", "--rows", "three")
    began = {Path(given[given.index("--out") + 1]).name: given for given in processes.arguments if "--lr" in given
             or "--init-from" in given}
    assert len(began) == 6
    for seed in (0, 1):
        order = [name for name in began if name.endswith(str(seed))]
        assert order == [f"{name}-seed{seed}" for name in ("one", "two", "three")]
        assert "--init-from" not in began[f"one-seed{seed}"]
        for name, before in (("two", "one"), ("three", "two")):
            given = began[f"{name}-seed{seed}"]
            assert given[given.index("--init-from") + 1] == str(tmp_path / "o" / f"{before}-seed{seed}")
    assert {(line["name"], line["task"]) for line in made["lines"]} == {
        ("two", "ave"), ("two", "avvp"), ("three", "avvp")}
    assert {(cell["name"], cell["seed"]) for cell in made["cells"]} == {
        (name, seed) for name in ("one", "two", "three") for seed in (0, 1)}
    before = len(processes.calls)
    run(tmp_path, AVE + AVVP + STAGES, "--seeds", "0", "1")
    assert processes.calls[before:] == ["pretrain", "ave", "avvp"] * 2  # only `alone` was left


def test_rows_read_features_of_their_own(tmp_path, processes, capsys):
    """`--set` fills their flags too; what an unasked row or evaluation lacks is not asked for."""
    text = AVE + 'evaluations.mine = {task = "retrieval", flags = "--data {more}"}\n' + """rows = [
        {name = "a", tasks = ["ave"]}, {name = "b", flags = "--data {own}", tasks = ["mine"]}]\n"""
    run(tmp_path, text, "--rows", "a")
    run(tmp_path, text, "--set", "own=own.h5", "more=more.h5")
    given = [dict(zip(words, words[1:])) for words in processes.arguments[2:]]
    assert processes.calls == ["pretrain", "ave", "pretrain", "retrieval"]
    assert [words["--data"] for words in given] == ["own.h5", "more.h5"]  # the last of two counts
    for lacks, owner in (("own", "row 'b'"), ("more", "evaluation 'mine'")):
        with pytest.raises(SystemExit):
            run(tmp_path, text, "--set", *({"own=own.h5", "more=more.h5"} - {f"{lacks}={lacks}.h5"}))
        assert f"--set {lacks}=…: missing; {owner} needs it" in capsys.readouterr().err


def test_a_row_whose_start_failed_is_told(tmp_path, processes, capsys):
    processes.fails = {"1"}
    with pytest.raises(SystemExit):
        run(tmp_path, AVE + AVVP + STAGES, "--jobs", "2")
    told = capsys.readouterr().err
    assert "failed: row 'two', seed 0: begins with row 'one', which failed" in told
    assert "failed: row 'three', seed 0: begins with row 'two', which failed" in told
    assert processes.calls.count("ave") == 1 and "3 of 4 cells failed" in told  # that of `alone`


def test_other_arguments_are_another_evaluation_and_a_new_choice_outdates_the_rest(tmp_path, processes):
    run(tmp_path, AVE + AVVP + rows(a=""))
    for task in ("ave", "avvp"):
        (tmp_path / "o" / "a-seed0" / task / "latest.pt").touch()  # a network that an evaluation trains
    run(tmp_path, AVE + AVVP.replace("--data", "--batch-size 4 --data") + rows(a=""))
    assert processes.calls == ["pretrain", "ave", "avvp", "avvp"]
    assert [(tmp_path / "o" / "a-seed0" / task / "latest.pt").exists() for task in ("ave", "avvp")] == [True, False]
    changed = AVE.replace("--data", "--seed 1 --data") + AVVP.replace("--data", "--batch-size 4 --data")
    run(tmp_path, changed + rows(a=""))
    assert processes.calls[4:] == ["ave", "avvp"]


def test_a_metric_that_nothing_has_is_told(tmp_path, processes, capsys):
    asked = AVE.replace('task = "ave"', 'task = "ave", metrics = ["acuracy", "accuracy"]')
    assert run(tmp_path, asked + rows(a=""))["lines"][0]["metric"] == "accuracy"
    assert "note: evaluation 'ave': no result has the metric 'acuracy'; there are accuracy\n" in capsys.readouterr().err
    run(tmp_path, asked.replace(', "accuracy"', "") + rows(a=""))  # nothing to draw
    assert "| transfer | seeds | minutes | pretrained at |" in (tmp_path / "o" / "table.md").read_text()


def test_results_that_made_way_for_a_failure_are_missing(tmp_path, processes):
    """With the first arguments again they are made again: nothing is left of the first time."""
    text, other = AVE + rows(a=""), AVE.replace("epochs 2", "epochs 3") + rows(a="")
    first = run(tmp_path, text)
    processes.fails = {"ave"}
    with pytest.raises(SystemExit):
        run(tmp_path, other)
    processes.fails, processes.calls = set(), []
    assert run(tmp_path, text)["lines"] == first["lines"] and processes.calls == ["ave"]


def test_a_failure_is_told_and_the_others_go_on(tmp_path, processes, capsys):
    retrieval = 'evaluations.retrieval = {task = "retrieval"}\n'
    processes.fails = {"avvp"}
    with pytest.raises(SystemExit):
        run(tmp_path, AVE + AVVP + retrieval + rows(a=""))
    assert processes.calls == ["pretrain", "ave", "avvp", "retrieval"]
    assert "row 'a', seed 0: avvp says why (all of it: " in capsys.readouterr().err
    processes.fails = {"ave"}
    with pytest.raises(SystemExit):
        run(tmp_path, AVE + AVVP + retrieval + rows(b=""))
    assert processes.calls[4:] == ["pretrain", "ave"]  # without its choice there is nothing to evaluate
    processes.fails = set()
    run(tmp_path, AVE + AVVP + retrieval + rows(a="", b=""))
    assert processes.calls[6:] == ["avvp", "ave", "avvp", "retrieval"]


def test_an_evaluation_that_writes_no_results_is_not_finished(tmp_path, processes, capsys, monkeypatch):
    make = Processes.__call__

    def silent(self, workers, log, module, *arguments):
        return make(self, workers, log, module, *arguments) if module != "cmg.downstream.neighbourhood" else 0

    monkeypatch.setattr(Processes, "__call__", silent)
    with pytest.raises(SystemExit):
        run(tmp_path, AVE + 'evaluations.shares = {task = "neighbourhood"}\n' + rows(a=""))
    assert "row 'a', seed 0: cmg.downstream.neighbourhood wrote no results to" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "o" / "a-seed0" / "cell.json").read_text())["evaluations"]) == ["ave"]


def test_results_that_make_no_table_are_told(tmp_path, processes, capsys, monkeypatch):
    make = Processes.__call__

    def short(self, workers, log, module, *arguments):
        status = make(self, workers, log, module, *arguments)
        if module == "cmg.downstream.neighbourhood":
            out = Path(arguments[arguments.index("--out") + 1])
            (out / "results.json").write_text(json.dumps([{"source": "video", "target": "audio", "value": 3.0,
                                                           "protocol": "strict", "n_test": 9, "commit": "abc"}]))
        return status

    monkeypatch.setattr(Processes, "__call__", short)
    with pytest.raises(SystemExit):
        run(tmp_path, AVE + 'evaluations.shares = {task = "neighbourhood"}\n' + rows(a=""))
    assert "row 'a', seed 0: cmg.downstream.neighbourhood wrote results without chance, metric; expected rows as " \
           "those of cmg.downstream.ave" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "o" / "a-seed0" / "cell.json").read_text())["evaluations"]) == ["ave"]


def test_cells_of_older_table_files_stay_finished(tmp_path):
    """What cell.json says of a row that was run before table files were TOML."""
    (tmp_path / "table.toml").write_text("""
        defaults = "--preset paper --epochs 48 --lr 1e-3"
        rows = [{name = "paper AV", flags = "--modalities video audio"}, {name = "paper AVT"}]
        evaluations.ave = {task = "ave", flags = "--data {ave} --annotations {ave_lists}"}
        [evaluations.ave-60]
        task = "ave"
        flags = "--checkpoint {run}/best.pt --data {ave_60} --annotations {ave_60_lists}"
    """)
    table = read_table(tmp_path / "table.toml")
    folder = tmp_path / "paper-av-seed0"
    folder.mkdir()
    (folder / "cell.json").write_text(json.dumps({
        "name": "paper AV", "seed": 0, "flags": (
            "--preset paper --epochs 48 --lr 1e-3 --modalities video audio").split(),
        "evaluations": {
            "ave": {"arguments": ["--data", "ave.h5", "--annotations", "ann"], "minutes": 0.5},
            "ave-60": {"arguments": ["--checkpoint", "best.pt", "--data", "ave_60.h5", "--annotations", "annotations"],
                       "minutes": 0.5}}}))
    settings = ["ave=data/ave.h5", "ave_lists=new/ann", "ave_60=data/ave_60.h5", "ave_60_lists=data/annotations"]
    args = SimpleNamespace(out=tmp_path, set=[settings])
    assert Cell("paper AV", table.rows["paper AV"], 0, table.evaluations, args).finished
    assert not Cell("paper AV", table.rows["paper AV"], 1, table.evaluations, args).finished
    with pytest.raises(UserError, match="was pretrained with other flags"):
        Cell("paper AV", table.rows["paper AVT"], 0, table.evaluations, args)


@pytest.mark.parametrize("own", [True, False])
def test_a_task_is_a_module_or_a_file(own, tmp_path):
    """Either finds the package, gets its arguments, and gives back its status."""
    file = tmp_path / "my task.py"
    file.write_text("import sys, cmg\nprint(cmg.__name__, sys.argv[1:])\nsys.exit(3)\n")
    (tmp_path / "in.json").write_text("[1]")
    call = [str(file), "--x", "a b"] if own else ["json.tool", "--compact", str(tmp_path / "in.json")]
    with open(tmp_path / "log", "w") as log:
        status = Workers(1).call(log, *call)
    assert (status, (tmp_path / "log").read_text()) == ((3, "cmg ['--x', 'a b']\n") if own else (0, "[1]\n"))


def test_two_tables_do_not_fill_the_same_cell(tmp_path, processes, capsys):
    import fcntl

    (tmp_path / "o").mkdir()
    with open(tmp_path / "o" / "a-seed0.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            run(tmp_path, AVE + rows(a=""))
    assert "another process is at work" in capsys.readouterr().err and not processes.calls


def test_what_another_process_has_finished_meanwhile_is_not_done_again(tmp_path, processes):
    (tmp_path / "t.toml").write_text(AVE + rows(a=""))
    table = read_table(tmp_path / "t.toml")
    args = SimpleNamespace(out=tmp_path / "o", data=["x.h5"], set=[["ave=ave.h5", "annotations=ann"]])
    ours, theirs = (Cell("a", table.rows["a"], 0, table.evaluations, args) for _ in range(2))  # both find it undone
    for cell in (theirs, ours):
        cell.run(Workers(1), "cpu")
    assert processes.calls == ["pretrain", "ave"] and ours.finished and ours.record == theirs.record


@pytest.mark.slow
def test_cells_run_once_and_make_a_table(tmp_path, capsys):
    files = synthetic_files(tmp_path, SyntheticSpec(clips=48, ave_clips=(12, 12, 12), classes=3))
    table = tmp_path / "t.toml"
    table.write_text(
        AVE + 'defaults = "--preset small --w-rec 0 --w-club 0 --epochs 1 --batch-size 16 --dim 16 --codes 16"\n'
        + rows(full="", broken="--w-cpc nonsense"))
    argv = [str(table), "--data", str(files.pretrain), "--set", f"ave={files.ave}", f"annotations={files.annotations}",
            "--seeds", "0", "1", "--jobs", "2", "--device", "cpu", "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "2 of 4 cells failed" in told.err and "--w-cpc" in told.err  # the other rows went on
    with open(tmp_path / "o" / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["name"], line["direction"]) for line in lines} >= {("full", "v2a"), ("full", "a2v")}
    assert all(line["seeds"] == "0 1" for line in lines)
    by_hand = [row["value"] for seed in (0, 1)
               for row in json.loads((tmp_path / "o" / f"full-seed{seed}" / "ave" / "results.json").read_text())
               if (row["source"], row["target"], row["metric"]) == ("video", "audio", "accuracy")]
    v2a = [float(line["value"]) for line in lines if (line["name"], line["direction"], line["metric"])
           == ("full", "v2a", "accuracy")]
    assert v2a == [pytest.approx(mean(by_hand))]
    assert (tmp_path / "o" / "full-seed0" / "best.pt").exists() and (tmp_path / "o" / "table.png").exists()
    stamp = (tmp_path / "o" / "full-seed0" / "latest.pt").stat().st_mtime_ns
    main([*argv, "--rows", "full"])
    assert "2 cells, 2 finished before" in capsys.readouterr().err
    assert (tmp_path / "o" / "full-seed0" / "latest.pt").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_an_interrupted_table_leaves_no_process_and_goes_on(tmp_path):
    files = synthetic_files(tmp_path, SyntheticSpec(clips=48, ave_clips=(12, 12, 12), classes=3))
    table = tmp_path / "t.toml"
    table.write_text(AVE + 'defaults = "--preset small --w-rec 0 --w-club 0 --batch-size 16 --dim 16 --codes 16"\n'
                     + rows(row="--modalities audio text --epochs 900 --checkpoint-epochs 999"))
    package = str(Path(tables.__file__).parents[2])
    argv = [sys.executable, "-m", "cmg.tables", str(table), "--data", str(files.pretrain), "--set", f"ave={files.ave}",
            f"annotations={files.annotations}", "--seeds", "0", "1", "--device", "cpu", "--out", str(tmp_path / "o")]
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": package}, stderr=subprocess.DEVNULL)
    latest, log = tmp_path / "o" / "row-seed0" / "latest.pt", tmp_path / "o" / "row-seed0.log"
    while not latest.exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    import fcntl

    with open(log, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it: the pretraining has ended as well
    assert not (tmp_path / "o" / "row-seed1").exists()
    table.write_text(table.read_text().replace("900", "60"))
    again = subprocess.run([*argv, "--seeds", "0"], env={**os.environ, "PYTHONPATH": package}, capture_output=True,
                           text=True)
    assert again.returncode == 0, again.stderr
    assert ", from step" in log.read_text()
