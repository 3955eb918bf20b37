"""FCMI and CUJP against the public implementation's numbers, by loops, and where masks and padding take all."""

import math
import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cmg.distributed import seed_shared
from cmg.losses.fcmi import coarse, fine
from cmg.losses.puzzle import Puzzle
from support import FIXTURES

MODALITIES = ("audio", "video", "text")  # the order in the arrays
with np.load(FIXTURES / "micu_fcmi_cujp.npz") as file:
    PUBLIC = {key: torch.from_numpy(file[key]) for key in file.files}
RATIOS = sorted({key.split("/")[0] for key in PUBLIC if re.match(r"p\d+/", key)})
PUZZLES = sorted({key.split("/")[0] for key in PUBLIC if re.match(r"n\d+/", key)})


def close(found, expected):
    assert_close(found.double(), expected.double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [fine, coarse])
@pytest.mark.parametrize("ratio", RATIOS)
def test_masked_contrast_is_the_public_one(ratio, level):
    keep = PUBLIC[f"{ratio}/keep"]
    z = {m: PUBLIC[f"z/{m}"].clone().requires_grad_() for m in MODALITIES}
    masked = {m: x * keep.unsqueeze(-1) for m, x in z.items()}
    valid = {m: torch.ones_like(keep) for m in MODALITIES}
    more = {"timed": MODALITIES} if level is fine else {}
    loss = sum(level(masked, z, valid, 0.1, **more).values())
    close(loss, PUBLIC[f"{ratio}/{level.__name__}"])
    loss.backward()
    for m in MODALITIES:
        close(z[m].grad, PUBLIC[f"{ratio}/grad_{level.__name__}/{m}"])


def test_masked_seconds_cost_a_constant_and_teach_nothing():
    z = {m: torch.randn(3, 5, 4, requires_grad=True) for m in ("audio", "video")}
    masked, valid = {m: 0 * x for m, x in z.items()}, {m: torch.ones(3, 5, dtype=torch.bool) for m in z}
    found = fine(masked, z, valid, 0.1, timed=tuple(z))
    assert [x.item() for x in found.values()] == pytest.approx([2 * math.log(5)] * 2)
    sum(found.values()).backward()
    assert all(x.grad.abs().max() == 0 for x in z.values())
    between = coarse(masked, z, valid, 0.1)
    assert [x.item() for x in between.values()] == pytest.approx([2 * math.log(3)] * 2)


def test_padding_and_words_that_are_no_seconds_by_loops():
    torch.manual_seed(0)
    z = {m: torch.randn(3, 4, 6, dtype=torch.float64) for m in MODALITIES}
    valid = {m: torch.rand(3, 4) < 0.7 for m in MODALITIES}
    keep = torch.rand(3, 4) < 0.7
    masked = {m: x * keep.unsqueeze(-1) for m, x in z.items()}

    def cosine(a, b):
        return a @ b / (a.norm() * b.norm()).clamp(min=1e-12)

    found = fine(masked, z, valid, 0.2, timed=("audio", "video"))
    for a in MODALITIES:
        expected = 0.0
        for b in ("audio", "video") if a != "text" else ("text",):
            values = []
            for i in range(3):
                for t in range(4):
                    if valid[a][i, t] and valid[b][i, t]:
                        scores = {s: cosine(masked[a][i, t], z[b][i, s]) / 0.2 for s in range(4) if valid[b][i, s]}
                        values.append(torch.stack([*scores.values()]).logsumexp(0) - scores[t])
            expected += torch.stack(values).mean()
        close(found[a], expected)


@pytest.mark.parametrize("case", PUZZLES)
def test_the_puzzle_is_the_public_one(case):
    own = {key.removeprefix(f"{case}/"): x for key, x in PUBLIC.items() if key.startswith(f"{case}/")}
    weights = {key.removeprefix("classifier/enc_net."): x for key, x in own.items() if key.startswith("classifier/")}
    hidden, dim = weights["0.weight"].shape
    orders, parts = own["permutations"].shape
    puzzle = Puzzle(dim, parts, orders, hidden).double()
    puzzle.orders.copy_(own["permutations"])
    puzzle.name_order.load_state_dict(weights)
    tokens = torch.stack([own[f"vq/{m}"] for m in MODALITIES]).requires_grad_()
    rows = puzzle.rows(tokens, own["source_of_part"])
    close(rows.flatten(0, 2), own["rows"])
    close(puzzle.name_order(rows).flatten(0, 2), own["logits"])
    loss = puzzle(tokens, torch.ones(tokens.shape[:3], dtype=torch.bool), own["source_of_part"])
    close(loss, own["loss"])
    loss.backward()
    for m, gradient in zip(MODALITIES, tokens.grad):
        close(gradient, own[f"grad_vq/{m}"])


def test_orders_are_different_and_numbers_of_the_library():
    puzzle = Puzzle(12, 4, 24, 8)
    assert len({tuple(order) for order in puzzle.orders.tolist()}) == 24
    assert "orders" in puzzle.state_dict()


def test_parts_come_from_every_modality_and_only_whole_seconds_count():
    puzzle = Puzzle(4, 2, 2, 8)
    drawn = []
    for step in range(40):
        seed_shared(0, step)
        drawn.append(tuple(puzzle.draw(3).tolist()))
    assert {*drawn} == {(a, b) for a in range(3) for b in range(3)}
    tokens, valid = torch.randn(3, 2, 5, 4), torch.ones(3, 2, 5, dtype=torch.bool)
    valid[1, 0, 3:] = False
    source = torch.tensor([0, 1])
    before = puzzle(tokens, valid, source)
    tokens[:, 0, 3:] = 50.0
    assert_close(puzzle(tokens, valid, source), before)
    assert puzzle(tokens, valid, torch.tensor([0, 2])) != before
