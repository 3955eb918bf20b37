"""MultiSK's networks (Swetha et al., ICCV 2023): a tower a modality, from features to two vectors of a clip.

    tokens      features (vectors; the mean of a grid's cells; log-mel maps through convolutions) → gated projection
                → norm; of a clip without the modality one learnt token, the same in all towers
    x           mean of the tokens, of length 1: the *input-space embedding*
    e           tokens → transformer block → mean → gated projection, of length 1: the *joint embedding*

Towers share nothing else, and no tower sees another modality.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import whole
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.models.multisk_audio import MelFront, MelFrontConfig
from cmg.models.multisk_blocks import GatedProjection, TokenBlock, token_mean
from cmg.models.pretrained import Pretrained, Tokens


@dataclass(frozen=True)
class TowerConfig(Config):
    """Towers.

    Attributes
    ----------
    width : of tokens and of the input-space embedding
    joint_dim : of the joint embedding
    heads : of the transformer block
    """

    width: int = setting(256, whole(1))
    joint_dim: int = setting(256, whole(1))
    heads: int = setting(4, whole(1))
    mel: MelFrontConfig = field(default_factory=MelFrontConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads:
            raise UserError(f"--width {self.width}: expected a multiple of --heads {self.heads}")


class Embedding(NamedTuple):
    """Clips of one modality: x [B, width] and e [B, joint_dim], of length 1, and BoolTensor[B]: who has it at all."""

    input: torch.Tensor
    joint: torch.Tensor
    present: torch.Tensor


class Tower(nn.Module):
    """The networks of one modality, whose clips have `shape`: (T, C), (T, H, W, C) or (T, F, M)."""

    def __init__(self, modality, shape, config):
        super().__init__()
        self.frames = 1  # steps, or frames of a map, in a token
        self.front = None
        if len(shape) == 3:
            self.front, self.frames = MelFront(shape[2], config.mel), config.mel.frames
            if not self.divides(shape):
                raise UserError(f"--data: {modality} clips have {shape[0]} × {shape[1]} frames; MultiSK's convolutions "
                                f"need a multiple of {self.frames}")
        channels = self.front.width if self.front else shape[-1]
        self.project, self.norm = GatedProjection(channels, config.width), nn.LayerNorm(config.width, eps=1e-6)
        self.block = TokenBlock(config.width, config.heads)
        self.joint = GatedProjection(config.width, config.joint_dim)

    def divides(self, shape):
        """Whether tokens and their mask are as many: of other lengths the public code disagrees with itself."""
        return self.front is None or shape[0] * shape[1] % self.frames == 0

    def tokens(self, x, valid):
        """Features [B, T, …] and valid [B, T] -> tokens [B, n, width], and which of them exist."""
        if self.front is not None:
            frames = x.shape[2]
            x = self.front(x.flatten(1, 2).transpose(1, 2))  # (B, n, C)
            valid = valid.repeat_interleave(frames, 1).unflatten(1, (-1, self.frames)).any(2)  # (B, n)
        elif x.dim() == 5:
            x = x.mean((2, 3))
        return self.norm(self.project(x)), valid

    def by_step(self, y, steps):
        """Tokens [B, n, D] of a map as steps [B, T, D]: the mean of those that a step overlaps, by how far."""
        if self.front is None:
            return y
        n = y.shape[1]
        edges = torch.arange(n + 1, device=y.device) * steps, torch.arange(steps + 1, device=y.device) * n  # in 1 / nT
        starts, ends = ((torch.stack(torch.meshgrid(edges[1][part], edges[0][part], indexing="ij")))
                        for part in (slice(None, -1), slice(1, None)))
        shared = (ends.amin(0) - starts.amax(0)).clamp_min(0).to(y.dtype)  # (T, n)
        return (shared / shared.sum(1, keepdim=True)) @ y


class MultiSKModel(Pretrained):
    """The towers, and the token that stands where a clip has nothing.

    Parameters
    ----------
    shapes : dict modality -> shape of one clip's features
    config : TowerConfig
    """

    def __init__(self, shapes, config):
        super().__init__(shapes)
        self.towers = nn.ModuleDict({m: Tower(m, shape, config) for m, shape in self.shapes.items()})
        self.blank = nn.Parameter(torch.empty(config.width))
        nn.init.trunc_normal_(self.blank, std=0.02)

    def embed(self, modality, features, valid) -> Embedding:
        """Both vectors of clips."""
        tower, (z, exists, present) = self.towers[modality], self.read(modality, features, valid)
        y = tower.block(z, exists)
        return Embedding(unit(token_mean(z, exists)), unit(tower.joint(token_mean(y, exists))), present)

    def read(self, modality, features, valid):
        """Tokens [B, n, width], which exist, and which clips have any; of the others the first is the blank one."""
        z, exists = self.towers[modality].tokens(features.to(self.blank.dtype), valid)
        present = exists.any(1)
        fill = ~present[:, None] & (torch.arange(z.shape[1], device=z.device) == 0)  # (B, n)
        return torch.where(fill[..., None], self.blank.to(z.dtype), z), exists | fill, present

    def encode_modality(self, modality, features, valid=None):
        """Semantic vectors: every step through the joint projection by itself, of length 1."""
        self.require(modality, features.shape[1:])
        valid = features.new_ones(features.shape[:2], dtype=torch.bool) if valid is None else valid
        z, exists, _ = self.read(modality, features, valid)
        tower = self.towers[modality]
        y = tower.by_step(tower.block(z, exists), features.shape[1])
        return Tokens(None, None, unit(tower.joint(y)))

    def items(self, modality, features, valid):
        """A clip is retrieved by its joint embedding."""
        self.require(modality, features.shape[1:])
        return {"joint": self.embed(modality, self.feature_scale(modality, features, valid), valid).joint}

    def fits(self, modality, shape):
        return super().fits(modality, shape) and self.towers[modality].divides(shape)


def unit(x):
    """Vectors of length 1, never in half precision."""
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
