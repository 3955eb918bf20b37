"""Several processes: one end for all, in one line, and runs that go on with another number.

By the real script where training is asked for; where any command would do, one that imports nothing slow.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmg.pretrain import main as pretrain
from support import BAR, CODE, ROOT, SMALL, same_weights, write_clips

pytestmark = pytest.mark.slow
FLAGS = [*SMALL, "--batch-size", "12", "--save-every", "1e-6", "--schedule", "constant"]
ENDLESS = ["--epochs", "500"]


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
    return process.returncode, [x for x in lines if x and not BAR.search(x) and not x.startswith(("env: ", "next: "))]


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


def place_of(out):
    """(step, number of processes) of a run's last state."""
    content = torch.load(out / "latest.pt", weights_only=True)
    return content["position"]["step"], len(content["streams"]["cpu"])


def trains(process, out, size, after, timeout=600):
    """Wait for a checkpoint of a later step -> the ranks."""
    deadline = time.monotonic() + timeout
    while place_of(out)[0] <= after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = ranks_of(out)
    assert sorted(ranks) == list(range(size)), process.communicate()
    return ranks


def nobody_is_left(pids, patience=2):
    """Of processes that end by themselves within so many seconds."""
    deadline = time.monotonic() + patience
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(lives, pids))


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_is_stopped_and_killed_and_goes_on_with_any_number_of_processes(clips, tmp_path):
    """1 → 3, of which one is stopped → 2, of which one is killed → 2, to the same bits as without the kill → 1."""
    out, lost = tmp_path / "run", r"another one was lost at step \d+, the run ends; last good state: \S+latest\.pt; "
    goes_on = r"continue with --resume auto, on any number of processes"
    pretrain(["--data", clips, "--out", str(out), *FLAGS, "--max-steps", "1"])
    assert place_of(out) == (1, 1)

    process = start(clips, out, 3, *ENDLESS, "--timeout-minutes", 0.05)
    ranks = trains(process, out, 3, after=1)
    os.kill(ranks[0], signal.SIGSTOP)
    begun = time.monotonic()
    status, lines = end(process)
    assert time.monotonic() - begun < 60  # 3 s, and 10 s for the stopped one to say something
    assert status == 2 and len(lines) == 1, lines
    assert re.fullmatch(rf"cmg\.pretrain: error: process 0 of 3 did not answer; process [12] of 3: {lost}{goes_on}",
                        lines[0])
    assert nobody_is_left(ranks.values())
    stopped, size = place_of(out)
    assert size == 3
    shutil.copytree(out, tmp_path / "whole")

    process = start(clips, out, 2, *ENDLESS)
    ranks = trains(process, out, 2, after=stopped)
    os.kill(ranks[1], signal.SIGKILL)
    status, lines = end(process)
    assert status == 2 and len(lines) == 1, lines
    assert re.fullmatch(rf"cmg\.pretrain: error: process 1 of 2 ended \(SIGKILL\); process 0 of 2: {lost}{goes_on}",
                        lines[0])
    assert nobody_is_left(ranks.values())
    killed, size = place_of(out)
    assert size == 2

    for folder in (out, tmp_path / "whole"):
        assert end(start(clips, folder, 2, *ENDLESS, "--max-steps", killed + 3)) == (0, [])
        assert place_of(folder) == (killed + 3, 2)
    same_weights(out, tmp_path / "whole")

    pretrain(["--data", clips, "--out", str(out), *FLAGS, *ENDLESS, "--resume", "auto", "--max-steps", str(killed + 4)])
    assert place_of(out) == (killed + 4, 1)
    steps = [line.split(",")[0] for line in (out / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(killed + 4)]


STAND_IN = '''
import os, signal, sys, time
from pathlib import Path
from cmg.cli import Parser, command
from cmg.errors import UserError

@command
def main(argv=None):
    p = Parser(prog="stand_in")
    p.add_argument("--epochs")
    args = p.parse_args(argv)
    if os.environ["RANK"] in (args.epochs or ""):
        raise UserError(f"--epochs {args.epochs}: expected another")
    if args.epochs == "saved":
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
    Path(f"up-{os.environ['RANK']}").touch()
    time.sleep(600)

main()
'''


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Start a command that only waits in two processes, as a terminal does: in a group of their own."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{CODE}{os.pathsep}{tmp_path}")
    begun = []

    def start(*flags):
        begun.append(subprocess.Popen([sys.executable, "-m", "cmg.launch", "2", "stand_in", *flags], cwd=tmp_path,
                                      stderr=subprocess.PIPE, text=True, start_new_session=True))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def waits(process, folder):
    """Wait until both are at work -> their process ids."""
    while sum((folder / f"up-{number}").exists() for number in range(2)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.parametrize("number, send, status", [(signal.SIGINT, os.killpg, 130), (signal.SIGTERM, os.kill, 143)])
def test_a_signal_ends_all_in_one_line(stand_in, tmp_path, number, send, status):
    """To the whole group for Ctrl-C, as a terminal does; to the launcher alone for TERM."""
    process = stand_in()
    ranks = waits(process, tmp_path)
    send(process.pid, number)
    assert end(process) == (status, ["interrupted"])
    assert len(ranks) == 2 and nobody_is_left(ranks)


def test_all_that_save_and_leave_are_to_be_started_again(stand_in, tmp_path):
    """As cmg.pretrain answers a signal; a launcher of a batch system passes it on."""
    process = stand_in("--epochs", "saved")
    ranks = waits(process, tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert end(process) == (75, []) and nobody_is_left(ranks)


def test_ranks_do_not_outlive_a_launcher_that_is_killed(stand_in, tmp_path):
    process = stand_in()
    ranks = waits(process, tmp_path)
    process.kill()
    process.wait()
    assert len(ranks) == 2 and nobody_is_left(ranks)


@pytest.mark.parametrize("who", ["1", "01"])
def test_an_error_of_the_user_s_is_told_once_and_ends_all(stand_in, who):
    assert end(stand_in("--epochs", who)) == (2, [f"stand_in: error: --epochs {who}: expected another"])


def test_a_mistyped_flag_is_told_once(stand_in):
    assert end(stand_in("--epoks", "3")) == (2, ["stand_in: error: unrecognized arguments: --epoks 3; did you mean "
                                                 "--epochs? (see --help)"])
