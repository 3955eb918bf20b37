"""How far work is: a bar where stderr is a terminal; a line now and then elsewhere, as in the log of a batch system."""

import sys
import time

from tqdm import tqdm

tqdm.monitor_interval = 0  # no thread of its own, which prints a warning where it cannot be started
MINUTE = 60.0  # seconds between lines where there is no terminal


class Progress:
    """Counts what is done and shows it on stderr.

    Parameters
    ----------
    total : of all that there is to do.
    unit : what is counted, in the singular.
    done : what was done before, which says nothing of the speed.
    title : begins the bar and every line.
    every : seconds between lines where there is no terminal; None: they come from `tell` alone.
    quiet : show nothing, as all processes of a run but the first do.
    leave : whether the full bar stays on the terminal.
    """

    def __init__(self, total, unit, done=0, title="", every=MINUTE, quiet=False, leave=True):
        self.total, self.unit, self.done, self.before, self.title, self.every = total, unit, done, done, title, every
        self.began = self.told = time.monotonic()
        self.bar = tqdm(total=total, initial=done, unit=unit, desc=title or None, leave=leave, dynamic_ncols=True,
                        disable=True if quiet else None)  # None: where stderr is no terminal
        self.lines = self.bar.disable and not quiet

    def advance(self):
        """Count one."""
        self.done += 1
        self.bar.update()
        if self.lines:
            self.tick(f"{self.rate():.2f} {self.unit}s/s")

    def tick(self, text="", part=0.0):
        """`tell`, where there is no terminal only if the last line is `every` seconds old."""
        if not self.lines or self.every is not None and time.monotonic() - self.told >= self.every:
            self.tell(text, part)

    def tell(self, text="", part=0.0):
        """Write a line with what is known now; on a terminal it stands behind the bar. part : of the next one, or of
        several, that is done."""
        self.told = time.monotonic()
        if not self.lines:
            self.bar.set_postfix_str(text)
            return
        place = f"{self.title}: {self.unit}" if self.title else self.unit
        rate = self.rate(part)
        left = f"{duration((self.total - self.done - part) / rate)} left" if rate else ""
        parts = f"{place} {self.done} of {self.total}", text, left
        print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)

    def seconds(self):
        return time.monotonic() - self.began

    def rate(self, part=0.0):
        """What was done a second since this was made."""
        return (self.done - self.before + part) / max(self.seconds(), 1e-9)

    def over(self, items):
        """The same items, each counted once it is done with; closes."""
        with self:
            for item in items:
                yield item
                self.advance()

    def say(self, line):
        """A line on stderr that leaves the bar whole."""
        self.bar.write(line, file=sys.stderr)

    def close(self):
        self.bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def duration(seconds) -> str:
    """A time in words of which two say enough.

    >>> [duration(s) for s in (41.6, 119, 3600 * 26.5, 86400 * 3.5)]
    ['42 s', '2 min', '26 h 30 min', '3 d 12 h']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
