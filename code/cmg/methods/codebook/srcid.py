"""SRCID (H-DCID, arXiv 2403.05168v1; ICASSP 2025, arXiv 2412.19128): DCID once more on what its first layer calls
specific (`cmg.models.residual`).

L = L_1 + w [epoch ≥ s] L_2. L_1 is Uni-Code's without L_cmcm: reconstruction, commitment with MM-EMA, Cross-CPC, vCLUB.
L_2 has the same terms of the second layer: h is rebuilt from the second token and s2 = ReLU(Linear h), vCLUB lies
between z2 (released: the token) and s2. Targets and inputs of the second layer are not detached, as released: it trains
Ψ of the first, and not Φ. Neither layer has an L_cmcm; the public quantiser gives 0 for it.

The second codebook moves from the first step on, also while its loss does not count. Choices of this project: its
estimators of vCLUB are fitted from the first step on as well (released: from epoch s); s is three fifths of the epochs
where no `--second-from` says otherwise (published: 3 of 5). Published read-outs take the checkpoint one epoch after s.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.losses.club import CLUB
from cmg.losses.masked import mse
from cmg.methods.codebook.baseline import Commitment
from cmg.methods.codebook.dcid import Disentangling, Prediction
from cmg.methods.codebook.objective import Objective
from cmg.models.residual import ResidualModel
from cmg.models.specific import VectorDecoder, VectorSpecific


@dataclass(frozen=True)
class ResidualConfig(Config):
    """Method srcid (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_second : all losses of the second layer
    second_from : epoch from which they count, counted from 0; unset = three fifths of the epochs
    """

    w_second: float = setting(0.3, number(least=0))
    second_from: int | None = setting(None, whole())


class SecondLayer(nn.Module):
    """The losses of the second layer, keys such as "club_audio", times `gate`.

    Attributes
    ----------
    gate : 0-d Tensor, 1 from the epoch on from which they count, else 0; on the device, where no step waits for it
    """

    def __init__(self, blueprint):
        super().__init__()
        model, config, arithmetic = blueprint.model, blueprint.config, blueprint.arithmetic
        of, dim = config.objectives, config.encoder.dim
        self.begins = of["srcid"].second_from
        widths = {m: psi.pooled_dim for m, psi in model.specific.items()}
        self.specific = nn.ModuleDict({m: VectorSpecific(width, width) for m, width in widths.items()})
        self.decoders = nn.ModuleDict({m: VectorDecoder(dim, width, width) for m, width in widths.items()})
        cross = blueprint.timed if of["baseline"].commitment == "cross" else ()
        parts = {"commit": arithmetic(Commitment)(timed=cross),
                 "club": arithmetic(Disentangling)(model, self.specific, dim, of["dcid"].club_steps,
                                                   of["dcid"].club_lr, arithmetic(CLUB))}
        if len(blueprint.timed) > 1:
            parts["cpc"] = arithmetic(Prediction)(blueprint.timed, dim, of["dcid"].cpc_steps,
                                                  of["dcid"].cpc_temperature)
        self.parts = nn.ModuleDict(parts)
        self.register_buffer("gate", torch.zeros(()), persistent=False)

    def begin_epoch(self, epoch, epochs):
        begins = 3 * epochs // 5 if self.begins is None else self.begins
        self.gate.fill_(float(epoch >= begins))

    def layer(self, state):
        """The state of the second layer, with s2 as Ψ."""
        parts = {m: psi(state.second.features[m])[0] for m, psi in self.specific.items()}
        return replace(state.second, specific=parts, pooled=parts)

    # -- the estimators' own steps: those of vCLUB

    @property
    def optimizer(self):
        return self.parts["club"].optimizer

    def objective(self, given):
        return self.parts["club"].objective(given)

    def fit(self, state):
        self.parts["club"].fit(self.layer(state))

    def forward(self, state):
        state = self.layer(state)
        losses = {f"{name}_{key}": x for name, part in self.parts.items() for key, x in part(state).items()}
        for m, decoder in self.decoders.items():
            rebuilt = decoder(state.quantized[m].straight, state.specific[m])
            losses[f"rec_{m}"] = mse(rebuilt, state.features[m], state.valid[m])
        return {key: self.gate * x for key, x in losses.items()}


def refuse(config, features):
    """`UserError` where the second layer would see seconds at random."""
    if config.specific.specific_steps:
        raise UserError(f"--specific-steps {config.specific.specific_steps}: srcid encodes what Ψ gives second after "
                        "second; expected 0")


OBJECTIVE = Objective("srcid", ResidualConfig(), {"second": SecondLayer}, includes=("dcid",),
                      sets={"specific_steps": 0}, keeps=("mm_ema", "commitment", "reset"),
                      owns=("mm_ema", "commitment"), model=ResidualModel, paired=True, refuse=refuse)
