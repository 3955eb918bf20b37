"""Retrieval: the rank of what is looked for in one fixed gallery, exact and in bounded memory; R@k and median rank.

Ties take their mean rank: with codes many items are equal, and an order among equals that happens to be right is no
retrieval. A query that has no features, or whose item is not in the gallery, has rank infinity: it is wrong.
"""

import torch
import torch.nn.functional as F

TIE = 1e-9  # cosines closer than this are equal; products of equal vectors differ by 1e-16 at most


def ranks(queries, gallery, query_groups, gallery_groups, chunk: int = 512, block: int = 65536):
    """Rank of each query's best right item, by cosine.

    Where m right and e wrong items are equally near, the first right one of a random order among them has
    1 + e / (m + 1) as expected place; for m = 1 that is the mean rank.

    Parameters
    ----------
    queries : Tensor[Q, D]; gallery : Tensor[G, D]
    query_groups, gallery_groups : int64 Tensor[Q], [G]
        An item is right for a query of the same group.
    chunk, block : queries and items that are compared at a time; memory is bounded by their product, not by Q·G

    Returns
    -------
    float64 Tensor[Q], from 1; infinity for a query without a right item
    """
    found = torch.full((len(queries),), float("inf"), dtype=torch.float64)
    items = F.normalize(gallery.double(), dim=1).split(block)
    groups = gallery_groups.split(block)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        query, group = F.normalize(queries[rows].double(), dim=1), query_groups[rows, None]
        best = query.new_full((len(query), 1), -float("inf"))
        for part, of in zip(items, groups):
            right = group == of  # (chunk, block)
            best = torch.maximum(best, (query @ part.T).masked_fill(~right, -float("inf")).amax(1, keepdim=True))
        nearer, tied_right, tied_wrong = (torch.zeros(len(query), dtype=torch.int64, device=query.device)
                                          for _ in range(3))
        for part, of in zip(items, groups):
            right, similarity = group == of, query @ part.T
            equal = (similarity - best).abs() <= TIE
            nearer += (similarity > best + TIE).sum(1)  # wrong ones, all of them
            tied_right += (equal & right).sum(1)
            tied_wrong += (equal & ~right).sum(1)
        rank = 1 + nearer.double() + tied_wrong.double() / (tied_right + 1)
        found[rows] = torch.where(best.isfinite()[:, 0], rank, float("inf")).cpu()
    return found


def recall_at(k: int, rank) -> float:
    """Share of queries in % whose rank is at most k."""
    return 100 * (rank <= k).double().mean().item()


def median_rank(rank) -> float:
    """The median rank; of an even number the mean of the middle two. Infinite where half the queries are wrong."""
    ordered = rank.sort().values
    return ((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2).item()


def chance_at(k: int, query_groups, gallery_groups) -> float:
    """R@k in % of a gallery in random order: 1 − C(G−m, k)/C(G, k) for a query with m right items of G."""
    known, count = gallery_groups.unique(return_counts=True)
    position = torch.searchsorted(known, query_groups).clamp_max(len(known) - 1)
    m = torch.where(known[position] == query_groups, count[position], 0).double()
    size, miss = len(gallery_groups), torch.ones_like(m)
    for drawn in range(min(k, size)):
        miss *= ((size - drawn - m) / (size - drawn)).clamp(min=0)
    return 100 * (1 - miss).mean().item()
