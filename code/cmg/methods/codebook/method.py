"""The methods with a shared codebook: Φ and the codebook to keep, Ψ where a term needs one, and terms with weights.

`--method unicode`, `--method dcid+turn`: the objectives that are joined say which terms there are, everything else is
the same for all. A step: Φ, Ψ and pure quantisation of all modalities; the terms' own steps; the weighted losses; and,
after the optimiser's step, the codebook once, from what was quantised before it.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from cmg.configs import flag_of, flat
from cmg.distributed import shared_permutation
from cmg.errors import UserError
from cmg.methods.codebook.arithmetic import arithmetic_of
from cmg.methods.codebook.objective import Blueprint, CodebookMethodConfig
from cmg.methods.contract import Method, detached
from cmg.metrics import codebook as codebook_metrics
from cmg.modalities import modality
from cmg.models.specific import LEAST_GRID, GridSpecific, build_specific
from cmg.models.unified import UnifiedModel


@dataclass
class State:
    """One batch on its way through a step. Dicts are keyed by modality."""

    features: dict  # Tensor[B, T, …], what the decoder rebuilds (paper)
    valid: dict  # BoolTensor[B, T]
    inputs: dict = field(default_factory=dict)  # Tensor[B, T, …]: features, or the biLSTM's states of words
    semantic: dict = field(default_factory=dict)  # Tensor[B, T, D]: z = Φ(x)
    quantized: dict = field(default_factory=dict)  # Quantized
    specific: dict = field(default_factory=dict)  # what the decoder reads: Tensor[B, T, S] or [B, T, h, w, S]
    pooled: dict = field(default_factory=dict)  # Tensor[B, T, Y]: the mean of a map, which vCLUB reads
    # the T' of T steps at which Ψ was run: `specific` and `pooled` are [B, T', …]
    steps: slice | torch.Tensor = field(default_factory=lambda: slice(None))


class CodebookMethod(Method):
    """A `UnifiedModel`, optionally Ψ per modality, and terms.

    Subclasses for one `--method` each come from `cmg.methods.codebook.family.family`.

    Attributes
    ----------
    name : as in --method. objectives : dict name -> Objective, all that it holds, `baseline` first.
    model, specific : what the terms read. terms : ModuleDict. weights : dict term -> float.
    """

    Config = CodebookMethodConfig
    name, objectives = "", {}
    least_clips = 2  # for the contrastive terms

    def __init__(self, shapes, config=None):
        super().__init__()
        self.config = config = config or next(iter(self.all_recipes().values())).method
        arithmetic = arithmetic_of(config.model.equations)
        for name in self.name.split("+"):
            if self.objectives[name].paired and len(shapes) < 2:
                raise UserError(f"--method {self.name}: {name} aligns modalities; expected two or three, not only "
                                f"{', '.join(shapes)}")
        self.model = arithmetic(UnifiedModel)(shapes, config.model, arithmetic)
        self.specific = self._specific(arithmetic(GridSpecific)) if config.has_specific else None
        timed = [m for m in self.model.modalities if modality(m).timed or config.text_alignment == "step"]
        blueprint = Blueprint(self.model, self.specific, config, timed, arithmetic)
        settings, terms = flat(config), {}
        for objective in self.objectives.values():
            for name, make in objective.terms.items():  # a term of weight 0 is not built at all
                term = make(blueprint) if settings[f"w_{name}"] else None
                if term is not None:
                    terms[name] = term
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: settings[f"w_{name}"] for name in terms}
        self.specific_steps = config.specific.specific_steps
        self.grouped = arithmetic(clip_together)

    def _specific(self, grid):
        specific, config = nn.ModuleDict(), self.config
        for m in self.model.modalities:
            shape = self.model.input_shapes[m]
            width = (config.specific.specific_dim or 4 * shape[-1]) if len(shape) == 4 else config.encoder.dim
            specific[m] = build_specific(shape, width, grid)
        return specific

    # -- a step --------------------------------------------------------------------------------------------------

    @property
    def starts_from_data(self):
        return self.config.codebook.codebook_init != "uniform"

    def begin(self, carried):
        self.model.codebook.initialise(carried["semantic"], carried["valid"], self.config.codebook.codebook_init)

    def encode(self, batch):
        model = self.model
        valid = {m: model.mask(batch[f"valid/{m}"]) for m in model.modalities}
        state = State({m: batch[m] for m in model.modalities}, valid)
        T = next(iter(valid.values())).shape[1]
        if self.specific_steps and self.specific_steps < T:
            state.steps = shared_permutation(T, model.device)[: self.specific_steps]
        for m in model.modalities:
            encoder = model.semantic[m]
            state.inputs[m] = encoder.inputs(state.features[m], state.valid[m])
            z = encoder(state.inputs[m], state.valid[m])
            state.semantic[m] = z.to(torch.promote_types(z.dtype, torch.float32))  # never half precision from here on
            state.quantized[m] = model.codebook.quantize(state.semantic[m])
            if self.specific is not None:
                state.specific[m], state.pooled[m] = self.specific[m](state.inputs[m][:, state.steps])
        return state

    def fitted(self):
        """dict name -> the terms that take steps of their own."""
        return {name: term for name, term in self.terms.items() if hasattr(term, "fit")}

    def fit(self, state):
        for term in self.fitted().values():
            term.fit(state)

    def losses(self, state):
        return {
            f"{name}/{key}": self.weights[name] * value
            for name, term in self.terms.items()
            for key, value in term(state).items()
        }

    def carry(self, state):
        codes = {m: q.codes for m, q in state.quantized.items()}
        return detached({"valid": state.valid, "semantic": state.semantic, "codes": codes})

    def update(self, carried):
        self.model.codebook.update(carried["semantic"], carried["codes"], carried["valid"])
        for term in self.terms.values():
            if hasattr(term, "update"):
                term.update(self.model)

    def metrics(self, carried):
        return codebook_metrics.summary(self.model.codebook, carried["codes"], carried["valid"])

    # -- how it is optimised, and what is kept ----------------------------------------------------------------------

    def inner_optimizers(self):
        return {name: term.optimizer for name, term in self.fitted().items()}

    def compiled_functions(self):
        return [(term, "objective") for term in self.fitted().values()]

    def clip_groups(self):
        return self.grouped(self)

    def kept(self):
        return self.model

    @classmethod
    def rebuild(cls, shapes, config):
        arithmetic = arithmetic_of(config.model.equations)
        return arithmetic(UnifiedModel)(shapes, config.model, arithmetic)

    @classmethod
    def check(cls, config, recipe):
        values, defaults = flat(config), flat(recipe.method)
        for name, objective in config.objectives.items():
            if name in cls.objectives:
                continue
            for setting in (*flat(objective), *cls.owned.get(name, ())):
                if values[setting] != defaults[setting]:
                    raise UserError(f"{flag_of(setting)} {values[setting]}: belongs to {name}, which is not part of "
                                    f"--method {cls.name}")
        if config.text_alignment == "clip" and config.codebook.mm_ema == "aligned":
            raise UserError("--mm-ema aligned: pairs word t with second t; expected attention or off with "
                            "--text-alignment clip")
        if not any(value for name, value in values.items() if name.startswith("w_") and name != "w_club"):
            raise UserError("--w-*: all weights are 0, there is nothing to learn")

    @classmethod
    def refuse(cls, config, features):
        super().refuse(config, features)
        steps = {m: shape[0] for m, shape in features.shapes.items()}
        if len(set(steps.values())) > 1:
            raise UserError(f"--data: clips have {steps} steps; all modalities need the same number (extract text with "
                            f"--words equal to --seconds)")
        for objective in cls.objectives.values():
            objective.refuse(config, features)
        for m, shape in features.shapes.items():
            grid = shape[1:-1]
            if grid and min(grid) < LEAST_GRID and config.has_specific:
                raise UserError(f"--data: {m} has a {grid[0]}×{grid[1]} grid; Ψ's two 3×3 convolutions need at least "
                                f"{LEAST_GRID}×{LEAST_GRID} (or give --w-rec 0 --w-club 0)")


def clip_together(method):
    """All gradients have one norm."""
    return [method.trained_parameters()]
