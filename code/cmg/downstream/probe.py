"""Linear probes on frozen tokens: P = learning rates × seeds of them, trained side by side in one pass.

One class a kind, as in the public downstream code (D semantic width, K classes):

* `ClipProbes`: Linear(D, D) of each step, maximum over time, Linear(D, K);
* `SegmentProbes`: Linear(D, D), Linear(D, K + 1) of each second, the last output for background;
* `EventProbes`: the head of `SegmentProbes`, but any number of classes a second: binary cross entropy plus
  `exp_log_loss`.

All are cheap because a token is one of few code vectors: the first layer runs once for each code, not once for each
second, and all probes share one matrix product. Where nothing stands between the two layers (segments, events), they
are multiplied with each other first: K + 1 outputs are fewer than D. Continuous tokens work as well, at the price of
one vector a second.

The trainer (`fit`) knows nothing of validation; `fit_selected` adds the strict protocol's choice.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cmg.downstream.tokens import TokenSet
from cmg.losses.exp_log import exp_log_loss


class ProbeData(NamedTuple):
    """A split as the probes see it.

    vectors : Tensor[U, D]
        The distinct token vectors.
    index : int64 Tensor[N, T]
        Which vector each step holds.
    valid : bool Tensor[N, T]
        Steps that exist; the others neither reach the maximum nor count as seconds.
    labels : int64 Tensor[N] (clips) or Tensor[N, T] (segments), bool Tensor[N, T, K + 1] (events)
    """

    vectors: torch.Tensor
    index: torch.Tensor
    valid: torch.Tensor
    labels: torch.Tensor


class Score(NamedTuple):
    """Accuracy in %, or what else the kind's `metric` names, and mean loss of each probe, both [P]."""

    accuracy: torch.Tensor
    loss: torch.Tensor


def probe_data(tokens: TokenSet, labels: torch.Tensor) -> ProbeData:
    """Pair a split's tokens with its labels. A clip probe needs a valid step in every clip: see `data_of_present`."""
    n, steps, dim = tokens.vectors.shape
    vectors = tokens.vectors.reshape(n * steps, dim)
    index = torch.arange(n * steps, device=vectors.device).view(n, steps)  # every step has a vector of its own
    if tokens.codes is not None:
        code = index.new_zeros(n * steps)
        for own in tokens.codes.reshape(n * steps, -1).unbind(1):  # each piece; `unique` of rows takes 50 times as long
            values, own = own.unique(return_inverse=True)
            found, code = (code * len(values) + own).unique(return_inverse=True)  # (U,), (N · T,)
        first = torch.zeros_like(found).scatter_(0, code, index.flatten())
        code = code.view(n, steps)
        if torch.equal(vectors[first][code], tokens.vectors):  # a residual quantiser's token is more than its code
            vectors, index = vectors[first], code
    # A missing step takes the clip's first existing one: repeating a vector does not change a maximum.
    stand_in = index.gather(1, tokens.valid.to(torch.uint8).argmax(1, keepdim=True))  # (N, 1)
    index = torch.where(tokens.valid, index, stand_in)
    return ProbeData(vectors, index, tokens.valid, labels.to(index.device))


def data_of_present(tokens: TokenSet, labels: torch.Tensor) -> ProbeData:
    """`probe_data` of the clips that have a valid step."""
    present = tokens.valid.any(1).nonzero()[:, 0]
    return probe_data(tokens.take(present), labels.to(present.device)[present])


def batches(data: ProbeData, order: torch.Tensor, size: int) -> Iterator[ProbeData]:
    """The clips numbered `order`, `size` at a time."""
    for index, valid, labels in zip(*(column[order].split(size) for column in data[1:])):
        vectors = data.vectors
        if len(vectors) > index.numel():  # continuous tokens, for example: keep those of the batch
            used, index = index.unique(return_inverse=True)  # (u,), (B, T)
            vectors = vectors[used]
        yield ProbeData(vectors, index, valid, labels)


class MaxOverTime(torch.autograd.Function):
    """`F.linear(vectors, weight, bias)[index].amax(1)`: Tensor[U, D], Tensor[C, D], Tensor[C], int64 Tensor[N, T] ->
    Tensor[N, C].

    The one gradient that is written out: with autograd's own a step of `fit` takes 1.8 times as long (9 probes, 80
    clips of 10 s, 400 codes, D = 256, one CPU thread), because it passes through all steps and codes, though a unit
    learns from one vector a clip. The rest, written out as well, would save no more than a seventh.
    """

    @staticmethod
    def forward(ctx, vectors, weight, bias, index):
        table = F.linear(vectors, weight, bias)  # (U, C)
        top = table.index_select(0, index[:, 0])
        for step in index[:, 1:].T:  # one by one, because the [N, T, C] of a whole split may not fit into memory
            top = torch.maximum(top, table.index_select(0, step))
        ctx.save_for_backward(vectors, index, table, top)
        return top

    @staticmethod
    def backward(ctx, slope):
        vectors, index, table, top = ctx.saved_tensors
        steps = table.index_select(0, index.flatten()).view(*index.shape, -1)  # (N, T, C)
        # Which vector holds the maximum, the last of several. In floats, because comparing to bool takes five times as
        # long; `max` with the position takes ten times as long.
        holder = steps.eq_(top[:, None]).mul_(index[..., None].to(steps.dtype)).amax(1).long()  # (N, C)
        to_weight = F.embedding_bag(holder.T, vectors, mode="sum", per_sample_weights=slope.T.contiguous())
        return None, to_weight, slope.sum(0), None


class Probes(nn.Module, ABC):
    """P probes of one kind, their weights stacked. What differs between kinds is in the classes below.

    Parameters
    ----------
    dim, outputs : int
        D, and the number of classes: K, or K + 1 with background.
    seeds, lrs : one a probe
        Seed of its initialisation (`nn.Linear`'s uniform ±1/√D) and learning rate of its Adam.

    Attributes
    ----------
    metric : what `score` measures, as rows of `results.json` call it
    background : whether the last output stands for background
    """

    metric: str
    background: bool

    def __init__(self, dim: int, outputs: int, seeds, lrs, device="cpu", dtype=torch.float32):
        super().__init__()
        assert len(seeds) == len(lrs)
        self.outputs, self.seeds, self.lrs = outputs, tuple(seeds), tuple(lrs)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def stack(*shape):
            uniform = torch.stack([torch.rand(shape, generator=generator, dtype=dtype) for generator in generators])
            return nn.Parameter(((2 * uniform - 1) / math.sqrt(dim)).to(device))

        self.first, self.first_bias = stack(dim, dim), stack(dim)  # (P, D, D), (P, D)
        self.second, self.second_bias = stack(outputs, dim), stack(outputs)  # (P, K, D), (P, K)

    @abstractmethod
    def row_logits(self, data: ProbeData):
        """Logits, Tensor[P, K, R]. A row is a clip, or, for seconds, a vector: equal vectors have equal logits.

        Classes come before rows, because a CPU's softmax over a short last dimension takes twenty times as long.
        """

    @torch.no_grad()
    def logits(self, data: ProbeData):
        """Tensor[P, N, K] for clips, Tensor[P, N, T, K + 1] otherwise."""
        return self.row_logits(data).mT

    @abstractmethod
    def tally(self, data: ProbeData):
        """How many seconds that exist each row has with each label, Tensor[K, R], and in all, Tensor[R]."""

    def loss(self, logits, counts, seconds):
        """Mean loss of each probe, Tensor[P], from `row_logits` and `tally`."""
        return -(logits.log_softmax(1) * counts).sum((1, 2)) / seconds.sum()

    def accuracy(self, logits, counts, seconds):
        """Pooled accuracy of each probe in %, Tensor[P], from `row_logits` and `tally`."""
        prediction = logits.argmax(1, keepdim=True)  # (P, 1, R)
        correct = counts.expand(len(logits), -1, -1).gather(1, prediction).double().sum((1, 2))
        return 100 * correct / counts.sum().double()

    @torch.no_grad()
    def score(self, data: ProbeData) -> Score:
        """The kind's figure over the clips, or over the seconds that exist, with the mean loss."""
        logits, tally = self.row_logits(data), self.tally(data)
        return Score(self.accuracy(logits, *tally), self.loss(logits, *tally))

    @torch.enable_grad()
    def gradients(self, data: ProbeData):
        """Gradient of each probe's own mean loss by its parameters; contiguous, as fused Adam ignores strides."""
        loss = self.loss(self.row_logits(data), *self.tally(data)).sum()
        return [gradient.contiguous() for gradient in torch.autograd.grad(loss, list(self.parameters()))]

    def take(self, own: slice) -> "Probes":
        """A copy of some of the probes."""
        taken = copy.deepcopy(self)
        taken.seeds, taken.lrs = self.seeds[own], self.lrs[own]
        for stack in taken.parameters():
            stack.data = stack.data[own]
        return taken


class ClipProbes(Probes):
    """One of K classes a clip."""

    metric, background = "accuracy", False

    def row_logits(self, data: ProbeData):
        # All probes in one product, (N, P·D)
        top = MaxOverTime.apply(data.vectors, self.first.flatten(0, 1), self.first_bias.flatten(), data.index)
        return torch.baddbmm(self.second_bias[..., None], self.second, top.T.view(*self.first_bias.shape, -1))

    def tally(self, data: ProbeData):
        """A clip counts as one second."""
        seconds = torch.ones_like(data.labels, dtype=self.first.dtype)
        return seconds.new_zeros(self.outputs, len(seconds)).scatter_(0, data.labels[None], 1), seconds


class SegmentProbes(Probes):
    """One of K classes or background a second."""

    metric, background = "segment_accuracy", True

    def row_logits(self, data: ProbeData):
        both = (self.second @ self.first).flatten(0, 1)  # (P·(K+1), D)
        offset = torch.baddbmm(self.second_bias[..., None], self.second, self.first_bias[..., None])  # (P, K+1, 1)
        return (both @ data.vectors.T).view(*self.second_bias.shape, -1) + offset

    def logits(self, data: ProbeData):
        return super().logits(data)[:, data.index]

    def tally(self, data: ProbeData):
        index, exists = data.index.flatten(), data.valid.flatten().to(self.first.dtype)  # (N·T,)
        labels = self.multi_hot(data.labels).flatten(0, 1) * exists[:, None]  # (N·T, K+1)
        counts, seconds = (part.new_zeros(len(data.vectors), *part.shape[1:]).index_add_(0, index, part)
                           for part in (labels, exists))
        return counts.T, seconds

    def multi_hot(self, labels):
        """Labels as bool Tensor[N, T, K + 1]."""
        return labels[..., None] == torch.arange(self.outputs, device=labels.device)


class EventProbes(SegmentProbes):
    """Any number of K + 1 classes a second, with the class weights `alpha` of the log loss, Parameter[P, K + 1]."""

    metric = "micro_f1"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha = nn.Parameter(torch.full_like(self.second_bias, 0.1))

    def multi_hot(self, labels):
        return labels

    def loss(self, logits, counts, seconds):
        total = seconds.sum()
        entropy = (seconds * F.softplus(logits) - counts * logits).sum((1, 2))
        return entropy / (total * self.outputs) + exp_log_loss(logits, counts, self.alpha, total)

    def accuracy(self, logits, counts, seconds):
        """Micro-F1 in % at probability 0.5 over the K classes: to recognise background is no localisation."""
        fires = (logits > 0)[:, :-1]
        hits = (fires * counts[:-1]).double().sum((1, 2))
        predicted, true = (fires * seconds).double().sum((1, 2)), counts[:-1].double().sum()
        return 200 * hits / (predicted + true).clamp(min=1)


def fit(kind: type[Probes], data: ProbeData, outputs: int, *, seeds, lrs, epochs: int, batch_size: int = 80,
        clip_norm: float | None = None, seed: int = 0) -> Iterator[tuple[int, Probes]]:
    """Train a probe for every learning rate and seed with Adam; yield (epoch, probes) after each epoch.

    The probes are yielded live: score or copy them before asking for the next epoch. Probe l·len(seeds) + s
    has learning rate l and seed s. Clips are shuffled by `seed`, the order is the same for all probes.

    Parameters
    ----------
    kind : subclass of Probes
    clip_norm : float, optional
        Largest gradient norm of one probe.
    """
    vectors = data.vectors
    probes = kind(vectors.shape[1], outputs, [s for _ in lrs for s in seeds], [lr for lr in lrs for _ in seeds],
                  vectors.device, vectors.dtype)
    # Adam works element by element, so what it steps may be parts of the stacks: for every rate, its own probes.
    parts = [stack.detach().split(len(seeds)) for stack in probes.parameters()]
    optimiser = torch.optim.Adam([{"params": own, "lr": lr} for lr, own in zip(lrs, zip(*parts))], fused=True)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(len(data.labels), generator=generator).to(vectors.device)
        for batch in batches(data, order, batch_size):
            gradients = probes.gradients(batch)
            if clip_norm is not None:
                gradients = clipped(gradients, clip_norm)
            for own, gradient in zip(parts, gradients):
                for part, slope in zip(own, gradient.split(len(seeds))):
                    part.grad = slope
            optimiser.step()
        yield epoch, probes


def clipped(gradients, norm: float):
    """Gradients [P, …] of P probes, each scaled to at most this norm, as torch's `clip_grad_norm_` would."""
    total = sum(gradient.flatten(1).square().sum(1) for gradient in gradients).sqrt()  # (P,)
    factor = (norm / (total + 1e-6)).clamp(max=1)
    return [gradient * factor.view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients]


class Selected(NamedTuple):
    """Probes after the strict choice: one a seed, at one learning rate, each at its own best epoch."""

    probes: Probes
    lr: float
    epochs: list[int]
    val: Score


@torch.no_grad()
def fit_selected(kind: type[Probes], train: ProbeData, val: ProbeData, outputs: int, *, seeds, lrs, epochs: int,
                 batch_size: int = 80, seed: int = 0) -> Selected:
    """Train on `train`, choose on `val`: each probe's epoch, then the learning rate by the mean over seeds.

    Higher accuracy wins, lower loss among equals. `val` must be of the probe's own modality, so that no label of
    the target modality takes part.
    """
    best = None
    for epoch, probes in fit(kind, train, outputs, seeds=seeds, lrs=lrs, epochs=epochs, batch_size=batch_size,
                             seed=seed):
        score = probes.score(val)
        if best is None:
            kept, best, chosen = copy.deepcopy(probes), score, torch.zeros_like(score.accuracy, dtype=torch.int64)
            continue
        better = (score.accuracy > best.accuracy) | ((score.accuracy == best.accuracy) & (score.loss < best.loss))
        best = Score(*(torch.where(better, new, old) for new, old in zip(score, best)))
        chosen[better] = epoch
        for old, new in zip(kept.parameters(), probes.parameters()):
            old[better] = new[better]
    accuracy, loss = (part.view(len(lrs), len(seeds)).mean(1).tolist() for part in best)
    winner = max(range(len(lrs)), key=lambda number: (accuracy[number], -loss[number]))
    own = slice(winner * len(seeds), (winner + 1) * len(seeds))
    return Selected(kept.take(own), lrs[winner], chosen[own].tolist(), Score(*(part[own] for part in best)))


def constant_accuracy(train: ProbeData, judged: ProbeData) -> float:
    """Accuracy in % of always answering the most frequent label of `train`; invalid seconds do not count."""
    known, asked = (d.labels[d.valid] if d.labels.ndim == 2 else d.labels for d in (train, judged))
    return round(100 * (asked == known.bincount().argmax()).double().mean().item(), 4)
