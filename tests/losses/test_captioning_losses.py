"""NCE, MIL-NCE, MTC and the smoothed cross-entropy against numbers of the public code, and in closed form."""

import math

import numpy as np
import pytest
import torch

from cmg.losses.captioning import contrast, next_piece
from cmg.losses.nce import mil_nce, nce
from support import FIXTURES

FIXTURE = np.load(FIXTURES / "uniq_losses.npz", allow_pickle=False)


def leaf(name):
    return torch.from_numpy(FIXTURE[name]).double().requires_grad_()


def close(found, name):
    wanted = torch.from_numpy(np.asarray(FIXTURE[name])).double()
    torch.testing.assert_close(found.detach(), wanted.view_as(found), rtol=1e-9, atol=1e-9)


def test_nce():
    v, t, scale = leaf("nce/v"), leaf("nce/t"), leaf("nce/scale")
    loss = nce(v, t, scale)
    loss.backward()
    close(loss, "nce/loss")
    for x, name in ((v, "v"), (t, "t"), (scale, "scale")):
        close(x.grad, f"nce/grad_{name}")


@pytest.mark.parametrize("case", ["mil0", "mil1", "mil2"])
def test_mil_nce(case):
    a, t, bag = leaf(f"{case}/a"), leaf(f"{case}/t"), int(FIXTURE[f"{case}/bag"])
    bags = t.unflatten(0, (-1, bag))
    exists = torch.ones(bags.shape[:2], dtype=torch.bool)
    loss = mil_nce(a, bags, exists)
    loss.backward()
    close(loss, f"{case}/loss")
    close(a.grad, f"{case}/grad_a")
    close(t.grad, f"{case}/grad_t")
    close(mil_nce(a, bags, exists, both=False), f"{case}/one_sided_loss")


def test_an_instance_that_does_not_exist_is_in_no_bag():
    a, t = leaf("mil1/a"), leaf("mil1/t")
    bags, bag = t.unflatten(0, (-1, 3)), FIXTURE["mil1/bag"]
    exists = torch.ones(6, int(bag), dtype=torch.bool)
    exists[:, 2] = False
    whole = mil_nce(a, bags[:, :2], exists[:, :2])
    torch.testing.assert_close(mil_nce(a, bags, exists), whole)
    scale = torch.tensor(2.0).double().requires_grad_()
    mil_nce(a, bags, exists, scale).backward()
    assert t.grad.isfinite().all() and scale.grad.isfinite() and not t.grad.unflatten(0, (-1, 3))[:, 2].any()


def test_a_clip_with_an_empty_bag_does_not_count():
    a, t = leaf("mil1/a"), leaf("mil1/t")
    bags, exists = t.unflatten(0, (-1, 3)), torch.ones(6, 3, dtype=torch.bool)
    exists[4] = False
    loss = mil_nce(a, bags, exists, both=False)
    rest = [0, 1, 2, 3, 5]
    torch.testing.assert_close(loss, mil_nce(a[rest], bags[rest], exists[rest], both=False))
    loss.backward()
    assert a.grad.isfinite().all() and not a.grad[4].any() and not t.grad.unflatten(0, (-1, 3))[4].any()


@pytest.mark.parametrize("side", ["local", "gathered"])
def test_mtc(side):
    q, t, tau = leaf("mtc/q_raw"), leaf("mtc/t_raw"), leaf("mtc/tau")
    unit = torch.nn.functional.normalize
    loss, of_clips, of_texts = contrast(unit(q, dim=-1), unit(t, dim=-1), tau, own_side=side == "gathered")
    loss.backward()
    close(of_clips, "mtc/sim_av_to_text")
    close(of_texts, "mtc/sim_text_to_av")
    for x, name in ((loss, "loss"), (q.grad, "grad_q"), (t.grad, "grad_t"), (tau.grad, "grad_tau")):
        close(x, f"mtc/{side}/{name}")


def test_the_next_piece():
    """The fixture's rows as one caption each of two pieces; label -100 there is padding here."""
    logits, labels = leaf("smooth/logits"), torch.from_numpy(FIXTURE["smooth/labels"])
    ids = torch.stack([torch.zeros_like(labels), labels], 1)  # (7, 2)
    loss = next_piece(logits[:, None].expand(-1, 2, -1), ids, -100)
    loss.backward()
    close(loss, "smooth/loss")
    close(logits.grad, "smooth/grad")
    even = torch.zeros(3, 4, 9)
    ids = torch.tensor([[1, 2, 3, 0], [1, 2, 0, 0], [1, 0, 0, 0]])
    assert next_piece(even, ids, 0).item() == pytest.approx(math.log(9))  # smoothing or not, all are equally likely
    assert next_piece(even[:1], ids[2:], 0).item() == 0  # no piece to tell
