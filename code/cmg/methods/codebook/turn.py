"""TURN (Zhao et al., NeurIPS 2022): each modality rebuilds its hidden steps from the other's codes.

L = L_recon + L_commit + per pair [ L1(a | codes of b) + L1(b | codes of a) + L_contra ]. Choices of this project, which
the published text leaves open: all λ are 1; 30 % of the steps are hidden; the decoder is one transformer layer that
attends to the other modality's code vectors (with the straight-through gradient to its Φ), steps and codes with a
learnt position each; a grid is rebuilt as its mean over cells; L_contra is symmetric InfoNCE of clip means at cosine
/ 0.07 (published: one direction); one codebook instead of a product of two, so that probes read the same codes in
every method; three modalities take the mean over their pairs.
"""

from dataclasses import dataclass

import torch
from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.losses.info_nce import contrast
from cmg.losses.masked import seconds_or_clip
from cmg.losses.self_cross import hidden_l1, sample_hidden
from cmg.methods.codebook.objective import Objective
from cmg.modalities import direction, pairs


@dataclass(frozen=True)
class SelfCrossConfig(Config):
    """Method turn (weight 0 removes a term and its cost).

    Attributes
    ----------
    w_turn : self-cross reconstruction and its InfoNCE
    turn_temperature : of the InfoNCE
    """

    w_turn: float = setting(1.0, number(least=0))
    turn_temperature: float = setting(0.07, number(above=0))


class Filler(nn.Module):
    """Predict the hidden steps of one modality's features from the visible ones and another modality's codes.

    Parameters
    ----------
    channels : C of the features. steps : T. dim : D of the codes, and of the decoder layer.
    """

    def __init__(self, channels, steps, dim):
        super().__init__()
        self.embed, self.out = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.blank = nn.Parameter(0.02 * torch.randn(dim))
        self.position = nn.Parameter(0.02 * torch.randn(2, steps, dim))  # of steps, of codes
        self.layer = nn.TransformerDecoderLayer(dim, 4, 2 * dim, 0.1, batch_first=True)

    def forward(self, x, hidden, valid, codes, exists):
        """x : Tensor[B, T, C]; codes : Tensor[B, T, D]; hidden, valid (of x), exists (of codes) : BoolTensor[B, T]."""
        x = torch.where(hidden.unsqueeze(-1), self.blank.to(codes.dtype), self.embed(x)) + self.position[0]
        x = self.layer(x, codes + self.position[1],
                       tgt_key_padding_mask=~valid & valid.any(1, keepdim=True),
                       memory_key_padding_mask=~exists & exists.any(1, keepdim=True))
        return self.out(x)


class SelfCross(nn.Module):
    """Both directions of reconstruction and the InfoNCE of every pair; one `Filler` per rebuilt modality."""

    share = 0.3  # of the steps that are hidden

    def __init__(self, shapes, dim, temperature):
        super().__init__()
        self.temperature = temperature
        self.fillers = nn.ModuleDict({m: Filler(shape[-1], shape[0], dim) for m, shape in shapes.items()})

    def forward(self, state):
        targets = {m: x.flatten(2, -2).mean(2) if x.dim() > 3 else x for m, x in state.features.items()}  # (B, T, C)
        hidden = {m: sample_hidden(valid, self.share) for m, valid in state.valid.items()}
        clips = {m: seconds_or_clip(z, state.valid[m], timed=False) for m, z in state.semantic.items()}
        losses, both = {}, pairs(state.semantic)
        for a, b, key in both:
            for source, target in ((a, b), (b, a)):
                exists = state.valid[source]
                filled = self.fillers[target](targets[target], hidden[target], state.valid[target],
                                              state.quantized[source].straight, exists)
                told = hidden[target] & exists.any(1, keepdim=True)
                losses[direction(source, target)] = hidden_l1(filled, targets[target], told) / len(both)
            losses[f"nce_{key}"] = sum(
                contrast(*clips[x], *clips[y], self.temperature) for x, y in ((a, b), (b, a))
            ) / (2 * len(both))
        return losses


def self_cross(blueprint):
    model, config = blueprint.model, blueprint.config
    return SelfCross({m: model.shapes[m] for m in model.modalities}, config.encoder.dim,
                     config.objectives["turn"].turn_temperature)


OBJECTIVE = Objective("turn", SelfCrossConfig(), {"turn": self_cross}, paired=True)
