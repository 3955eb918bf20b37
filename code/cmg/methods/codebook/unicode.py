"""Uni-Code (Xia et al., NeurIPS 2023): DCID (vCLUB + Cross-CPC), code matching and the MM-EMA codebook.

L = L_recon + L_commit + L_cpc + L_cmcm + L_MI. MM-EMA is the update of the codes (eq. 7) and the half of the
commitment that takes the other modality's code as a teacher (eq. 8). Every term has a weight flag, and a weight of 0
leaves its modules and its cost out; without reconstruction and vCLUB there is no Ψ either.
"""

from dataclasses import dataclass

from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.losses.info_nce import contrast
from cmg.losses.masked import seconds_or_clip
from cmg.methods.codebook.objective import Objective
from cmg.modalities import pairs


@dataclass(frozen=True)
class UnicodeConfig(Config):
    """Method unicode (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_align : InfoNCE in the shared space (not in the paper)
    align_temperature : of that term
    """

    w_align: float = setting(0.0, number(least=0))
    align_temperature: float = setting(0.1, number(above=0))


class Alignment(nn.Module):
    """Symmetric InfoNCE between two modalities in the shared space itself, cosine / temperature.

    Not in the paper: Cross-CPC aligns modalities only up to the linear map W_k, and leaves it to commitment and MM-EMA
    to bring them to the same *place*, where they can share a code. This term asks for the place directly.

    timed : modalities whose step t is second t. A pair of them is compared second by second, with the same second of
        the other clips as negatives; any other pair clip by clip, on means over valid steps.
    """

    def __init__(self, temperature, timed):
        super().__init__()
        self.temperature, self.timed = temperature, tuple(timed)

    def forward(self, state):
        losses = {}
        for a, b, key in pairs(state.semantic):
            timed = a in self.timed and b in self.timed
            (za, va), (zb, vb) = (seconds_or_clip(state.semantic[m], state.valid[m], timed) for m in (a, b))
            losses[key] = (contrast(za, va, zb, vb, self.temperature) + contrast(zb, vb, za, va, self.temperature)) / 2
        return losses


def alignment(blueprint):
    if len(blueprint.model.modalities) < 2:
        return None
    return Alignment(blueprint.config.objectives["unicode"].align_temperature, blueprint.timed)


OBJECTIVE = Objective("unicode", UnicodeConfig(), {"align": alignment}, includes=("dcid", "cmcm"),
                      keeps=("mm_ema", "commitment"), owns=("mm_ema", "commitment"))
