"""How far the making of a feature file is, how fast it goes, and where its time went."""

import contextlib
import sys
import time

from cmg import progress


class Progress(progress.Progress):
    """What the making of a feature file tells of its clips while it works; `str` of it is the account in the end.

    Parameters
    ----------
    total, done : clips of the run; those that an earlier run has finished.
    workers : number of processes; 0 is this one.
    unit : what is counted, where it is something else, as the videos that clips are cut from.
    """

    def __init__(self, total, done, workers, unit="clip"):
        if done:
            print(f"resuming: {done} of {total} {unit}s are done", file=sys.stderr)
        super().__init__(total, unit, done)
        self.workers, self.spent, self.write = workers, {}, 0.0

    def finished(self, **spent):
        """Count a clip, good or bad, and the seconds that went into it, by what they were spent on."""
        for name, seconds in spent.items():
            self.spent[name] = self.spent.get(name, 0.0) + seconds
        self.advance()

    @contextlib.contextmanager
    def writes(self):
        """Around the writing of files."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.write += time.perf_counter() - start

    def __str__(self):
        parts = ", ".join(f"{name} {spent:.1f} s" for name, spent in (self.spent | {"write": self.write}).items())
        clock = f"{max(self.workers, 1)} process{'es' * (self.workers > 1)} in {self.seconds():.1f} s"
        return f"{self.rate():.2f} {self.unit}s/s, {clock}: {parts} (write: by the main process)"
