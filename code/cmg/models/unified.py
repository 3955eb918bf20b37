"""What pretraining leaves behind: one semantic encoder Φ per modality and the codebook they share."""

from typing import NamedTuple

import torch
from torch import nn

from cmg.errors import UserError
from cmg.models.codebook import Codebook
from cmg.models.semantic import SemanticEncoder
from cmg.models.shared import share_transformer


class Tokens(NamedTuple):
    """codes [B, T] int64, quantized [B, T, D] (the code vectors), semantic [B, T, D] (before quantising)."""

    codes: torch.Tensor
    quantized: torch.Tensor
    semantic: torch.Tensor


def reads_means(options):
    """Whether a model of these flags reads only the mean over video's grid, as the released code does."""
    return options.get("equations") == "released"


def fits(shape, given, pooled):
    """Whether clips of shape `given` suit a model that was pretrained on `shape`: alike but for the number of steps, or
    with their mean in the place of the grid where the model `reads_means`."""
    return tuple(given[1:]) == tuple(shape[1:]) or pooled and tuple(given[1:]) == tuple(shape[-1:])


class UnifiedModel(nn.Module):
    """Φ^m for every modality m and one codebook.

    Parameters
    ----------
    shapes : dict modality -> shape of one clip's features, e.g. {"video": (10, 7, 7, 512), "audio": (10, 128)}.
    options : dict of the flags of `cmg.pretrain` (`dim`, `layers`, `codes`, `decay`, …), as stored in a checkpoint.
    """

    def __init__(self, shapes, options):
        super().__init__()
        self.shapes = {m: tuple(shape) for m, shape in shapes.items()}
        # What `SemanticEncoder.front` gives, which Ψ and the decoders work on: word states for text.
        self.fronts = {m: (*shape[:-1], options["dim"]) if m == "text" else shape for m, shape in self.shapes.items()}
        # The released code updates its codebook audio first, then video, then text.
        self.modalities = tuple(m for m in ("audio", "video", "text") if m in shapes)
        released = options["equations"] == "released"
        self.semantic = nn.ModuleDict({
            m: SemanticEncoder(m, self.shapes[m], options["dim"], options["layers"], released,
                               options.get("input_dropout", 0.0), options.get("text_padding") == "masked")
            for m in self.modalities
        })  # a checkpoint may be older than these two options, and than the next
        if options.get("transformer") == "shared":
            share_transformer(self.semantic, options["layers"])
        self.codebook = Codebook(
            self.modalities, options["codes"], options["dim"], options["decay"], options["equations"],
            options["mm_ema"], options["reset"], options["reset_after"],
        )
        self.masked = not released

    def mask(self, valid):
        """The released code has no masks: a padded word is a word there."""
        return valid if self.masked else torch.ones_like(valid)

    def encode_modality(self, modality, features, valid=None):
        """Tokens of one modality's features [B, T, …]; valid : BoolTensor[B, T] or None for all."""
        if modality not in self.modalities:
            raise UserError(f"modality {modality!r}: this model was pretrained on {', '.join(self.modalities)}")
        if not fits(self.shapes[modality], features.shape[1:], pooled=not self.masked):
            raise UserError(f"{modality} features have shape {tuple(features.shape[1:])} a clip, "
                            f"the model was pretrained on {self.shapes[modality]}")
        encoder = self.semantic[modality]
        if valid is not None:
            valid = self.mask(valid)
        features = features.to(encoder.temporal.project.weight.dtype)  # public checkpoints are float64
        semantic = encoder(encoder.front(features, valid), valid)
        quantized = self.codebook.quantize(semantic)
        return Tokens(quantized.codes, quantized.vectors, semantic)

    @torch.no_grad()
    def encode(self, valid=None, **features):
        """Tokens of one modality, `model.encode(video=x)`, or a dict of Tokens if several are given.

        Features are tensors [B, T, …] of any float type on any device; results are on the model's device.

        valid : dict modality -> BoolTensor[B, T], which steps exist, for what is padded with zeros: short clips, and
            captions of fewer words than in pretraining. The others are not attended to, and their own tokens mean
            nothing. Of a modality that it does not name all steps exist.
        """
        device = self.codebook.embedding.device
        if not features:
            raise UserError(f"encode() needs features of at least one of {', '.join(self.modalities)}")
        valid = {m: torch.as_tensor(v).to(device, torch.bool) for m, v in (valid or {}).items()}
        for m, mask in valid.items():
            if m not in features:
                raise UserError(f"valid of {m!r}: expected only {', '.join(features)}, whose features are given")
            if tuple(mask.shape) != tuple(features[m].shape[:2]):
                raise UserError(f"valid of {m!r} has shape {list(mask.shape)}; expected {list(features[m].shape[:2])}")
        tokens = {m: self.encode_modality(m, torch.as_tensor(x).to(device), valid.get(m)) for m, x in features.items()}
        return tokens if len(tokens) > 1 else next(iter(tokens.values()))
