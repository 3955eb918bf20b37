"""Cross-CPC: from modality a's past, pick modality b's future out of the batch (eq. 6)."""

import torch
from torch import nn
from torch.nn import functional as F


class CrossCPC(nn.Module):
    """Contrastive predictive coding across modalities on pre-quantised semantic vectors.

    Per modality a causal LSTM sums up z_0..z_t as c_t, and W_k predicts step t+k of every other modality from it.

    Parameters
    ----------
    modalities : names, two or three.
    steps : K, the number of future steps predicted; 0 < K < T.
    temperature : None: raw dot products (paper and released code). Otherwise cosine / temperature, which keeps the
        logits on one scale whatever the width.
    equations : "paper": one-layer LSTM, W_k without bias, negatives are the other clips' *targets*; the loss is the
        mean over every t that has a step t+k (the expectation of the paper's random t), summed over directions.
        "released": two-layer LSTM, one t per batch drawn from 1..T-K-1, negatives are the other clips' *predictions*,
        within-modality terms with weight 0.1.
    """

    def __init__(self, modalities, dim, steps=1, temperature=None, equations="paper"):
        super().__init__()
        released = equations == "released"
        self.modalities, self.steps, self.temperature, self.released = tuple(modalities), steps, temperature, released
        layers = 2 if released else 1
        self.context = nn.ModuleDict({m: nn.LSTM(dim, dim, layers, batch_first=True) for m in modalities})
        self.predict = nn.ModuleDict(
            {m: nn.ModuleList(nn.Linear(dim, dim, bias=released) for _ in range(steps)) for m in modalities}
        )

    def forward(self, z, valid, t=None):
        """One loss per ordered pair of modalities, keys "a2v", "v2t", … ("a2a" only in the released arithmetic).

        z : dict modality -> Tensor[B, T, D]; valid : dict modality -> BoolTensor[B, T].
        t : int, last context step ("released" only; drawn if None).
        """
        T = next(iter(z.values())).shape[1]
        if self.released and t is None:
            t = int(torch.randint(1, T - self.steps, ()))
        times = slice(t, t + 1) if self.released else slice(0, T)
        context = {m: self.context[m](z[m])[0][:, times] for m in self.modalities}  # (B, T', D)
        losses = {}
        for a in self.modalities:
            for b in self.modalities:
                if a == b and not self.released:
                    continue
                terms = []
                for k in range(1, self.steps + 1):
                    source = context[a] if self.released else context[a][:, :-k]
                    target = z[b][:, t + k : t + k + 1] if self.released else z[b][:, k:]
                    terms.append(self.info_nce(self.predict[a][k - 1](source), target, *self.pairs(valid, a, b, k, t)))
                losses[f"{a[0]}2{b[0]}"] = torch.stack(terms).mean() * (0.1 if a == b else 1.0)
        return losses

    def pairs(self, valid, a, b, k, t):
        """Which contexts and which targets are real: BoolTensor[B, T'] each; None in the released arithmetic."""
        if self.released:
            return None, None
        return valid[a][:, :-k], valid[b][:, k:]

    def info_nce(self, prediction, target, source_valid, target_valid):
        """Mean of -log softmax over the batch. prediction, target : Tensor[B, T', D]."""
        if self.temperature is not None:
            prediction, target = F.normalize(prediction, dim=-1), F.normalize(target, dim=-1)
        logits = torch.einsum("itd,jtd->tij", prediction, target)  # (T', B contexts, B targets)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.temperature is not None:
            logits = logits / self.temperature
        if self.released:
            logits = logits.transpose(1, 2)  # rows: targets, softmax over the contexts
        T, B, _ = logits.shape
        labels = torch.arange(B, device=logits.device).repeat(T)
        if target_valid is None:
            return F.cross_entropy(logits.flatten(0, 1), labels)
        columns = target_valid.t().unsqueeze(1)  # (T', 1, B): padded steps are nobody's negative
        logits = logits.masked_fill(~columns, float("-inf"))
        rows = (source_valid & target_valid).t()  # (T', B)
        # A row without a real target is all -inf; it is left out, so give it finite logits to keep gradients clean.
        logits = logits.masked_fill(~rows.unsqueeze(2), 0.0)
        loss = F.cross_entropy(logits.flatten(0, 1), labels, reduction="none")
        rows = rows.flatten().to(loss.dtype)
        return (loss * rows).sum() / rows.sum().clamp_min(1)
