"""Losses of audio-visual segmentation (AVSBench, Zhou et al., ECCV 2022), and one that contrasts clips."""

import torch
from torch.nn import functional as F

EPSILON = 1e-6
SHARPNESS = 10.0  # of the contrast: a cosine of 1 against -1 is e²⁰ to 1


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
        pooled = torch.einsum("btchw,bthw->btc", grid.float(), inside)
        pooled = pooled / (inside.sum((2, 3))[..., None] + EPSILON)
        terms.append(-(F.cosine_similarity(pooled, query.float(), dim=-1).relu() + EPSILON).log().mean())
    return torch.stack(terms).mean()


def contrast(projections, masks, labels):
    """What is masked should answer to its own clip's query rather than to that of a clip of another class.

    `matching` is smallest when all objects and all queries look the same; here they must differ. With v_i the mean
    of θ(x) over the true mask of clip i, u_j = φ(a_j) of clip j and s_ij = 10 cos(v_i, u_j), a stage costs

        ½ [ mean_i −log( e^s_ii / Σ_j e^s_ij ) + mean_j −log( e^s_jj / Σ_i e^s_ij ) ]

    with sums over the clip itself and the clips of other classes, of the first frame alone; mean over stages. Clips
    whose mask is empty take no part.

    Parameters
    ----------
    projections : list of (Tensor[B, T, H, W, C], Tensor[B, T, C]), of `Segmenter.projections`
    masks : BoolTensor[B, 1, h, w]
    labels : LongTensor[B], classes of the clips
    """
    kept = masks.flatten(1).any(1)
    if not kept.any():
        return projections[0][0].sum() * 0
    masks, labels = masks[kept].float(), labels[kept]
    own = torch.arange(len(labels), device=labels.device)
    rival = labels[:, None] != labels
    rival[own, own] = True
    terms = []
    for grid, query in projections:
        grid, query = grid[kept, 0].float(), query[kept, 0].float()
        weight = F.adaptive_avg_pool2d(masks, grid.shape[1:3])[:, 0]  # (b, H, W)
        pooled = torch.einsum("bhwc,bhw->bc", grid, weight) / weight.sum((1, 2))[:, None]
        similarity = SHARPNESS * F.normalize(pooled, dim=1) @ F.normalize(query, dim=1).T  # (b, b)
        similarity = similarity.masked_fill(~rival, -torch.inf)
        terms.append((F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2)
    return torch.stack(terms).mean()
