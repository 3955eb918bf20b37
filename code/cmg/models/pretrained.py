"""What pretraining leaves behind, whatever the system: a frozen model that turns clips into tokens.

A system's own model is a subclass that says what it `offers` and how one modality is encoded; everything that a user
calls stands here.
"""

import hashlib
import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cmg.data import numbers, provenance
from cmg.data.features import FeatureSet
from cmg.errors import UserError
from cmg.losses.masked import clip_vectors
from cmg.models.scale import FeatureScale


class Tokens(NamedTuple):
    """What a model says of clips, step by step.

    semantic [B, T, D]: continuous vectors. codes [B, T] int64, or [B, T, P] where a step has several, and quantized
    [B, T, D], the codes' vectors: None of a model that has no codebook. valid bool [B, T]: which steps exist; None
    where nobody said, which stands for all.
    """

    codes: torch.Tensor | None
    quantized: torch.Tensor | None
    semantic: torch.Tensor
    valid: torch.Tensor | None = None

    @property
    def vectors(self):
        """What downstream heads read: the codes' vectors where there are codes."""
        return self.semantic if self.quantized is None else self.quantized


class Pretrained(nn.Module, ABC):
    """Base of the models that `cmg.load_pretrained` gives.

    Parameters
    ----------
    shapes : dict modality -> shape of one clip's features, as pretrained on.

    Attributes
    ----------
    offers : names of what a task may ask for: "vectors" (all models have them), "codes" (discrete tokens of its
        `codebook`, a module with `size` M and `embedding` [M, D]), "sentences" (`describe` says clips in words),
        "matching" (which captions belong to clips, see `cmg.models.uniq4cap.captioner`).
    method : what it was pretrained with, as in --method.
    features : dict modality -> Provenance, where the features came from that it was pretrained on.
    feature_scale : FeatureScale, what the numbers of these features were like, and what brings them to about one.
    scales_itself : whether it brings features to a scale of its own, so that --standardise leaves them alone.
    vocabularies : dict modality -> Vocabulary of its tokens, of those that have one.
    """

    offers = ("vectors",)
    scales_itself = False

    def __init__(self, shapes):
        super().__init__()
        self.shapes = {m: tuple(shape) for m, shape in shapes.items()}
        self.modalities = tuple(self.shapes)
        self.method, self.features = "not known", {m: provenance.Provenance() for m in self.shapes}
        self.feature_scale = FeatureScale(self.shapes)
        self.vocabularies = {}

    @abstractmethod
    def encode_modality(self, modality, features, valid=None) -> Tokens:
        """Tokens of one modality's features [B, T, …]; valid : BoolTensor[B, T] or None for all. On the model's device,
        with gradients where they are on. The features are such as `feature_scale` gives them, which is what a method's
        batches hold; whoever has others calls `tokens`."""

    def tokens(self, modality, features, valid=None) -> Tokens:
        """The same of features as files hold them."""
        if modality in self.feature_scale.standardised:
            self.require(modality, features.shape[1:])
        return self.encode_modality(modality, self.feature_scale(modality, features, valid), valid)

    def items(self, modality, features, valid) -> dict[str, torch.Tensor]:
        """The vectors by which clips are retrieved, dict name -> Tensor[B, D]; features [B, T, …] as files hold them,
        and valid [B, T], on the model's device.

        By default the means over a clip's steps: of the codes' vectors as "codes", where there are codes, and of the
        semantic ones as "semantic". Clips with the same codes in another order are equal, but only a sum in float64
        comes out the same for them. A clip without a single step is 0; nobody retrieves it.
        """
        tokens = self.tokens(modality, features, valid)
        means = {"codes": tokens.quantized, "semantic": tokens.semantic}
        return {name: clip_vectors(x.float().double(), valid)[0] for name, x in means.items() if x is not None}

    def fits(self, modality, shape):
        """Whether clips of this shape suit the model: alike but for the number of steps."""
        return tuple(shape[1:]) == self.shapes[modality][1:]

    def require(self, modality, shape):
        """`UserError` unless the model knows the modality and clips of this shape suit it."""
        if modality not in self.modalities:
            raise UserError(f"modality {modality!r}: this model was pretrained on {', '.join(self.modalities)}")
        if not self.fits(modality, shape):
            raise UserError(f"{modality} features have shape {tuple(shape)} a clip, "
                            f"the model was pretrained on {self.shapes[modality]}")

    def check(self, features: FeatureSet, flag="--data", without=None):
        """`UserError` if a feature set has other dimensions than the model was pretrained on, comes from another
        encoder, or has numbers of another size; of modalities that the model does not know, and of `without`, nothing
        is asked."""
        asked = {m: self.features[m] for m in features.modalities if m in self.shapes and m != without}
        for m in asked:
            if not self.fits(m, features.shapes[m]):
                raise UserError(f"{flag}: {m} features are {list(features.shapes[m])} a clip; the checkpoint expects "
                                f"{list(self.shapes[m])}")
        provenance.check(asked, features.provenance, flag)
        numbers.check({m: known for m, known in self.feature_scale.known.items() if m in asked}, features, flag)

    @torch.no_grad()
    def encode(self, clips=None, valid=None, **features):
        """Tokens of one modality, `model.encode(video=x)`, or a dict of Tokens if several are given.

        Parameters
        ----------
        clips : a feature file (its path) or a `FeatureSet`, whose modalities that the model knows are encoded, always
            as a dict; it must come from the encoders that the model was pretrained on.
        valid : dict modality -> BoolTensor[B, T], which steps exist, for what is padded with zeros: short clips, and
            captions of fewer words than in pretraining. The others are not attended to, and their own tokens mean
            nothing. Of a modality that it does not name all steps exist. A feature file says it itself.
        features : tensors or arrays [B, T, …] of any float type on any device; results are on the model's device.
        """
        if clips is not None:
            return self._encode_set(clips if isinstance(clips, FeatureSet) else FeatureSet(Path(clips)))
        if not features:
            raise UserError(f"encode() needs features of at least one of {', '.join(self.modalities)}")
        valid = {m: torch.as_tensor(v).to(self.device, torch.bool) for m, v in (valid or {}).items()}
        for m, mask in valid.items():
            if m not in features:
                raise UserError(f"valid of {m!r}: expected only {', '.join(features)}, whose features are given")
            if tuple(mask.shape) != tuple(features[m].shape[:2]):
                raise UserError(f"valid of {m!r} has shape {list(mask.shape)}; expected {list(features[m].shape[:2])}")
        tokens = {m: self.tokens(m, torch.as_tensor(x).to(self.device), valid.get(m))._replace(valid=valid.get(m))
                  for m, x in features.items()}
        return tokens if len(tokens) > 1 else next(iter(tokens.values()))

    def _encode_set(self, clips, batch_size=256):
        known = [m for m in clips.modalities if m in self.modalities]
        if not known:
            raise UserError(f"features of {', '.join(clips.modalities)}: this model was pretrained on "
                            f"{', '.join(self.modalities)}")
        self.check(clips, clips.files[0].path)
        found = {m: [] for m in known}
        for rows in torch.arange(len(clips)).split(batch_size):
            batch = clips.__getitems__(rows.tolist())
            for m in known:
                valid = batch[f"valid/{m}"].to(self.device)
                found[m].append(self.tokens(m, batch[m].to(self.device), valid)._replace(valid=valid))
        return {m: Tokens(*(None if column[0] is None else torch.cat(column) for column in zip(*parts)))
                for m, parts in found.items()}

    def encode_files(self, *files, sentences=(), modalities=None, weights=None, backbones=None, seconds=None,
                     workers=0):
        """Tokens of media files, read as the features were that the model was pretrained on.

        Parameters
        ----------
        files : paths of videos, sounds and pictures. sentences : texts, whose rows follow those of the files.
        modalities : which to encode; None for all that the model knows and the files have.
        weights : dict modality -> path or hub name of its encoder's weights (several in a list), for encoders that have
            any: the model keeps their sha256, and others are refused.
        backbones : dict modality -> Python file of an encoder of one's own.
        seconds : that are read of a file; by default as many as the clips of pretraining had.
        workers : processes that decode; 0: this one.

        Returns
        -------
        dict modality -> Tokens [B, T, …], a row a file and sentence; `valid` [B, T] says which steps exist, none where
        a file lacks the modality.

        Raises
        ------
        UserError : a file that cannot be read or has nothing the model knows, an encoder that is not known, weights
            that are missing or others.

        Example
        -------
        >>> cmg.load_pretrained("checkpoint/mine").encode_files("a.mp4")["audio"].codes     # doctest: +SKIP
        """
        read = importlib.import_module("cmg.extract.alike")  # above this module; its libraries are of an extra
        return read.encode_files(self, files, sentences, workers, modalities=modalities, weights=weights,
                                 backbones=backbones, seconds=seconds)

    @property
    def device(self):
        return next(self.parameters()).device

    @property
    def sha256(self):
        """Of all tensors that decide what the model gives: its weights and the scale of its features."""
        tensors = self.state_dict() | {f"scale/{name}": x for name, x in self.feature_scale.named_buffers()}
        return digest(tensors)

    def extra_repr(self):
        """The first lines of `print(model)`."""
        return "\n".join([f"method {self.method}, offers {', '.join(self.offers)}", *(
            f"{m} {list(self.shapes[m])}: features {self.features[m]}" for m in self.modalities)])


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 of named tensors: of each in the order of names, its name, dtype, shape and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        found.update(x.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
