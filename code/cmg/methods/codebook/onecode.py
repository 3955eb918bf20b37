"""OneCode, the recipe of this project: a second has one code, whatever tells of it. Not Uni-Code.

L = L_onecode + 1/4 L_commit. L_onecode is InfoNCE in the space that is quantised (the Alignment of `unicode`: cosine /
temperature, second by second, with text clip by clip); L_commit holds a vector to the code that its second has been
given as a whole (`cmg.models.one_code`). Φ and the codebook are all that is trained: no Ψ, decoder or vCLUB, no
Cross-CPC, L_cmcm or MM-EMA. Uni-Code's are Φ, a codebook that all modalities share and an EMA moves, commitment and
resets. figs/README.md has what each part is worth.
"""

from dataclasses import dataclass

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.methods.codebook.objective import Objective
from cmg.methods.codebook.unicode import Alignment
from cmg.models.one_code import OneCodeModel


@dataclass(frozen=True)
class OneCodeConfig(Config):
    """Method onecode (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_onecode : InfoNCE in the shared space
    onecode_temperature : cosine / temperature
    """

    w_onecode: float = setting(1.0, number(least=0))
    onecode_temperature: float = setting(0.05, number(above=0))


def refuse(config, features):
    """`UserError` for vectors that cannot be cut into so many pieces."""
    if config.encoder.dim % config.codebook.pieces:
        raise UserError(f"--pieces {config.codebook.pieces}: expected a divisor of --dim {config.encoder.dim}")


def alignment(blueprint):
    return Alignment(blueprint.config.objectives["onecode"].onecode_temperature, blueprint.timed)


OBJECTIVE = Objective("onecode", OneCodeConfig(), {"onecode": alignment}, model=OneCodeModel, alignments=("clip",),
                      sets={"w_rec": 0.0, "w_commit": 0.25, "mm_ema": "off", "reset": "both", "text_alignment": "clip",
                            "codes": 64}, owns=("pieces",), paired=True, refuse=refuse)
