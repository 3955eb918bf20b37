"""The losses of the rival methods: closed forms, second implementations in plain Python, limits, and short descents."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from torch.testing import assert_close

from cmg.distributed import seed_shared
from cmg.losses.info_nce import contrast
from cmg.losses.margin import adaptive_margin
from cmg.losses.self_cross import hidden_l1, sample_hidden
from cmg.losses.transport import code_prediction, sinkhorn, transport_cost


def all_valid(*shape):
    return torch.ones(shape, dtype=torch.bool)


def some_valid(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.7


def descend(loss, *parameters, steps=20, lr=0.05):
    """(first, last) value of a loss over a few steps of Adam on one small set."""
    optimizer, values = torch.optim.Adam(parameters, lr), []
    for _ in range(steps + 1):
        value = loss()
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return values[0], values[-1]


# -- InfoNCE ---------------------------------------------------------------------------------------------------------


def test_contrast_equals_a_loop_over_pairs():
    torch.manual_seed(0)
    q, k = torch.randn(5, 3, 4).double(), torch.randn(5, 3, 4).double()
    real, exists = some_valid(5, 3, seed=1), some_valid(5, 3, seed=2)
    values = []
    for t in range(3):
        for i in range(5):
            if real[i, t] and exists[i, t]:
                scores = {j: float(q[i, t] @ k[j, t] / q[i, t].norm() / k[j, t].norm()) / 0.2
                          for j in range(5) if exists[j, t]}
                values.append(math.log(sum(math.exp(s) for s in scores.values())) - scores[i])
    assert contrast(q, real, k, exists, 0.2).item() == pytest.approx(sum(values) / len(values), rel=1e-9)


def test_contrast_limits():
    valid, eye, ones = all_valid(6, 1), torch.eye(6).double().unsqueeze(1), torch.ones(6, 1, 6)
    assert contrast(eye, valid, eye, valid, 0.05).item() == pytest.approx(5 * math.exp(-20), rel=1e-3)
    assert contrast(ones, valid, ones, valid, 0.05).item() == pytest.approx(math.log(6), abs=1e-5)
    assert contrast(ones, valid, ones, ~valid, 0.05).item() == 0


def test_contrast_gives_padding_no_gradient():
    torch.manual_seed(1)
    q, k = (torch.randn(4, 3, 5, requires_grad=True) for _ in range(2))
    real, exists = some_valid(4, 3, seed=3), some_valid(4, 3, seed=4)
    exists[:, 2] = False  # a step that no clip has
    contrast(q, real, k, exists, 0.1).backward()
    assert q.grad.isfinite().all() and k.grad.isfinite().all()
    assert q.grad[~(real & exists)].abs().max() == 0 and k.grad[~exists].abs().max() == 0


def test_contrast_descends_and_so_does_its_temperature():
    torch.manual_seed(2)
    q, k, scale = torch.randn(8, 2, 6, requires_grad=True), torch.randn(8, 2, 6), torch.zeros((), requires_grad=True)
    valid = all_valid(8, 2)
    first, last = descend(lambda: contrast(q, valid, k, valid, torch.exp(-scale)), q, scale, lr=0.1)
    assert last < 0.6 * first and scale > 0.5


# -- adaptive mean margin --------------------------------------------------------------------------------------------


def test_margin_of_zero_is_softmax():
    torch.manual_seed(3)
    a, b, valid = torch.randn(6, 4), torch.randn(6, 4), all_valid(6)
    assert_close(adaptive_margin(a, valid, b, valid, alpha=0), F.cross_entropy(a @ b.t(), torch.arange(6)))


def test_margin_equals_its_formula():
    torch.manual_seed(4)
    a, b = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    real, exists = all_valid(6), all_valid(6)
    real[1], exists[4] = False, False
    values = []
    for i in (0, 2, 3, 5):
        S = [float(a[i] @ b[j]) for j in range(6)]
        others = [S[j] for j in (0, 1, 2, 3, 5) if j != i]
        own = math.exp(S[i] - 0.5 * (S[i] - sum(others) / 4))
        values.append(-math.log(own / (own + sum(map(math.exp, others)))))
    assert adaptive_margin(a, real, b, exists).item() == pytest.approx(sum(values) / 4, rel=1e-9)


def test_margin_scales_the_pull_on_the_pair_by_one_minus_alpha():
    """With every score 0 the margin is 0 and all probabilities are 1/B, whatever alpha is. The gradient of S_ii is
    (1/B - 1)(1 - α)/B; α = 1 cancels it."""
    keys, valid = torch.eye(4), all_valid(4)
    for alpha in (0.0, 0.5, 1.0):
        q = torch.zeros(4, 4, requires_grad=True)
        loss = adaptive_margin(q, valid, keys, valid, alpha=alpha)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(4), abs=1e-6)
        assert_close(q.grad.diagonal(), torch.full((4,), (0.25 - 1) * (1 - alpha) / 4), rtol=1e-5, atol=1e-8)


def test_margin_on_cosines_ignores_scale_and_descends():
    torch.manual_seed(5)
    a, b, valid = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5), all_valid(8)
    assert_close(adaptive_margin(3 * a, valid, b, valid, temperature=0.1),
                 adaptive_margin(a, valid, 7 * b, valid, temperature=0.1))
    first, last = descend(lambda: adaptive_margin(a, valid, b, valid), a)
    assert last < 0.8 * first


# -- optimal transport -----------------------------------------------------------------------------------------------


def test_sinkhorn_meets_both_marginals():
    torch.manual_seed(6)
    real = all_valid(7)
    real[2] = False
    plan = sinkhorn(2 * torch.rand(7, 5).double(), real, iterations=500)
    assert_close(plan.sum(0), torch.full((5,), 1 / 5).double())
    assert_close(plan.sum(1), real / 6.0, check_dtype=False, rtol=1e-6, atol=1e-9)
    assert sinkhorn(torch.rand(3, 4), torch.zeros(3, dtype=torch.bool)).abs().max() == 0


def test_sinkhorn_limits():
    """Without entropy the plan is the cheapest assignment; with nothing but entropy it is the product of marginals."""
    torch.manual_seed(7)
    cost, real = torch.rand(6, 6).double(), all_valid(6)
    rows, columns = linear_sum_assignment(cost.numpy())
    cheapest = torch.zeros(6, 6).double()
    cheapest[rows, columns] = 1 / 6
    assert_close(sinkhorn(cost, real, epsilon=0.001, iterations=5000), cheapest, atol=1e-3, rtol=0)
    assert_close(sinkhorn(cost, real, epsilon=1e6), torch.full((6, 6), 1 / 36).double())


def test_sinkhorn_is_safe_in_float32():
    """Opposite points at the published ε: e^(-2/0.05) is 4e-18, and a prototype that nobody is near gets its share."""
    cost = torch.full((4, 3), 2.0)
    cost[:, 0] = 0.0
    plan = sinkhorn(cost, all_valid(4))
    assert_close(plan, torch.full((4, 3), 1 / 12))


def test_transport_cost_and_code_prediction():
    plan = torch.eye(4) / 4
    assert transport_cost(plan, torch.eye(4)).item() == 0
    assert transport_cost(plan, -torch.eye(4)).item() == pytest.approx(2)
    logits, real = torch.randn(4, 4, generator=torch.Generator().manual_seed(8)), all_valid(4)
    real[3] = False
    assert_close(code_prediction(logits, plan, real), F.cross_entropy(logits[:3], torch.arange(3)))
    assert code_prediction(torch.zeros(4, 4), torch.rand(4, 4), real).item() == pytest.approx(math.log(4), rel=1e-5)


def test_transport_descends():
    """Prototypes find four clusters, and a student learns the codes of its partners."""
    torch.manual_seed(9)
    centres = F.normalize(torch.randn(4, 8), dim=-1)
    points = F.normalize(centres.repeat(5, 1) + 0.05 * torch.randn(20, 8), dim=-1)
    prototypes, student, real = torch.randn(4, 8, requires_grad=True), torch.randn(20, 8), all_valid(20)
    student.requires_grad_()

    def loss():
        unit = F.normalize(prototypes, dim=-1)
        plan = sinkhorn(1 - (points @ unit.t()).detach(), real)
        predicted = F.normalize(student, dim=-1) @ unit.t() / 0.07
        return transport_cost(plan, points @ unit.t()) + code_prediction(predicted, plan, real)

    first, last = descend(loss, prototypes, student, lr=0.1)
    assert last < 0.4 * first


# -- self-cross reconstruction ---------------------------------------------------------------------------------------


def test_hidden_l1_counts_hidden_steps_only():
    prediction, target = torch.zeros(2, 3, 4), torch.full((2, 3, 4), 7.0)
    target[0, 1], target[1, 2] = -2.0, 5.0
    hidden = torch.zeros(2, 3, dtype=torch.bool)
    assert hidden_l1(prediction, target, hidden).item() == 0
    hidden[0, 1] = hidden[1, 2] = True
    assert hidden_l1(prediction, target, hidden).item() == pytest.approx(3.5)
    guess = torch.zeros(2, 3, 4, requires_grad=True)
    first, last = descend(lambda: hidden_l1(guess, target, hidden), guess)
    assert last == pytest.approx(first - 20 * 0.05, rel=1e-3)  # Adam's step on a gradient of constant sign


def test_hidden_steps_are_a_share_of_the_valid_ones():
    seed_shared(10, 0)
    valid = some_valid(1000, 10)
    hidden = sample_hidden(valid, 0.3)
    assert not (hidden & ~valid).any()
    assert hidden.sum().item() / valid.sum().item() == pytest.approx(0.3, abs=0.02)
