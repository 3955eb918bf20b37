"""Adaptive mean margin softmax (Monfort et al., Spoken Moments, CVPR 2021): the margin follows the batch."""

import torch

from cmg.losses.info_nce import candidates, own_rows


def adaptive_margin(query, real, keys, exists, alpha=0.5, temperature=None):
    """One direction of AMM, with S_ij the dot product of query i and key j:

        -1/B Σ_i log( e^(S_ii - M_i) / (e^(S_ii - M_i) + Σ_{j≠i} e^(S_ij)) ),  M_i = α (S_ii - 1/(B-1) Σ_{j≠i} S_ij)

    The margin keeps its gradient, so that the pull on S_ii is scaled by 1 - α: α = 1 would cancel it, α = 0 is plain
    softmax. The other direction takes the same call with query and keys swapped, and with that the means over columns.

    Parameters
    ----------
    query, keys : Tensor[B, D]. real, exists : BoolTensor[B], which of them exist; mean and sum leave the others out.
    temperature : None: S is the plain dot product, as published. Otherwise cosine / temperature.
    """
    keys, exists, first = candidates(keys, exists)
    with torch.autocast(query.device.type, enabled=False):
        query, keys = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (query, keys))
        if temperature is not None:
            query = torch.nn.functional.normalize(query, dim=-1) / temperature
            keys = torch.nn.functional.normalize(keys, dim=-1)
        scores = query @ keys.t()  # (B, N)
    own = torch.zeros_like(scores, dtype=torch.bool)
    own.diagonal(first).fill_(True)
    others = (exists & ~own).to(scores.dtype)
    mean = (scores * others).sum(1, keepdim=True) / others.sum(1, keepdim=True).clamp_min(1)
    scores = torch.where(own, scores - alpha * (scores - mean), scores)
    return own_rows(scores.unsqueeze(0), real.unsqueeze(0), exists.unsqueeze(0), first)
