"""TOC, training-free optimisation of the codebook (arXiv 2403.05168; its code is that of FCID, ACL Findings 2025):
probes read only those dimensions of a code vector in which the codes differ most. A read-out of a run with a codebook.

Of the codebook E [M, D] as it is, dimension d gets

    s_d = -0.7 sim_d + 0.3 var_d,   sim_d = ( (Σ_i E_id)² - Σ_i E_id² ) / ( M (M-1) ),   var_d unbiased over the codes

("full"), or -0.7 sim_d alone ("sim"). Of k dimensions with a mix a:b the k // (a+b) · a best are taken, then the
k // (a+b) · b worst: fewer than k where a + b does not divide k. Tokens are assigned in all D dimensions and cut after.
A token of several codes side by side (`parts` of a model) has k dimensions of each.

The published numbers have k and the mix chosen for every task and direction on what they report. Ours: `strict` chooses
k on the validation split of the source modality and prints the whole token beside it; `paper` takes one k. Scores are
in float64, where the released loop adds up 159600 products in float32. Codes that died count like others, as published.
"""

import argparse
from typing import NamedTuple

import torch

from cmg.errors import UserError

SCORES = {"full": (0.7, 0.3), "sim": (0.7, 0.0)}  # weights of sim_d and var_d


class Toc(NamedTuple):
    """Numbers k of dimensions to try, what they are ranked by, and best to worst among them."""

    dims: tuple[int, ...]
    score: str = "full"
    mix: tuple[int, int] = (1, 0)


def mix(text):
    """An argparse type: best:worst, two whole numbers of which one is above 0.

    >>> mix("3:1")
    (3, 1)
    """
    best, colon, worst = text.partition(":")
    if not (colon and best.isdecimal() and worst.isdecimal() and 0 < int(best) + int(worst) < 2**31):
        raise argparse.ArgumentTypeError(f"'{text}' is not a mix best:worst of two whole numbers, such as 1:0")
    return int(best), int(worst)


def scores(codebook: torch.Tensor, kind="full") -> torch.Tensor:
    """How well each dimension tells codes apart: Tensor[M, D] -> float64 Tensor[D]."""
    codebook, M = codebook.double(), len(codebook)
    of_sim, of_var = SCORES[kind]
    sim = (codebook.sum(0).square() - codebook.square().sum(0)) / (M * (M - 1))  # mean product of two codes
    return of_var * codebook.var(0) - of_sim * sim


def chosen_dims(score: torch.Tensor, k: int, best_to_worst=(1, 0)) -> torch.Tensor:
    """The dimensions by their scores [D], the best first: LongTensor[k or fewer]."""
    best, worst = best_to_worst
    share = k // (best + worst)
    falling, rising = (score.argsort(descending=falls, stable=True) for falls in (True, False))
    return torch.cat([falling[: share * best], rising[: share * worst]])


def subsets(model, toc: Toc) -> dict[int, torch.Tensor]:
    """Dimensions of a model's tokens for every k.

    Raises
    ------
    UserError : a k that the codebook cannot give, or tokens that are no code vectors.
    """
    books = getattr(model, "parts", [model.codebook.embedding])
    narrowest = min(book.shape[1] for book in books)
    if min(map(len, books)) < 2:
        raise UserError("--toc-dims: the codebook has a single code; expected two or more, which differ")
    for k in toc.dims:
        if k > narrowest or k < sum(toc.mix):
            raise UserError(f"--toc-dims {k}: expected {sum(toc.mix)} to {narrowest}, the width of a code vector")
    found = {k: [] for k in toc.dims}
    begin = 0
    for book in books:
        score = scores(book, toc.score)
        for k, dims in found.items():
            dims.append(begin + chosen_dims(score, k, toc.mix))
        begin += book.shape[1]
    return {k: torch.cat(dims) for k, dims in found.items()}


class Cut:
    """Tokens of which only some dimensions are left, in the place of a `cmg.downstream.probing.Encoded`."""

    def __init__(self, encoded, dims: torch.Tensor):
        self.encoded, self.dims = encoded, dims

    def tokens(self, role, modality):
        whole = self.encoded.tokens(role, modality)
        return whole._replace(vectors=whole.vectors[..., self.dims.to(whole.vectors.device)])
