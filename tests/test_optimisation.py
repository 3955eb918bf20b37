"""The main optimiser: its groups, its steps against torch's own, and its rate at every step."""

import math

import pytest
import torch
from torch import nn

from cmg.errors import UserError
from cmg.methods.contract import Method
from cmg.optimisation import OptimiserConfig, rate_factor, set_rate


class TwoRates(Method):
    """Its second layer learns at a tenth of the rate."""

    def __init__(self, shapes=None, config=None):
        super().__init__()
        self.slow, self.norm, self.fast = nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)

    def losses(self, state):
        return {}

    def kept(self):
        return self

    def parameter_groups(self, optimiser):
        fast = optimiser.groups([*self.norm.parameters(), *self.fast.parameters()])
        return [*fast, {"params": list(self.slow.parameters()), "lr_factor": 0.1}]


def test_one_group_by_default_and_two_without_decay_on_norms_and_biases():
    method = TwoRates()
    (group,) = OptimiserConfig(weight_decay=0.1).groups(method.trained_parameters())
    assert len(group["params"]) == 6
    matrices, vectors = OptimiserConfig(weight_decay=0.1, decay_norms=False).groups(method.trained_parameters())
    assert {p.dim() for p in matrices["params"]} == {2} and "weight_decay" not in matrices
    assert {p.dim() for p in vectors["params"]} == {1} and vectors["weight_decay"] == 0.0
    assert len(matrices["params"]) == 2 and len(vectors["params"]) == 4


def test_steps_are_those_of_torch_with_the_same_groups_and_betas():
    """One AdamW step at rate 0.5: every parameter falls by lr (decay · w + sign of its gradient), norms without decay,
    the slow layer by a tenth of it."""
    torch.manual_seed(0)
    method = TwoRates().double()
    config = OptimiserConfig(optimizer="adamw", lr=1.0, betas=[0.5, 0.9], weight_decay=0.1, decay_norms=False)
    optimizer = config.build(method.parameter_groups(config))
    assert [group["betas"] for group in optimizer.param_groups] == 3 * [(0.5, 0.9)]
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for p in method.parameters():
        p.grad = torch.full_like(p, 7.0)
    set_rate(optimizer, 0.5)
    optimizer.step()
    for name, p in method.named_parameters():
        lr, decay = (0.05, 0.1) if name.startswith("slow") else (0.5, 0.1 if p.dim() > 1 else 0.0)
        expected = before[name] * (1 - lr * decay) - lr * torch.ones_like(p)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=1e-6)


def test_rates_by_their_formulas():
    cosine = [rate_factor(s, 100, "cosine", 10) for s in range(101)]
    assert cosine[:10] == [(s + 1) / 10 for s in range(10)]
    assert cosine[10:] == pytest.approx([(1 + math.cos(math.pi * (s - 10) / 90)) / 2 for s in range(10, 101)])
    falling = OptimiserConfig(lr=3.0, schedule="exponential", lr_decay=0.9)
    assert [falling.rate(s, 99, per_epoch=7) for s in (0, 6, 7, 20, 21)] == pytest.approx(
        [3, 3, 2.7, 3 * 0.9**2, 3 * 0.9**3])


@pytest.mark.parametrize("values, said", [
    ({"lr": 0}, "--lr: '0' is not a number above 0"), ({"betas": [0.9, 1.0]}, "--betas: '1.0' is not a number"),
    ({"betas": 0.9}, "--betas: '0.9' is not a list"), ({"optimizer": "sgd"}, "--optimizer: 'sgd' is unknown; expected"),
    ({"decay_norms": "no"}, "--decay-norms: 'no' is not true or false")])
def test_values_are_checked_without_a_command_line_too(values, said):
    with pytest.raises(UserError, match=said):
        OptimiserConfig(**values)
