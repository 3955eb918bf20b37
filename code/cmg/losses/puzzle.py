"""CUJP, a jigsaw across modalities (MICU, ICCV 2025): in which order do the parts of these tokens lie?

The tokens of a second are cut into n equal parts; each part is taken from one modality, drawn anew for every part and
batch. Of P orders, fixed once, each gives a row; a small network names the order, by cross entropy over P · B · T rows.
Gradients reach Φ through the straight-through tokens.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from cmg.distributed import shared_rand
from cmg.losses.masked import masked_mean

MOST_PARTS = 8  # of which there are 40320 orders


class Puzzle(nn.Module):
    """The orders and the network that names them.

    Parameters
    ----------
    dim : D of the tokens, a multiple of `parts`. orders : P, at most parts!.

    Attributes
    ----------
    orders : int64 Tensor[P, n], kept with the checkpoint
    """

    def __init__(self, dim, parts=2, orders=2, hidden=512):
        super().__init__()
        numbers = torch.randperm(math.factorial(parts))[:orders].tolist()
        every = list(itertools.permutations(range(parts)))
        self.register_buffer("orders", torch.tensor([every[number] for number in numbers]))
        self.name_order = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, orders))

    def draw(self, modalities):
        """Which of so many modalities each part is taken from, int64 Tensor[n], alike on all ranks."""
        return (shared_rand(self.orders.shape[1], self.orders.device) * modalities).long()

    def rows(self, tokens, source):
        """Mixed tokens in each order, Tensor[P, B, T, D]: tokens [m, B, T, D], source [n]."""
        n = len(source)
        parts = tokens.unflatten(-1, (n, -1))  # (m, B, T, n, D / n)
        mixed = parts[source, :, :, torch.arange(n, device=source.device)]  # (n, B, T, D / n)
        return mixed[self.orders].movedim(1, -2).flatten(-2)  # (P, n, B, T, D/n) -> (P, B, T, D)

    def forward(self, tokens, valid, source=None):
        """The loss, a scalar, over the seconds that exist in every modality that a part was taken from.

        tokens : Tensor[m, B, T, D]; valid : BoolTensor[m, B, T]; source : drawn if None.
        """
        source = self.draw(len(tokens)) if source is None else source
        rows = self.rows(tokens, source)
        logits = self.name_order(rows)  # (P, B, T, P)
        labels = torch.arange(len(rows), device=rows.device)[:, None, None].expand(rows.shape[:-1])
        loss = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view(labels.shape)
        return masked_mean(loss.mean(0), valid[source].all(0))
