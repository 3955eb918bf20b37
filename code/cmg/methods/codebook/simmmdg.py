"""SimMMDG (Dong et al., NeurIPS 2023) as a rival with a codebook: each clip's vector is [shared | specific] halves.

    L = L_recon + L_commit + 3 L_con + 0.7 L_dis + 0.1 L_trans

L_con is SupCon on the projected shared halves (`cmg.losses.supcon`), L_dis = -mean_m ‖shared^m - specific^m‖² (as a
mean over elements; unbounded below, as published), L_trans the mean distance of unit vectors ‖u(MLP(x^m)) - u(x^m')‖₂
over ordered pairs.

SimMMDG is a supervised method for another task without a codebook; how papers made a row of it is not published.
Choices of this project: no labels, so that positives are the other modalities of a clip; its losses read clip means of
z, beside the baseline's quantisation of all of z; the projection is Linear, ReLU, Linear to D / 2, the translation the
same from D to D.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.losses.masked import clip_vectors, masked_mean, mse
from cmg.losses.supcon import clip_supcon
from cmg.methods.codebook.objective import Objective
from cmg.modalities import direction


@dataclass(frozen=True)
class HalvesConfig(Config):
    """Method simmmdg (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_halves_contrast : SupCon of the shared halves
    halves_temperature : of it
    w_halves_distance : distance of the halves
    w_translation : one modality's vector from another's
    """

    w_halves_contrast: float = setting(3.0, number(least=0))
    halves_temperature: float = setting(0.1, number(above=0))
    w_halves_distance: float = setting(0.7, number(least=0))
    w_translation: float = setting(0.1, number(least=0))


def mlp(width, out):
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


class HalvesContrast(nn.Module):
    """SupCon of the projected shared halves of clips."""

    def __init__(self, modalities, dim, temperature):
        super().__init__()
        self.temperature = temperature
        self.heads = nn.ModuleDict({m: mlp(dim // 2, dim // 2) for m in modalities})

    def forward(self, state):
        clips = {m: clip_vectors(z, state.valid[m]) for m, z in state.semantic.items()}
        shared = {m: head(clips[m][0].chunk(2, -1)[0]) for m, head in self.heads.items()}
        return {"all": clip_supcon(shared, {m: exists for m, (_, exists) in clips.items()}, self.temperature)}


class HalvesDistance(nn.Module):
    """-MSE between the halves of clips, keys by modality; the mean over modalities in all."""

    def forward(self, state):
        losses = {}
        for m, z in state.semantic.items():
            clip, exists = clip_vectors(z, state.valid[m])
            shared, specific = clip.unsqueeze(1).chunk(2, -1)
            losses[m] = -mse(shared, specific, exists.unsqueeze(1)) / len(state.semantic)
        return losses


class Translation(nn.Module):
    """Distance of unit vectors between what is made of one modality and another, keys by direction; their mean in all.
    """

    def __init__(self, modalities, dim):
        super().__init__()
        self.pairs = [(a, b) for a in modalities for b in modalities if a != b]
        self.maps = nn.ModuleDict({f"{a}_{b}": mlp(dim, dim) for a, b in self.pairs})

    def forward(self, state):
        clips = {m: clip_vectors(z, state.valid[m]) for m, z in state.semantic.items()}
        losses = {}
        for a, b in self.pairs:
            (x, x_there), (y, y_there) = clips[a], clips[b]
            gap = distance(self.maps[f"{a}_{b}"](x), y)
            losses[direction(a, b)] = masked_mean(gap.unsqueeze(1), (x_there & y_there).unsqueeze(1)) / len(self.pairs)
        return losses


def distance(x, y):
    """‖x/‖x‖ - y/‖y‖‖₂ of vectors [B, D]: Tensor[B]; with a gradient where they agree as well."""
    x, y = (F.normalize(one.to(torch.promote_types(one.dtype, torch.float32)), dim=-1) for one in (x, y))
    return (x - y).square().sum(-1).clamp_min(1e-24).sqrt()


def contrast(blueprint):
    config = blueprint.config
    return HalvesContrast(blueprint.model.modalities, config.encoder.dim,
                          config.objectives["simmmdg"].halves_temperature)


OBJECTIVE = Objective(
    "simmmdg", HalvesConfig(),
    {"halves_contrast": contrast, "halves_distance": lambda blueprint: HalvesDistance(),
     "translation": lambda blueprint: Translation(blueprint.model.modalities, blueprint.config.encoder.dim)},
    paired=True)
