"""How the vocabulary is used: by each modality, and by both at once.

A codebook can split, audio on one half and video on the other, while its total perplexity looks healthy. So every
figure here is per modality or per pair.
"""

import torch

from cmg.distributed import total
from cmg.modalities import modality, pairs


def perplexity(counts):
    """exp of the entropy of code counts [.., M]: the number of codes in effective use."""
    p = counts / counts.sum(-1, keepdim=True).clamp_min(1e-12)
    return (-(p * p.clamp_min(1e-12).log()).sum(-1)).exp()


def overlap(a, b):
    """Intersection of two histograms of code use [M], Σ_m min(p_a(m), p_b(m)).

    0 if the modalities split the codebook between them, 1 if they use every code equally often.
    """
    a, b = a / a.sum().clamp_min(1e-12), b / b.sum().clamp_min(1e-12)
    return torch.minimum(a, b).sum()


def match_rate(a, b, valid):
    """Share of steps, 0-100, in which two modalities pick the same code, over all processes.

    valid : [B, T]. a, b : [B, T], or [B, T, P] of steps with P pieces, which count one by one.
    """
    valid = valid.view(*valid.shape, *[1] * (a.dim() - valid.dim())).expand_as(a)
    same, steps = total(torch.stack([((a == b) & valid).sum(), valid.sum()]))
    return 100 * same / steps.clamp_min(1)


def summary(codebook, codes, valid):
    """dict name -> 0-d tensor for one batch: running usage per modality, sharing per pair.

    `codes/…` is the number of codes with more than a trace (1e-3 of a hit a batch) in the running usage.

    codes, valid : dict modality -> [B, T], or codes [B, T, P] of steps with P pieces.
    """
    usage, values = dict(zip(codebook.modalities, codebook.usage)), {}
    for m, counts in usage.items():
        key = modality(m).key
        values[f"codebook/perplexity_{key}"] = perplexity(counts)
        values[f"codebook/codes_{key}"] = (counts > 1e-3).sum()
    for a, b, pair in pairs(codebook.modalities):
        values[f"codebook/match_{pair}"] = match_rate(codes[a], codes[b], valid[a] & valid[b])
        values[f"codebook/overlap_{pair}"] = overlap(usage[a], usage[b])
    values["codebook/revived"] = codebook.revived
    values["codebook/skipped"] = codebook.skipped
    return values
