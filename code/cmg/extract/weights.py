"""Weights of the backbones: from where the user says and from nowhere else, read without running what is in them."""

import re

import torch
from torch import nn

from cmg.errors import UserError
from cmg.files import sha256
from cmg.training.checkpoint import load

RANDOM = re.compile(r"random:(\d{1,9})")


def identity(weights):
    """What a feature file keeps as `sha256/<modality>`: the file's sha256, or `random:SEED` as it was asked for."""
    return weights if RANDOM.fullmatch(weights) else sha256(weights)


def build(make, weights, prefix="", ignored=()):
    """The module that `make()` gives, with its weights.

    Parameters
    ----------
    make : function without arguments; called on the "meta" device, so that nothing is initialised for nothing.
    weights : path of a file with a state dict (`torch.save`), or `random:SEED`: He-normal from that seed, biases 0.
    prefix : of this module's keys in the file.
    ignored : prefixes of keys that belong to parts of the published network which are not used here.

    Returns
    -------
    nn.Module, float32 on the CPU, in eval mode

    Raises
    ------
    UserError : no such file, not a state dict, a key that is unknown or missing, a tensor of another shape.
    """
    with torch.device("meta"):
        module = make()
    if RANDOM.fullmatch(weights):
        _initialise(module.to_empty(device="cpu"), int(RANDOM.fullmatch(weights)[1]))
        return module.eval()
    state, wanted = load(weights), {prefix + key: value.shape for key, value in module.state_dict().items()}
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"weights {weights}: not a state dict (a dict of tensors)")
    state = {key: value for key, value in state.items() if not str(key).startswith(tuple(ignored))}
    for key in [*(state.keys() - wanted.keys()), *(wanted.keys() - state.keys())]:
        raise UserError(f"weights {weights}: {'unknown' if key in state else 'missing'} key '{key}'")
    for key, shape in wanted.items():
        if state[key].shape != shape:
            raise UserError(f"weights {weights}: '{key}' has shape {tuple(state[key].shape)}, expected {tuple(shape)}")
    module.load_state_dict({key.removeprefix(prefix): value.float() for key, value in state.items()}, assign=True)
    return module.eval()


def _initialise(module, seed):
    """He et al. 2015, so that activations keep their size through any depth of ReLU layers."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
