"""A loss of one's own: Barlow Twins (Zbontar et al., ICML 2021) between modalities, joined to a method that exists.

    python -m cmg.pretrain --data synthetic --method unicode+examples/own_objective.py --preset small \
        --out checkpoint/barlow

Clips' mean semantic vectors of two modalities are standardised over the batch. Their correlations C [D, D] are to be 1
where a dimension meets itself and 0 elsewhere: L = (Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij²) / D, for every pair.
"""

from dataclasses import dataclass

import torch
from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.losses.masked import clip_vectors
from cmg.methods.codebook.objective import Objective
from cmg.modalities import pairs


@dataclass(frozen=True)
class BarlowConfig(Config):
    """Barlow Twins.

    Attributes
    ----------
    w_barlow : weight of the term
    barlow_lambda : λ, of what stands off the diagonal
    """

    w_barlow: float = setting(0.1, number(least=0))
    barlow_lambda: float = setting(0.005, number(least=0))


class Barlow(nn.Module):
    def __init__(self, off_diagonal):
        super().__init__()
        self.off_diagonal = off_diagonal

    def forward(self, state):
        losses = {}
        for a, b, key in pairs(state.semantic):
            (x, there), (y, here) = (clip_vectors(state.semantic[m], state.valid[m]) for m in (a, b))  # (B, D), (B,)
            kept = (there & here)[:, None]
            count = kept.sum().clamp(min=1)
            x, y = (standardised(z, kept, count) for z in (x, y))
            C = x.T @ y / count  # (D, D)
            diagonal = C.diagonal()
            off = C.pow(2).sum() - diagonal.pow(2).sum()
            losses[key] = ((1 - diagonal).pow(2).sum() + self.off_diagonal * off) / len(C)
        return losses


def standardised(z, kept, count):
    """To mean 0 and variance 1 over the clips that are kept; the others are 0."""
    z = torch.where(kept, z, 0)
    centred = torch.where(kept, z - z.sum(0) / count, 0)
    return centred / (centred.pow(2).sum(0) / count + 1e-5).sqrt()


def barlow(blueprint):
    return Barlow(blueprint.config.objectives["barlow"].barlow_lambda)


OBJECTIVE = Objective("barlow", BarlowConfig(), {"barlow": barlow}, paired=True)
