"""What the numbers of a feature set are like: their mean and deviation, of a sample of clips.

Encoders give numbers of about one. Features that were stored as whole numbers 0 … 255, as AudioSet stores its own, are
another matter: a squared error of them is ten thousand times as large, and a model that was trained on the one says
nothing of the other.
"""

from typing import NamedTuple

import torch

from cmg.errors import UserError

CLIPS = 256  # of a sample, spread evenly over the set
CHUNK = 32  # clips that are taken to float64 at a time
# How many times larger deviations may be, and how many deviations means may be apart. Spoken digits and natural sounds,
# handwritten digits and photos are 1.6 times and 0.8 deviations apart; 0 … 255 and -2 … 2 are 64 times.
FACTOR = 10


class Numbers(NamedTuple):
    """Of one modality's features, steps that do not exist left out.

    mean, deviation : of all numbers. within : deviation of all numbers from the means of their channels.
    channels, spreads : tuples of C floats, mean and deviation of every channel (the last axis).
    """

    mean: float
    deviation: float
    within: float
    channels: tuple[float, ...]
    spreads: tuple[float, ...]

    @property
    def root_mean_square(self):
        return (self.mean**2 + self.deviation**2) ** 0.5


def sample(features, rows=None):
    """Up to `CLIPS` clips of a FeatureSet, as stored, or of these rows of it, LongTensor[n]."""
    rows = torch.arange(len(features)) if rows is None else rows
    n = len(rows)
    return features.stored(rows[torch.linspace(0, n - 1, min(n, CLIPS), dtype=torch.float64).round().long()].tolist())


def measure(x, valid) -> Numbers | None:
    """The numbers of x [B, T, …, C] at the steps that exist, valid [B, T]; None of what is no floating point (pictures,
    token ids) and where no step exists. All in float64."""
    if not x.is_floating_point() or not valid.any():
        return None
    chunks = [(part, there.to(part.device)) for part, there in zip(x.split(CHUNK), valid.split(CHUNK))]

    def mean(function):
        """Mean over clips, steps and cells of function(Tensor[n, …, C]): Tensor[C]."""
        sums = [function(part[there].double()).flatten(0, -2).sum(0) for part, there in chunks]
        return torch.stack(sums).sum(0) / (valid.sum() * x[0, 0, ..., 0].numel()).to(x.device)

    channels = mean(lambda x: x)  # (C,)
    middle = channels.mean()
    variance = mean(lambda x: (x - channels) ** 2)  # (C,)
    within = variance.mean().sqrt()
    deviation = (within**2 + ((channels - middle) ** 2).mean()).sqrt()
    return Numbers(middle.item(), deviation.item(), within.item(), tuple(channels.tolist()),
                   tuple(variance.sqrt().tolist()))


def check(known, features, where):
    """`UserError` if the numbers of a feature set are unlike those that a checkpoint was pretrained on.

    known : dict modality -> (mean, deviation) of the checkpoint's. where : what messages call the features.

    Features that never change, such as those of silence, have no deviation to compare.
    """
    if not known:
        return
    clips = sample(features)
    for m, (mean, deviation) in known.items():
        found = measure(clips[m], clips[f"valid/{m}"])
        if found is None:
            continue
        largest = max(deviation, found.deviation)
        smallest = min(deviation, found.deviation)
        apart = abs(mean - found.mean) > FACTOR * largest
        if smallest > 1e-6 * largest and (apart or largest > FACTOR * smallest):
            raise UserError(f"{where}: {m} features have mean {found.mean:.3g} and deviation {found.deviation:.3g}; "
                            f"those that the checkpoint was pretrained on have {mean:.3g} and {deviation:.3g}")
