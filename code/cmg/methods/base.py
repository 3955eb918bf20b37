"""What a pretraining method is: a model to keep, terms to minimise, and four phases that the loop calls in turn.

    state = method.encode(batch)      Φ, Ψ, pure quantisation of all modalities
    method.fit(state)                 alternating steps of terms that hold an estimator of their own (vCLUB)
    losses = method.losses(state)     dict of weighted scalars, slash keys "cpc/a2v" = TensorBoard tags = CSV columns
    … backward, clip, optimiser step …
    method.update(state)              the codebook, once, from what was quantised before the step; momentum teachers

A method is one file in this folder, and `--method NAME` takes it. `--method a+b` takes the terms of both. It declares

    PARTS     other methods that it includes; every method includes `baseline`
    TERMS     dict term -> `make(frame)`, which returns a module, or None where the data leave it nothing to do
    FLAGS     dict flag -> Flag, the flags of its own; the weight of term `x` is the flag `w_x`
    DEFAULTS  dict flag -> value, which replaces the preset's
    KEEPS     flags whose value is the preset's although `baseline` replaces it
    PAIRED    True if it needs two modalities or more

all of which are optional. The loop never changes.
"""

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from cmg.distributed import shared_permutation
from cmg.errors import UserError
from cmg.presets import PRESETS


class Flag(NamedTuple):
    """A flag of `cmg.pretrain` that belongs to a method. `default` holds where the preset says nothing."""

    help: str
    default: object = None
    type: type = float
    choices: tuple | None = None


class Frame(NamedTuple):
    """What terms are made from: model (UnifiedModel), specific (ModuleDict modality -> Ψ, or None), options (dict),
    timed (list of the modalities whose step t is second t)."""

    model: nn.Module
    specific: nn.ModuleDict | None
    options: dict
    timed: list


@dataclass
class State:
    """One batch on its way through a method. Dicts are keyed by modality."""

    features: dict  # Tensor[B, T, …], what the decoder rebuilds (paper)
    valid: dict  # BoolTensor[B, T]
    front: dict = field(default_factory=dict)  # Tensor[B, T, …]: features, or the biLSTM's word states
    semantic: dict = field(default_factory=dict)  # Tensor[B, T, D]: z = Φ(x)
    quantized: dict = field(default_factory=dict)  # Quantized
    specific: dict = field(default_factory=dict)  # what the decoder reads: Tensor[B, T, S] or [B, T, h, w, S]
    pooled: dict = field(default_factory=dict)  # Tensor[B, T, Y]: what vCLUB reads
    # the T' of T steps at which Ψ was run: `specific` and `pooled` are [B, T', …]
    steps: slice | torch.Tensor = field(default_factory=lambda: slice(None))


class Method(nn.Module):
    """A `UnifiedModel`, optionally Ψ per modality, and named terms with weights.

    Parameters
    ----------
    model : UnifiedModel, the part that downstream tasks load.
    specific : ModuleDict modality -> Ψ, or None if no term needs one.
    terms : dict name -> module with `forward(state) -> dict[str, Tensor]`, and optionally `update(model)` to follow the
        model's step, or `fit(state)` for steps of its own, together with the `optimizer` that takes them, which the
        checkpoint carries along, and the function `objective` that it lowers, which `--compile` compiles.
    weights : dict name -> float. A term of weight 0 should not be built at all.
    specific_steps : Ψ and what reads it run at this many random steps of every batch, an unbiased estimate of the
        same terms at a fraction of their cost; 0 = at every step.
    clip_by_module : clip the gradients of biLSTMs, encoders and every term apart, as the released code does.
    """

    def __init__(self, model, specific, terms, weights, specific_steps=0, clip_by_module=False):
        super().__init__()
        self.specific_steps, self.clip_by_module = specific_steps, clip_by_module
        self.model, self.specific = model, specific
        self.terms = nn.ModuleDict(terms)
        self.weights = weights

    def encode(self, batch):
        model = self.model
        valid = {m: model.mask(batch[f"valid/{m}"]) for m in model.modalities}
        state = State({m: batch[m] for m in model.modalities}, valid)
        T = next(iter(valid.values())).shape[1]
        if self.specific_steps and self.specific_steps < T:
            state.steps = shared_permutation(T, model.codebook.embedding.device)[: self.specific_steps]
        for m in model.modalities:
            encoder = model.semantic[m]
            state.front[m] = encoder.front(state.features[m], state.valid[m])
            z = encoder(state.front[m], state.valid[m])
            state.semantic[m] = z.to(torch.promote_types(z.dtype, torch.float32))  # never half precision from here on
            state.quantized[m] = model.codebook.quantize(state.semantic[m])
            if self.specific is not None:
                state.specific[m], state.pooled[m] = self.specific[m](state.front[m][:, state.steps])
        return state

    def fitted(self):
        """The terms that take steps of their own."""
        return [term for term in self.terms.values() if hasattr(term, "fit")]

    def fit(self, state):
        for term in self.fitted():
            term.fit(state)

    def losses(self, state):
        return {
            f"{name}/{key}": self.weights[name] * value
            for name, term in self.terms.items()
            for key, value in term(state).items()
        }

    def update(self, state):
        z = {m: x.detach() for m, x in state.semantic.items()}
        self.model.codebook.update(z, {m: q.codes for m, q in state.quantized.items()}, state.valid)
        for term in self.terms.values():
            if hasattr(term, "update"):
                term.update(self.model)

    def inner_optimizers(self):
        """dict name -> optimiser of every term that has one."""
        return {name: term.optimizer for name, term in self.terms.items() if hasattr(term, "fit")}

    def trained_parameters(self):
        """Parameters of the main optimiser: all but the terms' own estimators and momentum teachers."""
        return [p for p in self.parameters() if p.requires_grad]

    def clip_groups(self):
        """Lists of parameters whose gradient norm is clipped together."""
        if not self.clip_by_module:
            return [self.trained_parameters()]
        words = [p for e in self.model.semantic.values() if e.words for p in e.words.parameters()]
        ours = set(words)
        encoder = [p for part in (self.model, self.specific) if part is not None for p in part.parameters()]
        groups = [words, [p for p in encoder if p not in ours], *(term.parameters() for term in self.terms.values())]
        groups = [[p for p in group if p.requires_grad] for group in groups]
        return [group for group in groups if group]


def available():
    """Names that `--method` takes, and joins with +."""
    here = importlib.import_module("cmg.methods")
    return sorted(m.name for m in pkgutil.iter_modules(here.__path__) if m.name not in ("base", "terms"))


def load(name):
    return importlib.import_module(f"cmg.methods.{name}")


def parts(method):
    """dict name -> module of all that a method holds, `baseline` first; `UserError` where the name makes no sense."""
    held = {"baseline": load("baseline")}

    def add(name):
        if name not in available():
            raise UserError(f"--method {method}: expected one of {', '.join(available())}, or several joined with +")
        if name in held:
            raise UserError(f"--method {method}: {name} is part of it already; expected every part once")
        module = load(name)
        for part in getattr(module, "PARTS", ()):
            add(part)
        held[name] = module

    for name in method.split("+") if method != "baseline" else ():
        add(name)
    return held


def flags():
    """dict name of a method -> its dict flag -> Flag."""
    return {name: getattr(load(name), "FLAGS", {}) for name in available()}


def defaults(preset, method):
    """Every option that a preset or a method sets. The weight of a term that the method does not hold is 0."""
    held = parts(method)
    values = {flag: spec.default for own in flags().values() for flag, spec in own.items()} | PRESETS[preset]
    for name, own in flags().items():
        values |= {flag: 0.0 for flag in own if flag.startswith("w_") and name not in held}
    for module in held.values():
        values |= getattr(module, "DEFAULTS", {})
        values |= {flag: PRESETS[preset][flag] for flag in getattr(module, "KEEPS", ())}
    return values


def refuse_foreign(options):
    """`UserError` for a flag that differs from its default although the method does not have it."""
    method = options["method"]
    held, values = parts(method), defaults(options["preset"], method)
    for name, own in flags().items():
        for flag in own if name not in held else ():
            if options[flag] != values[flag]:
                raise UserError(f"--{flag.replace('_', '-')} {options[flag]}: belongs to {name}, which is not part of "
                                f"--method {method}")


def build(shapes, options):
    """The method that `options["method"]` names, for features of these shapes."""
    held = parts(options["method"])
    for name in options["method"].split("+"):
        if getattr(held[name], "PAIRED", False) and len(shapes) < 2:
            raise UserError(f"--method {options['method']}: {name} aligns modalities; expected two or three, not only "
                            f"{', '.join(shapes)}")
    frame = held["baseline"].frame(shapes, options)
    makers = {name: make for module in held.values() for name, make in getattr(module, "TERMS", {}).items()}
    weights = {name: options[f"w_{name}"] for name in makers}
    terms = {name: make(frame) for name, make in makers.items() if weights[name]}
    terms = {name: term for name, term in terms.items() if term is not None}
    return Method(frame.model, frame.specific, terms, weights, options["specific_steps"],
                  clip_by_module=options["equations"] == "released")
