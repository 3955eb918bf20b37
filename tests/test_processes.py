"""Workers that are killed at any moment, also while they send half of a result, and what the machine refuses."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from cmg import processes
from cmg.errors import UserError, refusal
from cmg.processes import Died, each

LARGE = 64 << 20  # bytes of a result, many times what a pipe holds



def square(number):
    return number * number


def squares():
    return square


def large(folder, number):
    """A result that takes long to send; job 2's worker is stopped in the midst of sending it, once or always."""
    if number == 2:
        os.close(os.open(folder / f"sends-{os.getpid()}", os.O_CREAT))
    return bytes([number]) * LARGE


def larges(folder):
    return partial(large, folder)


def dying(how, folder, number):
    if number == 3:
        os.close(os.open(folder / f"died-{os.getpid()}", os.O_CREAT))
        os.kill(os.getpid(), how)
    return number


def deaths(how, folder):
    return partial(dying, how, folder)


def failing(error, number):
    if number == 1:
        raise error
    return number


def failures(error):
    return partial(failing, error)


def test_all_jobs_are_done_once_by_any_number_of_workers():
    assert list(each([], [squares])) == []
    for workers in (1, 3):
        assert sorted(each(list(range(9)), [squares] * workers)) == [(n, n * n) for n in range(9)]


@pytest.mark.parametrize("kills", [1, 2])
def test_a_worker_that_is_killed_while_it_sends_is_noticed(tmp_path, kills):
    """The parent, made to wait, finds half of a result in the pipe of a dead worker: once another one takes the job up,
    twice the work ends."""
    wait, killed = processes.connection.wait, []

    def late(pipes, timeout=None):
        while timeout is None and not (ready := wait(pipes, 0.05)):
            pass
        for mark in tmp_path.glob("sends-*"):
            if len(killed) < kills and mark not in killed:
                killed.append(mark)
                time.sleep(0.5)  # by now it is blocked, with its pipe full
                os.kill(int(mark.name.partition("-")[2]), signal.SIGKILL)
        return ready if timeout is None else wait(pipes, timeout)

    with patch.object(processes.connection, "wait", late):
        work = each(list(range(4)), [partial(larges, tmp_path)] * 2)
        if kills == 2:
            with pytest.raises(UserError, match=r"^a worker process was killed twice \(SIGKILL\)[^\n]*$"):
                list(work)
        else:
            found = dict(work)
            assert sorted(found) == [0, 1, 2, 3]
            assert all(len(x) == LARGE and x[0] == x[-1] == n for n, x in found.items())
    assert len(killed) == kills


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
def test_a_job_that_takes_two_processes_down_is_bad_and_a_kill_says_nothing(tmp_path, how):
    work = each(list(range(6)), [partial(deaths, how, tmp_path)] * 2)
    if how == signal.SIGKILL:
        with pytest.raises(UserError, match=r"killed twice \(SIGKILL\)"):
            list(work)
    else:
        assert dict(work) == {**{n: n for n in (0, 1, 2, 4, 5)}, 3: Died("SIGSEGV")}
    assert len(list(tmp_path.glob("died-*"))) == 2  # each of them once


@pytest.mark.parametrize("error, words", [
    (OSError(errno.EIO, "Input/output error", "a.mp4"), "a.mp4: Input/output error"),
    (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    (MemoryError(), "out of memory"),
    (RuntimeError("can't start new thread"), "can't start new thread; expected a higher limit of processes"),
    (UserError("told"), "told"),
])
def test_what_the_machine_refuses_a_worker_is_one_line(error, words):
    with pytest.raises(UserError, match=rf"^{words}[^\n]*$"):
        list(each([0, 1, 2], [partial(failures, error)]))


def test_a_defect_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="(?s)in a worker: Traceback.*ZeroDivisionError: by three"):
        list(each([0, 1], [partial(failures, ZeroDivisionError("by three"))]))


def test_a_process_that_cannot_be_started_is_one_line():
    no = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    with patch("multiprocessing.popen_spawn_posix.Popen._launch", side_effect=no):
        with pytest.raises(UserError, match=r"^a worker process cannot be started \(Resource temporarily unava[^\n]*$"):
            list(each([1], [squares]))


@pytest.mark.parametrize("error, line", [
    (OSError("Can't write (file write failed: errno = 27, error message = 'File too large', buf = 0x1)"),
     "File too large"),
    (RuntimeError("Can't decrement id ref count (errno = 122, error message = 'Disk quota exceeded')"),
     "Disk quota exceeded"),
    (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
    (OSError(errno.EINVAL, "Invalid argument"), None), (RuntimeError("a defect"), None), (ValueError("x"), None),
])
def test_what_is_refused_and_what_is_a_defect(error, line):
    assert refusal(error) == line


PARENT = """
import sys, time
from test_processes import slowly
from cmg.processes import each
print("ready", flush=True)
for job, _ in each(list(range(1000)), [slowly] * 2):
    print(job, flush=True)
"""


def slow(number):
    time.sleep(0.01)
    return os.getpid()


def slowly():
    return slow


def children_of(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in found.split()]


@pytest.mark.slow
def test_workers_end_with_a_killed_parent():
    paths = Path(processes.__file__).parents[1], Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True)
    while parent.stdout.readline().strip() in ("ready", *map(str, range(20))):
        pass
    children = children_of(parent.pid)
    assert len(children) >= 2
    parent.kill()
    _, said = parent.communicate(timeout=60)  # which waits for all that write there
    assert said == ""


@pytest.mark.slow
def test_workers_that_are_killed_at_random_moments_leave_nothing_undone():
    """Kills of any worker at seeded moments: all results, or one line; never a wait without end."""
    draw, killed, outcomes = random.Random(0), [], []
    for _ in range(3):
        stop = threading.Event()

        def shoot(stop=stop):
            while not stop.wait(draw.uniform(0.1, 0.8)):
                pids = [process.pid for process in processes.multiprocessing.active_children()]
                if pids:
                    killed.append(draw.choice(pids))
                    os.kill(killed[-1], signal.SIGKILL)

        shooter = threading.Thread(target=shoot)
        shooter.start()
        try:
            outcomes.append(dict(each(list(range(300)), [slowly] * 2)).keys() == set(range(300)))
        except UserError as error:
            outcomes.append("\n" not in str(error) and "SIGKILL" in str(error))
        finally:
            stop.set()
            shooter.join()
    assert killed and outcomes == [True] * 3
