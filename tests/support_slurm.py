"""A stand-in for Slurm: jobs of cmg.pretrain on two nodes of one task each, which are this machine twice.

    python support_slurm.py JOB STOPS -- FLAGS OF cmg.pretrain

Tells each task what srun tells it, and no more. STOPS are steps, each of which ends one turn of the job: once the run
has come so far, all tasks get SIGTERM (or, every other time, one of them alone SIGUSR1); where all have left with
status 75, the job is queued again, as scripts/slurm/pretrain.sbatch does. Tasks are forked, for importing takes longer
than training. Prints the status and the last step of every turn as JSON.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import torch.utils.tensorboard  # noqa: F401  once for all tasks

from cmg.pretrain import main

TASKS = 2


def task(number, job, flags):
    """What srun starts -> process id."""
    child = os.fork()
    if child:
        return child
    os.environ |= {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": "0", "SLURM_PROCID": str(number), "SLURM_LOCALID": "0",
                   "SLURM_NTASKS": str(TASKS), "SLURM_STEP_NUM_TASKS": str(TASKS), "SLURM_NNODES": str(TASKS),
                   "SLURM_STEP_NODELIST": f"127.0.0.[1-{TASKS}]", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
    try:
        torch.set_num_threads(1)
        main(flags)
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def last_step(path):
    """Of metrics.csv, -1 where there is none."""
    try:
        return int(path.read_text().splitlines()[-1].split(",")[0])
    except (OSError, ValueError):
        return -1


def turn(job, flags, metrics, stop, number):
    """Run the job until all tasks have ended -> their statuses."""
    tasks = [task(place, job, flags) for place in range(TASKS)]
    deadline, statuses = time.monotonic() + 300, {}
    while len(statuses) < TASKS and time.monotonic() < deadline:
        if stop is not None and last_step(metrics) >= stop:
            for place in tasks if number % 2 == 0 else tasks[1:]:
                os.kill(place, signal.SIGTERM if number % 2 == 0 else signal.SIGUSR1)
            stop = None
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            statuses[ended] = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.01)
    for place in set(tasks) - statuses.keys():
        os.kill(place, signal.SIGKILL)
    return [statuses.get(place) for place in tasks]


if __name__ == "__main__":
    cut = sys.argv.index("--")
    job, *stops = map(int, sys.argv[1:cut])
    flags = sys.argv[cut + 1 :]
    metrics, turns = Path(flags[flags.index("--out") + 1]) / "metrics.csv", []
    for number, stop in enumerate([*stops, None]):
        statuses = turn(job, flags, metrics, stop, number)
        turns.append({"statuses": statuses, "step": last_step(metrics)})
        if set(statuses) != {75}:
            break
    print(json.dumps(turns))
