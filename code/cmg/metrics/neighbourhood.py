"""Whether one space keeps the neighbourhoods of another: nearest neighbours in common, and the order of similarities.

Both compare two sets of vectors of the same items, by cosine, and do not ask which item belongs where.
"""

import torch
from scipy.stats import spearmanr
from torch.nn import functional as F


def knn_overlap(a, b, k=10, block=1024):
    """Share of the k nearest other items that are the same in both spaces, mean over items, 0-100.

    a, b : Tensor[N, D] and [N, D'], N > k. In spaces that have nothing to do with each other it is 100 k / (N - 1).
    """
    a, b = F.normalize(a.double(), dim=-1), F.normalize(b.double(), dim=-1)
    same = 0.0
    for rows in torch.arange(len(a), device=a.device).split(block):
        near = []
        for x in (a, b):
            cosine = x[rows] @ x.t()  # (block, N)
            cosine[torch.arange(len(rows), device=a.device), rows] = -torch.inf
            near.append(torch.zeros_like(cosine, dtype=torch.bool).scatter_(1, cosine.topk(k, dim=1).indices, True))
        same += (near[0] & near[1]).sum().item()
    return 100 * same / (k * len(a))


def similarity_correlation(a, b, most=2000):
    """Spearman's ρ between the cosines of all pairs of items in both spaces, times 100: 0 in spaces that have nothing
    to do with each other. Of more items than `most` it is that of as many, evenly spaced."""
    chosen = torch.linspace(0, len(a) - 1, min(most, len(a))).round().long().to(a.device)
    pairs = torch.triu_indices(len(chosen), len(chosen), 1, device=a.device)
    unit = (F.normalize(x[chosen].double(), dim=-1) for x in (a, b))
    cosines = ((x @ x.t())[pairs[0], pairs[1]].cpu().numpy() for x in unit)
    return 100 * float(spearmanr(*cosines).statistic)
