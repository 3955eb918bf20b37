"""What the training loop needs of a pretraining method, and nothing more.

    method.begin(carried)                    once, before the first step, of the first batch; only if `starts_from_data`
    method.begin_epoch(epoch, epochs)        at the start of every epoch, and where a run goes on within one
    state = method.encode(batch)             what inner steps, losses and update share
    method.fit(state)                        optimiser steps of its own
    losses = method.losses(state)            named, weighted scalars; slash keys = TensorBoard tags = CSV columns
    … backward, clip, optimiser step …
    method.update(carried)                   after the optimiser's step: a codebook, queues, momentum teachers
    values = method.metrics(carried)         what is logged beside the losses

Nothing is assumed of a method's architecture, of the keys of a batch or of the shape of its state: a masked autoencoder
is `losses` and `kept` (examples/masked_autoencoder.py), the methods with a shared codebook are in `methods/codebook/`.
A batch is a dict of tensors on the device, as `cmg.data.features.FeatureSet` gives it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import nn

from cmg.configs import Config
from cmg.errors import UserError
from cmg.models.pretrained import Pretrained
from cmg.optimisation import OptimiserConfig


@dataclass(frozen=True)
class Recipe:
    """A preset: settings of the method and of the optimiser, and passes over the data."""

    method: Config = field(default_factory=Config)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    epochs: int = 6


@dataclass(frozen=True)
class NoSettings(Config):
    """A method without settings of its own."""


class Method(nn.Module, ABC):
    """Base of all methods: a module that holds what is trained.

    Parameters
    ----------
    shapes : dict modality -> shape of one clip's features
    config : an instance of the class's `Config`

    Attributes
    ----------
    name : as messages call it; by default that of the class
    Config : class of the method's settings, a frozen dataclass (`cmg.configs`)
    recipes : dict preset -> Recipe; the first one is the default. None: one with the settings' own defaults.
    kinds : of `cmg.modalities.KINDS`, which arrays it can read
    least_modalities, least_clips, least_steps : what it must have to learn from, in a micro-batch and in a clip
    starts_from_data : whether `begin` is called
    follows_data : names of the settings that `settled` takes from the features where they are None
    """

    name = ""
    Config = NoSettings
    recipes = None
    kinds = ("vectors", "grids")
    least_modalities, least_clips, least_steps = 1, 1, 1
    starts_from_data = False
    follows_data = ()

    # -- a step --------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch, epochs):
        """Called before the first step of an epoch, counted from 0, or of what is left of it, of so many."""

    def begin(self, carried):
        """Start from the first batch, of which `carried` is what `carry` gives in eval mode."""

    def encode(self, batch):
        """The state of a step."""
        return batch

    def fit(self, state):
        """Optimiser steps of the method's own, taken on every micro-batch before the losses. The same on all processes:
        `cmg.distributed.average_gradients` before a step."""

    @abstractmethod
    def losses(self, state) -> dict:
        """Named scalars whose sum is minimised. With several processes the mean over them is the batch's loss."""

    def carry(self, state) -> dict:
        """What `update` and `metrics` read of a state: nested dicts of tensors [B, …] without gradient. The loop joins
        what the micro-batches of a step carry."""
        return {}

    def update(self, carried):
        """What moves by other means than gradients. The same on all processes: `cmg.distributed.gather` gives the clips
        of all of them. `begin` likewise."""

    def metrics(self, carried) -> dict:
        """Named 0-d tensors, all over the processes' clips. All processes call it together."""
        return {}

    # -- how it is optimised ---------------------------------------------------------------------------------------

    def trained_parameters(self):
        """Parameters of the main optimiser: all but those of estimators and teachers, which ask for no gradient."""
        return [p for p in self.parameters() if p.requires_grad]

    def parameter_groups(self, optimiser: OptimiserConfig):
        """Groups for the main optimiser, as torch's optimisers take them. `lr_factor` scales the rate of a group."""
        return optimiser.groups(self.trained_parameters())

    def clip_groups(self):
        """Lists of parameters whose gradient norm is clipped together."""
        return [self.trained_parameters()]

    def inner_optimizers(self):
        """dict name -> optimiser that `fit` steps, for the checkpoint."""
        return {}

    def compiled_functions(self):
        """(owner, name) of the functions inside `fit` that --compile compiles."""
        return []

    def parts(self):
        """dict name -> (owner, name of its function) of what `cmg.bench` times by itself within a step."""
        return {}

    # -- what is kept -----------------------------------------------------------------------------------------------

    @abstractmethod
    def kept(self) -> Pretrained:
        """The module that downstream tasks load, a part of the method or itself."""

    def taken_over(self, state, method) -> dict:
        """The tensors that the kept module begins with under --init-from, all that it has: `state`, those of another
        checkpoint's kept module, which `method` made. A stage that goes on from another one picks what is its own."""
        return state

    @classmethod
    def rebuild(cls, shapes, config) -> Pretrained:
        """The kept module again, whatever its weights."""
        return cls(shapes, config).kept()

    @classmethod
    def all_recipes(cls) -> dict[str, Recipe]:
        return cls.recipes or {"default": Recipe(cls.Config())}

    @classmethod
    def check(cls, config, recipe):
        """`UserError` for settings that make no sense together. `recipe` : the preset's."""

    @classmethod
    def check_batch(cls, config, clips):
        """`UserError` for a batch of more clips, over all processes, than this method can take."""

    @classmethod
    def settled(cls, config, features):
        """The settings, those of `follows_data` as the features say. `features` : a FeatureSet."""
        return config

    @classmethod
    def refuse(cls, config, features):
        """`UserError` for features that this method cannot learn from. `features` : a FeatureSet."""
        method = f"--method {cls.name or cls.__name__}"
        for m, kind in features.kinds.items():
            if kind not in cls.kinds:
                raise UserError(f"--data: {m} holds {kind}; {method} reads {', '.join(cls.kinds)}")
        if len(features.modalities) < cls.least_modalities:
            raise UserError(f"--modalities {' '.join(features.modalities)}: {method} needs at least "
                            f"{cls.least_modalities}")
        for m, shape in features.shapes.items():
            if shape[0] < cls.least_steps:
                raise UserError(f"--data: {m} clips have {shape[0]} steps; {method} needs at least {cls.least_steps}")


def detached(tree):
    """Nested dicts of tensors without their gradients."""
    return {k: detached(v) if isinstance(v, dict) else torch.as_tensor(v).detach() for k, v in tree.items()}
