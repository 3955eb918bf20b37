"""One process or many (torchrun): the few collectives that training needs, no-ops when there is one process."""

import os

import torch
import torch.distributed as dist


def world():
    """(rank, number of processes) as torchrun tells it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def start(device_type):
    """Join the process group if torchrun started us; returns (rank, world size, local rank)."""
    rank, size = world()
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    return rank, size, int(os.environ.get("LOCAL_RANK", 0))


def all_reduce_sum(tensor):
    """Sum over all processes, in place where there are several. Every rank must call it, always."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
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
