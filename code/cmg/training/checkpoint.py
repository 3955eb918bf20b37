"""Checkpoints: written atomically, read with `weights_only=True`, refused with one line if they are not ours.

`latest.pt` is the complete training state; `epoch_XXX.pt` holds what downstream tasks need, Φ and the codebook.
"""

import os
import pickle
from pathlib import Path

import torch

from cmg.errors import UserError
from cmg.files import replacing
from cmg.models.unified import UnifiedModel
from cmg.training import released

FORMAT = 1
PARTS = {"args": dict, "shapes": dict, "model": dict, "pretrain_ids": list, "epoch": int}  # of every checkpoint


def save(path, content):
    """`torch.save`, flushed to the disk before the file takes its name."""
    with replacing(path) as part, open(part, "wb") as file:
        try:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        except RuntimeError as error:  # what torch's writer makes of a full disk
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def load(path):
    """Whatever a file of tensors holds, on the CPU; `UserError` if it is missing, damaged or holds anything else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports a damaged archive in many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "not a file of torch.save, or more than tensors and plain values in it, which is not run"
        raise UserError(f"{path}: not a readable checkpoint ({reason[:120]})") from None


def file_of(path):
    """The checkpoint file that a path stands for: itself, or of a run folder `best.pt`, which `cmg.downstream.ave`
    chose, or `latest.pt` if that has not run yet."""
    path = Path(path)
    if not path.is_dir():
        return path
    for name in ("best.pt", "latest.pt"):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: neither best.pt nor latest.pt in this folder; expected a run folder")


def read(path):
    """The content of a checkpoint on the CPU, as a dict; one of the public implementation is translated."""
    content = load(path)
    if released.recognised(content):
        content = released.from_public(content, path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this project (expected format {FORMAT})")
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: not a checkpoint of cmg.pretrain, '{name}' is missing in it")
    return content


def inference_part(method, args, shapes, pretrain_ids, epoch, step):
    """What `load_pretrained` needs: flags, shapes and the kept half of the method."""
    return {
        "format": FORMAT,
        "args": args,
        "shapes": {m: list(shape) for m, shape in shapes.items()},
        "model": method.model.state_dict(),
        "pretrain_ids": pretrain_ids,
        "epoch": epoch,
        "step": step,
    }


def build_model(content, device="cpu"):
    """The `UnifiedModel` of a checkpoint's content, in eval mode. Also takes a complete training state."""
    state = content["model"]
    try:
        model = UnifiedModel(content["shapes"], content["args"])
        if all(value.dtype == torch.float64 for name, value in state.items() if name.startswith("semantic.")):
            model.double()  # as public checkpoints are: their codes are those of float64
        model.load_state_dict(state, strict=True)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise UserError(f"checkpoint of epoch {content['epoch']}: its weights do not fit its flags ({brief(error)})") \
            from None
    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(f"checkpoint of epoch {content['epoch']}: its weights are not finite; expected an earlier one")
    return model.to(device).eval()


def brief(error):
    """What torch tells in many lines, in one."""
    return " ".join(str(error).split())[:150]


def load_pretrained(path, device="cpu"):
    """Load Φ and the codebook for use: `load_pretrained("checkpoint/run/best.pt").encode(video=features)`.

    Parameters
    ----------
    path : an `epoch_XXX.pt`, `best.pt` or `latest.pt`, or a run folder (its `best.pt`, else `latest.pt`); or a
        checkpoint of the public implementation, `DCID-model-3.pt`.

    Returns
    -------
    UnifiedModel in eval mode on `device`.
    """
    return build_model(read(file_of(path)), device)
