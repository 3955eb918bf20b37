"""One process or many (torchrun): the few collectives that training needs, no-ops when there is one process."""

import os

import torch
import torch.distributed as dist

from cmg.errors import UserError


def start(device_type):
    """Join the process group if torchrun started us; returns (rank, number of processes)."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    return rank, size


def finish():
    """Leave the process group together: a rank that goes first can take the others' connections down."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def choose_device(name):
    """`--device` as a torch.device: "auto", "cpu", "cuda" (this process's own card under torchrun) or "cuda:N"."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {name}: no CUDA device is available here, expected cpu")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


def all_reduce_sum(tensor):
    """Sum over all processes, in place where there are several. Every rank must call it, always."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def broadcast(tensor):
    """Rank 0's tensor on every rank."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(tensor, 0)
    return tensor


@torch.no_grad()
def average_gradients(parameters):
    """Mean of the gradients over processes, in one flat collective; parameters without gradient count as zero."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    parameters = list(parameters)
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch._utils._flatten_dense_tensors([p.grad for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, g in zip(parameters, torch._utils._unflatten_dense_tensors(flat, [p.grad for p in parameters])):
        p.grad.copy_(g)
