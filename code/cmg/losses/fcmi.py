"""FCMI, fine and coarse masked contrast between all modalities (MICU, ICCV 2025, arXiv 2507.14935).

With one mask over (clip, second) for all modalities, and InfoNCE(q, k) = -1/n Σ_i log softmax_j( cos(q_i, k_j) / τ )_i
in one direction,

    fine   = Σ_m Σ_m' InfoNCE( masked z^m_b, z^m'_b )  over the seconds of a clip, mean over clips b,
    coarse = Σ_m Σ_m' InfoNCE( mean_t masked z^m, mean_t z^m' )  over the clips of the batch,

m = m' among them. A masked second is a vector of zeros: it costs the constant ln T and teaches nothing.
"""

import torch
from torch.nn import functional as F

from cmg.losses.info_nce import contrast, own_rows
from cmg.losses.masked import clip_vectors


def fine(masked, z, valid, temperature, timed=()):
    """What each modality's masked seconds lose: dict modality -> 0-d Tensor; a mean over the seconds that exist.

    Parameters
    ----------
    masked, z : dict modality -> Tensor[B, T, D]; valid : dict modality -> BoolTensor[B, T].
    timed : modalities whose step t is second t; any other is compared with itself alone.
    """
    losses = {}
    for a, query in masked.items():
        keys = [b for b in z if b == a or a in timed and b in timed]
        losses[a] = sum(within_clips(query, valid[a], z[b], valid[b], temperature) for b in keys)
    return losses


def within_clips(query, real, keys, exists, temperature):
    """InfoNCE of the T seconds of a clip with each other: query, keys [B, T, D]; real, exists BoolTensor[B, T]."""
    with torch.autocast(query.device.type, enabled=False):  # in bf16 a cosine over a temperature has 2 digits
        query, keys = (F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1) for x in (query, keys))
        scores = query @ keys.transpose(1, 2) / temperature  # (B, T, T)
    return own_rows(scores, real, exists, 0)


def coarse(masked, z, valid, temperature):
    """The same between clips, by their means over the seconds that exist, masked ones counted as zeros."""
    queries, keys = ({m: tuple(part.unsqueeze(1) for part in clip_vectors(x, valid[m])) for m, x in vectors.items()}
                     for vectors in (masked, z))
    return {a: sum(contrast(*query, *key, temperature) for key in keys.values()) for a, query in queries.items()}
