"""S-MiT (Monfort et al., Spoken Moments, CVPR 2021): paired clips found among the batch's by adaptive mean margin
softmax (AMM), in a projection of the clips' mean semantic vectors.

L = L_recon + L_commit + L_amm. Choices of this project, which the paper of the table leaves open: the head of every
modality is one linear map D → D (the original: two layers with a gate, 4096 wide, and no codebook); plain dot products
as published, `--smit-temperature` for cosines; three modalities take the mean over their pairs.
"""

from dataclasses import dataclass

from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.losses.margin import adaptive_margin
from cmg.losses.masked import clip_vectors
from cmg.methods.codebook.objective import Objective
from cmg.modalities import pairs


@dataclass(frozen=True)
class MarginConfig(Config):
    """Method smit (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_smit : adaptive mean margin softmax
    smit_temperature : cosine / temperature; unset = plain dot products
    """

    w_smit: float = setting(1.0, number(least=0))
    smit_temperature: float | None = setting(None, number(above=0))


class MarginMatching(nn.Module):
    """AMM in both directions, on one projection per modality."""

    def __init__(self, modalities, dim, temperature):
        super().__init__()
        self.temperature = temperature
        self.heads = nn.ModuleDict({m: nn.Linear(dim, dim) for m in modalities})

    def forward(self, state):
        clips = {}
        for m, head in self.heads.items():
            mean, exists = clip_vectors(state.semantic[m], state.valid[m])
            clips[m] = head(mean), exists
        both = pairs(clips)
        return {
            key: sum(adaptive_margin(*clips[x], *clips[y], temperature=self.temperature) for x, y in ((a, b), (b, a)))
            / len(both)
            for a, b, key in both
        }


def matching(blueprint):
    config = blueprint.config
    return MarginMatching(blueprint.model.modalities, config.encoder.dim, config.objectives["smit"].smit_temperature)


OBJECTIVE = Objective("smit", MarginConfig(), {"smit": matching}, paired=True)
