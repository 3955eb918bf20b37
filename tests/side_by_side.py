"""All tests in two processes of pytest, the fast ones and the slow ones side by side: `python tests/side_by_side.py`.

What the slow ones print comes after the rest. The exit status is that of the worse half; SIGTERM and Ctrl-C end both.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HALVES = ("not slow", "slow")


def main(flags):
    call = [sys.executable, "-m", "pytest", str(Path(__file__).parent), "-q", *flags]
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // len(HALVES)))}
    with tempfile.TemporaryFile() as later:
        halves = [subprocess.Popen([*call, "-m", half], stdout=out, stderr=subprocess.STDOUT, env=threads | os.environ)
                  for half, out in zip(HALVES, (None, later))]
        signal.signal(signal.SIGTERM, lambda *_: [half.terminate() for half in halves])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C, which reaches both halves
        found = [half.wait() for half in halves]
        later.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(later.read())
    return max(map(abs, found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
