"""The place of a task among others, as Slurm tells it: in the words in which torch asks for it.

    srun --nodes 2 --ntasks-per-node 4 python -m cmg.pretrain --data features.h5 --out checkpoint/av8

torchrun and `cmg.launch` set RANK, WORLD_SIZE and the others themselves, and then Slurm is not asked. Neither is it
outside a step, as in the batch script itself, which is one process whatever the job's size.
"""

import os
import re

# What names a process among several, by torchrun and by Slurm.
PLACES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_STEP_ID", "SLURM_PROCID")
LOWEST, PORTS = 10_000, 20_000  # below those that systems give to outgoing connections


def told(environment=os.environ) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of one task of several; {} where there are none, or
    another launcher has set them."""
    size = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    if "RANK" in environment or "SLURM_STEP_ID" not in environment or size == "1":
        return {}
    job, step = (int(environment.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    found = {"RANK": environment["SLURM_PROCID"], "WORLD_SIZE": size, "LOCAL_RANK": environment["SLURM_LOCALID"],
             "MASTER_ADDR": first_node(nodes), "MASTER_PORT": str(LOWEST + (31 * job + step) % PORTS)}
    return found | {name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in environment}


def adopt():
    """Tell torch, in this process and in those that it starts."""
    os.environ.update(told())


def alone(environment) -> dict[str, str]:
    """An environment for a process that belongs to no others, whoever starts it."""
    return {name: value for name, value in environment.items() if name not in PLACES}


def first_node(nodes: str) -> str:
    """The first host of a node list, where the first task runs.

    >>> first_node("gpu[007-009,12],cpu3"), first_node("a1,a2"), first_node("rack[2-3]-[1,5]")
    ('gpu007', 'a1', 'rack2-1')
    """
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", re.match(r"(?:\[[^]]*\]|[^,])*", nodes)[0])
