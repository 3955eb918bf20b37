"""What lies in the folder of a table and is not as runs and tasks left it: one line, and nothing is written over."""

import json

import pytest
from support_tables import AVE, row, rows, run

A = rows(a="")
CELL = "o/a-seed0/cell.json"
RESULTS = "o/a-seed0/ave/results.json"


def refused(tmp_path, capsys, text=AVE + A):
    """The one line that a second run of the table ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, text)
    lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert stop.value.code == 2 and len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(("change", "told"), [
    ({"metric": None}, "row 1: metric is None; expected a text"),
    ({"source": 7}, "row 1: source is 7; expected a text"),
    ({"commit": 1.5}, "row 1: commit is 1.5; expected a text"),
    ({"value": "90"}, "row 1: value is '90'; expected a number"),
    ({"value": True}, "row 1: value is True; expected a number"),
    ({"value": float("nan")}, "row 1: value is nan; expected a number"),
    ({"n_test": {}}, "row 1: n_test is {}; expected a number"),
    ({"match_rate": "x"}, "row 1: match_rate is 'x'; expected a number"),
    ({"numerics": "5"}, "row 1: numerics is '5'; expected a whole number"),
])
def test_rows_with_values_of_other_kinds(tmp_path, processes, capsys, change, told):
    run(tmp_path, AVE + rows(a=""))
    (tmp_path / RESULTS).write_text(json.dumps([row("accuracy", 50.0) | change]))
    assert refused(tmp_path, capsys).endswith(f"{tmp_path / RESULTS}: {told}")


@pytest.mark.parametrize("key", ["metric", "source", "target", "protocol", "value", "chance", "n_test", "commit"])
def test_rows_that_lack_a_key(tmp_path, processes, capsys, key):
    run(tmp_path, AVE + rows(a=""))
    good = row("accuracy", 50.0)
    (tmp_path / RESULTS).write_text(json.dumps([good, {name: x for name, x in good.items() if name != key}]))
    assert f"{tmp_path / RESULTS}: row 2 lacks {key}; expected rows as those of" in refused(tmp_path, capsys)


def test_results_without_a_row(tmp_path, processes, capsys):
    run(tmp_path, AVE + rows(a=""))
    (tmp_path / RESULTS).write_text("[]")
    assert refused(tmp_path, capsys).endswith(f"{tmp_path / RESULTS}: holds no rows; expected those of a "
                                              "task, such as cmg.downstream.ave")


def test_a_figure_that_there_is_not_is_a_dash(tmp_path, processes):
    run(tmp_path, AVE + rows(a="", b=""))
    for name in "ab":
        (tmp_path / f"o/{name}-seed0/ave/results.json").write_text(json.dumps(
            [row("accuracy", 50.0) | {"value": None, "chance": None}]))
    table = run(tmp_path, AVE + rows(a="", b=""))
    assert [line["value"] for line in table["lines"]] == [None, None] and not table["differences"]
    assert "|       – |" in (tmp_path / "o" / "table.md").read_text()


@pytest.mark.parametrize("content", ["", "[]", "7", '{"flags": 3}', '{"flags": [1]}',
                                     '{"flags": [], "evaluations": []}',
                                     '{"flags": [], "evaluations": {"ave": {"arguments": []}}}', "[" * 100_000])
def test_a_record_of_a_cell_that_is_none(tmp_path, processes, capsys, content):
    run(tmp_path, AVE + rows(a=""))
    (tmp_path / CELL).write_text(content)
    assert refused(tmp_path, capsys).endswith("cell.json: no record of a cell; expected another --out")


@pytest.mark.parametrize(("name", "content"), [
    ("args.json", "[]"), ("args.json", "{}"), ("args.json", '{"commit": "c", "flags": {"batch_size": "x"}}'),
    ("metrics.csv", "step\n1\n"), ("metrics.csv", "step,train/clips_per_s\n0,1\n1,0\n"),
    ("metrics.csv", "step,train/clips_per_s\nx,1\n"), ("metrics.csv", None)])
def test_a_run_whose_own_account_is_none(tmp_path, processes, capsys, name, content):
    run(tmp_path, AVE + rows(a=""))
    path = tmp_path / "o" / "a-seed0" / name
    path.unlink() if content is None else path.write_text(content)
    for file in tmp_path.glob("o/table.*"):
        file.unlink()
    assert f"{path.parent}: args.json and metrics.csv are not those of a run; expected" in refused(tmp_path, capsys)
    assert not list(tmp_path.glob("o/table.*"))


TUNED = AVE + 'rows = [{name = "a", flags = "--lr 1", trials = ["--lr 3"]}]\n'


@pytest.mark.parametrize("content", ["7", '{"rows": []}', '{"rows": {"a": {"trials": [], "chosen": 0}}}',
                                     '{"rows": {"a": {"trials": [{"flags": 7}], "chosen": 0}}}'])
def test_a_sweep_that_is_none(tmp_path, processes, capsys, content):
    run(tmp_path, TUNED)
    (tmp_path / "o" / "sweep.json").write_text(content)
    assert "sweep.json: no record of a sweep; expected another --out" in refused(tmp_path, capsys, TUNED)


@pytest.mark.parametrize("content", ["{}", "[]", '[{"score": null}]', '["x"]'])
def test_scores_of_a_trial_that_are_none(tmp_path, processes, capsys, content):
    run(tmp_path, TUNED)
    (tmp_path / "o/trials/a-trial-2-seed1000/ave/ave_sweep_strict.json").write_text(content)
    assert "ave_sweep_strict.json: no scores of checkpoints; expected another" in refused(tmp_path, capsys, TUNED)


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "folder"])
def test_a_log_that_leads_out_of_the_folder(tmp_path, processes, capsys, kind):
    log, outside = tmp_path / "o" / "a-seed0.log", tmp_path / "mine.txt"
    log.parent.mkdir()
    if kind == "folder":
        log.mkdir()
    else:
        log.symlink_to(outside)
    if kind == "link":
        outside.write_text("what I wrote\n")
    assert f"{log}: is a link or no file" in refused(tmp_path, capsys)
    assert not processes.calls and outside.exists() == (kind == "link")
    assert kind != "link" or outside.read_text() == "what I wrote\n"
