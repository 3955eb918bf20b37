"""DCID, dual cross-modal information disentangling (Xia et al. 2023, section 3.2): vCLUB between Φ and Ψ of a modality
(eq. 5), Cross-CPC between the Φ of two (eq. 6). `--method dcid+X` is X's objective on top of it.

L = L_recon + L_commit + L_MI + L_cpc, without MM-EMA. The reset of codes is the preset's, as in Uni-Code: the paper's
row DCID+CMCM equals its row of Uni-Code without MM-EMA in every cell, so the reset was on.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.distributed import average_gradients
from cmg.errors import UserError
from cmg.losses.club import CLUB
from cmg.losses.cross_cpc import CrossCPC
from cmg.methods.codebook.arithmetic import arithmetic_of
from cmg.methods.codebook.objective import Objective
from cmg.models.specific import cells


@dataclass(frozen=True)
class DisentanglingConfig(Config):
    """Method dcid (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_club : vCLUB between Φ and Ψ, eq. 5
    club_reads : of Ψ's map of a grid, its mean, or every cell; the decoder reads every cell
    club_steps : likelihood steps a batch
    club_lr : learning rate of the likelihood steps
    w_cpc : Cross-CPC, eq. 6
    cpc_steps : K, steps predicted ahead
    cpc_temperature : cosine / temperature; unset = raw dot products (paper)
    """

    w_club: float = setting(1.0, number(least=0))
    club_reads: str = setting("mean", choices=("mean", "map"))
    club_steps: int = setting(5, whole(1))
    club_lr: float = setting(1e-3, number(above=0))
    w_cpc: float = setting(1.0, number(least=0))
    cpc_steps: int = setting(1, whole(1))
    cpc_temperature: float | None = setting(None, number(above=0))


class Bounds(nn.Module, ABC):
    """Estimators of vCLUB and their alternating likelihood steps; a subclass says what is compared.

    Parameters
    ----------
    estimators : dict name -> CLUB.
    steps, lr : likelihood steps per batch and their Adam learning rate (5 and 1e-3 in the released code).
    """

    def __init__(self, estimators, steps, lr):
        super().__init__()
        self.steps, self.estimators = steps, nn.ModuleDict(estimators)
        self.optimizer = torch.optim.Adam(self.estimators.parameters(), lr=lr, fused=True)
        self.estimators.requires_grad_(False)  # the main backward pass needs no gradient of them

    @abstractmethod
    def pair(self, state, name):
        """(x, y, which steps count): what of Φ and of Ψ is compared."""

    def objective(self, given):
        """-log q(y | x), summed: the estimators share no parameter, so the gradient is that of each alone."""
        return -sum(q.log_likelihood(*given[m]) for m, q in self.estimators.items())

    def fit(self, state):
        """The likelihood steps, in float32: autocast would make copies of the weights in bf16 once, and all steps but
        the first would read what is out of date."""
        given = {m: tuple(part.detach() for part in self.pair(state, m)) for m in self.estimators}
        self.estimators.requires_grad_(True)
        with torch.autocast(next(self.estimators.parameters()).device.type, enabled=False):
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
            pair = self.pair(state, m)
            with torch.autocast(pair[0].device.type, enabled=False):
                bounds[m] = q.upper_bound(*pair)
        return bounds


class Disentangling(Bounds):
    """vCLUB between Φ and Ψ of every modality, with its alternating likelihood steps (eq. 5).

    A vector of Ψ is what the decoder reads. Of a grid, however, the decoder reads Ψ's map, and "mean" bounds what Φ
    says of the map's mean alone: what the mean does not show passes to the decoder unbounded. "map" bounds every cell,
    as a y of its own with its own q(y | x), on average over cells.

    Parameters
    ----------
    steps, lr : as of `Bounds`.
    estimator : class of the estimators.
    reads : "mean" or "map".
    """

    READABLE = "mean", "map"  # what of a grid's Ψ it can bound

    def __init__(self, model, specific, dim, steps=5, lr=1e-3, estimator=CLUB, reads="mean"):
        def width(m):
            psi = specific[m]
            return psi.pooled_dim if reads == "mean" else psi.out_dim * cells(model.input_shapes[m])

        super().__init__({m: estimator(dim, width(m)) for m in specific}, steps, lr)
        self.reads = reads

    def vectors(self, state, m):
        """What of Φ is bounded: z, at the seconds at which Ψ was run, Tensor[B, T', D]."""
        return state.semantic[m][:, state.steps]

    def pair(self, state, m):
        x = self.vectors(state, m)
        y = state.pooled[m] if self.reads == "mean" else state.specific[m].flatten(2)  # (B, T', h·w·S)
        return x, y.to(x.dtype), state.valid[m][:, state.steps]


class Prediction(CrossCPC):
    """Cross-CPC on the semantic vectors of a state (eq. 6), between the modalities that it was built for."""

    def forward(self, state):
        return super().forward({m: state.semantic[m] for m in self.modalities}, state.valid)


def disentangling(blueprint):
    config, arithmetic = blueprint.config.objectives["dcid"], blueprint.arithmetic
    return arithmetic(Disentangling)(blueprint.model, blueprint.specific, blueprint.config.encoder.dim,
                                     config.club_steps, config.club_lr, arithmetic(CLUB), config.club_reads)


def prediction(blueprint):
    config = blueprint.config.objectives["dcid"]
    if len(blueprint.timed) < 2:
        return None
    return blueprint.arithmetic(Prediction)(blueprint.timed, blueprint.config.encoder.dim, config.cpc_steps,
                                            config.cpc_temperature)


def refuse(config, features):
    """`UserError` for clips in which nothing can be predicted, and for what the released arithmetic does not have."""
    dcid, shortest = config.objectives["dcid"], min(shape[0] for shape in features.shapes.values())
    arithmetic = arithmetic_of(config.model.equations)
    needed, readable = arithmetic(Prediction).least_steps(dcid.cpc_steps), arithmetic(Disentangling).READABLE
    if dcid.club_reads not in readable:
        raise UserError(f"--club-reads {dcid.club_reads}: expected {' or '.join(readable)} with "
                        f"--equations {config.model.equations}")
    if dcid.w_cpc and shortest < needed:
        raise UserError(f"--cpc-steps {dcid.cpc_steps}: needs clips of at least {needed} steps, these have {shortest}; "
                        "expected a smaller one, longer clips or --w-cpc 0")


OBJECTIVE = Objective("dcid", DisentanglingConfig(), {"club": disentangling, "cpc": prediction}, keeps=("reset",),
                      refuse=refuse)
