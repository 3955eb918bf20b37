"""CoDAAR (arXiv 2605.12145): one index for all modalities, and a block of columns for each, see
`cmg.models.block_codebook`.

L = L_recon + L_commit + L_cpc + 0.5 L_cmcm, without vCLUB. Decoders read the whole row, through a linear map to D; the
gradient of a token reaches the encoders of all modalities. Commitment holds a vector to its own block of its own row
and to what the other modalities chose of theirs:

    L_commit^m = β ( 2 ‖z^m - sg[e_m(m)]‖² + 1/2 Σ_m' ‖z^m - sg[e_m'(m')]‖² ),  squared norms as means over elements

L_cmcm takes the distances of each modality to its own block. The size of the codebook is the preset's (published: 800).
Choices of this project: steps that a modality lacks are left out of all this; words are seconds (--text-alignment
step), as published; under `paper` counts are raw and smoothed where they are read, and a restart takes its statistics
along. Its video's Ψ with BatchNorm is not reproduced: Ψ is that of all methods here.
"""

from dataclasses import dataclass

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.losses.masked import mse
from cmg.methods.codebook.baseline import Commitment
from cmg.methods.codebook.objective import Objective
from cmg.models.block_codebook import BlockModel


@dataclass(frozen=True)
class CodaarConfig(Config):
    """Method codaar.

    Attributes
    ----------
    codaar_other : weight of the other modalities' blocks in its commitment; the own one has 2
    """

    codaar_other: float = setting(0.5, number(least=0))


class BlockCommitment(Commitment):
    """The commitment to blocks. `other` : weight of each other modality's."""

    def __init__(self, book, other, beta=0.25):
        super().__init__(beta)
        self.columns, self.other = {m: book.columns(m) for m in book.blocks}, other

    def forward(self, state):
        halves = {m: q.vectors[..., self.columns[m]] for m, q in state.quantized.items()}
        losses = {}
        for m, z in state.semantic.items():
            loss = 2 * mse(z, halves[m], state.valid[m])
            for n in [n for n in halves if n != m and self.other]:
                loss = loss + self.other * mse(z, halves[n], state.valid[m] & state.valid[n])
            losses[m] = self.beta * loss
        return losses


def commitment(blueprint):
    return BlockCommitment(blueprint.model.codebook, blueprint.config.objectives["codaar"].codaar_other)


def refuse(config, features):
    """`UserError` for what blocks cannot do."""
    if config.objectives["dcid"].w_club:
        raise UserError(f"--w-club {config.objectives['dcid'].w_club}: codaar has no vCLUB; expected 0")


OBJECTIVE = Objective("codaar", CodaarConfig(), {}, includes=("dcid", "cmcm"),
                      sets={"w_club": 0.0, "w_cmcm": 0.5, "mm_ema": "aligned", "text_alignment": "step"},
                      replaces={"commit": commitment}, model=BlockModel, alignments=("step",),
                      paired=True, refuse=refuse)
