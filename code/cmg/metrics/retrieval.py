"""Retrieval: where what is looked for stands in one fixed gallery, exact and in bounded memory; R@k and median rank.

With codes many items are equal, and an order among equals that happens to be right is no retrieval. `EXPECTED` takes
what a random order among equals gives in expectation: of a thousand equal items 1 % are among the first ten.
`MEAN_RANK` gives every item of a tie its mean rank, all or nothing: none of the thousand is. A query that has no
features, or whose item is not in the gallery, is wrong.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

TIE = 1e-9  # cosines closer than this are equal; products of equal vectors differ by 1e-16 at most


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


def places(queries, gallery, query_groups, gallery_groups, chunk: int = 512, block: int = 65536) -> Places:
    """Place of each query's best right items, by cosine.

    Parameters
    ----------
    queries : Tensor[Q, D]; gallery : Tensor[G, D]
    query_groups, gallery_groups : int64 Tensor[Q], [G]
        An item is right for a query of the same group.
    chunk, block : queries and items that are compared at a time; memory is bounded by their product, not by Q·G
    """
    counts = torch.zeros(3, len(queries), dtype=torch.int64)
    items = F.normalize(gallery.double(), dim=1).split(block)
    groups = gallery_groups.split(block)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        query, group = F.normalize(queries[rows].double(), dim=1), query_groups[rows, None]
        best = query.new_full((len(query), 1), -float("inf"))
        for part, of in zip(items, groups):
            right = group == of  # (chunk, block)
            best = torch.maximum(best, (query @ part.T).masked_fill(~right, -float("inf")).amax(1, keepdim=True))
        found = torch.zeros(3, len(query), dtype=torch.int64, device=query.device)
        for part, of in zip(items, groups):
            right, similarity = group == of, query @ part.T
            equal = (similarity - best).abs() <= TIE
            nearer = similarity > best + TIE  # wrong ones, all of them
            found += torch.stack([x.sum(1) for x in (nearer, equal & right, equal & ~right)])
        counts[:, rows] = found.cpu()
    return Places(*counts)


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


def mean_rank_recall_at(k: int, found: Places) -> float:
    """Share of queries in % whose mean rank is at most k."""
    return 100 * (found.mean_ranks() <= k).double().mean().item()


def median_mean_rank(found: Places) -> float:
    """The median of the mean ranks; of an even number the mean of the middle two."""
    ordered = found.mean_ranks().sort().values
    return ((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2).item()


class Rule(NamedTuple):
    """What becomes of ties: function of (k, places) -> R@k in %, function of places -> median rank."""

    recall_at: Callable[[int, Places], float]
    median_rank: Callable[[Places], float]


EXPECTED, MEAN_RANK = Rule(recall_at, median_rank), Rule(mean_rank_recall_at, median_mean_rank)


def chance(query_groups, gallery_groups) -> Places:
    """Places in a gallery of which all items are equal."""
    known, count = gallery_groups.unique(return_counts=True)
    position = torch.searchsorted(known, query_groups).clamp_max(len(known) - 1)
    right = torch.where(known[position] == query_groups, count[position], 0).cpu()
    return Places(torch.zeros_like(right), right, len(gallery_groups) - right)
