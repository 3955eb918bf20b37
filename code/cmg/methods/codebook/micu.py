"""MICU (Huang et al., ICCV 2025, arXiv 2507.14935): Uni-Code's model and codebook, trained by masked contrast of all
modalities at two levels (FCMI, `cmg.losses.fcmi`) and a jigsaw of tokens (CUJP, `cmg.losses.puzzle`).

L = L_recon + L_commit + L_fine + L_coarse + L_cujp, with MM-EMA and its commitment, all weights 1. Cross-CPC, L_cmcm
and vCLUB are computed and logged by the public script and are no part of its loss; here they are left out.

Choices of this project: means are over the seconds that exist, and words that belong to the clip as a whole
(`--text-alignment clip`) take no part in the fine term across modalities, nor in the jigsaw. Clips of one second have
no fine term, which would be ln 1. The public code's second forward pass, with a second EMA update a step, its read-out
that sets code 0 to zero and its reset that counts no hits of text are not reproduced.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.losses.fcmi import coarse, fine
from cmg.losses.puzzle import MOST_PARTS, Puzzle
from cmg.losses.self_cross import sample_hidden
from cmg.methods.codebook.objective import Objective


@dataclass(frozen=True)
class MicuConfig(Config):
    """Method micu (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_fcmi : masked contrast of all modalities
    fcmi_levels : within clips, between clips, or both
    fcmi_masked : share of the seconds that are masked
    fcmi_temperature : cosine / temperature
    w_cujp : jigsaw of tokens
    cujp_parts : n, parts of a token
    cujp_orders : P, orders that are told apart
    """

    w_fcmi: float = setting(1.0, number(least=0))
    fcmi_levels: str = setting("both", choices=("both", "fine", "coarse"))
    fcmi_masked: float = setting(0.3, number(least=0, below=1))
    fcmi_temperature: float = setting(0.1, number(above=0))
    w_cujp: float = setting(1.0, number(least=0))
    cujp_parts: int = setting(2, whole(2))
    cujp_orders: int = setting(2, whole(2))


class MaskedContrast(nn.Module):
    """FCMI on the semantic vectors of a state, keys such as "fine_audio" by the modality that is masked.

    levels : of "fine" and "coarse". masked : share of the seconds. timed : modalities whose step t is second t.
    """

    def __init__(self, levels, masked, temperature, timed):
        super().__init__()
        self.levels, self.masked, self.temperature, self.timed = levels, masked, temperature, tuple(timed)

    def forward(self, state):
        z, valid = state.semantic, state.valid
        hidden = sample_hidden(torch.ones_like(next(iter(valid.values()))), self.masked)  # (B, T), alike for all
        masked = {m: x * ~hidden.unsqueeze(-1) for m, x in z.items()}
        losses = {}
        if "fine" in self.levels:
            losses |= {f"fine_{m}": x for m, x in fine(masked, z, valid, self.temperature, self.timed).items()}
        if "coarse" in self.levels:
            losses |= {f"coarse_{m}": x for m, x in coarse(masked, z, valid, self.temperature).items()}
        return losses


class TokenPuzzle(Puzzle):
    """CUJP on the straight-through tokens of a state."""

    def __init__(self, timed, *sizes):
        super().__init__(*sizes)
        self.timed = tuple(timed)

    def forward(self, state):
        tokens, valid = (torch.stack([of[m] for m in self.timed]) for of in (
            {m: q.straight for m, q in state.quantized.items()}, state.valid))
        return {"orders": super().forward(tokens, valid)}


def masked_contrast(blueprint):
    config, model = blueprint.config.objectives["micu"], blueprint.model
    levels = {"fine", "coarse"} if config.fcmi_levels == "both" else {config.fcmi_levels}
    if next(iter(model.shapes.values()))[0] == 1:
        levels -= {"fine"}
    return MaskedContrast(levels, config.fcmi_masked, config.fcmi_temperature, blueprint.timed) if levels else None


def puzzle(blueprint):
    config = blueprint.config.objectives["micu"]
    if len(blueprint.timed) < 2:
        return None
    return TokenPuzzle(blueprint.timed, blueprint.model.token_dim, config.cujp_parts, config.cujp_orders)


def refuse(config, features):
    """`UserError` for tokens that cannot be cut like this, or orders that there are not."""
    micu, dim = config.objectives["micu"], config.encoder.dim
    if micu.w_cujp and (dim % micu.cujp_parts or micu.cujp_parts > MOST_PARTS):
        raise UserError(f"--cujp-parts {micu.cujp_parts}: expected a divisor of --dim {dim}, at most {MOST_PARTS}")
    if micu.w_cujp and micu.cujp_orders > math.factorial(micu.cujp_parts):
        raise UserError(f"--cujp-orders {micu.cujp_orders}: {micu.cujp_parts} parts have "
                        f"{math.factorial(micu.cujp_parts)} orders; expected at most so many")


OBJECTIVE = Objective("micu", MicuConfig(), {"fcmi": masked_contrast, "cujp": puzzle},
                      keeps=("mm_ema", "commitment", "reset"), owns=("mm_ema", "commitment"), paired=True,
                      refuse=refuse)
