"""Segmentation metrics of AVSBench (Zhou et al., ECCV 2022): mean IoU and the F-measure, by frame.

Conventions of the benchmark, all kept:

* A pixel is foreground where sigmoid(logit) > 0.5 (IoU), or >= a threshold (F).
* A frame whose true mask is empty counts in the mean IoU with the IoU of the *background* over all pixels, and not at
  all in F.
* F_β = (1 + β²) P R / (β² P + R) with β² = 0.3, at 255 thresholds from 0 to 1; the curve is averaged over frames
  and its maximum is taken.

What differs is over which frames. The public script takes both per batch and averages over batches, so that its F
depends on the batch size and a small last batch weighs as much as a full one (`Scores.paper`). Here the default is
over all frames of a split at once (`Scores.strict`).
"""

from typing import NamedTuple

import torch

BETA2 = 0.3
THRESHOLDS = 255
HALF = THRESHOLDS // 2  # the threshold next to 0.5: 127/254


class Metrics(NamedTuple):
    """In %: mean IoU, F at its best threshold and F at 0.5 (None where nothing but empty masks was seen)."""

    miou: float
    f_measure: float | None
    f_half: float | None


def frame_iou(logits, masks):
    """IoU of each frame; of the background where the true mask is empty.

    Parameters
    ----------
    logits : Tensor[N, h, w]
    masks : BoolTensor[N, h, w]

    Returns
    -------
    float64 Tensor[N]

    Example
    -------
    >>> frame_iou(torch.tensor([[[9., 9., -9., -9.]]]), torch.tensor([[[True, False, False, False]]])).tolist()
    [0.5]
    """
    predicted = (logits.sigmoid() > 0.5).flatten(1)  # (N, h·w)
    true = masks.flatten(1)
    shared, either = (predicted & true).sum(1), (predicted | true).sum(1)
    empty = ~true.any(1)
    shared = torch.where(empty, (~predicted).sum(1), shared)
    either = torch.where(empty, true.shape[1], either)
    return shared.double() / either  # `either` is never 0: a true mask is not empty, or all pixels count


def f_curve(logits, masks):
    """F_β of each frame with a mask that is not empty, at every threshold.

    Each pixel is sorted once into the bin between two thresholds; sums from the right give the counts at all of
    them, which 255 comparisons of every pixel would give just the same.

    Parameters
    ----------
    logits : Tensor[N, h, w]
    masks : BoolTensor[N, h, w]

    Returns
    -------
    float64 Tensor[n, 255], n <= N
    """
    kept = masks.flatten(1).any(1)
    true = masks[kept].flatten(1)  # (n, h·w)
    probability = logits[kept].float().sigmoid().flatten(1)
    edges = torch.linspace(0, 1 - 1e-10, THRESHOLDS, device=logits.device)
    # Thresholds up to and including this pixel's probability, 1..255; 0 is unused, as the first threshold is 0.
    reached = torch.searchsorted(edges, probability.contiguous(), right=True)
    counts = torch.zeros(2, len(true), THRESHOLDS + 1, dtype=torch.float64, device=logits.device)
    counts[0].scatter_add_(1, reached, torch.ones_like(probability, dtype=torch.float64))
    counts[1].scatter_add_(1, reached, true.double())
    predicted, hit = counts.flip(2).cumsum(2).flip(2)[..., 1:]  # (n, 255) each: pixels at or above a threshold
    precision, recall = hit / predicted.clamp_min(1), hit / true.sum(1, keepdim=True)
    return (1 + BETA2) * precision * recall / (BETA2 * precision + recall).clamp_min(1e-30)  # 0 where both are 0


class Scores:
    """Collects the frames of a split, batch by batch.

    Example
    -------
    >>> scores = Scores()
    >>> scores.add(torch.tensor([[[9., -9.]]]), torch.tensor([[[True, False]]]))
    >>> scores.strict().miou
    100.0
    """

    def __init__(self):
        self.iou = []  # a Tensor[n] per batch
        self.curves = []  # per batch: sum of the frames' F-curves, Tensor[255]
        self.n_curves = []  # and how many frames went into it
        self.n_empty = 0

    def add(self, logits, masks):
        """Take a batch's frames. logits : Tensor[N, h, w]; masks : BoolTensor[N, h, w]."""
        curve = f_curve(logits, masks)
        self.iou.append(frame_iou(logits, masks).cpu())
        self.curves.append(curve.sum(0).cpu())
        self.n_curves.append(len(curve))
        self.n_empty += len(masks) - len(curve)

    @property
    def n_frames(self):
        return sum(len(batch) for batch in self.iou)

    def strict(self) -> Metrics:
        """Every frame weighs the same; one threshold for the split."""
        if not sum(self.n_curves):
            return Metrics(_percent(torch.cat(self.iou).mean()), None, None)
        curve = torch.stack(self.curves).sum(0) / sum(self.n_curves)
        return Metrics(_percent(torch.cat(self.iou).mean()), _percent(curve.max()), _percent(curve[HALF]))

    def paper(self) -> Metrics:
        """The public script's: means over batches; a batch of empty masks alone counts with F = 0."""
        miou = torch.stack([batch.mean() for batch in self.iou]).mean()
        curves = torch.stack([curve / max(n, 1) for curve, n in zip(self.curves, self.n_curves)])  # (batches, 255)
        return Metrics(_percent(miou), _percent(curves.amax(1).mean()), _percent(curves[:, HALF].mean()))


def _percent(x):
    return round(100 * x.item(), 4)
