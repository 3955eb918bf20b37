"""Checkpoints: written atomically, read with `weights_only=True`, refused with one line if they are not ours.

`latest.pt` is the complete training state; `epoch_XXX.pt` holds what downstream tasks need, the method's kept module.

    format, epoch, step
    method_of     name of the method, and of files of one's own their paths and contents: what builds the module again
    numerics      version of the arithmetic that it was trained with, the oldest of several (`cmg.CHANGES`)
    args          all settings, by the names of their flags
    shapes        dict modality -> shape of one clip's features
    features      dict modality -> where they come from (`cmg.data.provenance`)
    scale         dict modality -> what the numbers of its features are like (`cmg.models.scale`)
    modalities    what modalities are that not every copy of this project knows
    vocabularies  dict modality -> pieces of words by number, of tokens that have such
    model         state dict of the kept module
    pretrain_ids  ids of the clips that it was trained on, those of the run whose weights it began with among them
    earlier_ids   of these the ones of that run (--init-from); the first of pretrain_ids
    method, optimizer, inner, position, streams     in latest.pt alone

Format 1, of before, has no `method_of`, `features` and `modalities`; it still loads. Without `scale` nothing is known
of the numbers, and nothing is standardised.
"""

import importlib
import os
from pathlib import Path

import torch

import cmg
from cmg import modalities
from cmg.configs import with_values
from cmg.data import provenance
from cmg.data.tensors import load
from cmg.data.vocabulary import Vocabulary
from cmg.errors import UserError
from cmg.files import replacing
from cmg.methods import registry
from cmg.models import scale
from cmg.models.pretrained import Pretrained
from cmg.training import exported
from cmg.training.held import Bounded

FORMAT, OLDER = 2, (1,)
PARTS = {"args": dict, "shapes": dict, "model": dict, "pretrain_ids": list, "epoch": int}  # of every checkpoint
FURTHER = {"step": int, "numerics": int, "earlier_ids": list}  # of those that have them
FORMS = {  # what is in a part, where a checkpoint has it
    "args": lambda part: all(isinstance(part.get(name, ""), str) for name in ("method", "preset")),
    "shapes": lambda part: all(isinstance(n, int) for shape in part.values() for n in shape),
    "model": lambda part: all(isinstance(value, torch.Tensor) for value in part.values()),
    "method_of": lambda part: isinstance(part["name"], str) and isinstance(part["files"], dict),
    "features": lambda part: all(provenance.Provenance(**known) for known in part.values()),
    "scale": scale.formed,
    "modalities": lambda part: all(isinstance(row, dict) for row in part.values()),
    "vocabularies": lambda part: all(isinstance(piece, str) for pieces in part.values() for piece in pieces),
}
FOREIGN = ("cmg.released.checkpoints",)  # modules that read others' checkpoints: `recognised`, `from_public`
# What constructors make of sizes and settings that nobody trained with.
UNBUILT = (ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
BEFORE = {"text_padding": "read"}  # what checkpoints of format 1 mean that do not say it


def save(path, content):
    """`torch.save`, flushed to the disk before the file takes its name."""
    with replacing(path) as unfinished, open(unfinished, "wb") as file:
        try:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        except RuntimeError as error:  # what torch's writer makes of a full disk
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def file_of(path):
    """The checkpoint file that a path stands for: itself, or of a run folder `best.pt`, which `cmg.downstream.ave`
    chose, or `latest.pt` if that has not run yet; of an exported folder, or of a hub's model, its config."""
    path = exported.from_hub(path) if exported.on_hub(path) else Path(path)
    if not path.is_dir():
        return path
    for name in ("best.pt", "latest.pt", exported.CONFIG):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: neither best.pt nor latest.pt in this folder, nor {exported.CONFIG}; expected a run "
                    "folder, or an exported one")


def read(path):
    """The content of a checkpoint on the CPU, as a dict; one of another implementation is translated."""
    content = exported.read(path) if Path(path).name == exported.CONFIG else load(path)
    for reader in map(importlib.import_module, FOREIGN):
        if reader.recognised(content):
            content = reader.from_public(content, path)
    if not isinstance(content, dict) or str(content.get("format")) not in map(str, (FORMAT, *OLDER)):
        raise UserError(f"{path}: not a checkpoint of this project (expected format {FORMAT})")
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: not a checkpoint of cmg.pretrain, '{name}' is missing in it")
    for name in content.keys() & {*FORMS, *FURTHER}:
        if not (isinstance(content[name], FURTHER[name]) if name in FURTHER else _formed(content[name], FORMS[name])):
            raise UserError(f"{path}: not a checkpoint of cmg.pretrain, '{name}' holds something else")
    modalities.declare_all(content.get("modalities", {}), path)
    return content


def _formed(part, form):
    try:
        return isinstance(part, dict) and form(part)
    except (AttributeError, KeyError, TypeError):
        return False


def inference_part(kept, settings, origin, features, epoch, step, numerics=cmg.NUMERICS, earlier=()):
    """What `load_pretrained` needs.

    kept : the module. settings : dict of all flags. origin : of the method, see `cmg.methods.registry.origin`.
    features : FeatureSet. numerics : version of the arithmetic. earlier : ids of clips that its weights were trained on
    before.
    """
    return {
        "format": FORMAT,
        "method_of": origin,
        "numerics": numerics,
        "args": settings,
        "shapes": {m: list(shape) for m, shape in features.shapes.items()},
        "features": {m: known._asdict() for m, known in features.provenance.items()},
        "scale": kept.feature_scale.content(),
        "modalities": plain(modalities.declared(features.shapes)),
        "vocabularies": {m: words.pieces for m, words in getattr(features, "vocabularies", {}).items()},
        "model": kept.state_dict(),
        "pretrain_ids": [*earlier, *features.ids],
        "earlier_ids": list(earlier),
        "epoch": epoch,
        "step": step,
    }


def plain(rows):
    """Tuples as lists, as `weights_only` and JSON would give them back."""
    return {name: {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}
            for name, row in rows.items()}


def numerics_of(content) -> int:
    """The version of what is made now out of a checkpoint: that of its oldest part."""
    return min(content.get("numerics", 0), cmg.NUMERICS)


def origin_of(content) -> dict:
    """What a checkpoint says of its method."""
    return content.get("method_of") or {"name": content["args"].get("method", "unicode"), "files": {}}


def method_of(content, path="checkpoint", method=None):
    """The class that a checkpoint's method is, and the settings that it was trained with."""
    args = content["args"]
    cls = registry.find_again(origin_of(content), path, method)
    recipes = cls.all_recipes()
    recipe = recipes.get(args.get("preset"), next(iter(recipes.values())))
    older = BEFORE if content["format"] in OLDER else {}
    return cls, with_values(recipe.method, older | args)


def build_model(content, device="cpu", path="checkpoint", method=None) -> Pretrained:
    """The kept module of a checkpoint's content, in eval mode. Also takes a complete training state."""
    state, shapes = content["model"], {m: tuple(shape) for m, shape in content["shapes"].items()}
    try:
        cls, config = method_of(content, path, method)
        with Bounded(state):
            model = cls.rebuild(shapes, config)
        if all(state[name].dtype == torch.float64 for name, _ in model.named_parameters() if name in state):
            model.double()  # as public checkpoints are: their codes are those of float64
        for name, own in model.state_dict().items():
            if name in state and state[name].is_floating_point() != own.is_floating_point():
                raise RuntimeError(f"{name} is {state[name].dtype}, expected {own.dtype}")  # torch would convert them
        model.load_state_dict(state, strict=True)
        model.feature_scale.load(content.get("scale", {}))
    except UNBUILT as error:
        raise UserError(f"checkpoint of epoch {content['epoch']}: its weights do not fit its flags ({brief(error)})") \
            from None
    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(f"checkpoint of epoch {content['epoch']}: its weights are not finite; expected an earlier one")
    model.method, model.features = origin_of(content)["name"], provenance.of_checkpoint(content)
    model.vocabularies = {m: Vocabulary(pieces, path) for m, pieces in content.get("vocabularies", {}).items()}
    return model.to(device).eval()


def check_features(content, features, path):
    """`UserError` if features come from another encoder than those that a checkpoint was trained on."""
    provenance.check(provenance.of_checkpoint(content), features.provenance, "--data", str(path))


def brief(error):
    """What torch tells in many lines, in one."""
    return " ".join(str(error).split())[:150]


def load_pretrained(path, device="cpu", method=None) -> Pretrained:
    """Load what pretraining left for use: `load_pretrained("checkpoint/run/best.pt").encode(video=features)`.

    Parameters
    ----------
    path : an `epoch_XXX.pt`, `best.pt` or `latest.pt`, or a run folder (its `best.pt`, else `latest.pt`); what
        `cmg.export` made of one, a folder or its name on a hub, `owner/name` or `owner/name@revision`; or a checkpoint
        of the public implementation, `DCID-model-3.pt`.
    method : of a method of one's own: its file, where that has moved or changed since.

    Returns
    -------
    Pretrained in eval mode on `device`; `offers` says what it gives: vectors, codes, sentences.
    """
    path = file_of(path)
    return build_model(read(path), device, path, method)
