"""The methods cmmixer (mix, hide, rebuild both) and cmmixer-pair (fine-tuning for retrieval).

cmmixer: of every clip P steps, one in each P-th part of it, drawn at random, are folded into one picture of frames and
one of mel. They are mixed, three quarters of the mixture's patches are hidden, and from the rest both pictures are
rebuilt where they are hidden:

    L = mean over hidden patches of ‖ x̂ - x ‖² / values  +  the same of y

Pictures have mean 0 and variance 1 over the training clips (the statistics of the first batch), so that a predictor
that knows nothing but them has a loss of about 1 in each modality. `--preset official` trains what the released script
trains: frames alone are seen, and decibels are rebuilt as they are. `--mix apart` mixes nothing: each modality has an
encoder and a decoder of its own, which see and rebuild it alone.

cmmixer-pair: an encoder for each modality, which begins with that of a cmmixer checkpoint (`--init-from`), a projector
on it, and NT-Xent over both modalities of all clips.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from cmg.distributed import gather, total
from cmg.errors import UserError
from cmg.losses.nt_xent import nt_xent
from cmg.losses.patches import normalised, patch_mse
from cmg.methods.cmmixer.augment import crop_and_flip, erase
from cmg.methods.cmmixer.draws import own_draws
from cmg.methods.cmmixer.grid import fold, patchify
from cmg.methods.cmmixer.mixing import Mixture, mix
from cmg.methods.cmmixer.model import MixerModel, PairModel, chosen_steps, picture_kind
from cmg.methods.cmmixer.network import Decoder, hide
from cmg.methods.cmmixer.randaugment import rand_augment
from cmg.methods.cmmixer.settings import PUBLISHED, RELEASED, SIZES, SMALL, MixerConfig, PairConfig
from cmg.methods.contract import Method, Recipe, detached
from cmg.optimisation import OptimiserConfig

ADAMW = OptimiserConfig(batch_size=64, optimizer="adamw", lr=2e-4, betas=(0.9, 0.95), weight_decay=0.01,
                            schedule="cosine", clip_grad=0.0)
FAST = OptimiserConfig(batch_size=64, optimizer="adamw", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01,
                       schedule="cosine", warmup_steps=20, clip_grad=1.0)


@dataclass
class State:
    """A batch on its way through a step; dicts are keyed by modality."""

    pictures: dict  # Tensor[B, P, 3, S, S], on the training clips' scale
    exists: torch.Tensor  # BoolTensor[B]: the clip has a step in both modalities
    share: torch.Tensor = None  # Tensor[B]: of the first modality in the mixture
    mask: torch.Tensor = None  # BoolTensor[B, L], the hidden patches
    predictions: dict = field(default_factory=dict)  # Tensor[B, L, values of a patch]


class PictureMethod(Method):
    """What both methods have in common: the pictures of two modalities."""

    kinds = ("frames", "maps")
    least_modalities = 2

    def __init__(self, shapes, model, augment):
        super().__init__()
        if len(shapes) != 2:
            raise UserError(f"--modalities {' '.join(shapes)}: --method {self.name} mixes two; expected video audio")
        for m, shape in shapes.items():
            if len(shape) not in (3, 4) or len(shape) == 4 and shape[-1] != 3:
                raise UserError(f"--data: {m} clips are {list(shape)}; --method {self.name} reads frames [T, H, W, 3] "
                                "and maps [T, F, M]")
        self.model, self.augment = model, augment

    @property
    def starts_from_data(self):
        return self.model.config.targets != "raw"

    def read(self, batch):
        """A clip's pictures in both modalities, augmented in training -> State."""
        first, second = self.model.modalities
        both = batch[f"valid/{first}"] & batch[f"valid/{second}"]
        steps = chosen_steps(both, self.model.config.positions, self.training)
        clips = torch.arange(len(steps), device=steps.device)[:, None]
        pictures = {m: self.picture(m, batch[m][clips, steps]) for m in (first, second)}
        return State(pictures, both.any(1))

    def picture(self, modality, x):
        pictures = self.model.raw(modality, x)
        frames = picture_kind(self.model.shapes[modality]) == "frames"
        if self.training and frames and self.augment.rand_augment:
            pictures = rand_augment(pictures, self.augment.rand_augment)
        if self.training and frames and (self.augment.crop < 1 or self.augment.flip):
            pictures = crop_and_flip(pictures, self.augment.crop, self.augment.flip)
        pictures = self.model.standard(modality, pictures)
        return erase(pictures, self.augment.erase) if self.training and self.augment.erase else pictures

    def carry(self, state):
        """In eval mode, before the first step, what `begin` reads: every clip's moments by channel."""
        if self.training:
            return {}
        moments = {m: torch.stack([(x**k).mean((1, 3, 4)) for k in (1, 2)], 1) for m, x in state.pictures.items()}
        return detached({"moments": moments, "exists": state.exists})  # (B, 2, 3)

    def begin(self, carried):
        exists = gather(carried["exists"])
        for m, moments in carried["moments"].items():
            known = gather(moments)[exists]
            if len(known):
                self.model.learn_scale(m, *known.double().mean(0))

    def kept(self):
        return self.model


def recipe(pictures, decoder, optimiser=ADAMW, epochs=400, **changed):
    dim, layers, heads = decoder
    return Recipe(MixerConfig(decoder_dim=dim, decoder_layers=layers, decoder_heads=heads, pictures=pictures,
                              **changed), optimiser, epochs)


class CMMixer(PictureMethod):
    name = "cmmixer"
    Config = MixerConfig
    recipes = {
        "small": recipe(SMALL, (64, 2, 4), FAST, 40),
        **{name: recipe(*size, augment=PUBLISHED) for name, size in SIZES.items()},
        "official": recipe(*RELEASED, mix="none", alone=0.0, augment=PUBLISHED),
    }

    def __init__(self, shapes, config):
        super().__init__(shapes, self.rebuild(shapes, config), config.augment)
        self.config = config
        if config.mix == "apart":
            self.decoders = nn.ModuleDict({m: self.new_decoder([m]) for m in self.model.modalities})
        else:
            self.decoder = self.new_decoder(self.model.modalities)

    def new_decoder(self, heads_of):
        config, c = self.config, self.config.pictures
        return Decoder(c.grid, heads_of, 3 * c.patch**2, c.dim, config.decoder_dim, config.decoder_layers,
                       config.decoder_heads, c.mlp_ratio, c.norm_eps)

    def encode(self, batch):
        state = self.read(batch)
        seen, state.share = self.mixture(state.pictures, self.config.alone)
        state.mask, state.predictions = self.reconstruct(seen)
        return state

    def mixture(self, pictures, alone=0.0):
        """What is seen of pictures, dict modality -> Tensor[B, P, 3, S, S] -> Mixture; apart, the dict itself."""
        config, (first, second) = self.config, pictures.values()
        if config.mix == "apart":
            return Mixture(pictures, first.new_full(first.shape[:1], 0.5))
        return mix(first, second, config.mix, config.pixel_rate, config.pixel_map == "exact", alone)

    def reconstruct(self, seen):
        """Hide and predict: a `Mixture`'s pictures -> mask [B, L], dict modality -> Tensor[B, L, values]."""
        rows, columns = self.model.config.grid
        some = next(iter(seen.values())) if self.config.mix == "apart" else seen
        hidden = hide(own_draws(len(some), rows * columns, device=some.device), self.config.mask_ratio)
        if self.config.mix == "apart":
            return hidden.mask, {m: self.decoders[m](vit(fold(seen[m]), hidden.visible), hidden.restore)[m]
                                 for m, vit in self.model.vits.items()}
        return hidden.mask, self.decoder(self.model.vit(fold(seen), hidden.visible), hidden.restore)

    def targets(self, pictures):
        """What a patch should be predicted to be, Tensor[B, L, values]."""
        patches = patchify(fold(pictures), self.model.config.patch)
        return normalised(patches) if self.model.config.targets == "patch" else patches

    def losses(self, state):
        counted = state.mask & state.exists[:, None]
        with torch.autocast(state.mask.device.type, enabled=False):
            return {f"rebuild/{m}": patch_mse(state.predictions[m].to(x.dtype), self.targets(x), counted)
                    for m, x in state.pictures.items()}

    def carry(self, state):
        return super().carry(state) | detached({"share": state.share})

    def metrics(self, carried):
        """Of a mixture, the share of the first modality's pixels (0.5 in the mean), and how far it is from even."""
        share = carried["share"]
        count = total(torch.full_like(share[0], len(share)))
        first = self.model.modalities[0]
        return {f"mix/{first}": total(share.sum()) / count, "mix/uneven": total((share - 0.5).abs().sum()) / count}

    @classmethod
    def rebuild(cls, shapes, config):
        return MixerModel(shapes, config.pictures, config.mix == "apart")


def fine_tuning(pictures, optimiser=ADAMW, epochs=100, **changed):
    return Recipe(PairConfig(pictures=pictures, **changed), optimiser, epochs)


class CMMixerPair(PictureMethod):
    name = "cmmixer-pair"
    Config = PairConfig
    least_clips = 2
    recipes = {
        "small": fine_tuning(SMALL, FAST, 20, projected=128),
        **{name: fine_tuning(pictures, augment=PUBLISHED) for name, (pictures, _) in SIZES.items()},
        "official": fine_tuning(RELEASED[0], projector="relu", augment=PUBLISHED),
    }

    def __init__(self, shapes, config):
        super().__init__(shapes, PairModel(shapes, config), config.augment)
        self.temperature = config.temperature

    def encode(self, batch):
        return self.read(batch)

    def losses(self, state):
        a, b = (self.model.vectors(m, fold(x)) for m, x in state.pictures.items())
        return {"nt_xent": nt_xent(a, b, state.exists, self.temperature)}

    def taken_over(self, state, method):
        """The tensors that the kept module begins with, of a checkpoint's: of one of cmmixer its encoder, for every
        modality, or those that it has for each, and its scale of pictures; projectors begin anew.

        state : state dict of the checkpoint's kept module; method : its method's name.
        """
        if method != CMMixer.name:
            return state
        encoder = {name.removeprefix("vit."): x for name, x in state.items() if name.startswith("vit.")}
        vits = {f"vits.{m}.{name}": x for m in self.model.modalities for name, x in encoder.items()}
        rest = {name: x for name, x in state.items() if not name.startswith("vit.")}
        return {name: x for name, x in self.model.state_dict().items() if name.startswith("projectors.")} | vits | rest

    @classmethod
    def rebuild(cls, shapes, config):
        return PairModel(shapes, config)
