"""Several processes by the real script: one end for all, in one line, and runs that go on with another number."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from support import CODE, ROOT, SMALL, same_weights, write_clips

pytestmark = pytest.mark.slow
FLAGS = [*SMALL, "--batch-size", "12", "--epochs", "2", "--save-every", "1", "--schedule", "constant"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5", n=36))


def start(clips, out, processes, *flags):
    """`scripts/pretrain.sh` in a session of its own."""
    call = [str(ROOT / "scripts" / "pretrain.sh"), "--data", clips, "--out", str(out), *FLAGS, *map(str, flags)]
    env = {**os.environ, "CMG_PYTHON": sys.executable, "NPROC": str(processes)}
    return subprocess.Popen(call, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)


def end(process, timeout=600):
    """Exit status and the lines on stderr, without the bar and what the scripts say themselves."""
    _, said = process.communicate(timeout=timeout)
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines()]
    bar = re.compile(r"step/s|\?step|it/s")
    return process.returncode, [x for x in lines if x and not bar.search(x) and not x.startswith(("env: ", "next: "))]


def ranks_of(out):
    """Process ids of a run's ranks, by number."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, words = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = re.search(rb"(?:^|\0)RANK=(\d+)\0", environment)
        if rank and str(out).encode() in words and b"cmg.pretrain" in words:
            found[int(rank[1])] = int(entry.name)
    return found


def trains(process, out, size, timeout=600):
    """Wait for a first checkpoint -> the ranks."""
    deadline = time.monotonic() + timeout
    while not (out / "latest.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = ranks_of(out)
    assert sorted(ranks) == list(range(size)), process.communicate()
    return ranks


def nobody_is_left(ranks):
    time.sleep(0.5)
    return not [pid for pid in ranks.values() if Path(f"/proc/{pid}/cmdline").exists()
                and b"cmg.pretrain" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_ends_all_in_one_line(clips, tmp_path, number):
    process = start(clips, tmp_path / "run", 2, "--epochs", 500)
    ranks = trains(process, tmp_path / "run", 2)
    os.kill(ranks[number], signal.SIGKILL)
    status, lines = end(process)
    assert status == 2 and len(lines) == 1, lines
    assert re.fullmatch(rf"cmg\.pretrain: error: process {number} of 2 ended \(SIGKILL\); process {1 - number} of 2: "
                        r"another one was lost at step \d+, the run ends; last good state: \S+latest\.pt; continue "
                        r"with --resume auto, on any number of processes", lines[0])
    assert nobody_is_left(ranks)


def test_a_stopped_process_is_noticed_in_the_time_that_is_given(clips, tmp_path):
    process = start(clips, tmp_path / "run", 2, "--epochs", 500, "--timeout-minutes", 0.1)
    ranks = trains(process, tmp_path / "run", 2)
    os.kill(ranks[1], signal.SIGSTOP)
    begun = time.monotonic()
    status, lines = end(process)
    assert time.monotonic() - begun < 60  # 6 s, and 10 s for the stopped one to say something
    assert status == 2 and len(lines) == 1 and "process 1 of 2 did not answer; process 0 of 2: another one" in lines[0]
    assert nobody_is_left(ranks)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_all_in_one_line(clips, tmp_path, number, status):
    """To the whole group for Ctrl-C, as a terminal does; to the script alone for TERM."""
    call = [sys.executable, "-m", "cmg.launch", "2", "cmg.pretrain", "--data", clips, "--out", str(tmp_path / "run"),
            *FLAGS, "--epochs", "500"]
    if number == signal.SIGTERM:
        process = start(clips, tmp_path / "run", 2, "--epochs", 500)
    else:
        process = subprocess.Popen(call, env={**os.environ, "PYTHONPATH": str(CODE)}, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, start_new_session=True)
    ranks = trains(process, tmp_path / "run", 2)
    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
    assert end(process) == (status, ["interrupted"])
    assert nobody_is_left(ranks)


def test_ranks_do_not_outlive_a_launcher_that_is_killed(clips, tmp_path):
    call = [sys.executable, "-m", "cmg.launch", "2", "cmg.pretrain", "--data", clips, "--out", str(tmp_path / "run"),
            *FLAGS, "--epochs", "500"]
    process = subprocess.Popen(call, env={**os.environ, "PYTHONPATH": str(CODE)}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    ranks = trains(process, tmp_path / "run", 2)
    process.kill()
    process.wait()
    time.sleep(2)
    assert nobody_is_left(ranks)


@pytest.mark.parametrize("flags, line", [
    (["--data", "gone.h5"], "cmg.pretrain: error: gone.h5: no such file; expected a feature file (.h5)"),
    (["--batch-size", "9"], "cmg.pretrain: error: --batch-size 9: expected a multiple of 2 processes × --accumulate 1"),
])
def test_an_error_of_the_user_s_is_told_once(clips, tmp_path, flags, line):
    assert end(start(clips, tmp_path / "run", 2, *flags)) == (2, [line])
    assert not (tmp_path / "run").exists()


def test_a_mistyped_flag_is_told_once(clips, tmp_path):
    status, lines = end(start(clips, tmp_path / "run", 2, "--epoks", "3"))
    assert status == 2 and len(lines) == 1 and "did you mean --epochs?" in lines[0]


def test_a_run_goes_on_with_as_many_processes_to_the_same_bits_and_with_others(clips, tmp_path):
    """2 → 2 to the same bits; 1 → 2, 2 → 1 and 3 → 2 to the end, each step once."""
    def finished(out, processes, *flags):
        assert end(start(clips, out, processes, *flags)) == (0, [])
        return out

    whole = finished(tmp_path / "whole", 2)
    for before, after in ((2, 2), (1, 2), (2, 1), (3, 2)):
        out = finished(tmp_path / f"{before}-{after}", before, "--max-steps", 3)
        content = torch.load(out / "latest.pt", weights_only=True)
        assert content["position"]["step"] == 3 and len(content["streams"]["cpu"]) == before
        finished(out, after, "--max-steps", 100)
        steps = [line.split(",")[0] for line in (out / "metrics.csv").read_text().splitlines()[1:]]
        assert steps == [str(step) for step in range(6)]
        if before == after:
            same_weights(out, whole)
        content = torch.load(out / "latest.pt", weights_only=True)
        assert content["position"]["step"] == 6 and len(content["streams"]["cpu"]) == after
