"""Rows that begin with what other rows have learnt: in which order, with which weights, and what is refused."""

import json
import time
from pathlib import Path

import pytest
from support_tables import AVE, AVVP, Processes, run

from cmg.errors import UserError
from cmg.tables.file import read_table

CHAIN = """
rows = [
    {name = "mixing", flags = "--lr 1"},
    {name = "other", flags = "--lr 2"},
    {name = "pairs", flags = "--lr 3", begins = "mixing"},
    {name = "more pairs", flags = "--lr 4", begins = "pairs"},
]
"""


def pretrainings(processes):
    """Row and seed -> the checkpoint that it began with, None where it began anew; in the order of the calls."""
    given = [dict(zip(arguments, arguments[1:])) for call, arguments in zip(processes.calls, processes.arguments)
             if call == "pretrain"]
    return {Path(flags["--out"]).name: flags.get("--init-from") for flags in given}


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_row_begins_with_the_last_step_of_another_one_of_its_seed(tmp_path, processes, monkeypatch, jobs):
    make = Processes.__call__

    def slow(self, workers, log, module, *arguments):
        time.sleep(0.05 * ("--init-from" not in arguments))  # those that are begun with are not done when others start
        return make(self, workers, log, module, *arguments)

    monkeypatch.setattr(Processes, "__call__", slow)
    run(tmp_path, AVE + CHAIN, "--seeds", "4", "5", "--jobs", jobs)
    found = pretrainings(processes)
    order = list(found)
    for seed in (4, 5):
        origins = {"mixing": None, "other": None, "pairs": "mixing", "more-pairs": "pairs"}
        for name, origin in origins.items():
            begun = origin and str(tmp_path / "o" / f"{origin}-seed{seed}" / "latest.pt")
            assert found[f"{name}-seed{seed}"] == begun
            assert not origin or order.index(f"{origin}-seed{seed}") < order.index(f"{name}-seed{seed}")
    assert len(found) == 8
    processes.calls.clear()
    run(tmp_path, AVE + CHAIN, "--seeds", "4", "5")
    assert processes.calls == []  # all is done


def test_a_row_brings_along_what_it_begins_with(tmp_path, processes):
    made = run(tmp_path, AVE + CHAIN, "--rows", "more pairs")
    assert list(pretrainings(processes)) == ["mixing-seed0", "pairs-seed0", "more-pairs-seed0"]
    assert [cell["name"] for cell in made["cells"]] == ["mixing", "pairs", "more pairs"]


def test_another_origin_is_another_row(tmp_path, processes, capsys):
    run(tmp_path, AVE + CHAIN)
    assert json.loads((tmp_path / "o" / "pairs-seed0" / "cell.json").read_text())["begins"] == "mixing"
    for other in ('begins = "other"', ""):
        changed = CHAIN.replace(', begins = "mixing"', f", {other}" if other else "")
        with pytest.raises(SystemExit):
            run(tmp_path, AVE + changed)
        assert "row 'pairs': " in (line := capsys.readouterr().err) and "pretrained with other flags" in line


def test_what_a_failed_row_leaves_is_not_begun_with(tmp_path, processes, capsys):
    processes.fails = {"1"}  # --lr of "mixing"
    with pytest.raises(SystemExit):
        run(tmp_path, AVE + CHAIN)
    told = capsys.readouterr().err
    assert "failed: row 'pairs', seed 0: begins with 'mixing', which has not been pretrained" in told
    assert "failed: row 'more pairs', seed 0: begins with 'pairs', which has not been pretrained" in told
    assert "3 of 4 cells" in told
    processes.fails = set()
    run(tmp_path, AVE + CHAIN)


def test_a_group_names_its_evaluations(tmp_path, processes):
    text = """
groups = [{evaluations = ["ave"], rows = [{name = "a", flags = "--lr 1"}]}, {rows = [{name = "b", flags = "--lr 2"}]}]
"""
    made = run(tmp_path, AVE + AVVP + text)
    assert processes.calls == ["pretrain", "ave", "pretrain", "ave", "avvp"]
    assert {(line["name"], line["task"]) for line in made["lines"]} == {("a", "ave"), ("b", "ave"), ("b", "avvp")}
    run(tmp_path, AVE + AVVP + text.replace('evaluations = ["ave"], ', ""))
    assert processes.calls[5:] == ["avvp"]
    (tmp_path / "t.toml").write_text(AVE + text.replace('["ave"]', '["avp"]'))
    with pytest.raises(UserError, match="group 1: evaluations: there is no 'avp'; did you mean 'ave'?"):
        read_table(tmp_path / "t.toml")


@pytest.mark.parametrize("text, said", [
    (CHAIN.replace('begins = "mixing"', 'begins = "mixin"'),
     "row 'pairs': begins: there is no row 'mixin' before it; did you mean 'mixing'?"),
    (CHAIN.replace('begins = "mixing"', 'begins = "more pairs"'), "begins: there is no row 'more pairs' before it"),
    (CHAIN.replace('begins = "mixing"', "begins = 3"), "row 'pairs': begins is 3; expected text in quotes"),
    (CHAIN.replace("}", ', trials = ["--dim 8"]}'), "row 'pairs': begins, and rows have trials"),
])
def test_what_is_refused(tmp_path, text, said):
    (tmp_path / "t.toml").write_text(AVE + text)
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.toml")
    assert said in str(error.value)
