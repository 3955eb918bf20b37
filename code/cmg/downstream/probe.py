"""Linear probes on frozen tokens: P = learning rates × seeds of them, trained side by side in one pass.

Three kinds, as in the public downstream code (D semantic width, K classes):

* clip: Linear(D, D) of each step, maximum over time, Linear(D, K);
* segment: Linear(D, D), Linear(D, K + 1) of each second, the last output for background;
* events: the head of segment, but any number of classes a second: binary cross entropy plus `exp_log_loss`.

All are cheap because a token is one of few code vectors: the first layer runs once for each code, not once for each
second, and all probes share one matrix product. Where nothing stands between the two layers (segment, events), they are
multiplied with each other first: K + 1 outputs are fewer than D. Continuous tokens work as well, at the price of one
vector a second.

The trainer (`fit`) knows nothing of validation; `fit_selected` adds the strict protocol's choice.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from cmg.downstream.tokens import TokenSet
from cmg.losses.exp_log import exp_log_gradients, exp_log_loss

ALPHA = 0.1  # where the log loss of "events" starts


class ProbeData(NamedTuple):
    """A split as the probes see it.

    vectors : Tensor[U, D]
        The distinct token vectors.
    index : int64 Tensor[N, T]
        Which vector each step holds.
    valid : bool Tensor[N, T]
        Steps that exist; the others neither reach the maximum nor count as seconds.
    labels : int64 Tensor[N] (clip) or Tensor[N, T] (segment), bool Tensor[N, T, K + 1] (events)
    """

    vectors: torch.Tensor
    index: torch.Tensor
    valid: torch.Tensor
    labels: torch.Tensor


class Score(NamedTuple):
    """Accuracy in % (events: micro-F1 of the K classes) and mean loss of each probe, both [P]."""

    accuracy: torch.Tensor
    loss: torch.Tensor


def probe_data(tokens: TokenSet, labels: torch.Tensor) -> ProbeData:
    """Pair a split's tokens with its labels. A clip probe needs a valid step in every clip: see `data_of_present`."""
    n, steps, dim = tokens.quantized.shape
    codes, index = tokens.codes.unique(return_inverse=True)  # (U,), (N, T)
    first = torch.zeros_like(codes).scatter_(0, index.flatten(), torch.arange(n * steps, device=index.device))
    vectors = tokens.quantized.reshape(n * steps, dim)
    if torch.equal(vectors[first][index], tokens.quantized):
        vectors = vectors[first]
    else:  # a token is more than its code, as with a residual quantiser
        index = torch.arange(n * steps, device=index.device).view(n, steps)
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


def max_over_time(table, index):
    """`table[index].amax(1)`, step by step, because the [N, T, C] of a whole split may not fit into memory."""
    top = table.index_select(0, index[:, 0])
    for step in index[:, 1:].T:
        top = torch.maximum(top, table.index_select(0, step))
    return top


class Probes:
    """P probes of one kind, their weights stacked.

    Parameters
    ----------
    kind : "clip", "segment" or "events"
    dim, outputs : int
        D, and the number of classes (K for clips, K + 1 otherwise).
    seeds, lrs : one a probe
        Seed of its initialisation (`nn.Linear`'s uniform ±1/√D) and learning rate of its Adam.
    """

    def __init__(self, kind: str, dim: int, outputs: int, seeds, lrs, device="cpu", dtype=torch.float32):
        assert kind in ("clip", "segment", "events") and len(seeds) == len(lrs)
        self.kind, self.dim, self.outputs, self.seeds, self.lrs = kind, dim, outputs, tuple(seeds), tuple(lrs)
        shapes = (dim, dim), (dim,), (outputs, dim), (outputs,)
        stacks = [[] for _ in shapes]
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            for stack, shape in zip(stacks, shapes):
                stack.append((2 * torch.rand(shape, generator=generator, dtype=dtype) - 1) / math.sqrt(dim))
        if kind == "events":
            stacks.append([torch.full((outputs,), ALPHA, dtype=dtype) for _ in seeds])
        # (P, D, D), (P, D), (P, K, D), (P, K), and the class weights of the log loss (P, K)
        self.parameters = [torch.stack(stack).to(device) for stack in stacks]

    def hidden(self, vectors):
        """First layer of all probes on Tensor[U, D], as one product -> Tensor[U, P·D]."""
        weight, bias = self.parameters[:2]
        return F.linear(vectors, weight.view(-1, self.dim), bias.view(-1))

    def classify(self, hidden):
        """Second layer, Tensor[N, P·D] -> Tensor[P, K, N]."""
        second, last = self.parameters[2:4]
        return torch.baddbmm(last[..., None], second, hidden.view(len(hidden), -1, self.dim).permute(1, 2, 0))

    def both_layers(self, vectors):
        """Both layers of segment and events on Tensor[U, D] -> Tensor[P, K + 1, U]."""
        first, bias, second, last = self.parameters[:4]
        both = (second @ first).view(-1, self.dim)  # (P·(K+1), D)
        offset = torch.baddbmm(last[..., None], second, bias[..., None])  # (P, K+1, 1)
        return (both @ vectors.T).view(*last.shape, -1) + offset

    def row_logits(self, data: ProbeData):
        """Logits, Tensor[P, K, R]. A row is a clip, or, for seconds, a vector: equal vectors have equal logits.

        Classes come before rows, because a CPU's softmax over a short last dimension takes twenty times as long.
        """
        if self.kind == "clip":
            return self.classify(max_over_time(self.hidden(data.vectors), data.index))
        return self.both_layers(data.vectors)

    def logits(self, data: ProbeData):
        """Tensor[P, N, K] for clips, Tensor[P, N, T, K + 1] otherwise."""
        rows = self.row_logits(data).mT
        return rows if self.kind == "clip" else rows[:, data.index]

    def tally(self, data: ProbeData):
        """How many valid seconds each row has with each label, Tensor[K, R], and in all, Tensor[R].

        Rows are those of `row_logits`; a clip counts as one second.
        """
        rows, valid = len(data.vectors), data.valid.flatten().to(self.parameters[0].dtype)
        if self.kind == "clip":
            seconds = valid.new_ones(len(data.labels))
            return valid.new_zeros(self.outputs, len(seconds)).scatter_(0, data.labels[None], 1), seconds
        seconds = valid.new_zeros(rows).index_add_(0, data.index.flatten(), valid)
        if self.kind == "events":
            labels = data.labels.flatten(0, 1).to(valid.dtype) * valid[:, None]
            return valid.new_zeros(rows, self.outputs).index_add_(0, data.index.flatten(), labels).T, seconds
        pair = (data.labels * rows + data.index).masked_fill(~data.valid, 0)
        return valid.new_zeros(self.outputs * rows).index_add_(0, pair.flatten(), valid).view(-1, rows), seconds

    def loss(self, logits, counts, seconds):
        """Mean loss of each probe, Tensor[P], from `row_logits` and `tally`."""
        total = seconds.sum()
        if self.kind != "events":
            return -(logits.log_softmax(1) * counts).sum((1, 2)) / total
        entropy = (seconds * F.softplus(logits) - counts * logits).sum((1, 2))
        return entropy / (total * self.outputs) + exp_log_loss(logits, counts, self.parameters[4], total)

    def slopes(self, logits, counts, seconds):
        """Gradient of each probe's `loss` by its logits, [P, K, R], and by its class weights, if it has any, [P, K]."""
        total = seconds.sum()
        if self.kind != "events":
            return [(logits.softmax(1) * seconds - counts) / total]
        entropy = (logits.sigmoid() * seconds - counts) / (total * self.outputs)
        log, weights = exp_log_gradients(logits, counts, self.parameters[4], total)
        return [entropy + log, weights]

    def gradients(self, data: ProbeData):
        """Gradient of each probe's own mean loss by its `parameters`, written out, because autograd takes twice
        as long.

        All are contiguous: the fused Adam ignores strides.
        """
        first, bias, second, _ = self.parameters[:4]
        if self.kind == "clip":
            steps = self.hidden(data.vectors).index_select(0, data.index.flatten()).view(*data.index.shape, -1)
            top = steps.amax(1)  # (N, P·D), without the position, which costs ten times as much
            # Which vector holds it, the last of several. In floats, because comparing to bool takes five times as long.
            holder = steps.eq_(top[:, None]).mul_(data.index[..., None].to(steps.dtype)).amax(1).long()
            logits = self.classify(top)
        else:
            logits = self.both_layers(data.vectors)
        slope, *weights = self.slopes(logits, *self.tally(data))
        offset = slope.sum(2)  # (P, K)
        if self.kind == "clip":
            to_second = slope @ top.view(len(top), -1, self.dim).transpose(0, 1)
            to_top = second.mT @ slope  # (P, D, N)
            # A unit of the first layer learns from one vector a clip: cheaper than a product with the whole table.
            to_first = F.embedding_bag(holder.T, data.vectors, mode="sum", per_sample_weights=to_top.flatten(0, 1))
            return [to_first.view_as(first), to_top.sum(2), to_second, offset, *weights]
        to_both = (slope.flatten(0, 1) @ data.vectors).view_as(second)
        to_second = torch.baddbmm(offset[..., None] * bias[:, None], to_both, first.mT)
        return [second.mT @ to_both, (offset[:, None] @ second)[:, 0], to_second, offset, *weights]

    def score(self, data: ProbeData) -> Score:
        """Pooled accuracy over clips, or over the seconds that exist, with the mean loss.

        For events, micro-F1 at probability 0.5 over the K classes: to recognise background is no localisation.
        """
        logits, (counts, seconds) = self.row_logits(data), self.tally(data)
        loss = self.loss(logits, counts, seconds)
        if self.kind == "events":
            fires = (logits > 0)[:, :-1]
            hits = (fires * counts[:-1]).double().sum((1, 2))
            predicted, true = (fires * seconds).double().sum((1, 2)), counts[:-1].double().sum()
            return Score(200 * hits / (predicted + true).clamp(min=1), loss)
        prediction = logits.argmax(1, keepdim=True)  # (P, 1, R)
        correct = counts.expand(len(logits), -1, -1).gather(1, prediction).double().sum((1, 2))
        return Score(100 * correct / counts.sum().double(), loss)


def fit(kind: str, data: ProbeData, outputs: int, *, seeds, lrs, epochs: int, batch_size: int = 80,
        clip_norm: float | None = None, seed: int = 0) -> Iterator[tuple[int, Probes]]:
    """Train a probe for every learning rate and seed with Adam; yield (epoch, probes) after each epoch.

    The probes are yielded live: score or copy them before asking for the next epoch. Probe l·len(seeds) + s
    has learning rate l and seed s. Clips are shuffled by `seed`, the order is the same for all probes.

    Parameters
    ----------
    clip_norm : float, optional
        Largest gradient norm of one probe.
    """
    vectors = data.vectors
    probes = Probes(kind, vectors.shape[1], outputs, [s for _ in lrs for s in seeds], [lr for lr in lrs for _ in seeds],
                    vectors.device, vectors.dtype)
    # Adam works element by element, so its parameters may be views of the stacks: for every rate, its own probes.
    rates = [(lr, slice(n * len(seeds), (n + 1) * len(seeds))) for n, lr in enumerate(lrs)]
    views = [[stack[own] for stack in probes.parameters] for _, own in rates]
    groups = [{"params": view, "lr": lr} for (lr, _), view in zip(rates, views)]
    optimiser = torch.optim.Adam(groups, fused=True)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(len(data.labels), generator=generator).to(vectors.device)
        for batch in batches(data, order, batch_size):
            gradients = probes.gradients(batch)
            if clip_norm is not None:
                gradients = clipped(gradients, clip_norm)
            for (_, own), view in zip(rates, views):
                for parameter, gradient in zip(view, gradients):
                    parameter.grad = gradient[own]
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


def fit_selected(kind: str, train: ProbeData, val: ProbeData, outputs: int, *, seeds, lrs, epochs: int,
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
            kept = [stack.clone() for stack in probes.parameters]
            best, chosen = score, torch.zeros_like(score.accuracy, dtype=torch.int64)
            continue
        better = (score.accuracy > best.accuracy) | ((score.accuracy == best.accuracy) & (score.loss < best.loss))
        best = Score(*(torch.where(better, new, old) for new, old in zip(score, best)))
        chosen[better] = epoch
        for old, new in zip(kept, probes.parameters):
            old[better] = new[better]
    accuracy, loss = (part.view(len(lrs), len(seeds)).mean(1).tolist() for part in best)
    winner = max(range(len(lrs)), key=lambda number: (accuracy[number], -loss[number]))
    own = slice(winner * len(seeds), (winner + 1) * len(seeds))
    selected = Probes(kind, probes.dim, outputs, seeds, probes.lrs[own], train.vectors.device, train.vectors.dtype)
    selected.parameters = [stack[own] for stack in kept]
    return Selected(selected, lrs[winner], chosen[own].tolist(), Score(*(part[own] for part in best)))


def best_of_epochs(curve, seeds: int):
    """The paper protocol's choice: each seed's figure at the epoch and learning rate at which it is best.

    curve : list over epochs of Tensor[P], of the probes of `fit` -> Tensor[seeds]
    """
    return torch.stack(curve).amax(0).view(-1, seeds).amax(0)


def constant_accuracy(train: ProbeData, judged: ProbeData) -> float:
    """Accuracy in % of always answering the most frequent label of `train`; invalid seconds do not count."""
    known, asked = (d.labels[d.valid] if d.labels.ndim == 2 else d.labels for d in (train, judged))
    return round(100 * (asked == known.bincount().argmax()).double().mean().item(), 4)
