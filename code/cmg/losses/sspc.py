"""Semantic-structure-preserving consistency (Swetha et al., ICCV 2023): predict from a clip's similarities to the
anchors of one space which anchors it is assigned to in another."""

import torch
from torch.nn import functional as F

TEMPERATURE = 0.1  # of the published exp(s / 0.1), and of the sigmoid that stands in its place
LOGITS = ("released", "fixed")


def anchor_logits(similarity, logits="released", bias=0.0):
    """Logits of "this clip is assigned to that anchor" from cosines s, of any shape.

    released : exp(s / 0.1), as in the public code. It is above 0 for every s, so no probability is below 1/2: an
        anchor that a clip is not assigned to costs at least ln 2, whatever is learnt, and one at s = 1 has the logit
        22026.
    fixed : (s - b) / 0.1. The bias b is where the probability is 1/2. It has to be learnt: where it belongs follows
        from the share of anchors that a clip selects (of half of them, the median of its cosines), and cosines of
        trained embeddings are not centred at 0. The temperature stays the published one: with it, the whole range of
        a cosine is 20 of a logit, enough to be sure of an anchor; a learnt one falls without limit.
    """
    if logits == "released":
        return torch.exp(similarity / TEMPERATURE)
    return (similarity - bias) / TEMPERATURE


def sspc(logits, target):
    """ℓ = mean over clips and anchors of binary cross entropy with logits: [B, K] and [B, K] in 0 … 1. Further axes in
    front, which broadcast, are kept: a number for each."""
    logits, target = torch.broadcast_tensors(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
