"""Batched linear probes against the reference fixtures, against plain `nn.Linear` loops, and on closed forms."""


import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmg.downstream.probe import (
    ClipProbes,
    EventProbes,
    MaxOverTime,
    SegmentProbes,
    batches,
    constant_accuracy,
    data_of_present,
    fit,
    fit_selected,
    probe_data,
)
from cmg.downstream.tokens import TokenSet
from support import FIXTURES

KINDS = [ClipProbes, SegmentProbes, EventProbes]
NAMES = ("linear.weight", "linear.bias", "event_classifier.weight", "event_classifier.bias")


def tokens_of(quantized, codes=None, valid=None):
    """Tokens with the given vectors; without codes every step is its own code."""
    n, steps, _ = quantized.shape
    codes = torch.arange(n * steps).view(n, steps) if codes is None else codes
    valid = torch.ones(n, steps, dtype=torch.bool) if valid is None else valid
    return TokenSet(codes, quantized, quantized, valid)


def random_data(kind, n=50, steps=6, dim=8, codes=12, classes=4, dtype=torch.float64, ragged=False, seed=0):
    """A random codebook's tokens with random labels."""
    g = torch.Generator().manual_seed(seed)
    book = torch.randn(codes, dim, generator=g, dtype=dtype)
    code = torch.randint(codes, (n, steps), generator=g)
    valid = torch.rand(n, steps, generator=g) < 0.7 if ragged else torch.ones(n, steps, dtype=torch.bool)
    valid[:, -1] = True
    labels = torch.randint(classes, (n,) if kind is ClipProbes else (n, steps), generator=g)
    if kind is EventProbes:
        labels = torch.rand(n, steps, classes, generator=g) < 0.3
    return probe_data(tokens_of(book[code], code, valid), labels), book[code], valid


@pytest.mark.parametrize("kind", KINDS[:2])
def test_fixture(kind):
    """Logits of the public downstream heads, 1e-9 in float64."""
    fixture = np.load(FIXTURES / {ClipProbes: "probe_clip.npz", SegmentProbes: "probe_segment.npz"}[kind])
    code = torch.from_numpy(fixture["code"])  # (4, 10, 8)
    data = probe_data(tokens_of(code), torch.zeros(4 if kind is ClipProbes else (4, 10), dtype=torch.int64))
    probes = kind(8, 7, seeds=[0, 1], lrs=[1e-3, 1e-3], dtype=torch.float64)
    for stack, name in zip(probes.parameters(), NAMES):
        stack.data[1] = torch.from_numpy(fixture[f"state/{name}"])
    logits = probes.logits(data)
    reference = torch.from_numpy(fixture["logits"])
    assert logits[1].shape == reference.shape
    assert (logits[1] - reference).abs().max() < 1e-9
    assert (logits[0] - reference).abs().max() > 1e-3  # the other probe keeps its own weights


def test_max_over_time_and_its_gradient():
    """Those of autograd, also by finite differences; a vector that a clip holds twice counts once."""
    g = torch.Generator().manual_seed(1)
    vectors, index = torch.randn(9, 3, generator=g).double(), torch.randint(9, (7, 4), generator=g)
    weight, bias = (torch.randn(*shape, generator=g).double().requires_grad_() for shape in ((5, 3), (5,)))
    plain = F.linear(vectors, weight, bias)[index].max(1).values
    top = MaxOverTime.apply(vectors, weight, bias, index)
    assert torch.equal(top, plain)
    slope = torch.randn(7, 5, generator=g).double()
    for ours, reference in zip(*(torch.autograd.grad(out, (weight, bias), slope) for out in (top, plain))):
        torch.testing.assert_close(ours, reference)
    assert torch.autograd.gradcheck(lambda *layer: MaxOverTime.apply(vectors, *layer, index), (weight, bias))


def test_batches_are_the_clips_in_their_order():
    """With the whole table where it is small, else with the vectors that are used; the last batch is what is left."""
    for codes in (12, 500):
        data, dense, valid = random_data(SegmentProbes, n=10, codes=codes, ragged=True)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
        parts = list(batches(data, order, 4))
        assert [len(part.labels) for part in parts] == [4, 4, 2]
        assert all(len(part.vectors) <= part.index.numel() for part in parts)
        seen = torch.cat([part.vectors[part.index] for part in parts])
        assert torch.equal(seen[valid[order]], dense[order][valid[order]])
        assert torch.equal(torch.cat([part.labels for part in parts]), data.labels[order])
        assert torch.equal(torch.cat([part.valid for part in parts]), valid[order])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codes", [12, 500])
def test_gradients_are_those_of_autograd(kind, codes):
    """In float64, of three probes, by the plain loss of dense tokens; nothing else takes part in a step."""
    data, dense, valid = random_data(kind, codes=codes, ragged=True)
    probes = kind(8, 4, [0, 1, 2], [1.0] * 3, dtype=torch.float64)
    part, = batches(data, torch.arange(50), 50)
    ours = probes.gradients(part)
    leaves = [stack.detach().clone().requires_grad_() for stack in probes.parameters()]
    first, bias, second, last, *alpha = leaves
    hidden = torch.einsum("ntd,phd->pnth", dense, first) + bias[:, None, None]
    if kind is ClipProbes:
        hidden = hidden.masked_fill(~valid[..., None], -torch.inf).max(2).values
    logits = torch.einsum("p...h,pkh->p...k", hidden, second)
    logits = logits + last.view(3, *[1] * (logits.ndim - 2), 4)
    labels = data.labels if kind is ClipProbes else data.labels[valid]
    logits = logits if kind is ClipProbes else logits[:, valid]  # (P, n, K)
    if kind is EventProbes:
        losses = torch.stack([F.binary_cross_entropy_with_logits(z, labels.double()) for z in logits])
        log = (labels * logits.log_softmax(2)).sum(1) * torch.exp(-alpha[0])
        losses = losses - log.sum(1) / len(labels)
    else:
        losses = torch.stack([F.cross_entropy(z, labels) for z in logits])
    assert (probes.score(data).loss - losses).abs().max() < 1e-12
    reference = torch.autograd.grad(losses.sum(), leaves)
    assert len(ours) == len(reference) == 4 + (kind is EventProbes)
    for one, other in zip(ours, reference):
        assert one.is_contiguous() and one.shape == other.shape  # the fused Adam takes no notice of strides
        assert (one - other).abs().max() < 1e-12


class PublicHead(nn.Module):
    """The heads written plainly, one at a time, on dense tokens."""

    def __init__(self, kind, dim, outputs):
        super().__init__()
        self.kind, self.linear, self.event_classifier = kind, nn.Linear(dim, dim), nn.Linear(dim, outputs)
        if kind is EventProbes:
            self.alpha = nn.Parameter(torch.full((outputs,), 0.1))

    def forward(self, x, valid, labels):
        """Logits of the clips or of the seconds that exist, their labels and the mean loss."""
        hidden = self.linear(x)
        if self.kind is ClipProbes:
            hidden = hidden.masked_fill(~valid[..., None], -torch.inf).max(1).values
        else:
            hidden, labels = hidden[valid], labels[valid]
        logits = self.event_classifier(hidden)
        if self.kind is not EventProbes:
            return logits, labels, F.cross_entropy(logits, labels)
        log = (labels * logits.log_softmax(1) * torch.exp(-self.alpha)).sum(1).mean()
        return logits, labels, F.binary_cross_entropy_with_logits(logits, labels.double()) - log


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("ragged", [False, True])
def test_side_by_side_equals_one_at_a_time(kind, clip_norm, ragged):
    """Four probes in one pass = four `nn.Linear` loops with torch's Adam, same init, same batches."""
    data, dense, valid = random_data(kind, ragged=ragged)
    seeds, lrs, epochs, batch = [3, 4], [1e-3, 1e-2], 4, 16
    outputs = 4
    *_, (_, probes) = fit(kind, data, outputs, seeds=seeds, lrs=lrs, epochs=epochs, batch_size=batch,
                          clip_norm=clip_norm, seed=7)
    scores = probes.score(data)
    for p, (lr, seed) in enumerate((lr, seed) for lr in lrs for seed in seeds):
        assert (probes.lrs[p], probes.seeds[p]) == (lr, seed)
        head = PublicHead(kind, 8, outputs).double()
        start = kind(8, outputs, [seed], [lr], dtype=torch.float64)
        names = (*NAMES, "alpha")[:len(start.state_dict())]
        head.load_state_dict({name: stack[0] for name, stack in zip(names, start.parameters())})
        optimiser = torch.optim.Adam(head.parameters(), lr)
        order = torch.Generator().manual_seed(7)
        for _ in range(epochs):
            for rows in torch.randperm(len(data.labels), generator=order).split(batch):
                optimiser.zero_grad()
                head(dense[rows], valid[rows], data.labels[rows])[2].backward()
                if clip_norm:
                    nn.utils.clip_grad_norm_(head.parameters(), clip_norm)
                optimiser.step()
        for stack, name in zip(probes.parameters(), names):
            assert (stack[p] - head.state_dict()[name]).abs().max() < 1e-9
        logits, labels, loss = head(dense, valid, data.labels)
        if kind is EventProbes:
            fires, labels = (logits > 0)[:, :-1], labels[:, :-1]
            right = 200 * (labels & fires).sum().double() / (labels.sum() + fires.sum())
        else:
            right = 100 * (logits.argmax(-1) == labels).double().mean()
        assert abs(scores.accuracy[p].item() - right.item()) < 1e-9
        assert abs(scores.loss[p].item() - loss.item()) < 1e-9


def test_initialisation_is_that_of_nn_linear():
    """Uniform in ±1/√D for weights and biases: range and variance."""
    probes = ClipProbes(64, 10, seeds=range(20), lrs=[1e-3] * 20)
    for stack in probes.parameters():
        assert stack.abs().max() <= 1 / 8
    assert abs(probes.first.var().item() - 1 / (3 * 64)) < 1e-4
    assert not torch.equal(probes.first[0], probes.first[1])


def test_same_seed_same_numbers():
    data, _, _ = random_data(ClipProbes, dtype=torch.float32)
    runs = []
    for seed in (5, 5, 6):
        *_, (_, probes) = fit(ClipProbes, data, 4, seeds=[0], lrs=[1e-3], epochs=3, batch_size=16, seed=seed)
        runs.append(probes.first.clone())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])  # another order of batches


def test_tokens_that_are_not_code_vectors():
    """Where vectors differ within a code, as those of a residual quantiser, nothing is merged."""
    g = torch.Generator().manual_seed(0)
    dense, codes = torch.randn(5, 3, 4, generator=g), torch.zeros(5, 3, dtype=torch.int64)
    data = probe_data(tokens_of(dense, codes), torch.zeros(5, dtype=torch.int64))
    assert len(data.vectors) == 15
    assert torch.equal(data.vectors[data.index], dense)
    book = torch.randn(1, 4, generator=g)
    assert len(probe_data(tokens_of(book[codes], codes), torch.zeros(5, dtype=torch.int64)).vectors) == 1


def test_tokens_of_several_codes_are_merged_where_all_are_equal():
    codes = torch.tensor([[[0, 3], [1, 3], [0, 3]], [[0, 2], [0, 3], [1, 3]]])
    dense = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))[codes].flatten(2)  # (2, 3, 4)
    data = probe_data(tokens_of(dense, codes), torch.zeros(2, dtype=torch.int64))
    assert len(data.vectors) == 3 and torch.equal(data.vectors[data.index], dense)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_without_codes_give_the_same_probes(kind):
    """A model without a codebook: every step's vector is its own, absent clips are left out, the numbers stay."""
    data, dense, valid = random_data(kind, ragged=True, codes=300)
    valid[3] = False
    codes = data.index.masked_fill(~valid, 300)
    results = []
    for tokens in (tokens_of(dense, codes, valid), tokens_of(dense, valid=valid)._replace(codes=None)):
        part = data_of_present(tokens, data.labels)
        assert len(part.labels) == 49
        *_, (_, probes) = fit(kind, part, 4, seeds=[0, 1], lrs=[1e-2], epochs=3, batch_size=16)
        results.append((probes.logits(part), *probes.score(part)))
        if tokens.codes is None:
            assert len(part.vectors) == 49 * 6
            keep = valid.any(1)
            assert torch.equal(part.vectors[part.index][valid[keep]], dense[valid])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_what_each_kind_measures():
    assert [kind.metric for kind in KINDS] == ["accuracy", "segment_accuracy", "micro_f1"]
    assert [kind.background for kind in KINDS] == [False, True, True]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_separable_toy_reaches_100(kind):
    """One code per class plus a background code: all right on train, and on val with other arrangements."""
    g = torch.Generator().manual_seed(0)
    book = torch.randn(4, 16, generator=g)  # classes 0..2 and background

    def arrange(n):
        label = torch.arange(n) % 3
        active = torch.rand(n, 10, generator=g) < 0.5
        active[:, 4] = True
        codes = torch.where(active, label[:, None], 3)
        return probe_data(tokens_of(book[codes], codes), label if kind is ClipProbes else codes)

    train, val = arrange(60), arrange(30)
    outputs = 3 if kind is ClipProbes else 4
    selected = fit_selected(kind, train, val, outputs, seeds=[0, 1, 2], lrs=[1e-3, 1e-2], epochs=30, batch_size=20)
    assert selected.probes.score(val).accuracy.tolist() == [100.0] * 3
    assert selected.val.accuracy.tolist() == [100.0] * 3


def test_hand_computed_accuracy_and_loss():
    """Identity first layer, hand-made second: three clips of two steps, then their seconds."""
    book = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    codes = torch.tensor([[0, 2], [1, 2], [0, 1]])
    valid = torch.tensor([[True, True], [True, True], [True, False]])
    clip = probe_data(tokens_of(book[codes], codes, valid), torch.tensor([0, 0, 0]))
    probes, by_second = (kind(2, 2, [0], [1.0], dtype=torch.float64) for kind in (ClipProbes, SegmentProbes))
    for one in (probes, by_second):
        for stack, value in zip(one.parameters(), (torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))):
            stack.data[0] = value
    # Maxima over valid steps: (1, 0), (0, 2), (1, 0): two of three right. Cross entropies ln(1 + e^-1), ln(1 + e^2).
    score = probes.score(clip)
    assert score.accuracy.item() == pytest.approx(200 / 3)
    assert score.loss.item() == pytest.approx((2 * np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) / 3)
    # Seconds: codes 0, 2, 1, 2, 0 with predictions 0, 0 (tie: first), 1, 0, 0, the sixth does not exist.
    seconds = probe_data(tokens_of(book[codes], codes, valid), torch.tensor([[0, 1], [1, 0], [1, 1]]))
    assert by_second.score(seconds).accuracy.item() == pytest.approx(60.0)


def test_selection_is_the_best_of_what_the_trainer_yields():
    """An independent search through all epochs finds the same learning rate, epochs and weights."""
    train, _, _ = random_data(ClipProbes, n=60)
    val, _, _ = random_data(ClipProbes, n=25, seed=0)
    arguments = dict(seeds=[0, 1], lrs=[1e-4, 3e-3, 3e-2], epochs=8, batch_size=16, seed=2)
    log = []
    for _, probes in fit(ClipProbes, train, 4, **arguments):
        score = probes.score(val)
        log.append([(score.accuracy[p].item(), -score.loss[p].item(), [stack[p].clone() for stack in
                     probes.parameters()]) for p in range(6)])
    best = [max(range(8), key=lambda epoch: log[epoch][p][:2]) for p in range(6)]
    lr = max(range(3), key=lambda i: (sum(log[best[2 * i + s]][2 * i + s][0] for s in (0, 1)),
                                      sum(log[best[2 * i + s]][2 * i + s][1] for s in (0, 1))))
    selected = fit_selected(ClipProbes, train, val, 4, **arguments)
    assert selected.lr == arguments["lrs"][lr]
    assert selected.epochs == best[2 * lr:2 * lr + 2]
    assert selected.probes.lrs == (selected.lr,) * 2 and selected.probes.seeds == (0, 1)
    for s in (0, 1):
        for stack, weight in zip(selected.probes.parameters(), log[best[2 * lr + s]][2 * lr + s][2]):
            assert torch.equal(stack[s], weight)


def test_constant_accuracy():
    """The most frequent label of train, asked of another split; seconds that do not exist do not count."""
    one = torch.ones(1, 4, 2)
    train = probe_data(tokens_of(one), torch.tensor([[1, 1, 0, 2]]))
    judged = probe_data(tokens_of(one, valid=torch.tensor([[True, True, True, False]])), torch.tensor([[1, 0, 0, 1]]))
    assert constant_accuracy(train, judged) == pytest.approx(100 / 3, abs=1e-4)
