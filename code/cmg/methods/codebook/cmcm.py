"""CMCM, code matching (Liu et al. 2021, arXiv 2106.05438): clips that belong together spread over the same codes.

Choice of this project: the original adds its matching term to a retrieval loss with a growing margin. Here CMCM is
L_cmcm alone, because the paper's DCID+CMCM is Uni-Code without MM-EMA, which has no retrieval loss. With three
modalities the pairs are summed, as in Uni-Code.
"""

from dataclasses import dataclass

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.losses.matching import CodeMatching
from cmg.methods.codebook.objective import Objective


@dataclass(frozen=True)
class MatchingConfig(Config):
    """Method cmcm (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_cmcm : code matching
    """

    w_cmcm: float = setting(1.0, number(least=0))


class Matching(CodeMatching):
    """L_cmcm on the code distances of a state."""

    def forward(self, state):
        return super().forward({m: q.distances for m, q in state.quantized.items()}, state.exists)


def matching(blueprint):
    return blueprint.arithmetic(Matching)() if len(blueprint.model.modalities) > 1 else None


OBJECTIVE = Objective("cmcm", MatchingConfig(), {"cmcm": matching}, paired=True)
