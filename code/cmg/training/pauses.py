"""What a run does at the end of a step besides going on: it saves where that is due by the clock, and saves and leaves
where the system asks for its place, as batch systems do before they end a job. All processes do so at the same step."""

import signal
import threading
import time

from cmg.distributed import Vote

SIGNALS = signal.SIGTERM, signal.SIGUSR1
GO_ON, SAVE, LEAVE = range(3)


class Pauses:
    """Ask it at the end of each step, inside its block, where the signals do nothing but be heard.

    Parameters
    ----------
    save_minutes : between saves; 0 for none by the clock.
    timeout_minutes : that the processes wait for each other.
    """

    def __init__(self, save_minutes, timeout_minutes):
        self.seconds, self.vote = 60 * save_minutes or float("inf"), Vote(timeout_minutes)
        self.heard, self.before = None, {}
        self.saved()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.hear) for number in SIGNALS}
        return self

    def __exit__(self, kind, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if kind is None:
            self.vote.close()

    def hear(self, number, _):
        self.heard = signal.Signals(number).name

    def saved(self):
        """The state of now is on the disk."""
        self.last = time.monotonic()

    def __call__(self) -> int:
        """GO_ON, SAVE or LEAVE: the same in all processes, whichever of them heard a signal or finds a save due."""
        due = SAVE if time.monotonic() - self.last >= self.seconds else GO_ON
        answer = self.vote(LEAVE if self.heard else due)
        if answer:
            self.saved()
        return answer
