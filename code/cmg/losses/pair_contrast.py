"""The symmetric contrastive loss between all pairs of modalities, as MultiSK and everything-at-once have it."""

from cmg.losses.info_nce import contrast


def pair_contrast(a, b, both, temperature=0.05):
    """L_ab = - mean_i log softmax_j(S / τ)_ii - mean_j log softmax_i(S / τ)_jj of the cosines S: the sum of both
    directions, not their mean. 0 where no clip has both.

    Parameters
    ----------
    a, b : Tensor[B, D], a vector a clip and modality.
    both : BoolTensor[B], which clips have both; the others are neither queries nor negatives.
    """
    a, b, both = a.unsqueeze(1), b.unsqueeze(1), both.unsqueeze(1)  # a single step
    return contrast(a, both, b, both, temperature) + contrast(b, both, a, both, temperature)
