"""What keeps the codes of a product codebook apart (CodeBind, arXiv 2605.18257; formulas from its public code)."""

import torch
from torch.nn import functional as F

from cmg.losses.masked import masked_mean


def code_contrast(similarity, valid):
    """-log softmax( softmax( [ mean of the nearest ⌊M/10⌋ | the farthest ⌊M/2⌋ ] ) )_0, mean over pieces that exist.

    The inner softmax is the public code's, whose cross entropy takes another one of probabilities. At least one code is
    near.

    similarity : Tensor[B, T, P, M], cosines of pieces with codes; valid : BoolTensor[B, T].
    """
    M = similarity.shape[-1]
    near = similarity.topk(max(1, M // 10), -1).values.mean(-1, keepdim=True)  # (B, T, P, 1)
    far = similarity.topk(M // 2, -1, largest=False).values  # (B, T, P, M // 2)
    scores = torch.cat([near, far], -1).softmax(-1)
    return masked_mean(-scores.log_softmax(-1)[..., 0], valid)


def uniformity(codes):
    """log mean_{i<j} exp( -‖e_i - e_j‖² ) of unit codes (Wang and Isola 2020 with t = 1): 0-d Tensor, the lower the
    more evenly they lie. 0 of a single one.

    codes : Tensor[M, d], of any length.
    """
    cosines = F.normalize(codes, dim=-1) @ F.normalize(codes, dim=-1).t()
    M = len(codes)
    above = torch.ones_like(cosines).triu(1)
    return ((above * (2 * cosines - 2).exp()).sum() / max(1, M * (M - 1) // 2)).log() if M > 1 else codes.new_zeros(())
