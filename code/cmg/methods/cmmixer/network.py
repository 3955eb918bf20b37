"""The masked autoencoder: a ViT on the visible patches, a small one on all of them, a head for each modality."""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from cmg.errors import UserError
from cmg.methods.cmmixer.grid import positions_on


def blocks(dim, layers, heads, ratio, eps):
    """Pre-norm transformer blocks of timm, as in the published program.

    Raises
    ------
    UserError : timm is not installed.
    """
    try:
        from timm.models.vision_transformer import Block
    except ImportError:
        raise UserError("--method cmmixer needs timm: pip install timm, or this project with its extra [vit]") from None
    return nn.Sequential(*(Block(dim, heads, ratio, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=eps))
                           for _ in range(layers)))


def start(module):
    """Initial weights of MAE (He et al., CVPR 2022): Xavier, a convolution of patches like a linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.data.flatten(1))
            nn.init.zeros_(part.bias)


class Hidden(NamedTuple):
    """Which patches are hidden.

    visible : int64 Tensor[B, n], places of the others in random order. restore : int64 Tensor[B, L], where the patch
    of each place is in that order, visible ones first. mask : BoolTensor[B, L], True where hidden.
    """

    visible: torch.Tensor
    restore: torch.Tensor
    mask: torch.Tensor


def hide(noise, share):
    """Hide the patches with the largest noise, Tensor[B, L], so that int(L · (1 - share)) stay -> Hidden."""
    order = noise.argsort(1)
    kept = int(noise.shape[1] * (1 - share))
    restore = order.argsort(1)
    return Hidden(order[:, :kept], restore, restore >= kept)


def pick(x, places):
    """Rows of x [B, L, D] at places [B, n]."""
    return x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[2]))


class Encoder(nn.Module):
    """A ViT.

    Parameters
    ----------
    grid : (rows, columns) of patches. patch : side of one. dim, layers, heads, ratio, eps : of the transformer.
    """

    def __init__(self, grid, patch, dim, layers, heads, ratio, eps):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("place", positions_on(*grid, dim).float()[None], persistent=False)  # (1, 1 + L, D)
        self.blocks, self.norm = blocks(dim, layers, heads, ratio, eps), nn.LayerNorm(dim, eps)
        start(self)
        nn.init.normal_(self.cls, std=0.02)

    def patches(self, picture):
        """Patches with their places, [B, 3, H, W] -> [B, L, D]."""
        return self.embed(picture).flatten(2).mT + self.place[:, 1:]

    def forward(self, picture, visible=None):
        """picture : Tensor[B, 3, H, W]; visible : places [B, n] of the patches that are read, None for all.
        Returns the class token and the patches', [B, 1 + n, D]."""
        x = self.patches(picture)
        if visible is not None:
            x = pick(x, visible)
        return self.norm(self.contexts(x))

    def contexts(self, patches):
        """The class token and the patches after the blocks, before the last norm: [B, n, D] -> [B, 1 + n, D]."""
        return self.blocks(torch.cat([(self.cls + self.place[:, :1]).expand(len(patches), -1, -1), patches], 1))

    def read(self, picture, out):
        """One vector of each whole picture, [B, D]: out "cls", the class token, or "mean", of the patches before the
        norm."""
        x = self.contexts(self.patches(picture))
        return self.norm(x[:, 0] if out == "cls" else x[:, 1:].mean(1))


class Decoder(nn.Module):
    """Fill in what is hidden, then say of every patch what both modalities looked like there.

    Parameters
    ----------
    grid : (rows, columns). heads_of : names of the modalities. size : values of a patch. inputs : D of the encoder.
    """

    def __init__(self, grid, heads_of, size, inputs, dim, layers, heads, ratio, eps):
        super().__init__()
        self.enter = nn.Linear(inputs, dim)
        self.blank = nn.Parameter(torch.zeros(1, 1, dim))  # stands where a patch is hidden
        self.register_buffer("place", positions_on(*grid, dim).float()[None], persistent=False)
        self.blocks, self.norm = blocks(dim, layers, heads, ratio, eps), nn.LayerNorm(dim, eps)
        self.heads = nn.ModuleDict({m: nn.Linear(dim, size) for m in heads_of})
        start(self)
        nn.init.normal_(self.blank, std=0.02)

    def forward(self, latent, restore):
        """latent : Tensor[B, 1 + n, D]; restore : [B, L]. Returns dict modality -> Tensor[B, L, size]."""
        x = self.enter(latent)
        blank = self.blank.to(x.dtype).expand(len(x), restore.shape[1] + 1 - x.shape[1], -1)
        patches = pick(torch.cat([x[:, 1:], blank], 1), restore)
        x = torch.cat([x[:, :1], patches], 1) + self.place
        x = self.norm(self.blocks(x))[:, 1:]
        return {m: head(x) for m, head in self.heads.items()}
