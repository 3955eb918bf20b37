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
    clips: dict = field(default_factory=dict)  # ClipVectors, of a model that quantises clips
    quantized: dict = field(default_factory=dict)  # Quantized, of `points`
    specific: dict = field(default_factory=dict)  # what the decoder reads: Tensor[B, T, S] or [B, T, h, w, S]
    pooled: dict = field(default_factory=dict)  # Tensor[B, T, Y]: the mean of a map, which vCLUB reads
    second: "State | None" = None  # of a second layer, whose features are Ψ's vectors of this one
    # the T' of T steps at which Ψ was run: `specific` and `pooled` are [B, T', …]
    steps: slice | torch.Tensor = field(default_factory=lambda: slice(None))

    @property
    def points(self):
        """What is quantised: z, or of clips one vector each, Tensor[B, 1, D]."""
        return {m: clip.general.unsqueeze(1) for m, clip in self.clips.items()} or self.semantic

    @property
    def exists(self):
        """Which of it is there: BoolTensor[B, T] or [B, 1]."""
        return {m: self.valid[m].any(1, keepdim=True) for m in self.clips} or self.valid


class CodebookMethod(Method):
    """A `UnifiedModel`, optionally Ψ per modality, and terms.

    Subclasses for one `--method` each come from `cmg.methods.codebook.family.family`.

    Attributes
    ----------
    name : as in --method. objectives : dict name -> Objective, all that it holds, `baseline` first.
    model_class : of the kept model.
    model, specific : what the terms read. terms : ModuleDict. weights : dict term -> float.
    """

    Config = CodebookMethodConfig
    name, objectives, model_class = "", {}, UnifiedModel
    least_clips = 2  # for the contrastive terms

    def __init__(self, shapes, config=None):
        super().__init__()
        self.config = config = config or next(iter(self.all_recipes().values())).method
        arithmetic = arithmetic_of(config.model.equations)
        for name in self.name.split("+"):
            if self.objectives[name].paired and len(shapes) < 2:
                raise UserError(f"--method {self.name}: {name} aligns modalities; expected two or three, not only "
                                f"{', '.join(shapes)}")
        self.model = arithmetic(self.model_class).made(shapes, config, arithmetic)
        self.specific = getattr(self.model, "specific", None)
        if self.specific is None and config.has_specific:
            self.specific = self._specific(arithmetic(GridSpecific))
        timed = [m for m in self.model.modalities if modality(m).timed or config.text_alignment == "step"]
        blueprint = Blueprint(self.model, self.specific, config, timed, arithmetic)
        settings, terms = flat(config), {}
        makers = {name: make for one in self.objectives.values() for name, make in one.terms.items()}
        makers |= {name: make for one in self.objectives.values() for name, make in one.replaces.items()}
        for name, make in makers.items():  # a term of weight 0 is not built at all
            term = make(blueprint) if settings[f"w_{name}"] else None
            if term is not None:
                terms[name] = term
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: settings[f"w_{name}"] for name in terms}
        self.specific_steps = config.specific.specific_steps
        self.grouped = arithmetic(clip_together)

    def _specific(self, grid):
        specific, config = nn.ModuleDict(), self.config
        for m in self.model.decoded:
            shape = self.model.input_shapes[m]
            width = (config.specific.specific_dim or 4 * shape[-1]) if len(shape) == 4 else config.encoder.dim
            specific[m] = build_specific(shape, width, grid)
        return specific

    # -- a step --------------------------------------------------------------------------------------------------

    @property
    def starts_from_data(self):
        return self.config.codebook.codebook_init != "uniform"

    def begin(self, carried):
        for book, own in self.layers(carried):
            book.initialise(own["semantic"], own["valid"], self.config.codebook.codebook_init)

    def begin_epoch(self, epoch, epochs):
        for term in self.terms.values():
            if hasattr(term, "begin_epoch"):
                term.begin_epoch(epoch, epochs)

    def layers(self, carried):
        """The codebooks, and what is carried of each."""
        return list(zip(self.model.codebooks, [carried, carried.get("second")]))

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
            if self.specific is not None and m in self.specific:
                state.specific[m], state.pooled[m] = self.specific[m](state.inputs[m][:, state.steps])
        state.clips = model.clips(state.semantic, valid)
        state.quantized = model.codebook.quantize_all(state.points, state.exists)
        if below := model.below(state.pooled, valid):
            state.second = State(state.pooled, valid, semantic=below, quantized=model.second.quantize_all(below, valid))
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
        second = {"second": self.carry(state.second)} if state.second else {}
        return detached({"valid": state.exists, "semantic": state.points, "codes": codes} | second)

    def update(self, carried):
        for book, own in self.layers(carried):
            book.update(own["semantic"], own["codes"], own["valid"])
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
        return arithmetic(cls.model_class).made(shapes, config, arithmetic)

    @classmethod
    def check(cls, config, recipe):
        values, defaults = flat(config), flat(recipe.method)
        owners = {setting: [name] for name, objective in config.objectives.items() for setting in flat(objective)}
        for setting in dict.fromkeys(setting for own in cls.owned.values() for setting in own):
            owners[setting] = [name for name, own in cls.owned.items() if setting in own]
        for setting, names in owners.items():
            if values[setting] != defaults[setting] and not cls.objectives.keys() & {*names}:
                raise UserError(f"{flag_of(setting)} {values[setting]}: belongs to {' or '.join(names)}, which is not "
                                f"part of --method {cls.name}")
        for name in cls.name.split("+"):
            expected = cls.objectives[name].alignments
            if config.text_alignment not in expected:
                raise UserError(f"--text-alignment {config.text_alignment}: {name} takes words as "
                                f"{'seconds' if 'step' in expected else 'a whole'}; expected {' or '.join(expected)}")
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
