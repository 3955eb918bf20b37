"""Who sees whom in the query transformer. Rows look at columns; queries come first, then words.

Three patterns, one for each loss: apart (MTC), everyone (MTM), and words that see queries and earlier words (MGM).
Queries alone see each other, all of them, which needs no mask.
exists : BoolTensor[B, L], which positions hold a word and no padding. queries : Q, their number.
"""

import torch


def among_words(exists):
    """Words alone, both ways: all see what exists. BoolTensor[B, L, L]."""
    return exists[:, None, :].expand(-1, exists.shape[1], -1)


def everyone(exists, queries):
    """Queries and words in one pass: all see all queries, and the words that exist. BoolTensor[B, Q + L, Q + L]."""
    B, L = exists.shape
    seen = torch.cat([exists.new_ones(B, queries), exists], 1)  # (B, Q + L)
    return seen[:, None, :].expand(-1, queries + L, -1)


def causal(exists, queries):
    """A word sees all queries, earlier words and itself. BoolTensor[B, L, Q + L]: the rows of the words."""
    B, L = exists.shape
    earlier = torch.ones(L, L, dtype=torch.bool, device=exists.device).tril() & exists[:, None, :]  # (B, L, L)
    return torch.cat([exists.new_ones(B, L, queries), earlier], 2)
