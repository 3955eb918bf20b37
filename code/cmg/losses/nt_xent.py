"""NT-Xent (Chen et al., ICML 2020) between two modalities of the same clips."""

import torch
from torch.nn import functional as F

from cmg.distributed import first_row, gather, share

GUARD = 1e-18  # under the root of a norm: a vector of zeros has cosine 0 with everything


def unit(x):
    """Vectors of length 1."""
    return x / (x.square().sum(-1, keepdim=True) + GUARD).sqrt()


def nt_xent(a, b, exists, temperature):
    """-1/2N Σ_i log( exp(s_i,own / τ) / Σ_{j≠i} exp(s_i,j / τ) ) over the 2N vectors of both modalities.

    s are cosines, a vector's own partner is the same clip's in the other modality, and all others of *both* modalities
    are negatives, those of other processes included.

    Parameters
    ----------
    a, b : Tensor[B, D]. exists : BoolTensor[B], the clips that have both; the others are nobody's negatives.
    temperature : τ
    """
    with torch.autocast(a.device.type, enabled=False):  # in bf16 a cosine over a temperature has 2 digits
        mine = torch.cat([unit(x.to(torch.promote_types(x.dtype, torch.float32))) for x in (a, b)])  # (2B, D)
        B, first = len(a), first_row(a)
        others, there = torch.cat([gather(mine[:B]), gather(mine[B:])]), gather(exists).repeat(2)  # (2N, D)
        N = len(others) // 2
        place = first + torch.arange(B, device=a.device)
        own = torch.cat([place, place + N])  # where my vectors are among all, and their partners
        scores = mine @ others.T / temperature  # (2B, 2N)
        never = ~there | (torch.arange(2 * N, device=a.device) == own[:, None])
        rows = exists.repeat(2)
        # A row that does not count must not be -inf throughout: its gradient would be nan, not 0.
        scores = scores.masked_fill(never, float("-inf")).masked_fill(~rows[:, None], 0.0)
        loss = F.cross_entropy(scores, own.roll(B), reduction="none")
        rows = rows.to(loss.dtype)
        return (loss * rows).sum() / share(rows.sum())
