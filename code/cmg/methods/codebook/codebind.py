"""CodeBind (arXiv 2605.18257): product codes in a common and a specific part, see `cmg.models.product_codebook`.

    L = L_recon + 50 L_commit + L_cmcm + L_nce + 0.01 ( L_contrast + L_uniform )

    L_commit = β ( mean ‖common piece - sg[e]‖² + mean ‖specific piece - sg[e']‖² ), means over elements
    L_cmcm : per common piece P = softmax(cosines with all codes), S_ij = Σ P_i log P'_j + Σ log P_i P'_j, cross entropy
        over the batch, mean over pieces: both terms compare clip i with clip j
    L_nce : InfoNCE of the common tokens at cosine / 0.05, both directions
    L_contrast, L_uniform : `cmg.losses.product_codes`, of both parts

Codes follow an EMA, so that L_uniform has no gradient here: a number to watch. The sizes of the common codebook are the
preset's (published: 1024 rows of width 8, and 256 specific ones).

Choices of this project: clips have seconds (published: one vector), so that P of a clip is the mean over its seconds,
and InfoNCE compares as `align` of unicode does: second with second where both have them, else means of clips; its two
directions are averaged. Reconstruction is the frame's: decoders read both parts beside Ψ. The decorrelation of the two
parts, of which no formula is in reach, is left out; of its encoders and benchmarks nothing is reproduced.
"""

from dataclasses import dataclass, replace

from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.losses.masked import clip_vectors, masked_mean
from cmg.losses.matching import CodeMatching
from cmg.losses.product_codes import code_contrast, uniformity
from cmg.methods.codebook.objective import Objective
from cmg.methods.codebook.unicode import Alignment
from cmg.models.product_codebook import ProductModel


@dataclass(frozen=True)
class CodebindConfig(Config):
    """Method codebind (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_token_contrast : InfoNCE of common tokens
    token_temperature : cosine / temperature
    w_spread : contrast of near and far codes, and how evenly these lie
    """

    w_token_contrast: float = setting(1.0, number(least=0))
    token_temperature: float = setting(0.05, number(above=0))
    w_spread: float = setting(0.01, number(least=0))


class PieceCommitment(nn.Module):
    """β times the squared difference of unit pieces and their codes, both parts, keys by modality."""

    beta = 0.25

    def forward(self, state):
        return {m: self.beta * sum(masked_mean(part.errors, state.valid[m]) for part in (q.common, q.specific))
                for m, q in state.quantized.items()}


class PieceMatching(CodeMatching):
    """L_cmcm of every common piece, their mean, keys "av", "at", "vt"."""

    def forward(self, state):
        return super().forward({m: q.distances for m, q in state.quantized.items()}, state.valid)

    def distribution(self, squared, valid):
        """P(e | clip) of every piece: Tensor[B, P, M]."""
        p = (1 - squared / 2).softmax(-1)  # (B, T, P, M), of cosines
        return clip_vectors(p.flatten(2), valid)[0].unflatten(-1, p.shape[2:])

    def pair(self, a, b):
        return super().pair(a.transpose(0, 1), b.transpose(0, 1))  # (P, B, M) each


class TokenContrast(Alignment):
    """InfoNCE of the straight-through common tokens, keys by pair."""

    def forward(self, state):
        return super().forward(replace(state, semantic={m: q.common.straight for m, q in state.quantized.items()}))


class Spread(nn.Module):
    """L_contrast by modality, both parts, and L_uniform of every codebook. `book` : ProductCodebook."""

    def __init__(self, book):
        super().__init__()
        self.books = (("common", book), *book.own.items())  # in a tuple, where they do not count as this term's

    def forward(self, state):
        losses = {
            f"contrast_{m}": sum(code_contrast(1 - p.distances / 2, state.valid[m]) for p in (q.common, q.specific))
            for m, q in state.quantized.items()}
        return losses | {f"uniform_{name}": uniformity(book.embedding) for name, book in self.books}


def token_contrast(blueprint):
    return TokenContrast(blueprint.config.objectives["codebind"].token_temperature, blueprint.timed)


def spread(blueprint):
    return Spread(blueprint.model.codebook)


def refuse(config, features):
    """`UserError` for halves of z that cannot be cut into such pieces."""
    dim, piece = config.encoder.dim, config.codebook.piece_dim
    if dim // 2 % piece:
        raise UserError(f"--piece-dim {piece}: expected a divisor of {dim // 2}, half of --dim {dim}")


OBJECTIVE = Objective(
    "codebind", CodebindConfig(), {"token_contrast": token_contrast, "spread": spread}, includes=("cmcm",),
    sets={"w_commit": 50.0, "w_cmcm": 1.0}, owns=("piece_dim", "own_codes"),
    replaces={"commit": lambda blueprint: PieceCommitment(), "cmcm": lambda blueprint: PieceMatching()},
    model=ProductModel, paired=True, refuse=refuse)
