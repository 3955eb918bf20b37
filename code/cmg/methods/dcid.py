"""DCID, dual cross-modal information disentangling (Xia et al. 2023, section 3.2): vCLUB between Φ and Ψ of a modality
(eq. 5), Cross-CPC between the Φ of two (eq. 6). `--method dcid+X` is X's objective on top of it.

L = L_recon + L_commit + L_MI + L_cpc, without MM-EMA. The reset of codes is the preset's, as in Uni-Code: the paper's
row DCID+CMCM equals its row of Uni-Code without MM-EMA in every cell, so the reset was on.
"""

import torch
from torch import nn

from cmg.cli import number, whole
from cmg.distributed import average_gradients
from cmg.losses.club import CLUB
from cmg.losses.cross_cpc import CrossCPC
from cmg.methods.base import Flag

KEEPS = ("reset",)

FLAGS = {
    "w_club": Flag("vCLUB between Φ and Ψ, eq. 5"),
    "club_steps": Flag("likelihood steps a batch", type=whole(1)),
    "club_lr": Flag("learning rate of the likelihood steps", type=number(above=0)),
    "w_cpc": Flag("Cross-CPC, eq. 6"),
    "cpc_steps": Flag("K, steps predicted ahead", type=whole(1)),
    "cpc_temperature": Flag("cosine / temperature; unset = raw dot products (paper)", type=number(above=0)),
}


class Disentangling(nn.Module):
    """vCLUB between Φ and Ψ of every modality, with its alternating likelihood steps (eq. 5).

    Parameters
    ----------
    steps, lr : likelihood steps per batch and their Adam learning rate (5 and 1e-3 in the released code).
    equations : "released" bounds the MI with the quantised vector (straight-through), "paper" with z itself.
    """

    def __init__(self, model, specific, dim, steps=5, lr=1e-3, equations="paper"):
        super().__init__()
        self.steps, self.quantised = steps, equations == "released"
        self.estimators = nn.ModuleDict({
            m: CLUB(dim, specific[m].pooled_dim, equations=equations) for m in model.modalities
        })
        self.optimizer = torch.optim.Adam(self.estimators.parameters(), lr=lr, fused=True)
        self.estimators.requires_grad_(False)  # the main backward pass needs no gradient of them

    def vectors(self, state, m):
        return (state.quantized[m].straight if self.quantised else state.semantic[m])[:, state.steps]

    def objective(self, given):
        """-log q(y | x), summed: the estimators share no parameter, so the gradient is that of each alone."""
        return -sum(q.log_likelihood(*given[m]) for m, q in self.estimators.items())

    def fit(self, state):
        """The likelihood steps, in float32: autocast would make copies of the weights in bf16 once, and all steps but
        the first would read what is out of date."""
        given = {}
        for m in self.estimators:
            x = self.vectors(state, m).detach()
            given[m] = x, state.pooled[m].detach().to(x.dtype), state.valid[m][:, state.steps]
        self.estimators.requires_grad_(True)
        with torch.autocast(x.device.type, enabled=False):
            for _ in range(self.steps):
                self.optimizer.zero_grad(set_to_none=True)
                self.objective(given).backward()
                average_gradients(self.estimators.parameters())
                self.optimizer.step()
        self.estimators.requires_grad_(False)

    def forward(self, state):
        """The bounds, in float32 as well: differences of moments lose their digits in bf16."""
        bounds = {}
        for m, q in self.estimators.items():
            x = self.vectors(state, m)
            with torch.autocast(x.device.type, enabled=False):
                bounds[m] = q.upper_bound(x, state.pooled[m].to(x.dtype), state.valid[m][:, state.steps])
        return bounds


class Prediction(CrossCPC):
    """Cross-CPC on the semantic vectors of a state (eq. 6), between the modalities that it was built for."""

    def forward(self, state):
        return super().forward({m: state.semantic[m] for m in self.modalities}, state.valid)


def disentangling(frame):
    options = frame.options
    return Disentangling(frame.model, frame.specific, options["dim"], options["club_steps"], options["club_lr"],
                         options["equations"])


def prediction(frame):
    options = frame.options
    if len(frame.timed) < 2:
        return None
    return Prediction(frame.timed, options["dim"], options["cpc_steps"], options["cpc_temperature"],
                      options["equations"])


TERMS = {"club": disentangling, "cpc": prediction}
