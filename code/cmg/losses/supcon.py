"""SupCon without labels (Khosla et al., NeurIPS 2020; as SimMMDG, NeurIPS 2023, has it): of all vectors of all
modalities and clips in a batch, those of the same clip belong together.

    L = -(τ / τ_0) 1/n Σ_i 1/|P(i)| Σ_{p ∈ P(i)} log softmax_{j ≠ i}( cos(x_i, x_j) / τ )_p,   τ_0 = 0.07

i runs over clips and modalities, P(i) are the other modalities of its clip.
"""

import torch
from torch.nn import functional as F

from cmg.distributed import first_row, gather, share

BASE = 0.07


def clip_supcon(vectors, exists, temperature=0.1):
    """The loss, a scalar, over the vectors that have another one of their clip; 0 where none has.

    vectors : dict modality -> Tensor[B, K]; exists : dict modality -> BoolTensor[B].
    """
    x, there = torch.stack(list(vectors.values())), torch.stack(list(exists.values()))  # (V, B, K), (V, B)
    V, B = there.shape
    with torch.autocast(x.device.type, enabled=False):  # in bf16 a cosine over a temperature has 2 digits
        x = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        everyone, known = (gather(part.transpose(0, 1)).transpose(0, 1) for part in (x, there))  # (V, N, …)
        N = everyone.shape[1]
        clip, place = first_row(x[0]) + torch.arange(B, device=x.device), torch.arange(N, device=x.device)
        same = (clip[:, None] == place).repeat(V, V)  # (V·B, V·N), of one clip
        view = torch.arange(V, device=x.device)
        itself = same & (view.repeat_interleave(B)[:, None] == view.repeat_interleave(N))
        positive = same & ~itself & known.flatten()
        rows = positive.any(1) & there.flatten()
        scores = x.flatten(0, 1) @ everyone.flatten(0, 1).t() / temperature
        # A row that does not count gets finite scores: its gradient must be 0 and not nan.
        scores = scores.masked_fill(itself | ~known.flatten(), float("-inf")).masked_fill(~rows[:, None], 0.0)
        log_p = scores - scores.logsumexp(1, keepdim=True)
        own = torch.where(positive, log_p, 0).sum(1) / positive.sum(1).clamp_min(1)
        rows = rows.to(own.dtype)
        return -(temperature / BASE) * (own * rows).sum() / share(rows.sum())
