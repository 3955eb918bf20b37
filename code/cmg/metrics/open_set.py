"""Open-set recognition: K classes are known, and a classifier that knows no others says of a clip that it is of none.

A clip's confidence is its largest softmax probability; below a threshold (strictly) the clip is declared unknown.

    H = 2 a_in a_out / (a_in + a_out),   0 where both are 0

a_in : share of known clips that are declared known and classified right; a_out : share of unknown clips that are
declared unknown. Figures are shares, not per cent. `target` holds a clip's class, K for any that is unknown.
"""

from typing import NamedTuple

import torch

from cmg.metrics.localization import harmonic_mean


class OpenRates(NamedTuple):
    """Tensors of one shape: a_in, a_out, H, and the share of all clips that are right, unknown being one class."""

    known: torch.Tensor
    unknown: torch.Tensor
    h: torch.Tensor
    overall: torch.Tensor


def confidence(logits):
    """Largest softmax probability of logits [.., N, K]: Tensor[.., N]."""
    return logits.softmax(-1).amax(-1)


def answers(logits, threshold):
    """The class of each clip, K for unknown: logits [.., N, K], threshold [..] -> int64 Tensor[.., N]."""
    return torch.where(confidence(logits) < threshold.unsqueeze(-1), logits.shape[-1], logits.argmax(-1))


def weights(target, size, by_class=False):
    """What every clip counts in a_in, float64 Tensor[N] of sum 1 over the known ones: alike, or every class that occurs
    alike. size : K."""
    known = (target < size).double()
    if by_class:
        counts = target.bincount(minlength=size + 1)
        known /= counts[target].double() * (counts[:size] > 0).sum().clamp(min=1)
    return known / known.sum().clamp(min=1e-300)


def rates(answer, target, size, by_class=False) -> OpenRates:
    """Figures of answers [.., N] for a target [N]. by_class : a_in is a mean over the known classes."""
    right, strange = (answer == target).double(), (target == size).double()  # (.., N), (N,)
    known = right @ weights(target, size, by_class)
    unknown = right @ strange / strange.sum().clamp(min=1)
    return OpenRates(known, unknown, harmonic_mean(known, unknown), right.mean(-1))


def sweep(logits, target, number=10) -> tuple[torch.Tensor, OpenRates]:
    """Figures at thresholds in equal steps from the smallest confidence of these very clips to the largest (the
    published protocol), all [.., S]: the first declares no clip unknown, the last all but the most confident."""
    sure, size = confidence(logits), logits.shape[-1]
    low, high = sure.amin(-1, keepdim=True), sure.amax(-1, keepdim=True)
    thresholds = low + (high - low) * torch.arange(number, device=logits.device) / (number - 1)  # (.., S)
    answer = answers(logits.unsqueeze(-3), thresholds)  # (.., S, N)
    return thresholds, rates(answer, target, size)


def pair_wins(sure, target, size):
    """Of each clip the share of the other side's clips that it is told apart from, a tie being half a win: confidences
    [P, N] -> float64 Tensor[P, N]. The mean over the known clips is the AUROC, and so is that over the unknown ones."""
    known = target < size
    found = torch.zeros_like(sure, dtype=torch.float64)
    for own, sign in ((known, 1), (~known, -1)):
        x, others = sign * sure[:, own].contiguous(), (sign * sure[:, ~own]).sort(-1).values
        below = torch.searchsorted(others, x) + torch.searchsorted(others, x, right=True)
        found[:, own] = below.double() / (2 * max(others.shape[-1], 1))
    return found
