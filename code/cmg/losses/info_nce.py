"""InfoNCE: pick a clip's own partner out of the batch (van den Oord et al. 2018)."""

import torch
from torch.nn import functional as F

from cmg.distributed import first_row, gather, share


def candidates(keys, exists):
    """What a query is compared with, of all ranks: (keys, exists, index of the first query's own key)."""
    return gather(keys), gather(exists), first_row(keys)


def own_rows(scores, real, exists, first):
    """-log softmax of every query's own score, mean over queries that have one; 0 if none has.

    Parameters
    ----------
    scores : Tensor[T, B, N], of B queries with N keys; query i belongs to key first + i.
    real : BoolTensor[T, B], which queries count. exists : BoolTensor[T, N]: a key that does not exist is nobody's
        negative.
    """
    T, B, _ = scores.shape
    labels = torch.arange(first, first + B, device=scores.device)
    rows = real & exists[:, first : first + B]
    # A row without its own key could be -inf throughout. It does not count, so give it finite scores: its gradient
    # must be 0 and not nan.
    scores = scores.masked_fill(~exists.unsqueeze(1), float("-inf")).masked_fill(~rows.unsqueeze(2), 0.0)
    loss = F.cross_entropy(scores.flatten(0, 1), labels.repeat(T), reduction="none")
    rows = rows.flatten().to(loss.dtype)
    return (loss * rows).sum() / share(rows.sum())


def contrast(query, real, keys, exists, temperature):
    """One direction of InfoNCE, -1/n Σ_i log softmax_j( cos(q_i, k_j) / temperature )_i, step by step.

    Parameters
    ----------
    query, keys : Tensor[B, T, D]; step t of query i belongs to step t of key i, and its negatives are step t of the
        other clips.
    real, exists : BoolTensor[B, T], which steps of the queries and of the keys exist.
    temperature : float, or a 0-d Tensor to learn it.
    """
    keys, exists, first = candidates(keys, exists)
    with torch.autocast(query.device.type, enabled=False):  # in bf16 a cosine over a temperature has 2 digits
        query, keys = (F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1) for x in (query, keys))
        scores = torch.einsum("itd,jtd->tij", query, keys) / temperature
    return own_rows(scores, real.t(), exists.t(), first)
