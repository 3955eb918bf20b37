"""CMCM, code matching (Liu et al. 2021, arXiv 2106.05438): clips that belong together spread over the same codes.

Choice of this project: the original adds its matching term to a retrieval loss with a growing margin. Here CMCM is
L_cmcm alone, because the paper's DCID+CMCM is Uni-Code without MM-EMA, which has no retrieval loss. With three
modalities the pairs are summed, as in Uni-Code.
"""

from cmg.losses.matching import CodeMatching
from cmg.methods.base import Flag

PAIRED = True

FLAGS = {"w_cmcm": Flag("code matching")}


class Matching(CodeMatching):
    """L_cmcm on the code distances of a state."""

    def forward(self, state):
        return super().forward({m: q.distances for m, q in state.quantized.items()}, state.valid)


def matching(frame):
    return Matching(frame.options["equations"]) if len(frame.model.modalities) > 1 else None


TERMS = {"cmcm": matching}
