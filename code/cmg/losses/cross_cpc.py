"""Cross-CPC: from modality a's past, pick modality b's future out of the batch (eq. 6)."""

import torch
from torch import nn
from torch.nn import functional as F

from cmg.distributed import first_row, gather, shared_rand
from cmg.losses.info_nce import own_rows


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
        t : int or LongTensor[1], last context step ("released" only; drawn if None).
        """
        T = next(iter(z.values())).shape[1]
        return self.of_one_step(z, T, t) if self.released else self.of_all_steps(z, valid, T)

    def of_all_steps(self, z, valid, T):
        """"paper": every t < T - k, negatives are the other clips' targets, those of all processes among them."""
        context = {m: self.context[m](z[m][:, : T - 1])[0] for m in self.modalities}  # (B, T-1, D)
        everyone = {m: gather(z[m]) for m in self.modalities}  # (N, T, D)
        real = {m: gather(valid[m]) for m in self.modalities}  # (N, T)
        losses = {}
        for a in self.modalities:
            for b in self.modalities:
                if a == b:
                    continue
                terms = []
                for k in range(1, self.steps + 1):
                    prediction = self.predict[a][k - 1](context[a][:, : T - k])  # (B, T-k, D)
                    scores = self.scores(prediction, everyone[b][:, k:])  # (T-k, B, N)
                    terms.append(own_rows(scores, valid[a][:, : T - k].t(), real[b][:, k:].t(), first_row(prediction)))
                losses[f"{a[0]}2{b[0]}"] = torch.stack(terms).mean()
        return losses

    def of_one_step(self, z, T, t):
        """"released": one t, negatives are the other clips' predictions; nothing is masked."""
        device = next(iter(z.values())).device
        if t is None:
            t = (1 + shared_rand(1, device) * (T - self.steps - 1)).long()
        t = torch.as_tensor(t, device=device).view(1)
        context = {m: self.context[m](z[m])[0].index_select(1, t) for m in self.modalities}  # (B, 1, D)
        everyone = {(m, k): gather(self.predict[m][k - 1](context[m]))  # (N, 1, D)
                    for m in self.modalities for k in range(1, self.steps + 1)}
        losses = {}
        for a in self.modalities:
            for b in self.modalities:
                terms = []
                for k in range(1, self.steps + 1):
                    target = z[b].index_select(1, t + k)  # (B, 1, D)
                    own = first_row(target) + torch.arange(len(target), device=device)
                    terms.append(F.cross_entropy(self.scores(target, everyone[a, k])[0], own))
                losses[f"{a[0]}2{b[0]}"] = torch.stack(terms).mean() * (0.1 if a == b else 1.0)
        return losses

    def scores(self, rows, columns):
        """Logits [T', B, N] of rows [B, T', D] against columns [N, T', D], step by step."""
        with torch.autocast(rows.device.type, enabled=False):  # a dot product of 100 in bf16 is 100 ± 0.25
            rows, columns = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (rows, columns))
            if self.temperature is not None:
                rows, columns = F.normalize(rows, dim=-1), F.normalize(columns, dim=-1)
            logits = torch.einsum("itd,jtd->tij", rows, columns)
            return logits if self.temperature is None else logits / self.temperature
