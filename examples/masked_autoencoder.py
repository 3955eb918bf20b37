"""A masked autoencoder (He et al., CVPR 2022) on the features of every modality, as a method of one's own.

    python -m cmg.pretrain --data synthetic --method examples/masked_autoencoder.py --out checkpoint/masked

A share of the steps of every clip is hidden. A small transformer, one for all modalities, reads what is left and where
it stood, and has to rebuild what is hidden: L = Σ over modalities of the mean of ‖ x̂ - x ‖² / C over the hidden steps.
The transformer is kept, the layers that rebuild are not.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.losses.masked import mse
from cmg.losses.self_cross import sample_hidden
from cmg.methods.contract import Method
from cmg.models.pretrained import Pretrained, Tokens


@dataclass(frozen=True)
class MaskedConfig(Config):
    """Masked autoencoder.

    Attributes
    ----------
    width : D, of the vectors
    hide : share of the steps that is hidden
    """

    width: int = setting(64, whole(4, multiple_of=4))
    hide: float = setting(0.5, number(above=0, below=1))


class Encoder(Pretrained):
    """What is kept: a step's grid or vector, embedded, in the context of its clip."""

    def __init__(self, shapes, config):
        super().__init__(shapes)
        D = config.width
        self.embed = nn.ModuleDict({m: nn.Linear(math.prod(shape[1:]), D) for m, shape in self.shapes.items()})
        self.blank = nn.Parameter(torch.zeros(D))  # stands where a step is hidden
        layer = nn.TransformerEncoderLayer(D, 4, 4 * D, dropout=0.1, batch_first=True, norm_first=True)
        self.context = nn.TransformerEncoder(layer, 2, nn.LayerNorm(D), enable_nested_tensor=False)

    def encode_modality(self, modality, features, valid=None, hidden=None):
        self.require(modality, features.shape[1:])
        z = self.embed[modality](features.flatten(2).to(self.blank.dtype))  # (B, T, D)
        if hidden is not None:
            z = torch.where(hidden[..., None], self.blank, z)
        padding = None if valid is None else ~valid & valid.any(1, keepdim=True)  # a clip without steps reads itself
        return Tokens(None, None, self.context(z + clock(z), src_key_padding_mask=padding))


def clock(z):
    """Where steps stand in time, [T, D]: sines and cosines, as in Vaswani et al. 2017."""
    T, D = z.shape[1:]
    angle = torch.arange(T, device=z.device).outer(100 ** -torch.linspace(0, 1, D // 2, device=z.device))  # (T, D / 2)
    return torch.cat([angle.sin(), angle.cos()], 1).to(z)


class MaskedAutoencoder(Method):
    Config = MaskedConfig

    def __init__(self, shapes, config):
        super().__init__()
        self.hide, self.encoder = config.hide, Encoder(shapes, config)
        self.decode = nn.ModuleDict({m: nn.Linear(config.width, math.prod(s[1:])) for m, s in shapes.items()})

    def losses(self, batch):
        return {f"rebuild/{m}": self.rebuilding(m, batch[m], batch[f"valid/{m}"]) for m in self.encoder.modalities}

    def rebuilding(self, modality, x, valid):
        hidden = sample_hidden(valid, self.hide)
        z = self.encoder.encode_modality(modality, x, valid, hidden).vectors
        return mse(self.decode[modality](z), x.flatten(2), hidden)

    def kept(self):
        return self.encoder
