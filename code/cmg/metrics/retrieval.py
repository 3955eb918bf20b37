"""Retrieval: where what is looked for stands in one fixed gallery, exact and in bounded memory; R@k, median, mean rank.

With codes many items are equal, and an order among equals that happens to be right is no retrieval. `EXPECTED` takes
what a random order among equals gives in expectation: of a thousand equal items 1 % are among the first ten.
`RELEASED`, the rule of MultiSK's and EAO's public code, gives every item of a tie its mean rank, all or nothing: none
of the thousand is. A query that has no features, or whose item is not in the gallery, is wrong; `RELEASED` leaves it
out of the median and the mean rank, in `EXPECTED` its rank is infinite.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

TIE = 1e-9  # cosines closer than this are equal; products of equal vectors differ by 1e-16 at most
SHORTEST = 1e-8  # vectors are divided by no less: a vector of zeros has a cosine of 0 with all


class Places(NamedTuple):
    """Where the best right items of Q queries stand, int64 Tensor[Q] each.

    nearer : wrong items before them
    right, wrong : items that are equally near, of either kind; no right one where there is none in the gallery
    """

    nearer: torch.Tensor
    right: torch.Tensor
    wrong: torch.Tensor

    def mean_ranks(self):
        """Expected rank of the first right item, from 1, float64 Tensor[Q]; infinity without one.

        Of a random order of m right and e wrong items the first right one has 1 + e / (m + 1) as expected place; for
        m = 1 that is the mean rank of the tie.
        """
        rank = 1 + self.nearer.double() + self.wrong.double() / (self.right + 1)
        return torch.where(self.right > 0, rank, float("inf"))


def unit(vectors):
    """Rows of length 1 in float64, Tensor[n, D]: their products are cosines."""
    return F.normalize(vectors.double(), dim=1, eps=SHORTEST)


def places(queries, gallery, query_groups, gallery_groups, chunk: int = 512, block: int = 65536) -> Places:
    """Place of each query's best right items, by cosine.

    Parameters
    ----------
    queries : Tensor[Q, D]; gallery : Tensor[G, D]
    query_groups, gallery_groups : int64 Tensor[Q], [G]
        An item is right for a query of the same group.
    chunk, block : queries and items that are compared at a time; memory is bounded by their product, not by Q·G
    """
    items = unit(gallery)
    return places_by(lambda rows, columns: unit(queries[rows]) @ items[columns].T, query_groups, gallery_groups, chunk,
                     block)


def places_by(similarity, query_groups, gallery_groups, chunk: int, block: int) -> Places:
    """The same by any similarity: a function of a slice of queries and one of items -> Tensor[q, g].

    A query whose similarity with its own item is no number finds nothing.
    """
    counts = torch.zeros(3, len(query_groups), dtype=torch.int64)
    blocks = [slice(start, start + block) for start in range(0, len(gallery_groups), block)]
    for start in range(0, len(query_groups), chunk):
        rows = slice(start, start + chunk)
        group = query_groups[rows, None]
        best = torch.full(group.shape, -float("inf"), dtype=torch.float64, device=group.device)
        for columns in blocks:
            own = similarity(rows, columns).masked_fill(group != gallery_groups[columns], -float("inf"))
            best = torch.maximum(best, own.amax(1, keepdim=True))
        found = torch.zeros(3, len(group), dtype=torch.int64, device=group.device)
        for columns in blocks:
            right, near = group == gallery_groups[columns], similarity(rows, columns)
            equal = (near - best).abs() <= TIE
            nearer = near > best + TIE  # wrong ones, all of them
            found += torch.stack([x.sum(1) for x in (nearer, equal & right, equal & ~right)])
        counts[:, rows] = found.cpu()
    return Places(*counts)


def averaged(vectors, names):
    """Vectors of the same name as their mean: Tensor[n, D] and n names -> (Tensor[m, D], names [m] in order)."""
    names, group = np.unique(names, return_inverse=True)
    group = torch.from_numpy(group).to(vectors.device)
    total = vectors.new_zeros(len(names), vectors.shape[1]).index_add_(0, group, vectors)
    return total / group.bincount()[:, None], names.tolist()


def hits_at(k: int, found: Places):
    """Probability that a right item is among the first k, equal ones in random order, float64 Tensor[Q].

    Of t equal items the first s = k − nearer are shown: 1 − C(t − m, s) / C(t, s) with m right ones, s / t with one.
    """
    m, ties = found.right, found.right + found.wrong
    shown = torch.minimum((k - found.nearer).clamp(min=0), ties)
    miss = torch.ones(len(m), dtype=torch.float64)
    for j in range(int(m.max()) if len(m) else 0):  # the same as C(t − s, m) / C(t, m), a factor a right item
        factor = (ties - shown - j).clamp(min=0).double() / (ties - j).clamp(min=1)
        miss = torch.where(j < m, miss * factor, miss)
    return 1 - miss


def recall_at(k: int, found: Places) -> float:
    """Expected share of queries in % that have a right item among the first k."""
    return 100 * hits_at(k, found).mean().item()


def median_rank(found: Places) -> float:
    """The rank within which half of the queries are expected to be right; infinite where half are wrong.

    Where R@k is exactly half it lies between this k and the next one at which more are right, as a median does.
    """
    last = int((found.nearer + found.right + found.wrong).max())
    half = [next_rank(found, last, least) for least in (0.5 - 1e-9, 0.5 + 1e-9)]
    return sum(half) / 2


def next_rank(found: Places, last: int, least: float) -> float:
    """The smallest rank up to `last` within which a share of at least `least` is right, infinity if none is."""
    low, high = 0, last + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if hits_at(middle, found).mean() >= least else (middle, high)
    return float("inf") if high > last else float(high)


def mean_rank(found: Places) -> float:
    """The mean of the expected ranks; infinite where a query finds nothing."""
    return found.mean_ranks().mean().item()


def released_recall_at(k: int, found: Places) -> float:
    """Share of queries in % whose mean rank, counted from 0, is less than k; for R@1 it must be 0, so that two items in
    the first place are none."""
    rank = found.mean_ranks() - 1
    return 100 * (rank < k if k > 1 else rank == 0).double().mean().item()


def released_median_rank(found: Places) -> float:
    """The median of the mean ranks of queries that find something; of an even number the mean of the middle two."""
    rank = present_ranks(found).sort().values
    return ((rank[(len(rank) - 1) // 2] + rank[len(rank) // 2]) / 2).item()


def released_mean_rank(found: Places) -> float:
    """The mean of the mean ranks of queries that find something."""
    return present_ranks(found).mean().item()


def present_ranks(found: Places):
    """Mean ranks of the queries that find something; a single infinite one if none does."""
    rank = found.mean_ranks()[found.right > 0]
    return rank if len(rank) else torch.tensor([float("inf")])


class Rule(NamedTuple):
    """What becomes of ties and of what is missing: function of (k, places) -> R@k in %, functions of places -> median
    and mean rank."""

    recall_at: Callable[[int, Places], float]
    median_rank: Callable[[Places], float]
    mean_rank: Callable[[Places], float]


EXPECTED = Rule(recall_at, median_rank, mean_rank)
RELEASED = Rule(released_recall_at, released_median_rank, released_mean_rank)


def chance(query_groups, gallery_groups) -> Places:
    """Places in a gallery of which all items are equal."""
    known, count = gallery_groups.unique(return_counts=True)
    position = torch.searchsorted(known, query_groups).clamp_max(len(known) - 1)
    right = torch.where(known[position] == query_groups, count[position], 0).cpu()
    return Places(torch.zeros_like(right), right, len(gallery_groups) - right)
