"""Reconstruction of hidden patches (He et al., CVPR 2022)."""

from cmg.distributed import share


def patch_mse(prediction, target, hidden):
    """Mean over hidden patches of the mean squared error of their values; 0 where none is hidden.

    With several processes, the mean over them is that of the whole batch.

    prediction, target : Tensor[B, L, P]. hidden : BoolTensor[B, L]; the others carry no loss.
    """
    error = (prediction - target).square().mean(-1)  # (B, L)
    weight = hidden.to(error.dtype)
    return (error * weight).sum() / share(weight.sum())


def normalised(patches, guard=1e-6):
    """Every patch with mean 0 and variance 1 (the unbiased one) over its values: Tensor[B, L, P]."""
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + guard).sqrt()
