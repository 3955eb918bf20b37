"""Work dealt to several processes, such that the end of any of them is noticed at any moment.

Each worker has a pipe of its own, whose other end nobody else holds: a worker that is killed, even while it sends half
of a result, closes it, and the parent reads that. (The processes of `multiprocessing.Pool` and of
`ProcessPoolExecutor` share one pipe, on which a half-sent result is waited for without end.) A worker whose parent is
killed reads the same, and ends after what it was doing.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter, deque
from multiprocessing import connection, resource_tracker
from typing import NamedTuple

from cmg.errors import UserError, refusal

AHEAD = 2  # jobs that a worker holds, so that it need not wait for the parent, which may be writing
LEAVE = 10.0  # seconds until a worker that has nothing left to do is killed
NO_ROOM = ("failed to map segment", "annot allocate memory", "MemoryError", "bad_alloc", "start new thread")
KILLS = {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGXCPU}  # come from outside


AGAIN = 75  # EX_TEMPFAIL: the exit status of what a signal ended, and of which nothing is lost; to be started again
LAUNCHED = "CMG_LAUNCHED"  # what `cmg.launch` tells a process: the pipe to speak into, and one that ends with it


def launched():
    """Whether `cmg.launch` started us. From the first call on we end with it, whatever ends it."""
    pipes = os.environ.get(LAUNCHED)
    if pipes and LAUNCHED not in _watched:
        _watched.add(LAUNCHED)
        alive = int(pipes.split()[1])
        threading.Thread(target=lambda: (os.read(alive, 1), os._exit(1)), daemon=True).start()
    return bool(pipes)


def tell(kind, line):
    """Leave it to `cmg.launch` to print a line. kind : "own", or "lost" where another process is the reason."""
    os.write(int(os.environ[LAUNCHED].split()[0]), json.dumps([kind, line]).encode())


_watched = set()


class Died(NamedTuple):
    """In the place of a result: this job took two processes down."""

    how: str


class Worker:
    """A process, our end of its pipe, and the jobs it holds: the first one is under way.

    What it writes to stderr until it begins is kept in a file, `said`: where memory is too short to import torch,
    Python and the system tell so in tracebacks.
    """

    def __init__(self, context, make):
        self.make, self.held, self.ready = make, deque(), False
        self.pipe, theirs = context.Pipe()
        ours = connection.Connection(os.dup(2), readable=False)  # a form in which a descriptor can be sent
        self.process = context.Process(target=_serve, args=(theirs, make, ours), daemon=True)
        try:
            self.said = tempfile.TemporaryFile()
            with _uninterrupted():  # a process that is started by half tells so in a traceback
                os.dup2(self.said.fileno(), 2)  # which it inherits
                try:
                    self.process.start()
                finally:
                    os.dup2(ours.fileno(), 2)
        except OSError as error:
            self.pipe.close()
            raise UserError(f"a worker process cannot be started ({error.strerror}); expected fewer --workers, or a "
                            "higher limit of processes and memory") from None
        finally:
            theirs.close()
            ours.close()

    def give(self, number, job):
        self.held.append(number)
        with contextlib.suppress(OSError):  # it is dead, which the pipe says
            self.pipe.send(job)

    def how_it_ended(self):
        """(signal or exit status in words, whether somebody else killed it)."""
        self.process.join(LEAVE)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"exit status {code}", False
        return signal.Signals(-code).name, -code in KILLS

    def why_it_did_not_begin(self):
        """`UserError` with the reason in one line; a defect's traceback is printed as it is."""
        how, _ = self.how_it_ended()
        self.said.seek(0)
        said = self.said.read().decode(errors="replace").strip()
        if "Traceback" in said and not any(words in said for words in NO_ROOM):
            print(said, file=sys.stderr)
        last = f": {said.splitlines()[-1].strip()}" if said else ""
        return UserError(f"a worker process ended before it began ({how}{last}); expected more memory, or fewer "
                         "--workers")

    def leave(self, patience):
        self.said.close()
        self.pipe.close()
        if patience:
            self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextlib.contextmanager
def _uninterrupted():
    """Ctrl-C and SIGTERM wait until the end of the block; a process that is started in it does not hear them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe, make, stderr):
    """A worker: (True, result) or (False, the line to end with) for every job, after a first None."""
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent alone answers it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        pipe.send(None)
        work = None
        while True:
            job = pipe.recv()
            try:
                work = work or make()
                answer = True, work(job)
            except UserError as error:
                answer = False, error
            except Exception as error:
                line = refusal(error)
                answer = False, UserError(line) if line else RuntimeError(f"in a worker: {traceback.format_exc()}")
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nothing more to do, or nobody to do it for


def each(jobs, makes):
    """Yield (job, result) of every job, in the order they finish.

    A job that takes its process down is tried again in another one; if it does so once more, its result is `Died`. One
    whose processes are killed by others, as the system does where memory is short, ends the work: that says nothing of
    the job.

    Parameters
    ----------
    jobs : list of what can be sent.
    makes : for each worker what can be sent and called there, once; it returns the function of a job that works.

    Raises
    ------
    UserError : one of a worker's; what the system refused; a worker that was killed twice at one job, or did not start.
    """
    waiting, deaths, workers, absent = deque(range(len(jobs))), Counter(), [], list(makes)
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch and av
    resource_tracker.ensure_running()  # else the first start would, and let signals through
    patience = 0.0
    try:
        while waiting or any(worker.held for worker in workers):
            while absent and waiting and len(workers) < len(jobs):
                workers.append(Worker(context, absent.pop(0)))
                _deal(workers[-1:], waiting, jobs)
            _deal(workers, waiting, jobs)
            by_pipe = {worker.pipe: worker for worker in workers}
            for pipe in connection.wait(by_pipe):
                worker = by_pipe[pipe]
                try:
                    said = pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    absent.append(worker.make)
                    yield from ((jobs[number], died) for number, died in _bury(worker, waiting, deaths))
                    continue
                if said is None:
                    worker.ready = True
                    continue
                good, answer = said
                if not good:
                    raise answer
                yield jobs[worker.held.popleft()], answer
        patience = LEAVE
    finally:
        for worker in workers:
            worker.leave(patience)


def _deal(workers, waiting, jobs):
    for worker in workers:
        while waiting and len(worker.held) < AHEAD:
            number = waiting.popleft()
            worker.give(number, jobs[number])


def _bury(worker, waiting, deaths):
    """Give back what a dead worker held; yields (number, Died) of a job that was the end of two."""
    if not worker.ready:
        error = worker.why_it_did_not_begin()
        worker.leave(0)
        raise error
    how, killed = worker.how_it_ended()
    worker.leave(0)
    if not worker.held:
        return
    suspect = worker.held.popleft()
    deaths[suspect] += 1
    if deaths[suspect] < 2:
        worker.held.appendleft(suspect)
    elif killed:
        raise UserError(f"a worker process was killed twice ({how}), as the system does where memory is short; "
                        "expected more memory, or fewer --workers")
    waiting.extendleft(reversed(worker.held))
    if deaths[suspect] == 2:
        yield suspect, Died(how)
