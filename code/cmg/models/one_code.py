"""A codebook that gives a second one code: that of the mean of what its modalities say.

    i(t) = argmin_i ‖ 1/n Σ_m z^m(t) - e_i ‖²     over the n modalities with seconds that have second t

In training all of them get this code: commitment draws them there, and the code follows their mean. So a pair need not
meet at one place first in order to share its code then. A modality that is read alone picks its nearest code, as in
every codebook. Words have codes of their own.
"""

import torch

from cmg.distributed import total
from cmg.modalities import modality
from cmg.models.codebook import Codebook
from cmg.models.unified import UnifiedModel


class OneCodeBook(Codebook):
    """Parameters are those of `Codebook`; `mm_ema` has no meaning here."""

    @property
    def timed(self):
        return [m for m in self.modalities if modality(m).timed]

    def mean(self, z, valid):
        """Mean of the modalities that have the second, Tensor[B, T, D], zero where none has it: dicts of
        Tensor[B, T, D] and BoolTensor[B, T]."""
        there = torch.stack([valid[m] for m in self.timed]).to(self.embedding.dtype).unsqueeze(-1)  # (n, B, T, 1)
        own = torch.stack([z[m] for m in self.timed]).to(there.dtype)
        return (there * own).sum(0) / there.sum(0).clamp_min(1)

    @torch.no_grad()
    def common(self, z, valid):
        """The code of every second, LongTensor[B, T]."""
        return self.distances(self.mean(z, valid)).argmin(-1)

    def quantize_all(self, z, valid):
        """As of `Codebook`, with tokens of the common code. `codes` are what each modality picks alone: what is logged
        of them is what transfer will find."""
        found = {m: self.quantize(x, m) for m, x in z.items()}
        vectors = self.lookup(self.common(z, valid))
        for m in self.timed:
            own = vectors.to(z[m].dtype)
            found[m] = found[m]._replace(straight=z[m] + (own - z[m]).detach(), vectors=own)
        return found

    @torch.no_grad()
    def update(self, z, codes, valid):
        """As of `Codebook`, by the common codes; `usage` is of what each modality picks alone."""
        picked = total(torch.stack([self.hits(codes[m], valid[m]).sum(0) for m in self.modalities]))  # (m, M)
        usage = 0.99 * self.usage + 0.01 * picked.to(self.usage.dtype)
        super().update(z, codes | dict.fromkeys(self.timed, self.common(z, valid)), valid)
        self.usage.copy_(usage)

    def target(self, m, z, valid):
        """What the steps of modality m add to their codes, Tensor[B, T, D]: the second's mean, of words themselves."""
        return self.mean(z, valid) if modality(m).timed else z[m].to(self.embedding.dtype)


class OneCodeModel(UnifiedModel):
    """Φ of every modality and a `OneCodeBook`."""

    book = OneCodeBook
