"""Start a command in several processes of this machine, and end them together: `python -m cmg.launch 4 cmg.pretrain …`.

    python -m cmg.launch 4 cmg.pretrain --data features.h5 --out checkpoint/av4

Each process is told its number and the number of all, as torchrun does; for several machines there are torchrun and
srun. But whatever ends one of them (an error of the user's, a kill, Ctrl-C) ends all, in one line and with the exit
status that one process would have had, and none outlives this one. SIGTERM and SIGUSR1 are passed on, to be answered by
each as by one that is alone.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

from torch.distributed import TCPStore

from cmg.cli import Parser, Terminated, command, whole
from cmg.processes import AGAIN, LAUNCHED

PATIENCE = 10.0  # seconds that the others have to say where they were when one was lost
SAVING = 60.0  # seconds that all have to save and leave after a signal
GRACE = 1.0  # seconds that they have to end by themselves when one has told the reason
POLL = 0.1  # seconds


class Rank:
    """One of the processes.

    `told` is (kind, line) as `cmg.processes.tell` sent it, or None; `ended` its exit status, negative for a signal, or
    None while it runs.
    """

    def __init__(self, number, size, call, shared, alive):
        hears, tells = os.pipe()
        os.set_blocking(hears, False)
        mine = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size,
                LAUNCHED: f"{tells} {alive}"}
        environment = os.environ | shared | {name: str(value) for name, value in mine.items()}
        self.number, self.pipe, self.told, self.ended = number, hears, None, None
        self.process = subprocess.Popen(call, env=environment, pass_fds=(tells, alive), start_new_session=True)
        os.close(tells)

    def look(self):
        """Whether there is nothing more to wait for: it has ended, or said why it will."""
        if self.ended is None:
            self.ended = self.process.poll()
        if self.told is None:
            try:
                said = os.read(self.pipe, 1 << 16)  # one line, which the system writes as a whole
            except BlockingIOError:
                said = b""
            self.told = json.loads(said) if said else None
        return self.ended is not None or self.told is not None

    def kill(self):
        """The process and all that it has started; also where it was stopped."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def how(self):
        """How it ended, in words."""
        if self.ended is None:
            return "did not answer"
        return f"ended ({signal.Signals(-self.ended).name if self.ended < 0 else f'exit status {self.ended}'})"


def launch(size, call):
    """Run `call` in so many processes -> (exit status, line to print or "")."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
              "TORCHELASTIC_RESTART_COUNT": "0"}  # they meet here, at a port that nobody else can take meanwhile
    shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    alive, ours = os.pipe()  # `ours` is closed with this process, whatever ends it
    ranks, failed, deadline, asked = [], [], None, []

    def pass_on(number, _):
        asked.append(time.monotonic())
        for rank in ranks:
            if rank.process.poll() is None:
                rank.process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        for number in range(size):
            ranks.append(Rank(number, size, call, shared, alive))
        while not all([rank.look() for rank in ranks]) and not (deadline and time.monotonic() > deadline):
            failed += [rank for rank in ranks if (rank.ended or rank.told) and rank not in failed]
            if asked and deadline is None:
                deadline = asked[0] + SAVING
            if failed and deadline is None:
                own = any(rank.told and rank.told[0] == "own" for rank in failed)
                deadline = time.monotonic() + (GRACE if own else PATIENCE)
            time.sleep(POLL)
        failed += [rank for rank in ranks if (rank.ended or rank.told) and rank not in failed]
        if asked and any(rank.ended not in (0, AGAIN) for rank in ranks):  # before they trained, or not in time
            raise Terminated
        return verdict(ranks, failed)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for rank in ranks:
            rank.kill()
            os.close(rank.pipe)
        os.close(alive)
        os.close(ours)


def verdict(ranks, failed):
    """What the ends of all say together. failed : the ranks that did not end well, the first one first."""
    if not failed:
        return 0, ""
    if all(rank.ended == AGAIN for rank in ranks):
        return AGAIN, ""
    own, lost = ([rank.told[1] for rank in failed if rank.told and rank.told[0] == kind] for kind in ("own", "lost"))
    if own:
        return 2, own[0]
    silent = [rank for rank in failed if rank.told is None] or [rank for rank in ranks if rank.told is None]
    how = [f"process {rank.number} of {len(ranks)} {rank.how()}" for rank in silent[:1]]
    # of an exit status of its own the reason is told above: a defect's traceback, a parser's line
    status = next((rank.ended for rank in failed if rank.told is None and rank.ended > 0), 2)
    return status, "; ".join(how + lost[:1])


@command
def main(argv=None):
    p = Parser(prog="cmg.launch", description=__doc__, usage="python -m cmg.launch [-h] NUMBER MODULE ...")
    p.add_argument("number", type=whole(1), metavar="NUMBER", help="of processes")
    p.add_argument("module", metavar="MODULE", help="the command, such as cmg.pretrain")
    p.add_argument("flags", nargs=argparse.REMAINDER, metavar="...", help="its flags")
    args = p.parse_args(argv)
    status, line = launch(args.number, [sys.executable, "-m", args.module, *args.flags])
    if line:
        print(f"{args.module}: error: {line}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
