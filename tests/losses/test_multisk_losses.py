"""MultiSK's losses: against numbers of the public implementation, K explicit slices, closed forms and limits."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from cmg.losses.info_nce import own_rows
from cmg.losses.multi_assignment import multi_assignment, nearest_anchors, single_assignment, soft_targets
from cmg.losses.pair_contrast import pair_contrast
from cmg.losses.sspc import anchor_logits, sspc
from support import FIXTURES

EXACT = {"rtol": 1e-8, "atol": 1e-10}


def fixture(name):
    """dict name -> float64 Tensor (or as stored, where it is no float)."""
    with np.load(FIXTURES / f"multisk_{name}.npz") as file:
        found = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}
    return {key: x.double() if x.is_floating_point() else x for key, x in found.items()}


def cases(name):
    found = fixture(name)
    for n in range(int(found["n_cases"])):
        yield n, {key.removeprefix(f"c{n}/"): x for key, x in found.items() if key.startswith(f"c{n}/")}


# -- assignments -----------------------------------------------------------------------------------------------------


def explicit_slices(S, picks, epsilon, iterations, guard):
    """The published algorithm as it is written: K slices, products and sums."""
    N, K = S.shape
    A = torch.stack([torch.exp((0.25 if g < K - picks else 1.0) * S / epsilon) for g in range(K)])
    A /= A.sum()
    for _ in range(iterations):
        A = A * (N / K) / (A.sum(1, keepdim=True) + guard)
        A = A / (A.sum(0, keepdim=True) + guard)
        A = A / (A.sum(2, keepdim=True) + guard)
    A = A / A.sum(2, keepdim=True)
    return A[K - picks :].sum(0)


def test_assignments_are_those_of_the_release():
    for _, c in cases("sinkhorn"):
        arguments = int(c["r"]), float(c["eps"]), int(c["iters"])
        found = multi_assignment(c["S"], *arguments)
        assert_close(found, c["A_sum"], rtol=1e-9, atol=1e-12)
        assert_close(soft_targets(found), c["Q"], rtol=1e-9, atol=1e-12)
        assert_close(multi_assignment(c["S"], *arguments, guard=0), c["A_sum_no_guard"], rtol=1e-9, atol=1e-12)
        assert_close(multi_assignment(c["S"].float(), *arguments), c["A_sum"].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guard", [1e-5, 0])
@pytest.mark.parametrize("picks", [1, 4, 7])
def test_two_slices_are_k_slices(picks, guard):
    S = torch.rand(3, 40, 8, generator=torch.Generator().manual_seed(picks)).double() * 2 - 1
    found = multi_assignment(S, picks, 0.1, 15, guard)
    for own, s in zip(found, S):  # three problems at once are three problems
        assert_close(own, explicit_slices(s, picks, 0.1, 15, guard), rtol=1e-10, atol=1e-12)


def test_marginals_and_the_cap_at_convergence():
    """Rows sum to r, columns to r N / K, and r times a slice's entry is at most 1."""
    S = torch.rand(120, 12, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    found = multi_assignment(S, 5, 0.07, 3000, guard=0)
    assert_close(found.sum(1), torch.full((120,), 5.0).double())
    assert_close(found.sum(0) / 5, torch.full((12,), 120 / 12).double(), rtol=1e-6, atol=0)
    assert found.max() <= 1 + 1e-6 and found.min() >= 0
    assert (found > 0.5).double().sum(1).mean() == pytest.approx(5, abs=0.3)


def test_an_assignment_survives_extreme_similarities():
    """At ε = 0.002, where exp overflows float32, and of samples that are all alike."""
    S = torch.rand(30, 6, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert multi_assignment(S, 3, 0.002, 50).isfinite().all()
    alike = soft_targets(multi_assignment(torch.zeros(30, 6), 3))
    assert alike.isfinite().all() and alike.min() >= 0 and alike.max() <= 1
    assert soft_targets(torch.ones(2, 3)).abs().max() == 0


@pytest.mark.parametrize("picks", [0, 6, 7, -1])
def test_none_or_all_of_the_anchors_is_no_choice(picks):
    with pytest.raises(ValueError, match=f"picks {picks}: expected 1 to 5 of 6 anchors"):
        multi_assignment(torch.zeros(4, 6), picks)


def test_plain_sinkhorn_and_top_r_are_others():
    S = torch.rand(2, 60, 6, generator=torch.Generator().manual_seed(3)).double()
    plain = single_assignment(S, 0.1, 500)
    kernel = torch.exp(S[1] / 0.1).numpy()
    for _ in range(500):  # the same by hand, rows to 1 / N and columns to 1 / K
        kernel = kernel / kernel.sum(1, keepdims=True) / 60
        kernel = kernel / kernel.sum(0, keepdims=True) / 6
    assert_close(plain[1], torch.from_numpy(kernel), rtol=1e-6, atol=1e-12)
    one = multi_assignment(S, 1, 0.1, 500)
    assert (plain * 60 - one).abs().max() > 0.05
    top = nearest_anchors(S, 2)
    assert torch.equal(top.sum(-1), torch.full((2, 60), 2.0).double())
    assert S[top == 1].view(2, 60, 2).amin(-1).ge(S.masked_fill(top == 1, -1).amax(-1)).all()
    everyone_near_the_first = torch.tensor([[0.9, 0.1, 0.0]]).repeat(5, 1)
    assert torch.equal(nearest_anchors(everyone_near_the_first, 1)[:, 0], torch.ones(5))


# -- SSPC ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["shipped", "ones"])
def test_sspc_is_that_of_the_release(which):
    """18 terms of one step with their targets and gradients, from queues, raw vectors and raw anchors."""
    f, names = fixture("sspc"), "tva"
    raw = {key: f[key].clone().requires_grad_() for key in f
           if key.startswith(("x_raw", "e_raw", "anchor"))}
    unit = {key: F.normalize(x, dim=-1) for key, x in raw.items()}
    picks = int(float(f["r_fraction"]) * len(f["anchor_in/t"]))

    def both(embedding, anchors, queue):
        s = embedding @ anchors.t()
        everything = torch.cat([queue @ anchors.t(), s])
        return s, soft_targets(multi_assignment(everything, picks, float(f["eps"]), int(f["iters"])))[-len(s) :]

    inside = {m: both(unit[f"x_raw/{m}"], unit[f"anchor_in/{m}"], f[f"queue_in/{m}"]) for m in names}
    joint = {(n, m): both(unit[f"e_raw/{n}"], unit[f"anchor_joint/{m}"], f[f"queue_joint/{n}"])
             for n in names for m in names}
    total = 0.0
    for m in names:
        assert_close(inside[m][1], f[f"target_in/m_{m}"], **EXACT)
        for n in names:
            assert_close(joint[n, m][1], f[f"target_joint/n_{n}/m_{m}"], **EXACT)
            own = (f"in_pred/m_{m}/n_{n}", inside[m][0], joint[n, m][1]), (f"joint_pred/m_{m}/n_{n}", joint[n, m][0],
                                                                          inside[m][1])
            for key, similarity, target in own:
                value = sspc(anchor_logits(similarity), target)
                assert_close(value, f[f"{which}/term/{key}"], **EXACT)
                total = total + f[f"{which}/weight/{key}"] * value
    total = f[f"{which}/beta"] * total
    assert_close(total, f[f"{which}/total"], **EXACT)
    total.backward()
    for key, x in raw.items():
        assert_close(x.grad, f[f"{which}/grad/{key}"], **EXACT)


def test_the_released_logits_have_a_floor_and_the_fixed_ones_have_none():
    """Perfect predictions of targets that are half 1 and half 0: half of them still cost ln 2 at the least."""
    target = torch.tensor([[1.0, 0.0]]).double()
    best = min(sspc(anchor_logits(torch.tensor([[1.0, s]]).double()), target).item() for s in (-1.0, -0.9, 0.0, 1.0))
    assert best == pytest.approx(0.5 * math.log(2), abs=1e-4)
    fixed = sspc(anchor_logits(torch.tensor([[1.0, -1.0]]).double(), "fixed"), target).item()
    assert fixed == pytest.approx(math.log1p(math.exp(-10)), rel=1e-6)
    at_the_bias = anchor_logits(torch.tensor([[0.3]]), "fixed", torch.tensor(0.3))
    assert sspc(at_the_bias, torch.tensor([[0.7]])).item() == pytest.approx(math.log(2))
    assert anchor_logits(torch.tensor(0.8)).item() == pytest.approx(2981, abs=1)


# -- the contrastive loss --------------------------------------------------------------------------------------------


def test_contrastive_losses_are_those_of_the_release():
    f = fixture("contrastive")
    ones, eye = torch.ones(1, 9, dtype=torch.bool), torch.eye(9).double()
    for which, shift, scale in (("ns", 0, f["tau"]), ("mms", f["mms/margin"] * eye, 1)):  # the latter: with a margin
        S = (f["ns/S"]).clone().requires_grad_()
        value = sum(own_rows((s - shift).unsqueeze(0) / scale, ones, ones, 0) for s in (S, S.t()))
        assert_close(value, f[f"{which}/loss"], **EXACT)
        value.backward()
        assert_close(S.grad, f[f"{which}/grad_S"], **EXACT)
    weights = dict(zip(("tv", "ta", "va"), f["weights_tv_ta_va"]))
    for which in ("masked", "all_present"):
        raw = {m: f[f"{which}/e_raw/{m}"].clone().requires_grad_() for m in "tva"}
        has = {m: f[f"{which}/nonempty/{m}"] for m in "tva"}
        total = 0.0
        for (m, n), weight in weights.items():
            value = pair_contrast(raw[m], raw[n], has[m] & has[n], float(f["tau"]))
            assert_close(value, f[f"{which}/loss_{m}{n}"], **EXACT)
            total = total + weight * value / sum(weights.values())
        assert_close(total, f[f"{which}/total"], **EXACT)
        total.backward()
        for m in "tva":
            assert_close(raw[m].grad, f[f"{which}/grad/{m}"], **EXACT)


def test_a_pair_without_a_common_clip_is_nothing():
    a, b = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    value = pair_contrast(a, b, torch.zeros(4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0 and a.grad.abs().max() == 0 and b.grad.abs().max() == 0
