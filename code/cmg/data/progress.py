"""How far the making of a feature file is, how fast it goes, and where its time went."""

import contextlib
import sys
import time

from tqdm import tqdm

EVERY = 60  # seconds between lines, where there is no terminal to draw a bar on


class Progress:
    """A bar with clips/s and the time left on a terminal, a line a minute elsewhere; `str` of it is the account.

    Parameters
    ----------
    total, done : clips of the run; those that an earlier run has finished.
    workers : number of processes; 0 is this one.
    unit : what is counted, where it is something else, as the videos that clips are cut from.
    """

    def __init__(self, total, done, workers, unit="clip"):
        self.total, self.done, self.skipped, self.workers, self.unit = total, done, done, workers, unit
        self.spent, self.write = {}, 0.0
        self.start = self.said = time.perf_counter()
        if done:
            print(f"resuming: {done} of {total} {unit}s are done", file=sys.stderr)
        self.bar = tqdm(total=total, initial=done, unit=unit, disable=None)

    def finished(self, **spent):
        """Count a clip, good or bad, and the seconds that went into it, by what they were spent on."""
        self.done += 1
        for name, seconds in spent.items():
            self.spent[name] = self.spent.get(name, 0.0) + seconds
        self.bar.update()
        now = time.perf_counter()
        if self.bar.disable and now - self.said >= EVERY:
            self.said = now
            left = (self.total - self.done) / self.rate()
            print(f"{self.done} of {self.total} {self.unit}s, {self.rate():.2f} {self.unit}s/s, {left / 60:.0f} min "
                  "left", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def writes(self):
        """Around the writing of files."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.write += time.perf_counter() - start

    def say(self, line):
        """A line on stderr that leaves the bar whole."""
        self.bar.write(line, file=sys.stderr)

    def seconds(self):
        return time.perf_counter() - self.start

    def rate(self):
        """Clips of this run per second."""
        return (self.done - self.skipped) / max(self.seconds(), 1e-9)

    def close(self):
        self.bar.close()

    def __str__(self):
        parts = ", ".join(f"{name} {spent:.1f} s" for name, spent in (self.spent | {"write": self.write}).items())
        clock = f"{max(self.workers, 1)} process{'es' * (self.workers > 1)} in {self.seconds():.1f} s"
        return f"{self.rate():.2f} {self.unit}s/s, {clock}: {parts}; write is the parent's"
