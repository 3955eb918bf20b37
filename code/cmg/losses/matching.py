"""Cross-modal code matching, L_cmcm: clips that belong together should spread over the same codes (Liu et al. 2021)."""

import torch
from torch import nn
from torch.nn import functional as F

from cmg.distributed import gather
from cmg.losses.masked import clip_vectors
from cmg.modalities import pairs


class CodeMatching(nn.Module):
    """L_cmcm over the code distributions of two modalities.

    P(e | clip) is the mean over time of softmax(-‖z_t - e‖₂). The similarity of two clips is
    S(A, B) = Σ P(e|A) log P(e|B) + Σ P(e|B) log P(e|A), and the loss is cross entropy of S over the batch.
    """

    def forward(self, distances, valid):
        """One loss per unordered pair of modalities, keys "av", "at", "vt".

        distances : dict modality -> Tensor[B, T, M], squared Euclidean distances to the codes, with gradient.
        valid : dict modality -> BoolTensor[B, T].
        """
        # Every process compares all clips of all processes with each other: B² M operations are nothing beside Φ.
        usage = {m: gather(self.distribution(d, valid[m])) for m, d in distances.items()}
        with torch.autocast(next(iter(distances.values())).device.type, enabled=False):  # S of -10 in bf16: ± 0.03
            return {key: self.pair(usage[a], usage[b]) for a, b, key in pairs(usage)}

    def distribution(self, squared, valid):
        """P(e | clip): Tensor[B, M]; all 0 for a clip without a single step."""
        tiny = torch.finfo(squared.dtype).tiny  # the gradient of a root is infinite at 0
        p = (-squared.clamp_min(tiny).sqrt()).softmax(-1)  # (B, T, M)
        return clip_vectors(p, valid)[0]

    def pair(self, a, b):
        """The loss of P(e | clip) [.., B, M] of two modalities; its mean over what stands before the batch."""
        log_a, log_b = (a + 1e-10).log(), (b + 1e-10).log()
        similarity = a @ log_b.mT + log_a @ b.mT  # (.., B, B)
        # A clip that lacks one of the two, for example a caption, is neither a query nor a candidate.
        there = (a.sum(-1) > 0) & (b.sum(-1) > 0)  # (.., B)
        similarity = similarity.masked_fill(~there.unsqueeze(-2), float("-inf"))
        similarity = similarity.masked_fill(~there.unsqueeze(-1), 0.0)
        labels = torch.arange(there.shape[-1], device=a.device).expand(there.shape)
        loss = F.cross_entropy(similarity.flatten(0, -2), labels.flatten(), reduction="none")
        there = there.flatten()
        return (loss * there).sum() / there.sum().clamp_min(1)
