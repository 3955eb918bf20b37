"""Prototypes by optimal transport, the coding half of CODIS (Duan et al., CVPR 2022).

A teacher's vectors are assigned to prototypes by a transport plan that uses all prototypes equally; the plan moves
the prototypes, and tells the *other* modality's student which prototypes its vector should predict.
"""

import torch

from cmg.distributed import share


@torch.no_grad()
def sinkhorn(cost, real, epsilon=0.05, iterations=50):
    """The entropic transport plan between n points and K prototypes, both weighted uniformly (Cuturi, 2013).

    Parameters
    ----------
    cost : Tensor[n, K], float32 or wider.
    real : BoolTensor[n]; points that do not exist have no mass.

    Returns
    -------
    Tensor[n, K], total mass 1 (0 if no point is real). Columns sum to 1/K exactly, rows to 1/n as far as the
    iterations have converged.
    """
    # A row's scale is absorbed by its multiplier, so start every row at 1: nothing underflows there.
    kernel = torch.exp(-(cost - cost.amin(1, keepdim=True)) / epsilon)
    rows = real.to(cost.dtype)
    rows = rows / rows.sum().clamp_min(1)
    columns = rows.sum() / cost.shape[1]
    tiny = torch.finfo(cost.dtype).tiny
    v = torch.ones_like(cost[0])
    for _ in range(iterations):
        u = rows / (kernel @ v).clamp_min(tiny)
        v = columns / (kernel.t() @ u).clamp_min(tiny)
    return u.unsqueeze(1) * kernel * v


def transport_cost(plan, cosine):
    """L_ot = <T, 1 - cos(z, C)>: with the plan fixed, prototypes move towards the points assigned to them.

    plan, cosine : Tensor[n, K].
    """
    return (plan * (1 - cosine)).sum()


def code_prediction(logits, plan, real):
    """H(T, P): cross entropy between a row of the other modality's plan, scaled to 1, and softmax(logits), mean over
    real points. logits, plan : Tensor[n, K]; real : BoolTensor[n]."""
    target = plan / plan.sum(1, keepdim=True).clamp_min(torch.finfo(plan.dtype).tiny)
    loss = -(target * logits.log_softmax(-1)).sum(1)
    return (loss * real).sum() / share(real.sum().to(loss.dtype))
