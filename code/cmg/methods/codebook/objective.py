"""Objectives: what the methods of the codebook family are joined from.

An objective is one file in this folder, or of one's own, with its terms, its settings and, in the docstring, every
choice that is ours because no source exists. `--method a+b` takes the terms of both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from cmg.configs import Config, setting
from cmg.models.codebook import CodebookConfig
from cmg.models.semantic import EncoderConfig
from cmg.models.specific import SpecificConfig
from cmg.models.unified import ModelConfig, UnifiedModel


class Objective(NamedTuple):
    """What an objective's file declares under the name OBJECTIVE.

    name : as in --method
    config : an instance of its settings, a `Config`; the weight of term `x` is `w_x`
    terms : dict term -> `make(blueprint)`, which returns a module with `forward(state) -> dict[str, Tensor]`, or None
        where the data leave it nothing to do. The module may have `update(model)`, to follow the model's step, or
        `fit(state)` for steps of its own, together with the `optimizer` that takes them, which the checkpoint carries
        along, and the function `objective` that it lowers, which --compile compiles.
    replaces : dict term -> `make(blueprint)`, instead of that of an objective that it includes
    model : class of the kept model where it has one of its own, a `UnifiedModel`; it is then joined with nothing else
    includes : other objectives; `baseline` is part of every method
    sets : dict setting -> value, which replaces the preset's
    keeps : settings whose value is the preset's although `baseline` sets them
    owns : settings of encoder or codebook that mean nothing without this objective
    alignments : which values of --text-alignment it can take
    paired : whether it needs two modalities or more
    refuse : function (config, features), `UserError` for features that it cannot learn from
    """

    name: str
    config: Config
    terms: dict[str, Callable]
    replaces: dict[str, Callable] = {}
    model: type[UnifiedModel] | None = None
    includes: tuple[str, ...] = ()
    sets: dict = {}
    keeps: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    alignments: tuple[str, ...] = ("step", "clip")
    paired: bool = False
    refuse: Callable = lambda config, features: None


@dataclass(frozen=True)
class CodebookMethodConfig(Config):
    """Method.

    Attributes
    ----------
    text_alignment : word t belongs to second t (paper), or words belong to the clip as a whole
    """

    text_alignment: str = setting("step", choices=("step", "clip"))
    model: ModelConfig = field(default_factory=ModelConfig)
    specific: SpecificConfig = field(default_factory=SpecificConfig)
    objectives: dict[str, Config] = field(default_factory=dict)

    @property
    def encoder(self) -> EncoderConfig:
        return self.model.encoder

    @property
    def codebook(self) -> CodebookConfig:
        return self.model.codebook

    @property
    def has_specific(self):
        """Whether a term reads Ψ."""
        of = self.objectives
        return bool(of["baseline"].w_rec or of["dcid"].w_club)


class Blueprint(NamedTuple):
    """What terms are made from.

    model : UnifiedModel. specific : ModuleDict modality -> Ψ, or None. config : CodebookMethodConfig.
    timed : list of the modalities whose step t is second t.
    arithmetic : function class -> class that takes its place, see `cmg.models.unified.unchanged`.
    """

    model: UnifiedModel
    specific: nn.ModuleDict | None
    config: CodebookMethodConfig
    timed: list
    arithmetic: Callable
