"""Uni-Code (Xia et al., NeurIPS 2023): DCID (vCLUB + Cross-CPC), code matching and the MM-EMA codebook.

L = L_recon + L_commit + L_cpc + L_cmcm + L_MI. MM-EMA is the update of the codes (eq. 7) and the half of the
commitment that takes the other modality's code as a teacher (eq. 8). Every term has a weight flag, and a weight of 0
leaves its modules and its cost out; without reconstruction and vCLUB there is no Ψ either.
"""

from cmg.methods import terms
from cmg.methods.base import Flag

PARTS = ("dcid", "cmcm")
KEEPS = ("mm_ema", "commitment")

FLAGS = {
    "mm_ema": Flag("what a code learns from the other modalities", type=str, choices=("attention", "aligned", "off")),
    "commitment": Flag("to the own code, or to those of the other modalities as well", type=str,
                       choices=("own", "cross")),
    "w_align": Flag("InfoNCE in the shared space (not in the paper)"),
    "align_temperature": Flag("of that term"),
}


def alignment(frame):
    if len(frame.model.modalities) < 2:
        return None
    return terms.Alignment(frame.options["align_temperature"], frame.timed)


TERMS = {"align": alignment}
