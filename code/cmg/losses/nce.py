"""NCE between two sides of a clip, and MIL-NCE between a side and a bag of instances of the other (Miech et al. 2020).

NCE, with scores s_ij = scale · a_i · b_j:

    L = -1/2n Σ_i [ log softmax_j(s_i·)_i + log softmax_j(s_·i)_i ]

MIL-NCE, where P_i is the bag of clip i: any instance of it may be the right one, and it need not be known which,

    L = -1/n Σ_i log Σ_{k ∈ P_i} e^{s_ik} / ( Σ_{all k} e^{s_ik}  [ + Σ_j Σ_{k ∈ P_i} e^{s_jk} ] )

The second sum of the denominator, all clips for the bag, is that of its authors' code, in which the bag is counted in
both; without it the formula of the paper is left. Bags of several processes are compared with each other.
"""

import torch
from torch.nn import functional as F

from cmg.distributed import first_row, gather, share


def nce(a, b, scale):
    """Symmetric NCE. a, b : Tensor[B, D], row i of one belongs to row i of the other; scale : 1 / temperature."""
    labels = first_row(a) + torch.arange(len(a), device=a.device)
    with torch.autocast(a.device.type, enabled=False):  # in bf16 a cosine over a temperature has 2 digits
        a, b = full(a), full(b)
        scores = scale * a @ gather(b).t(), scale * b @ gather(a).t()
    return sum(F.cross_entropy(one, labels) for one in scores) / 2


def full(x):
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mil_nce(a, instances, exists, scale=1.0, both=True):
    """MIL-NCE.

    Parameters
    ----------
    a : Tensor[B, D]. instances : Tensor[B, K, D], the bag of each.
    exists : BoolTensor[B, K]; a clip with an empty bag does not count.
    both : contrast all `a` with the bag as well, as the authors' code does.
    """
    real = exists.any(1)
    exists = exists | ~real[:, None]  # an empty bag is full here, so that its row stays finite, and is left out below
    with torch.autocast(a.device.type, enabled=False):
        a, instances = full(a), full(instances)
        scores = scale * torch.einsum("id,jkd->ijk", a, gather(instances))  # (B, N, K)
        own = scale * torch.einsum("id,ikd->ik", a, instances)  # (B, K)
        back = scale * torch.einsum("jd,ikd->ijk", gather(a), instances) if both else None  # (B, N, K)
    scores = scores.masked_fill(~(gather(exists) & gather(real)[:, None]), float("-inf"))
    own = own.masked_fill(~exists, float("-inf"))
    bag = own.logsumexp(1)
    rivals = [scores.flatten(1), own.masked_fill(real[:, None], float("-inf"))]
    if both:  # all clips for the instances of this bag
        rivals.append(back.masked_fill(~exists[:, None], float("-inf")).flatten(1))
    loss = torch.cat(rivals, 1).logsumexp(1) - bag
    return (loss * real).sum() / share(real.sum().to(loss.dtype))
