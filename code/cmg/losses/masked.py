"""Means over the steps that exist: clips shorter than T, captions shorter than L and missing modalities are padded."""

from torch.nn import functional as F

from cmg.distributed import share


def masked_mean(value, valid):
    """Mean of `value` over the positions that `valid` marks; 0 where there is none (never NaN).

    Where there are several processes, the mean over all of them is that of the whole batch: ranks may hold different
    numbers of valid positions.

    value : Tensor of the shape of `valid`, or with further trailing axes, which are averaged first.
    valid : BoolTensor[B, T].
    """
    if value.dim() > valid.dim():
        value = value.flatten(valid.dim()).mean(-1)
    weight = valid.to(value.dtype)
    return (value * weight).sum() / share(weight.sum())


def mse(prediction, target, valid):
    """Mean squared error per element over valid steps: the paper's ‖·‖² as a mean, so that no term grows with D."""
    return masked_mean(F.mse_loss(prediction, target, reduction="none"), valid)


def clip_vectors(z, valid):
    """Mean of z, Tensor[B, T, D], over valid steps, [B, D] (0 where there is none), and BoolTensor[B]: is there any."""
    weight = valid.to(z.dtype).unsqueeze(-1)  # (B, T, 1)
    return (z * weight).sum(1) / weight.sum(1).clamp_min(1), valid.any(1)


def seconds_or_clip(z, valid, timed):
    """What one side of a pair is compared on, and which of it exists: z [B, T, D] and valid [B, T] as they are where
    both sides are timed (step t is second t), else the clip's mean over valid steps, [B, 1, D] and [B, 1]."""
    if timed:
        return z, valid
    mean, exists = clip_vectors(z, valid)
    return mean.unsqueeze(1), exists.unsqueeze(1)
