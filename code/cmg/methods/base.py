"""What a pretraining method is: a model to keep, terms to minimise, and four phases that the loop calls in turn.

    state = method.encode(batch)      Φ, Ψ, pure quantisation of all modalities
    method.fit(state)                 alternating steps of terms that hold an estimator of their own (vCLUB)
    losses = method.losses(state)     dict of weighted scalars, slash keys "cpc/a2v" = TensorBoard tags = CSV columns
    … backward, clip, optimiser step …
    method.update(state)              the codebook, once, from what was quantised before the step

A method is one file in this folder with `build(shapes, options) -> Method`; `--method NAME` imports it. It picks terms
(see `terms.py`) and, if it must, overrides a phase. The loop never changes.
"""

import importlib
import pkgutil
from dataclasses import dataclass, field

import torch
from torch import nn

from cmg.errors import UserError
from cmg.training.distributed import shared_permutation


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
    terms : dict name -> module with `forward(state) -> dict[str, Tensor]`, and optionally `fit(state)` together with
        an `optimizer` attribute that the checkpoint carries along.
    weights : dict name -> float. A term of weight 0 should not be built at all.
    specific_steps : Ψ and what reads it run at this many random steps of every batch, an unbiased estimate of the
        same terms at a fraction of their cost; 0 = at every step.
    """

    def __init__(self, model, specific, terms, weights, specific_steps=0):
        super().__init__()
        self.specific_steps = specific_steps
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
            state.front[m] = encoder.front(state.features[m])
            z = encoder(state.front[m], state.valid[m])
            state.semantic[m] = z.to(torch.promote_types(z.dtype, torch.float32))  # never half precision from here on
            state.quantized[m] = model.codebook.quantize(state.semantic[m])
            if self.specific is not None:
                state.specific[m], state.pooled[m] = self.specific[m](state.front[m][:, state.steps])
        return state

    def fit(self, state):
        for term in self.terms.values():
            if hasattr(term, "fit"):
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

    def inner_optimizers(self):
        """dict name -> optimiser of every term that has one."""
        return {name: term.optimizer for name, term in self.terms.items() if hasattr(term, "optimizer")}

    def trained_parameters(self):
        """Parameters of the main optimiser: all but the terms' own estimators."""
        inner = {p for o in self.inner_optimizers().values() for g in o.param_groups for p in g["params"]}
        return [p for p in self.parameters() if p not in inner]

    def compile_parts(self):
        """`torch.compile` every Φ, Ψ and term in place; the names in the checkpoint stay as they are."""
        for part in (*self.model.semantic.values(), *(self.specific or {}).values(), *self.terms.values()):
            part.compile()

    def clip_groups(self):
        """Lists of parameters whose gradient norm is clipped together; one group unless a method says otherwise."""
        return [self.trained_parameters()]


def available():
    """Names that `--method` takes."""
    here = importlib.import_module("cmg.methods")
    return sorted(m.name for m in pkgutil.iter_modules(here.__path__) if m.name not in ("base", "terms"))


def build(shapes, options):
    """The method that `options["method"]` names, for features of these shapes."""
    if options["method"] not in available():
        raise UserError(f"--method {options['method']}: expected one of {', '.join(available())}")
    return importlib.import_module(f"cmg.methods.{options['method']}").build(shapes, options)

