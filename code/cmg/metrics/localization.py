"""Event localisation second by second: the AVVP benchmark's F-scores, and pooled precision, recall and F1.

Masks are bool Tensor[…, K, T] (K classes, T seconds); the leading dimensions are videos, or probes and videos.
"""

from typing import NamedTuple

import torch

LEVELS = ("segment", "event")
COLUMNS = ("audio", "video", "av", "type_av", "event_av")


class Counts(NamedTuple):
    """True positives, false positives and false negatives of each class, int64 Tensor[…, K]."""

    tp: torch.Tensor
    fp: torch.Tensor
    fn: torch.Tensor


def segment_counts(prediction, truth) -> Counts:
    """Seconds that are hit, made up and missed."""
    return Counts((prediction & truth).sum(-1), (prediction & ~truth).sum(-1), (~prediction & truth).sum(-1))


def event_counts(prediction, truth) -> Counts:
    """Events, runs of seconds without a gap, that are hit (IoU ≥ 0.5), made up and missed.

    A predicted and a true run that overlap do so in exactly one run of `prediction & truth`, so these runs are the
    pairs to look at. A run cannot reach an IoU of one half with two others, because there is a gap between those two:
    every hit pairs one predicted with one true event.
    """
    both = prediction & truth
    shared = run_lengths(both)
    union = run_lengths(prediction) + run_lengths(truth) - shared
    hits = (run_starts(both) & (2 * shared >= union)).sum(-1)
    return Counts(hits, run_starts(prediction).sum(-1) - hits, run_starts(truth).sum(-1) - hits)


def run_starts(x):
    """The first second of every run, bool Tensor[…, T]."""
    return x & ~torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], -1)


def run_lengths(x):
    """At each second the length of the run that it is part of, 0 outside; int64 Tensor[…, T]."""
    def so_far(x):
        length, columns = 0, []
        for column in x.unbind(-1):
            length = (length + 1) * column.long()
            columns.append(length)
        return torch.stack(columns, -1)

    return (so_far(x) + so_far(x.flip(-1)).flip(-1) - 1).clamp(min=0)


def video_f(counts: Counts):
    """F1 of each video: the mean over the classes that are predicted or true, 1 where there are none; Tensor[…]."""
    tp, fp, fn = (part.double() for part in counts)
    present = tp + fp + fn > 0
    f = 2 * tp / (2 * tp + fp + fn).clamp(min=1)
    return torch.where(present.any(-1), f.sum(-1) / present.sum(-1).clamp(min=1), 1.0)


def official_f(level: str, audio, video, true_audio, true_video) -> dict[str, torch.Tensor]:
    """The benchmark's five F-scores (Tian et al., ECCV 2020) of each video, in 0..1.

    Parameters
    ----------
    level : "segment" or "event"
    audio, video : predictions; true_audio, true_video : annotations; bool Tensor[…, K, T]

    Returns
    -------
    dict of Tensor[…] : `audio`, `video`, `av` (what both streams hold at once), `type_av` (mean of these three) and
        `event_av` (counts of both streams added before the F-score).
    """
    count = segment_counts if level == "segment" else event_counts
    counts_a, counts_v = count(audio, true_audio), count(video, true_video)
    f = {"audio": video_f(counts_a), "video": video_f(counts_v),
         "av": video_f(count(audio & video, true_audio & true_video))}
    f["type_av"] = (f["audio"] + f["video"] + f["av"]) / 3
    f["event_av"] = video_f(Counts(*(a + v for a, v in zip(counts_a, counts_v))))
    return f


def precision_recall(prediction, truth):
    """Micro precision and recall over every cell of the trailing dimensions of `truth`, in 0..1.

    Parameters
    ----------
    prediction : bool Tensor[…, *truth.shape]; truth : bool Tensor

    Returns
    -------
    two float64 Tensor[…]; both are 0 where nothing is predicted, as in the public script.
    """
    cells = tuple(range(-truth.ndim, 0))
    hits = (prediction & truth).sum(cells).double()
    return hits / prediction.sum(cells).clamp(min=1), hits / truth.sum().clamp(min=1)


def batched_precision_recall(prediction, truth, batch_size=64):
    """The public script's figures: those of each batch of 64 clips, averaged with the batches' sizes as weights.

    A mean of ratios: not the pooled figure, and it depends on the clips' order. prediction [P, N, T, K],
    truth [N, T, K] -> two Tensor[P].
    """
    sums = torch.zeros(2, len(prediction), dtype=torch.float64)
    for start in range(0, len(truth), batch_size):
        rows = slice(start, start + batch_size)
        part = truth[rows]
        sums += len(part) * torch.stack(precision_recall(prediction[:, rows], part)).cpu()
    return sums / len(truth)


def harmonic_mean(precision, recall):
    """F1 of precision and recall, 0 where both are."""
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)
