"""Media files and sentences as a checkpoint knows features: made by the encoders that it names, with their weights.

A checkpoint keeps what made the features of each modality (`cmg.data.provenance`). Backbones without weights, those of
a random start and the vocabulary of captions are found again by that alone; weights have to be given, and their sha256
has to be the same. A file gives what it has: pictures, sound or both; a still picture is a video of one second.
"""

import os
from typing import NamedTuple

import numpy as np
import torch

from cmg.data import provenance
from cmg.data.videos import SUFFIXES
from cmg.errors import UserError
from cmg.extract.backbones import BACKBONES, Choice, kind_of, load_backbone
from cmg.extract.clips import Media
from cmg.extract.hashed import words_of
from cmg.extract.media import FRAMES_PER_SECOND, BadClip, tracks
from cmg.extract.shards import origin
from cmg.extract.workers import Extractor, Job, Outcome, Recipe, extract_all, reads_captions
from cmg.files import gone
from cmg.modalities import TABLE, modality

READABLE = (*SUFFIXES, ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class Encoded(NamedTuple):
    """A file or a sentence, read and encoded. features, valid : as of an Outcome. reason : "" when it is good."""

    name: str
    features: dict
    valid: dict
    reason: str


class Each:
    """What a worker makes of a file or a sentence: features of the modalities that it has, alone.

    recipes : dict modality -> Recipe of that modality alone.
    """

    def __init__(self, recipes, device="cpu"):
        self.recipes = recipes
        self.extractors = {m: Extractor(recipe, device) for m, recipe in recipes.items()}

    def __call__(self, job):
        features, valid = {}, {}
        try:
            there = tracks(job.path) | ({"sound"} if job.sound else set()) if job.path else {"words"}
        except BadClip as bad:
            return Outcome(job, {}, {}, str(bad))
        for m, extractor in self.extractors.items():
            if modality(m).source in there:
                outcome = extractor(job)
                if outcome.reason:
                    return outcome
                features |= outcome.features
                valid |= outcome.valid
        has = " and ".join(sorted(there)) or "nothing that is seen or heard"
        return Outcome(job, features, valid, "" if features else f"has {has}; expected {' or '.join(self.recipes)}")


class Encoders:
    """The extraction that made a model's features, for other files.

    Parameters
    ----------
    model : Pretrained
    modalities : which of the model's to read, see `asked`.
    weights : dict modality -> path or name of its encoder's weights, or several, as `--<modality>-weights` of
        `cmg.extract`.
    backbones : dict modality -> name or Python file of its encoder, where that is of one's own.
    seconds : of a file that are read, from its start; by default as many as of the clips of pretraining.

    Raises
    ------
    UserError : an encoder that nobody knows, weights that are not given or are not those of pretraining.
    """

    def __init__(self, model, modalities, weights=None, backbones=None, seconds=None):
        self.model, self.weights, self.backbones, self.seconds = model, weights or {}, backbones or {}, seconds
        for m in (*modalities, *self.weights, *self.backbones):
            if m not in model.modalities:
                raise UserError(f"{m}: the model was pretrained on {', '.join(model.modalities)}")
        self.recipes = {m: self._recipe(m) for m in modalities}

    def _recipe(self, m):
        """The recipe of one modality, after a look at its backbone."""
        known, shape = self.model.features[m], self.model.shapes[m]
        name = self.backbones.get(m) or (known.backbone or "").partition(":")[0]
        flag = f"--{m}-backbone"
        if not name or name not in BACKBONES.get(m, {}) and m not in self.backbones:
            made_by = known.backbone or "an unknown encoder"
            raise UserError(f"{flag}: missing; the model's {m} features are of {made_by}, which cmg.extract does not "
                            "have; expected the encoder that made them")
        given = self.weights.get(m) or self._known_weights(m)
        choice = Choice(m, name, (given,) if isinstance(given, str) else tuple(given))
        kind = kind_of(choice)
        if kind.expects and not choice.weights:
            raise UserError(f"--{m}-weights: missing; the model's {m} features are of {known}; expected its weights: "
                            f"{' and '.join(kind.expects)}")
        options = {"side": shape[1], "rate": round(1 / (known.seconds_per_step or 1.0))}
        choice = choice._replace(**{key: options[key] for key in getattr(kind, "options", ())})
        recipe = Recipe((choice,), 1, 1, int(known.frames_per_second or FRAMES_PER_SECOND), known.precision or "fp32")
        steps = shape[0] * (known.seconds_per_step or 1.0)
        recipe = (recipe._replace(captions=shape[0], words=shape[1]) if reads_captions(kind) else recipe._replace(
            seconds=self.seconds or round(steps), words=shape[0]))
        backbone = load_backbone(choice, precision=recipe.precision)
        theirs = provenance.of_attributes(origin(backbone, recipe), m)
        provenance.check({m: known}, {m: theirs}, f"--{m}-weights" if choice.weights else flag, "the model")
        self.model.require(m, recipe.shape(backbone))
        return recipe

    def _known_weights(self, m):
        """Those that the checkpoint itself has: a random start, a vocabulary."""
        if m in self.model.vocabularies:
            return (self.model.vocabularies[m],)
        start = self.model.features[m].sha256 or ""
        return (start,) if start.startswith("random:") else ()

    def files(self, paths, workers=0):
        """Yield an `Encoded` for every file, in the order they finish."""
        yield from self.media({os.fspath(path): Media(os.fspath(path)) for path in paths}, workers)

    def media(self, media, workers=0):
        """The same of a dict name -> Media, whose sound may lie in a file of its own."""
        recipes = {m: recipe for m, recipe in self.recipes.items() if modality(m).source != "words"}
        if not recipes:
            raise UserError(f"files: {', '.join(self.recipes)} is read of sentences; expected those")
        for path in (path for own in media.values() for path in own if path):
            if reason := gone(path):
                raise UserError(f"{path}: {reason}")
        yield from self._read([Job(name, own.path, (), own.sound) for name, own in media.items()], recipes, workers)

    def sentences(self, sentences):
        """Yield an `Encoded` for every sentence."""
        recipes = {m: recipe for m, recipe in self.recipes.items() if modality(m).source == "words"}
        if not recipes:
            raise UserError(f"sentences: {', '.join(self.recipes)} is read of files; expected those")
        yield from self._read([Job(one, "", tuple(words_of(one)), "", (one,)) for one in sentences], recipes, 0)

    def _read(self, jobs, recipes, workers):
        for outcome in extract_all(jobs, recipes, workers, (str(self.model.device),), Each):
            yield Encoded(outcome.job.id, outcome.features, outcome.valid, outcome.reason)

    def tensors(self, m, read):
        """Features [B, T, …] and valid [B, T] of what was read, on the model's device; without a step where a file
        lacks the modality."""
        some = next(one for one in read if m in one.features)
        nothing = np.zeros_like(some.features[m]), np.zeros_like(some.valid[m])
        x = np.stack([one.features.get(m, nothing[0]) for one in read])
        valid = np.stack([one.valid.get(m, nothing[1]) for one in read])
        x, valid = (torch.from_numpy(own).to(self.model.device) for own in (x, valid))
        return x.float() if x.is_floating_point() else x, valid

    @torch.no_grad()
    def tokens(self, read):
        """Tokens of all that was read, dict modality -> Tokens; `UserError` names what could not be read."""
        for one in read:
            if one.reason:
                raise UserError(f"{one.name}: {one.reason}")
        found = {}
        for m in self.recipes:
            if any(m in one.features for one in read):
                x, valid = self.tensors(m, read)
                found[m] = self.model.tokens(m, x, valid)._replace(valid=valid)
        return found


def asked(model, files, sentences) -> list[str]:
    """The modalities of a model that are read of files, of sentences, or of both."""
    sources = [*["frames", "sound"] * bool(files), *["words"] * bool(sentences)]
    found = [m for m in model.modalities if modality(m).source in sources]
    if not found:
        what = " and ".join(["files"] * bool(files) + ["sentences"] * bool(sentences)) or "nothing"
        raise UserError(f"{what}: the model was pretrained on {', '.join(model.modalities)}; expected what these are "
                        "read of")
    return found


def encode_files(model, files, sentences=(), workers=0, modalities=None, **encoders):
    """See `cmg.models.pretrained.Pretrained.encode_files`."""
    encoders = Encoders(model, modalities or asked(model, files, sentences), **encoders)
    order = {os.fspath(path): row for row, path in enumerate(files)}
    read = sorted(encoders.files(files, workers), key=lambda one: order[one.name]) if files else []
    return encoders.tokens([*read, *(encoders.sentences(sentences) if sentences else ())])


def add_encoder_flags(p):
    """Flags for what a checkpoint does not hold of its encoders."""
    for m in (m for m, row in TABLE.items() if row.source):
        p.add_argument(f"--{m}-weights", nargs="+", metavar="PATH|NAME",
                       help=f"of the encoder of {m}, where it has any: those of pretraining")
        p.add_argument(f"--{m}-backbone", metavar="NAME|mine.py",
                       help=f"encoder of {m}, where it is of one's own")
    return p


def encoder_flags(args, modalities) -> dict:
    """What these flags say, as `Encoders` takes it, of some modalities."""
    given = {kind: {m: value for m in modalities if (value := getattr(args, f"{m}_{kind}", None))}
             for kind in ("weights", "backbone")}
    return {"weights": given["weights"], "backbones": given["backbone"]}
