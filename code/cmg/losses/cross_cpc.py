"""Cross-CPC: from modality a's past, pick modality b's future out of the batch (eq. 6)."""

import torch
from torch import nn
from torch.nn import functional as F

from cmg.distributed import first_row, gather
from cmg.losses.info_nce import own_rows
from cmg.modalities import direction
from cmg.models.precision import recur


class CrossCPC(nn.Module):
    """Contrastive predictive coding across modalities on pre-quantised semantic vectors.

    Per modality a causal LSTM sums up z_0..z_t as c_t, and W_k predicts step t+k of every other modality from it. The
    loss is the mean over every t that has a step t+k (the expectation of the paper's random t), summed over directions;
    negatives are the other clips' targets, those of all processes among them.

    Parameters
    ----------
    modalities : names, two or more.
    steps : K, the number of future steps predicted; 0 < K < T.
    temperature : None: raw dot products (paper and released code). Otherwise cosine / temperature, which keeps the
        logits on one scale whatever the width.
    """

    layers, bias = 1, False  # of the LSTM; of W_k

    def __init__(self, modalities, dim, steps=1, temperature=None):
        super().__init__()
        self.modalities, self.steps, self.temperature = tuple(modalities), steps, temperature
        self.context = nn.ModuleDict({m: nn.LSTM(dim, dim, self.layers, batch_first=True) for m in modalities})
        self.predict = nn.ModuleDict(
            {m: nn.ModuleList(nn.Linear(dim, dim, bias=self.bias) for _ in range(steps)) for m in modalities}
        )

    @staticmethod
    def least_steps(steps):
        """How many steps a clip must have to predict `steps` ahead."""
        return steps + 1

    def forward(self, z, valid):
        """One loss per ordered pair of modalities, keys "a2v", "v2t", …

        z : dict modality -> Tensor[B, T, D]; valid : dict modality -> BoolTensor[B, T].
        """
        T = next(iter(z.values())).shape[1]
        context = {m: recur(self.context[m], z[m][:, : T - 1])[0] for m in self.modalities}  # (B, T-1, D)
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
                losses[direction(a, b)] = torch.stack(terms).mean()
        return losses

    def scores(self, rows, columns):
        """Logits [T', B, N] of rows [B, T', D] against columns [N, T', D], step by step."""
        with torch.autocast(rows.device.type, enabled=False):  # a dot product of 100 in bf16 is 100 ± 0.25
            rows, columns = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (rows, columns))
            if self.temperature is not None:
                rows, columns = F.normalize(rows, dim=-1), F.normalize(columns, dim=-1)
            logits = torch.einsum("itd,jtd->tij", rows, columns)
            return logits if self.temperature is None else logits / self.temperature
