"""Checkpoints of the transformers library: a folder, or a name on its hub, read without running what is in them.

The files are read as safetensors where there are any, and otherwise with `weights_only=True`; code that a checkpoint
brings along is never run. What is not in the checkpoint would start at random, so a checkpoint that lacks weights is
refused.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModel
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from cmg.errors import UserError
from cmg.extract.weights import RANDOM, sha256


def open_model(where, tower, unused=()):
    """The encoder of one modality of a checkpoint, and its configuration.

    Parameters
    ----------
    where : folder, or name on the hub.
    tower : name of the part to take of a checkpoint with several, as "vision_model" of CLIP.
    unused : parts of names of weights that may be missing, because nothing reads them.

    Returns
    -------
    module in eval mode, float32 on the CPU; its config

    Raises
    ------
    UserError : no such checkpoint, damaged, of an unknown kind, or with weights missing.
    """
    if RANDOM.fullmatch(where):
        raise UserError(f"weights {where}: the checkpoint says what the network is; expected a folder, or a hub's name")
    if not Path(where).is_dir() and (where.count("/") > 1 or where[0] in "./~"):
        raise UserError(f"weights {where}: no such folder")
    model, info = part_of(where, lambda: AutoModel.from_pretrained(
        where, trust_remote_code=False, weights_only=True, dtype=torch.float32, output_loading_info=True
    ))
    chosen = getattr(model, tower, None)
    prefix = f"{tower}." if chosen is not None else ""
    if chosen is None:
        chosen = model.get_encoder() if model.config.is_encoder_decoder else model
    for key in sorted(info["missing_keys"]):
        if key.startswith(prefix) and not any(part in key for part in unused):
            raise UserError(f"weights {where}: missing key '{key}'")
    return chosen.eval(), chosen.config


def part_of(where, read):
    """What `read()` loads of a checkpoint; transformers reports what is wrong with one in many types."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"weights {where}: not a usable transformers checkpoint ({reason[:200]})") from None


def identity(where):
    """sha256 of the file with a checkpoint's weights; of several, of all of them one after the other."""
    def find(name):
        return cached_file(where, name, _raise_exceptions_for_missing_entries=False)

    for whole, index in ((SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)):
        if path := find(whole):
            return sha256(path)
        if path := find(index):
            with open(path) as file:
                return sha256(*(find(name) for name in sorted(set(json.load(file)["weight_map"].values()))))
    raise UserError(f"weights {where}: no {SAFE_WEIGHTS_NAME} or {WEIGHTS_NAME} there")
