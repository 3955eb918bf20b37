"""Losses of audio-visual segmentation (AVSBench, Zhou et al., ECCV 2022)."""

import torch
from torch.nn import functional as F

EPSILON = 1e-6


def first_frame_bce(logits, masks):
    """Binary cross entropy of the first frame, the only one of a training clip that has a mask; mean over pixels.

    Parameters
    ----------
    logits : Tensor[B, T, h, w]
    masks : BoolTensor[B, 1, h, w]
    """
    return F.binary_cross_entropy_with_logits(logits[:, 0].float(), masks[:, 0].float())


def matching(logits, maps, queries):
    """What is segmented should look like what is asked for: -log of the cosine between the two.

    At each fused stage the map is averaged over the cells of the predicted mask (cells whose mean probability is
    above 0.5; no gradient passes through this choice) and compared with the stage's aligned query:

        L = -1/(S·B·T) Σ_s Σ_bt log( max(0, cos(v_sbt, a_sbt)) + 1e-6 )

    the benchmark's L_AVM in the form of its public code. A frame whose predicted mask is empty adds -log 1e-6 and no
    gradient.

    Parameters
    ----------
    logits : Tensor[B, T, h, w]
    maps : list of S Tensor[B, T, C, H, W]
    queries : list of S Tensor[B, T, C]
    """
    probability = logits.detach().float().sigmoid()  # (B, T, h, w)
    terms = []
    for grid, query in zip(maps, queries):
        inside = (F.adaptive_avg_pool2d(probability, grid.shape[-2:]) > 0.5).float()  # (B, T, H, W)
        seen = torch.einsum("btchw,bthw->btc", grid.float(), inside)
        seen = seen / (inside.sum((2, 3))[..., None] + EPSILON)
        terms.append(-(F.cosine_similarity(seen, query.float(), dim=-1).relu() + EPSILON).log().mean())
    return torch.stack(terms).mean()
