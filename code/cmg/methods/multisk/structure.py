"""Anchors, the queues of earlier clips, and the loss that holds the structure of the input spaces and the joint space
together.

Every modality m has K anchors in its own input space and K in the joint space. A clip's similarities to the anchors of
m say where it lies: in the input space those of its x_m, in the joint space those of its e_n, of any modality n. From
each of the two, the assignment of the other is predicted:

    L_sspc = Σ_mn w_mn [ ℓ(s(x_m, z_m), M(s(e_n, ẑ_m))) + ℓ(s(e_n, ẑ_m), M(s(x_m, z_m))) ]

An assignment M is made of the batch and of the queue of clips before it, so that anchors are used equally over many
clips. As published, a clip without a modality takes part with the token that stands in its place.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from cmg.distributed import first_row, gather, total
from cmg.losses.multi_assignment import multi_assignment, nearest_anchors, single_assignment, soft_targets
from cmg.losses.sspc import anchor_logits, sspc
from cmg.models.multisk import unit


class Sides(NamedTuple):
    """A number, or [B, K], for every modality m in its input space [M, …], and in the joint space for the anchors of m
    and the embeddings of n [n, m, …]."""

    input: torch.Tensor
    joint: torch.Tensor


class Structure(nn.Module):
    """
    Parameters
    ----------
    modalities : names, M of them
    config : MultiSKConfig
    """

    def __init__(self, modalities, config):
        super().__init__()
        self.modalities, self.config = tuple(modalities), config.structure
        M, K, L = len(self.modalities), self.config.anchors, self.config.queue
        dims = {"input": config.towers.width, "joint": config.towers.joint_dim}
        self.anchors = nn.ParameterDict({space: nn.Parameter(torch.randn(M, K, dim)) for space, dim in dims.items()})
        self.bias = None
        if self.config.logits == "fixed":
            self.bias = nn.ParameterDict({space: nn.Parameter(torch.zeros(M)) for space in dims})
        for space, dim in dims.items():
            self.register_buffer(f"queue_{space}", torch.zeros(M, L, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        weights = [[config.weight(n, m) for m in self.modalities] for n in self.modalities]
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64), persistent=False)

    def similarities(self, x, e) -> Sides:
        """Cosines of clips x [M, B, D] and e [M, B, D'], of length 1, to the anchors."""
        inside, joint = unit(self.anchors["input"]), unit(self.anchors["joint"])
        return Sides(torch.einsum("mbd,mkd->mbk", x, inside), torch.einsum("nbd,mkd->nmbk", e, joint))

    @torch.no_grad()
    def targets(self, similarities) -> Sides:
        """Assignments of this rank's clips, 0 … 1, made together with those of all ranks and of the queues."""
        M = len(self.modalities)
        before = [side.flatten(0, -3) for side in self.similarities(self.queue_input, self.queue_joint)]
        batch = [side.flatten(0, -3) for side in similarities]  # (M, B, K), (M², B, K)
        batch = torch.cat(batch).transpose(0, 1)  # (B, M + M², K)
        everyone = torch.cat([torch.cat(before), gather(batch).transpose(0, 1)], 1)  # (M + M², L + clips, K)
        own = len(before[0][0]) + first_row(batch)
        found = soft_targets(self.assign(everyone)[:, own : own + len(batch)])
        return Sides(found[:M], found[M:].unflatten(0, (M, M)))

    def assign(self, similarity):
        """Assignments of all problems of a step, Tensor[problems, clips, K], at once."""
        c = self.config
        if c.assignment == "top-r":
            return nearest_anchors(similarity, c.picks)
        if c.assignment == "sinkhorn":
            return single_assignment(similarity, c.sinkhorn_epsilon, c.sinkhorn_iterations)
        return multi_assignment(similarity, c.picks, c.sinkhorn_epsilon, c.sinkhorn_iterations, c.sinkhorn_guard)

    def losses(self, similarities, targets):
        """w_mn (ℓ + ℓ), Tensor[n, m]: 0 until the queue holds what it can."""
        bias = Sides(0.0, 0.0) if self.bias is None else Sides(
            self.bias["input"][:, None, None], self.bias["joint"][:, None, None])
        of_input, of_joint = (anchor_logits(s, self.config.logits, b) for s, b in zip(similarities, bias))
        found = sspc(of_input, targets.joint) + sspc(of_joint, targets.input)
        found = self.weights.to(found.dtype) * found
        return torch.where(self.seen >= self.config.queue, found, 0.0)

    @torch.no_grad()
    def update(self, x, e):
        """Put a step's clips at the end of the queues, x [B, M, D] and e [B, M, D'] of this rank; the oldest leave."""
        for queue, new in ((self.queue_input, x), (self.queue_joint, e)):
            new = gather(new).transpose(0, 1)
            queue.copy_(torch.cat([queue[:, new.shape[1] :], new], 1))
        self.seen += torch.where(self.seen < self.config.queue, new.shape[1], 0)

    def metrics(self, targets):
        """How evenly anchors are used: the entropy of the mean assignment over log K, 1 where all are used alike, of
        every modality in both spaces. targets : Sides of a step's clips [B, …, K]."""
        spaces = {"input": targets.input, "joint": targets.joint.diagonal(dim1=1, dim2=2).transpose(1, 2)}  # (B, M, K)
        found = {}
        for space, own in spaces.items():
            use = total((own / own.sum(-1, keepdim=True).clamp_min(1e-12)).sum(0))  # (M, K)
            p = use / use.sum(-1, keepdim=True).clamp_min(1e-12)
            entropy = -(p * p.clamp_min(1e-12).log()).sum(-1) / math.log(p.shape[-1])
            found |= {(space, m): one for m, one in zip(self.modalities, entropy)}
        return found
