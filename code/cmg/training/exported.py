"""A model as a folder to hand on: safetensors and JSON, in which nothing can be run.

    model.safetensors    all tensors: weights, and what standardises features
    config.json          what builds the model again, and sha256 of these tensors and of the ids
    pretrain_ids.json    the clips that it was trained on, which `strict` leaves out of a test
    README.md            for people; nothing reads it

`read` gives back what a checkpoint holds (`cmg.training.checkpoint`). A method of one's own is not taken from the
folder, wherever it lies: its file is named by whoever loads the model.
"""

import json
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import cmg
from cmg import plugins
from cmg.errors import UserError
from cmg.files import parse_json, read_text, sha256, write_atomically
from cmg.models.pretrained import digest

CONFIG, TENSORS, IDS, CARD = "config.json", "model.safetensors", "pretrain_ids.json", "README.md"
EXPORT = 1  # version of this layout
SCALE = "scale/"  # begins the names of tensors that standardise features
KEPT = ("numerics", "shapes", "features", "modalities", "vocabularies", "epoch", "step")  # parts, as in checkpoints
PLACES = ("data", "out", "init_from", "resume", "config")  # flags that say where things lay; only their names are kept
HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def write(folder, content, model, chosen_by=None):
    """Write a checkpoint's content, and the model that it builds, into an existing folder."""
    folder = Path(folder)
    scale = {f"{SCALE}{name}": x for name, x in model.feature_scale.named_buffers()}
    # a copy of each: safetensors refuses tensors that share memory, as tied weights do
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in (model.state_dict() | scale).items()}
    save_file(tensors, folder / TENSORS, {"format": "pt"})
    ids = {"ids": content["pretrain_ids"], "earlier": len(content.get("earlier_ids", []))}
    write_atomically(folder / IDS, json.dumps(ids, ensure_ascii=False) + "\n")
    origin, flags = named(content)
    config = {
        "export": EXPORT, "version": cmg.__version__, "format": content["format"], "method": origin["name"],
        "method_files": origin["files"], "offers": list(model.offers), "flags": flags,
        "scale": {m: {"mean": mean, "deviation": deviation}
                  for m, (mean, deviation) in model.feature_scale.known.items()},
        **{part: content[part] for part in KEPT if part in content}, "chosen_by": chosen_by,
        "parameters": sum(x.numel() for x in model.parameters()),
        "sha256": {"tensors": digest(tensors), IDS: sha256(folder / IDS)},
    }
    write_atomically(folder / CONFIG, json.dumps(config, ensure_ascii=False, indent=1) + "\n")


def named(content):
    """Origin of the method and flags without the folders of the machine that it was trained on."""
    origin = content.get("method_of") or {"name": content["args"].get("method", "unicode"), "files": {}}
    name = "+".join(str(Path(one).name) if plugins.is_file(one) else one for one in origin["name"].split("+"))
    files = {Path(path).name: found for path, found in origin["files"].items()}
    flags = content["args"] | ({"method": name} if "method" in content["args"] else {})
    for place in PLACES:
        if isinstance(value := flags.get(place), str):
            flags[place] = Path(value).name
        elif isinstance(value, list):
            flags[place] = [Path(one).name for one in value]
    return {"name": name, "files": files}, flags


def read(path) -> dict:
    """The content of a checkpoint, of an exported folder's config.json.

    Raises
    ------
    UserError : a file that is missing or says something else, tensors that are not those of the config.
    """
    folder = Path(path).parent
    config, ids = (_object(folder / name) for name in (CONFIG, IDS))
    if config.get("export") != EXPORT:
        raise UserError(f"{path}: not the config of an exported model (expected export {EXPORT})")
    tensors = _tensors(folder / TENSORS)
    try:
        wanted = config["sha256"]
        if wanted["tensors"] != digest(tensors):
            raise UserError(f"{folder / TENSORS}: its tensors are not those of {CONFIG}; expected sha256 "
                            f"{wanted['tensors'][:12]}…")
        if wanted[IDS] != sha256(folder / IDS):
            raise UserError(f"{folder / IDS}: is not the file of {CONFIG}; expected sha256 {wanted[IDS][:12]}…")
        scale = {m: dict(row) for m, row in config["scale"].items()}
        for name in [name for name in tensors if name.startswith(SCALE)]:
            m, _, part = name.removeprefix(SCALE).rpartition("_")
            scale[m][part] = tensors.pop(name)
        return {"format": config["format"], "method_of": {"name": config["method"], "files": {}},
                "args": config["flags"], "scale": scale, "model": tensors, "pretrain_ids": ids["ids"],
                "earlier_ids": ids["ids"][: ids["earlier"]], **{part: config[part] for part in KEPT if part in config}}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the config of an exported model ({type(error).__name__}: {error})") from None


def _object(path) -> dict:
    try:
        found = parse_json(read_text(path, f"an exported model, {CONFIG}, {TENSORS} and {IDS}"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object")
    return found


def _tensors(path):
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an exported model, {CONFIG}, {TENSORS} and {IDS}")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({' '.join(str(error).split())[:120]})") from None


def on_hub(path) -> bool:
    """Whether a path that does not exist here is the name of a model on a hub, owner/name or owner/name@revision: not
    where a folder of the owner's name lies here, for then it is a path with a slip of the pen."""
    name = str(path)
    return bool(HUB.fullmatch(name)) and not Path(name).exists() and Path(name).suffix != ".pt" \
        and not Path(name.partition("/")[0]).exists()


def from_hub(name) -> Path:
    """The folder of a hub's model, in the hub's own cache on this machine; HF_ENDPOINT names another hub."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{name}: no such file or folder; for a model of a hub install this project with its extra "
                        "[hub]") from None
    repository, _, revision = str(name).partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision or None,
                                                      allow_patterns=[CONFIG, TENSORS, IDS, CARD]))
    except Exception as error:  # networks, servers and names fail in many types
        told = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{name}: neither a file or folder here nor a model that the hub gives ({told})") from None
