"""Which anchors a clip belongs to: Multi-Assignment Sinkhorn-Knopp (Swetha et al., ICCV 2023), and its rivals.

Anchors are K trained points. Every clip selects about r of them, and every anchor is selected by about as many clips.
Targets say so in numbers from 0 to 1 a clip and anchor. All functions take any number of problems of the same size at
once, and none has a gradient: targets are what is predicted.
"""

import math

import torch

from cmg.losses.transport import sinkhorn

FAR, NEAR = 0.25, 1.0  # factors c on the similarity, of the K - r slices that are dropped and of the r that are kept
LEAST_SINGLE = 0.03  # ε at which e^(-2 / ε) / N still is a number of float32


@torch.no_grad()
def multi_assignment(similarity, picks, epsilon=0.07, iterations=20, guard=1e-5):
    """The balanced assignment of every sample to `picks` anchors.

    The published algorithm has an array of K slices, A[g] = exp(c_g S / ε), divided by its sum. Each iteration scales
    it three times, in this order:

        anchor step   Σ_n A[g, n, k] = N / K      every slice uses all anchors equally
        slice step    Σ_g A[g, n, k] = 1          an anchor has a sample in one slice
        sample step   Σ_k A[g, n, k] = 1          a sample has one anchor in every slice

    The last r slices together are the assignment. Slices of the same factor c stay the same, so two are kept, with the
    weights K - r and r: the same numbers for 2 / K of the memory. The start and the first anchor step, where numbers
    are far apart, are taken in the logarithm; what follows lies between 0 and N / K and is plain products, which cost a
    tenth of logarithms of sums. Small ε are computed in float64.

    Parameters
    ----------
    similarity : Tensor[…, N, K], cosines, float32 or wider.
    picks : r, 1 … K - 1; of 0 or of all K anchors there is nothing to choose.
    guard : δ, added to every sum that is divided by. The array begins with entries far below the released 1e-5, so
        this changes the result where iterations are few; 0 leaves it out.

    Returns
    -------
    Tensor[…, N, K], r · A of the kept slices: rows sum to r, columns to r N / K, and no entry exceeds 1, as far as the
    iterations have converged.
    """
    K = similarity.shape[-1]
    if not 0 < picks < K:
        raise ValueError(f"picks {picks}: expected 1 to {K - 1} of {K} anchors")
    wide = torch.float64 if epsilon < LEAST_SINGLE else similarity.dtype
    flat = similarity.to(wide).view(-1, *similarity.shape[-2:])
    # On a CPU one problem after the other, for one stays in its cache and all together do not.
    parts = flat.split(1) if flat.device.type == "cpu" and not torch.compiler.is_compiling() else [flat]
    solved = [kept_slice(part, picks, epsilon, iterations, guard) for part in parts]
    return picks * torch.cat(solved).view(similarity.shape).to(similarity.dtype)


def kept_slice(similarity, picks, epsilon, iterations, guard):
    """A of a kept slice, Tensor[P, N, K], rows of sum 1. `slices` hold w · A of both."""
    N, K = similarity.shape[-2:]
    weights = K - picks, picks
    tiny = torch.finfo(similarity.dtype).tiny
    least = max(guard, tiny)  # nothing is divided by 0
    logs = [similarity * (factor / epsilon) + math.log(w) for factor, w in zip((FAR, NEAR), weights)]
    whole = torch.logaddexp(*(log.logsumexp((-2, -1), keepdim=True) for log in logs))
    columns = [(log - whole).logsumexp(-2, keepdim=True) - math.log(w) for log, w in zip(logs, weights)]
    columns = [torch.logaddexp(column, torch.full_like(column, math.log(least))) for column in columns]
    slices = [(log - whole - column + math.log(N / K)).exp_() for log, column in zip(logs, columns)]
    for step in range(iterations):
        if step:
            for x, w in zip(slices, weights):
                x.mul_((N / K) / (x.sum(-2, keepdim=True) / w + least))
        slices_sum = torch.add(*slices).add_(least)
        for x, w in zip(slices, weights):
            x.div_(slices_sum)
            x.div_(x.sum(-1, keepdim=True) / w + least)
    return slices[1] / slices[1].sum(-1, keepdim=True).clamp_min(tiny)


@torch.no_grad()
def single_assignment(similarity, epsilon=0.07, iterations=20):
    """Plain Sinkhorn-Knopp, one anchor a sample: the entropic plan between samples and anchors, Tensor[…, N, K].

    Not the same as `multi_assignment` of one pick, in which slices of another temperature take part.
    """
    flat = similarity.flatten(0, -3) if similarity.dim() > 2 else similarity.unsqueeze(0)
    everyone = torch.ones(flat.shape[1], dtype=torch.bool, device=flat.device)
    plans = torch.vmap(lambda s: sinkhorn(1 - s, everyone, epsilon, iterations))(flat)
    return plans.view(similarity.shape)


@torch.no_grad()
def nearest_anchors(similarity, picks):
    """A hard assignment that balances nothing: 1 for the r most similar anchors of a sample, else 0."""
    near = similarity.topk(picks, dim=-1).indices
    return torch.zeros_like(similarity).scatter_(-1, near, 1.0)


@torch.no_grad()
def soft_targets(assignment):
    """An assignment as targets in 0 … 1: every row stretched from its least entry to its largest. A row of equal
    entries, which prefers nothing, is 0."""
    low, high = assignment.amin(-1, keepdim=True), assignment.amax(-1, keepdim=True)
    return (assignment - low) / (high - low).clamp_min(torch.finfo(assignment.dtype).tiny)
