"""What a pretraining method is: a model to keep, terms to minimise, and four phases that the loop calls in turn.

    state = method.encode(batch)      Φ, Ψ, pure quantisation of all modalities
    method.fit(state)                 alternating steps of terms that hold an estimator of their own (vCLUB)
    losses = method.losses(state)     dict of weighted scalars, slash keys "cpc/a2v" = TensorBoard tags = CSV columns
    … backward, clip, optimiser step …
    method.update(state)              the codebook, once, from what was quantised before the step; momentum teachers

The loop never changes. What a method's file declares is in `methods.registry`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from cmg.cli import number
from cmg.distributed import shared_permutation


class Flag(NamedTuple):
    """A flag of `cmg.pretrain` that belongs to a method. `default` holds where the preset says nothing."""

    help: str
    default: object = None
    type: Callable = number(least=0)
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
