"""What CMMixer leaves behind: an encoder of pictures that says of every step of one modality what it shows."""

from abc import abstractmethod

import torch
from torch import nn
from torch.nn import functional as F

from cmg.methods.cmmixer.draws import own_draws
from cmg.methods.cmmixer.grid import fold
from cmg.methods.cmmixer.network import Encoder
from cmg.models.pretrained import Pretrained, Tokens

RAW = {"frames": (0.45, 0.225), "maps": (0.0, 1.0)}  # mean and spread that the released program takes for granted
AT_ONCE = 64  # pictures that are encoded together where no gradient is asked for: bounds the memory


def picture_kind(shape):
    """Of `cmg.modalities.KINDS`, by the shape [T, …] of one clip."""
    return "frames" if len(shape) == 4 else "maps"


def pictures_of(x, side, dtype):
    """Steps of a modality as pictures with three channels: frames uint8 [B, T, H, W, 3], 0 to 1, or maps [B, T, F, M],
    whose rows become mel bands and whose columns time: Tensor[B, T, 3, side, side] of `dtype`."""
    if x.dim() == 5:
        x = x.permute(0, 1, 4, 2, 3).to(dtype) / 255
    else:
        x = x.mT.unsqueeze(2).to(dtype)
    B, T = x.shape[:2]
    if x.shape[-2:] != (side, side):
        x = F.interpolate(x.flatten(0, 1), (side, side), mode="bilinear", antialias=True).unflatten(0, (B, T))
    return x.expand(B, T, 3, side, side)


def chosen_steps(exists, positions, training):
    """P of a clip's steps in order, one in each of P equal parts of the steps that exist: at random, or in its middle.

    exists : BoolTensor[B, T]. Returns int64 Tensor[B, P]; of a clip with fewer steps some occur again.
    """
    B, T = exists.shape
    draws = own_draws(B, positions, device=exists.device) if training else 0.5
    part = (torch.arange(positions, device=exists.device) + draws) / positions  # (B, P), 0 to 1
    count = exists.sum(1, keepdim=True)
    place = (part * count).long().clamp(max=T - 1).expand(B, positions)
    return (~exists).to(torch.uint8).argsort(dim=1, stable=True).gather(1, place)


class PictureModel(Pretrained):
    """Base: the pictures of two modalities on one scale.

    Buffers `mean` and `spread`, modality -> Tensor[3]: of every channel over the training clips (`--targets raw`: what
    the released program takes).
    """

    scales_itself = True

    def __init__(self, shapes, config):
        super().__init__(shapes)
        self.config = config
        self.mean, self.spread = nn.Module(), nn.Module()
        for m, shape in self.shapes.items():
            mean, spread = RAW[picture_kind(shape)] if config.targets == "raw" else (0.0, 1.0)
            self.mean.register_buffer(m, torch.full((3,), mean))
            self.spread.register_buffer(m, torch.full((3,), spread))

    def encoder(self):
        """A new encoder of folded pictures."""
        c = self.config
        return Encoder(c.grid, c.patch, c.dim, c.layers, c.heads, c.mlp_ratio, c.norm_eps)

    @property
    def dtype(self):
        return next(self.parameters()).dtype

    def raw(self, modality, x):
        """Pictures before their scale is changed, Tensor[B, T, 3, S, S]."""
        return pictures_of(x, self.config.side, self.dtype)

    def standard(self, modality, pictures):
        """Pictures with mean 0 and variance 1 over the training clips."""
        mean, spread = (getattr(part, modality).view(3, 1, 1).to(pictures) for part in (self.mean, self.spread))
        return (pictures - mean) / spread

    @torch.no_grad()
    def learn_scale(self, modality, mean, square):
        """Take over the mean and the mean square, Tensor[3] each."""
        getattr(self.mean, modality).copy_(mean)
        getattr(self.spread, modality).copy_((square - mean**2).clamp_min(0).sqrt().clamp_min(1e-4))

    def still(self, modality, x):
        """Every step by itself as a folded picture, Tensor[B·T, 3, S, S·P].

        A patch of a folded picture holds all its positions, so that nothing of it belongs to one step alone. A step is
        therefore shown at all positions, as a film that stands still.
        """
        pictures = self.standard(modality, self.raw(modality, x)).flatten(0, 1)  # (B·T, 3, S, S)
        return fold(pictures.unsqueeze(1).expand(-1, self.config.positions, -1, -1, -1))

    @abstractmethod
    def vectors(self, modality, picture):
        """One vector of each folded picture of one modality, Tensor[B, D]."""

    def encode_modality(self, modality, features, valid=None):
        """A step's token is what the encoder makes of that step alone, unmixed and with nothing hidden."""
        self.require(modality, features.shape[1:])
        x = self.still(modality, features)
        parts = [x] if torch.is_grad_enabled() else x.split(AT_ONCE)
        z = torch.cat([self.vectors(modality, part) for part in parts])
        return Tokens(None, None, z.unflatten(0, features.shape[:2]))  # (B, T, D)


class MixerModel(PictureModel):
    """The encoder of the mixture, given one modality: the mean of its patches, after the last norm.

    apart : an encoder for each modality, which has seen no other
    """

    def __init__(self, shapes, config, apart=False):
        super().__init__(shapes, config)
        if apart:
            self.vits = nn.ModuleDict({m: self.encoder() for m in self.shapes})
        else:
            self.vit = self.encoder()

    def vectors(self, modality, picture):
        vit = self.vits[modality] if hasattr(self, "vits") else self.vit
        return vit(picture)[:, 1:].mean(1)


class PairModel(PictureModel):
    """An encoder and a projector for each modality. A clip is retrieved by the vector that fine-tuning compares, that
    of P of its steps together ("joint").

    config : PairConfig
    """

    def __init__(self, shapes, config):
        super().__init__(shapes, config.pictures)
        self.read_out = config.read_out
        self.vits = nn.ModuleDict({m: self.encoder() for m in self.shapes})
        self.projectors = nn.ModuleDict({
            m: nn.Sequential(nn.Linear(config.pictures.dim, config.projected),
                             *[nn.ReLU()] * (config.projector == "relu")) for m in self.shapes
        })

    def vectors(self, modality, picture):
        return self.projectors[modality](self.vits[modality].read(picture, self.read_out))

    def items(self, modality, features, valid):
        steps = chosen_steps(valid, self.config.positions, training=False)  # (B, P)
        clips = torch.arange(len(steps), device=steps.device)[:, None]
        pictures = self.standard(modality, self.raw(modality, features[clips, steps]))
        return {"joint": torch.cat([self.vectors(modality, fold(part)) for part in pictures.split(AT_ONCE)])}
