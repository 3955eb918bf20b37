"""MST, the modality-shared transformer (MS-CLIP, You et al., ECCV 2022): one transformer encodes all modalities, and
InfoNCE with a learnt temperature pairs their clips.

L = L_recon + L_commit + ½ [CE(s·ẑ_a ẑ_bᵀ) + CE(s·ẑ_b ẑ_aᵀ)], ẑ the normalised mean over a clip's steps, s ≤ 100 and
1/0.07 at the start, as in CLIP. Choices of this project: what is shared is the temporal transformer of Φ, its
LayerNorms and projections in and out stay the modality's own (`models/shared.py`); the light parallel convolutions of
MS-CLIP-S are left out; the vectors that are compared are those that are quantised; three modalities take the mean over
their pairs. `--w-mst 0` keeps the transformer and drops the loss.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.losses.info_nce import contrast
from cmg.losses.masked import seconds_or_clip
from cmg.methods.codebook.objective import Objective
from cmg.modalities import pairs

LARGEST = math.log(100)  # of the log scale


@dataclass(frozen=True)
class SharedTransformerConfig(Config):
    """Method mst (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_mst : InfoNCE between clips
    mst_temperature : of that term, at the start
    """

    w_mst: float = setting(1.0, number(least=0))
    mst_temperature: float = setting(0.07, number(above=0))


class ClipContrast(nn.Module):
    """Symmetric InfoNCE of clip means, one learnt temperature for all pairs."""

    def __init__(self, temperature):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(min(-math.log(temperature), LARGEST)))

    @torch.no_grad()
    def update(self, model):
        """Hold the parameter itself at its bound, as CLIP does: one beyond it would get no gradient to come back by."""
        self.log_scale.clamp_(max=LARGEST)

    def forward(self, state):
        temperature = torch.exp(-self.log_scale)
        clips = {m: seconds_or_clip(z, state.valid[m], timed=False) for m, z in state.semantic.items()}
        both = pairs(clips)
        return {
            key: (contrast(*clips[a], *clips[b], temperature) + contrast(*clips[b], *clips[a], temperature))
            / (2 * len(both))
            for a, b, key in both
        }


def clip_contrast(blueprint):
    return ClipContrast(blueprint.config.objectives["mst"].mst_temperature)


OBJECTIVE = Objective("mst", SharedTransformerConfig(), {"mst": clip_contrast}, sets={"transformer": "shared"},
                      owns=("transformer",), paired=True)
