"""Cells side by side: threads, devices, shares of several machines, and what is told meanwhile."""

import os
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
from support_tables import AVE, rows, run

from cmg.progress import Progress
from cmg.tables import running
from cmg.tables.cells import Cell
from cmg.tables.running import Workers, fill_in

SHOWN = "OMP_NUM_THREADS", "RANK", "SLURM_PROCID", "SLURM_JOB_ID"


@pytest.mark.parametrize("given, jobs, threads", [("3", 2, "3"), (None, 1, "6"), (None, 4, "1"), ("", 2, "3")])
def test_threads_of_a_job(monkeypatch, tmp_path, given, jobs, threads):
    """Those of OMP_NUM_THREADS where that is set, so that tables leave each other room. A job is no task of a step."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    for name, value in {"OMP_NUM_THREADS": given, "RANK": "1", "SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    (tmp_path / "show.py").write_text(f"import os; print([os.environ.get(name) for name in {SHOWN}])")
    with open(tmp_path / "log", "w") as log:
        assert Workers(jobs).call(log, str(tmp_path / "show.py")) == 0
    assert (tmp_path / "log").read_text() == f"['{threads}', None, None, '7']\n"


def test_jobs_side_by_side_get_devices_of_their_own():
    met, seen = threading.Barrier(2, timeout=20), []

    def work(workers, device):
        seen.append(device)
        met.wait()

    kind = type("Stub", (), {"run": staticmethod(work), "progress": lambda self: ("", 0.0), "start": None})
    cells = [kind() for _ in range(4)]
    assert fill_in(cells, 2, ["cuda:0", "cuda:3"]) == []
    assert sorted(seen) == ["cuda:0", "cuda:0", "cuda:3", "cuda:3"]


def test_cells_at_work_and_the_time_left_are_told(monkeypatch, tmp_path, capsys):
    cell = Cell("a b", [], 0, [], SimpleNamespace(out=tmp_path, set=[]))
    assert cell.progress() == ("", 0.0)
    cell.doing = "pretrain"
    cell.log.write_text("header\n")
    assert cell.progress() == ("pretrain begins", 0.0)
    cell.log.write_text("x" * 9000 + "\nstep 20 of 80, epoch 1, loss 3\nstep 60 of 80, epoch 3, loss 2\na note\n")
    assert cell.progress() == ("pretrain, step 60 of 80", 0.75)
    monkeypatch.setattr(running, "LOOK", 0.01)
    monkeypatch.setattr(running, "Progress", partial(Progress, every=0))
    cell.run = lambda workers, device: time.sleep(0.2)
    fill_in([cell], 1, ["cpu"])
    lines = capsys.readouterr().err.splitlines()
    assert "cell 0 of 1, a b, seed 0 (pretrain, step 60 of 80), 0 s left" in lines and "done: a b, seed 0" in lines
    cell.doing = "downstream.ave"
    assert cell.progress() == ("downstream.ave", 1.0)


def test_several_machines_fill_a_share_each(tmp_path, processes, capsys):
    """Two shares have no cell in common; who comes without one finds all of them, and makes the table."""
    text, out = AVE + rows(a="", b="", c=""), tmp_path / "o"
    for share, expected in (("1/2", {"a-seed0", "c-seed0"}), ("2/2", {"b-seed0"})):
        known = {path.name for path in out.glob("*-seed0")}
        with pytest.raises(FileNotFoundError):  # there is no table.json to read
            run(tmp_path, text, "--shard", share)
        assert {path.name for path in out.glob("*-seed0")} - known == expected
    assert processes.calls.count("pretrain") == processes.calls.count("ave") == 3
    made = run(tmp_path, text)
    assert len(processes.calls) == 6 and {cell["name"] for cell in made["cells"]} == {"a", "b", "c"}
    assert {cell["folder"] for cell in made["cells"]} == {"a-seed0", "b-seed0", "c-seed0"}  # beside the table
    assert "3 cells, 3 finished before" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b"])
def test_what_is_no_share_is_one_line(tmp_path, processes, capsys, share):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, AVE + rows(a=""), f"--shard={share}")
    assert stop.value.code == 2
    assert f"'{share}' is not a part, such as 1/8 to 8/8" in capsys.readouterr().err


def test_rows_wait_for_trials_that_other_machines_run(tmp_path, processes, capsys):
    text = AVE + 'rows = [{name = "a", flags = "--lr 1", trials = ["--lr 3"]}]\n'
    with pytest.raises(FileNotFoundError):
        run(tmp_path, text, "--shard", "1/2")
    assert "1 rows wait for trials that other shards run" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        run(tmp_path, text, "--shard", "2/2")
    assert "wait" not in capsys.readouterr().err
    run(tmp_path, text)
    assert processes.calls.count("pretrain") == 3
