"""Presets of the codebook family. A method takes what it has a use for (`family`); a flag given by the user wins.

paper     the paper's equations. Where the paper is silent (N_re, initialisation, K) the choice is ours, see README.
official  the arithmetic of the released code, defects that shape its results included; pinned by the parity tests.
small     what we recommend for small data: the paper's terms plus an alignment term in the shared space, cosine
          Cross-CPC, words that belong to the clip and not to a second, at a size for two CPU cores.
"""

from cmg.configs import with_values
from cmg.methods.codebook.objective import CodebookMethodConfig
from cmg.methods.contract import Recipe
from cmg.optimisation import OptimiserConfig

OFFICIAL = {"equations": "released", "codebook_init": "uniform", "mm_ema": "aligned", "reset": "any",
            "reset_after": 300, "text_padding": "read", "w_cmcm": 0.5}
SMALL = {"dim": 128, "layers": 1, "codes": 128, "specific_dim": 64, "specific_steps": 2, "text_alignment": "clip",
         "w_align": 1.0, "cpc_temperature": 0.1}


def recipes_of(objectives) -> dict[str, Recipe]:
    """All presets, with settings for these objectives: dict name -> Objective."""
    paper = CodebookMethodConfig(objectives={name: one.config for name, one in objectives.items()})
    cosine = OptimiserConfig(optimizer="adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", warmup_steps=20)
    return {
        "paper": Recipe(paper, OptimiserConfig(), epochs=6),
        "official": Recipe(with_values(paper, OFFICIAL), OptimiserConfig(), epochs=6),
        "small": Recipe(with_values(paper, SMALL), cosine, epochs=20),
    }
