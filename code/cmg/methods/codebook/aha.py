"""After AHA (arXiv 2602.03570): audio's residual levels as the anchor of all modalities (`cmg.models.level_codebook`).

No code is published; in reach were its abstract and second-hand notes. From there: residual levels of audio of which
the first are shared, audio as the teacher, gradient reversal in the place of vCLUB, and positives within a window of
seconds. Every formula, size and weight below is this project's, and no number of the paper is to be expected of it:

    L = L_recon + L_commit + L_distil + L_adv

    L_distil : each shared level, `cmg.losses.distillation.window_distillation`: of the codes that the anchor has within
        R seconds the nearest one is the target; words that belong to the clip may take any second's
    L_adv = cross entropy of MLP( s ) with the first level's code of the same second; its gradient to Ψ is reversed and
        times λ = 2 / (1 + e^{-10 p}) - 1, p the share of the epochs that is over (Ganin and Lempitsky 2015)

Where there is no audio the first modality of the model is the anchor. Below the first level a modality is compared with
the anchor's codes on what its own codes left of it.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.losses.distillation import reversed_gradient, window_distillation
from cmg.losses.masked import masked_mean
from cmg.methods.codebook.objective import Objective
from cmg.modalities import direction
from cmg.models.level_codebook import LevelModel


@dataclass(frozen=True)
class AhaConfig(Config):
    """Method aha (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_distil : the anchor's codes taught to the others
    distil_window : R, seconds around one in which its positive may lie
    distil_temperature : of distances to codes
    w_adversary : gradient reversal between codes and Ψ
    """

    w_distil: float = setting(1.0, number(least=0))
    distil_window: int = setting(1, whole())
    distil_temperature: float = setting(1.0, number(above=0))
    w_adversary: float = setting(1.0, number(least=0))


class Distillation(nn.Module):
    """L_distil, keys by direction; sum over shared levels, mean over the other modalities in all.

    anchor, shared : as of `LevelCodebook`. timed : modalities whose step t is second t.
    """

    def __init__(self, anchor, shared, timed, window, temperature):
        super().__init__()
        self.anchor, self.shared, self.timed = anchor, shared, tuple(timed)
        self.window, self.temperature = window, temperature

    def forward(self, state):
        losses, taught, anchor = {}, [m for m in state.quantized if m != self.anchor], state.quantized[self.anchor]
        for m in taught:
            window = self.window if {m, self.anchor} <= {*self.timed} else None
            levels = zip(state.quantized[m].levels, anchor.levels[: self.shared])
            losses[direction(self.anchor, m)] = sum(
                window_distillation(own.distances, state.valid[m], theirs.codes, state.valid[self.anchor], window,
                                    self.temperature) for own, theirs in levels) / len(taught)
        return losses


class Adversary(nn.Module):
    """L_adv, keys by modality; their mean in all. widths : dict modality -> of Ψ's vectors. size : M.

    Attributes
    ----------
    strength : 0-d Tensor, λ, on the device, where no step waits for it
    """

    def __init__(self, widths, size):
        super().__init__()
        self.heads = nn.ModuleDict({m: nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size))
                                    for m, width in widths.items()})
        self.register_buffer("strength", torch.zeros(()), persistent=False)

    def begin_epoch(self, epoch, epochs):
        self.strength.fill_(2 / (1 + math.exp(-10 * epoch / epochs)) - 1)

    def forward(self, state):
        losses = {}
        for m, head in self.heads.items():
            scores = head(reversed_gradient(state.pooled[m], self.strength))  # (B, T', M)
            codes = state.quantized[m].codes[:, state.steps]
            wrong = F.cross_entropy(scores.flatten(0, 1), codes.flatten(), reduction="none").view_as(codes)
            losses[m] = masked_mean(wrong, state.valid[m][:, state.steps]) / len(self.heads)
        return losses


def distillation(blueprint):
    book, config = blueprint.model.codebook, blueprint.config.objectives["aha"]
    return Distillation(book.anchor, book.shared, blueprint.timed, config.distil_window, config.distil_temperature)


def adversary(blueprint):
    if blueprint.specific is None:
        return None
    return Adversary({m: psi.pooled_dim for m, psi in blueprint.specific.items()}, blueprint.model.codebook.size)


def refuse(config, features):
    """`UserError` for more shared levels than there are."""
    book = config.codebook
    if book.shared_levels > book.levels:
        raise UserError(f"--shared-levels {book.shared_levels}: expected 1 to {book.levels}, the number of --levels")


OBJECTIVE = Objective("aha", AhaConfig(), {"distil": distillation, "adversary": adversary},
                      owns=("levels", "shared_levels"), model=LevelModel, paired=True, refuse=refuse)
