"""DCID, dual cross-modal information disentangling (Xia et al. 2023, section 3.2): vCLUB between Φ and Ψ of a modality
(eq. 5), Cross-CPC between the Φ of two (eq. 6). `--method dcid+X` is X's objective on top of it.

L = L_recon + L_commit + L_MI + L_cpc, without MM-EMA. The reset of codes is the preset's, as in Uni-Code: the paper's
row DCID+CMCM equals its row of Uni-Code without MM-EMA in every cell, so the reset was on.
"""

from cmg.methods import terms
from cmg.methods.base import Flag

KEEPS = ("reset",)

FLAGS = {
    "w_club": Flag("vCLUB between Φ and Ψ, eq. 5"),
    "club_steps": Flag("likelihood steps a batch", type=int),
    "club_lr": Flag("learning rate of the likelihood steps"),
    "w_cpc": Flag("Cross-CPC, eq. 6"),
    "cpc_steps": Flag("K, steps predicted ahead", type=int),
    "cpc_temperature": Flag("cosine / temperature; unset = raw dot products (paper)"),
}


def disentangling(frame):
    options = frame.options
    return terms.Disentangling(frame.model, frame.specific, options["dim"], options["club_steps"], options["club_lr"],
                               options["equations"])


def prediction(frame):
    options = frame.options
    if len(frame.timed) < 2:
        return None
    return terms.Prediction(frame.timed, options["dim"], options["cpc_steps"], options["cpc_temperature"],
                            options["equations"])


TERMS = {"club": disentangling, "cpc": prediction}
