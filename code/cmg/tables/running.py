"""Cells side by side, in processes of their own, each with its share of the cores and a device of its own."""

import os
import queue
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from cmg import slurm
from cmg.errors import UserError
from cmg.progress import Progress

LOOK = 1.0  # seconds between looks at the cells at work


class Workers:
    """The processes that cells run in, `jobs` at once.

    Each computes in OMP_NUM_THREADS threads, where that is set; else the cores of this process are dealt to them.
    """

    def __init__(self, jobs):
        given = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = given if given.isdigit() else str(max(1, len(os.sched_getaffinity(0)) // jobs))
        self.running, self.stopped, self.lock = set(), False, threading.Lock()

    def call(self, log, module, *arguments):
        """Run a module, by its name or the path of its .py file, to its end -> exit status."""
        program = [module] if module.endswith(".py") else ["-m", module]
        package = str(Path(__file__).resolve().parents[2])  # the children find this very package, installed or not
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = slurm.alone(os.environ) | {"OMP_NUM_THREADS": self.threads, "PYTHONPATH": path}
        with self.lock:
            if self.stopped:
                raise UserError("interrupted")
            child = subprocess.Popen([sys.executable, *program, *arguments], env=env, stdout=log, stderr=log)
            self.running.add(child)
        try:
            return child.wait()
        finally:
            with self.lock:
                self.running.discard(child)

    def stop(self):
        """End all processes and start no more."""
        with self.lock:
            self.stopped = True
            for child in self.running:
                child.terminate()


def fill_in(cells, jobs, devices):
    """Run what the cells lack -> one line for every cell that failed. An interrupt ends the processes.

    devices : names as --device takes them, dealt to the jobs in turn. cells : one that begins with the weights of
    another stands behind it, and waits for it.
    """
    workers, free, at_work, failures, futures = Workers(jobs), queue.SimpleQueue(), [], {}, {}
    for number in range(jobs):
        free.put(devices[number % len(devices)])

    def run(cell):
        if cell.start in futures:
            wait([futures[cell.start]])
        if cell.start and not cell.start.pretrained:
            raise UserError(f"row {cell.name!r}, seed {cell.seed}: begins with row {cell.start.name!r}, which failed")
        device = free.get()
        at_work.append(cell)
        try:
            cell.run(workers, device)
        finally:
            at_work.remove(cell)
            free.put(device)

    with ThreadPoolExecutor(jobs) as pool, Progress(len(cells), "cell", quiet=not cells) as bar:
        for cell in cells:
            futures[cell] = pool.submit(run, cell)
        waiting = {future: cell for cell, future in futures.items()}
        try:
            while waiting:
                ended, _ = wait(waiting, LOOK, FIRST_COMPLETED)
                for future in ended:
                    cell = waiting.pop(future)
                    try:
                        future.result()
                        bar.say(f"done: {cell}")
                    except UserError as error:  # the other cells go on
                        failures[cell] = str(error)
                        bar.say(f"failed: {error}")
                    bar.advance()
                found = {str(cell): cell.progress() for cell in [*at_work]}
                bar.tick("; ".join(f"{name} ({doing})" for name, (doing, _) in found.items()),
                         sum(part for _, part in found.values()))
        except KeyboardInterrupt:
            workers.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [failures[cell] for cell in cells if cell in failures]
