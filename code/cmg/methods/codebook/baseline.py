"""Baseline (Xia et al. 2023, section 4.1), and the frame of every other method: one Φ and one Ψ per modality, decoders,
and a codebook that all modalities share. Nothing aligns them.

L = L_recon + L_commit, with commitment to the own code only, and codes that follow each modality's own vectors.

Choices of this project, for which no source exists: a method that is not built on DCID has the reset of codes that *no*
modality uses (`--reset any`), which keeps the vocabulary alive without favouring shared codes; `--reset off` is a flag
away. Without MM-EMA (that is, in all methods but `unicode`), eq. 8 keeps its first half only.
"""

from dataclasses import dataclass

from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.losses.masked import mse
from cmg.methods.codebook.objective import Objective
from cmg.models.specific import build_decoder


@dataclass(frozen=True)
class BaselineConfig(Config):
    """Method baseline (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_rec : reconstruction
    w_commit : commitment, eq. 8
    commitment : to the own code, or to those of the other modalities as well
    """

    w_rec: float = setting(1.0, number(least=0))
    w_commit: float = setting(1.0, number(least=0))
    commitment: str = setting("cross", choices=("own", "cross"))


class Reconstruction(nn.Module):
    """MSE between the features and D([code; specific]), keys by modality."""

    def __init__(self, model, specific, dim):
        super().__init__()
        targets = self.target_shapes(model)
        if model.token_dim != dim:  # tokens of several blocks come down to D first
            self.reduce = nn.ModuleDict({m: nn.Linear(model.token_dim, dim) for m in specific})
        self.decoders = nn.ModuleDict({
            m: build_decoder(model.input_shapes[m], dim, specific[m].out_dim, targets[m][-1]) for m in specific
        })

    def target_shapes(self, model):
        return model.shapes

    def targets(self, state):
        """What is rebuilt: the input, of text the embeddings of its words."""
        return state.features

    def tokens(self, state, m):
        """What the decoder reads of the codes, Tensor[B, T', D]."""
        tokens = state.quantized[m].straight[:, state.steps]
        return self.reduce[m](tokens) if hasattr(self, "reduce") else tokens

    def forward(self, state):
        targets, at = self.targets(state), state.steps
        return {
            m: mse(decoder(self.tokens(state, m), state.specific[m]), targets[m][:, at],
                   state.valid[m][:, at])
            for m, decoder in self.decoders.items()
        }


class Commitment(nn.Module):
    """Pull z towards its own code and towards the codes that the other modalities chose for the same step (eq. 8).

    beta·‖z - sg[e_own]‖² + beta/2 ‖z - sg[e_other]‖², the second term averaged over the other modalities; squared
    norms are means over elements, with another modality over the steps that both have.

    timed : modalities whose step t is second t, the only ones that teach each other. None: all.
    """

    scale = 1.0

    def __init__(self, beta=0.25, timed=None):
        super().__init__()
        self.beta, self.timed = beta, timed

    def forward(self, state):
        timed = state.points if self.timed is None else self.timed
        losses = {}
        for m, z in state.points.items():
            loss = mse(z, state.quantized[m].vectors, state.exists[m])
            others = [n for n in timed if n != m] if m in timed else []
            for n in others:
                both = state.exists[m] & state.exists[n]
                loss = loss + mse(z, state.quantized[n].vectors, both) / (2 * len(others))
            losses[m] = self.beta * self.scale * loss
        return losses


def reconstruction(blueprint):
    return blueprint.arithmetic(Reconstruction)(blueprint.model, blueprint.specific, blueprint.config.encoder.dim)


def commitment(blueprint):
    cross = blueprint.config.objectives["baseline"].commitment == "cross"
    return blueprint.arithmetic(Commitment)(timed=blueprint.timed if cross else ())


OBJECTIVE = Objective(
    "baseline", BaselineConfig(), {"rec": reconstruction, "commit": commitment},
    sets={"mm_ema": "off", "commitment": "own", "reset": "any"},
)
