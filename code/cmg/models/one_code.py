"""A codebook that gives a second one code: that of the mean of what its modalities say.

    i(t) = argmin_i ‖ 1/n Σ_m z^m(t) - e_i ‖²     over the n modalities with seconds that have second t

In training all of them get this code: commitment draws them there, and the code follows their mean. So a pair need not
meet at one place first in order to share its code then. A modality that is read alone picks its nearest code, as in
every codebook. Words have codes of their own.

Cut into P pieces of D / P columns (product quantisation, Jégou et al. 2011), a vector has a code for each, of M that
this piece has: few codes a piece, which modalities can share, tell as much together as many codes of a whole vector.
"""

import torch

from cmg.distributed import total
from cmg.modalities import modality
from cmg.models.codebook import Codebook, as_steps, centres, sample
from cmg.models.unified import UnifiedModel


class OneCodeBook(Codebook):
    """Parameters are those of `Codebook`, of which `mm_ema` has no meaning here, and

    pieces : P, a divisor of `dim`. `embedding` is [P · M, D / P]: rows p · M to (p + 1) · M are the codes of piece p.
        Codes of a step are numbers of rows, [B, T] of one piece and else [B, T, P], distances [B, T, M] or
        [B, T, P, M].
    """

    def __init__(self, modalities, size, dim, decay=0.99, mm_ema="off", reset="both", reset_after=300, pieces=1):
        super().__init__(modalities, pieces * size, dim // pieces, decay, mm_ema, reset, reset_after)
        self.pieces = pieces

    @property
    def timed(self):
        return [m for m in self.modalities if modality(m).timed]

    # -- reading ---------------------------------------------------------------------------------------------------

    def distances(self, z, modality=None):
        if self.pieces == 1:
            return super().distances(z)
        books = self.embedding.chunk(self.pieces)
        return torch.stack([self.squared(x, book) for x, book in zip(z.chunk(self.pieces, -1), books)], -2)

    def nearest(self, distances):
        """Of every piece: [.., P, M] -> LongTensor[.., P], without the P of a single one."""
        codes = super().nearest(distances)
        if self.pieces == 1:
            return codes
        return codes + torch.arange(0, self.size, self.size // self.pieces, device=codes.device)

    def lookup(self, codes):
        vectors = super().lookup(codes)
        return vectors if self.pieces == 1 else vectors.flatten(-2)  # (.., D)

    def mean(self, z, valid):
        """Mean of the modalities that have the second, Tensor[B, T, D], zero where none has it: dicts of
        Tensor[B, T, D] and BoolTensor[B, T]."""
        there = torch.stack([valid[m] for m in self.timed]).to(self.embedding.dtype).unsqueeze(-1)  # (n, B, T, 1)
        own = torch.stack([z[m] for m in self.timed]).to(there.dtype)
        return (there * own).sum(0) / there.sum(0).clamp_min(1)

    @torch.no_grad()
    def common(self, z, valid):
        """The codes of every second, as `quantize` gives them."""
        return self.nearest(self.distances(self.mean(z, valid)))

    def quantize_all(self, z, valid):
        """As of `Codebook`, with tokens of the common code. `codes` are what each modality picks alone: what is logged
        of them is what transfer will find."""
        found = {m: self.quantize(x, m) for m, x in z.items()}
        vectors = self.lookup(self.common(z, valid))
        for m in self.timed:
            own = vectors.to(z[m].dtype)
            found[m] = found[m]._replace(straight=z[m] + (own - z[m]).detach(), vectors=own)
        return found

    # -- writing: a step's pieces are steps of their own -------------------------------------------------------------

    def initialise(self, z, valid, *args, **kwargs):
        super().initialise(*self.folded(z, valid), *args, **kwargs)

    def start(self, points, iterations):
        """Those of every piece from its own targets."""
        size = self.size // self.pieces
        return torch.cat([centres(points[p :: self.pieces], size, iterations) for p in range(self.pieces)])

    @torch.no_grad()
    def update(self, z, codes, valid):
        """As of `Codebook`, by the common codes; `usage` is of what each modality picks alone."""
        codes = {m: x.flatten(1) for m, x in codes.items()}
        common = self.common(z, valid).flatten(1)  # (B, T · P)
        z, valid = self.folded(z, valid)
        picked = total(torch.stack([self.hits(codes[m], valid[m]).sum(0) for m in self.modalities]))  # (m, P · M)
        usage = 0.99 * self.usage + 0.01 * picked.to(self.usage.dtype)
        super().update(z, codes | dict.fromkeys(self.timed, common), valid)
        self.usage.copy_(usage)

    def folded(self, z, valid):
        """See `as_steps`."""
        return as_steps({m: x.unflatten(-1, (self.pieces, -1)) for m, x in z.items()}, valid)

    def target(self, m, z, valid):
        """What the steps of modality m add to their codes: the second's mean, of words themselves."""
        return self.mean(z, valid) if modality(m).timed else z[m].to(self.embedding.dtype)

    def drawn(self, real):
        """For codes of a piece, targets of this piece."""
        size = self.size // self.pieces
        return torch.cat([p + self.pieces * sample(real[p :: self.pieces], size) for p in range(self.pieces)])


class OneCodeModel(UnifiedModel):
    """Φ of every modality and a `OneCodeBook`."""

    book = OneCodeBook
    book_settings = ("pieces",)

    @property
    def parts(self):
        return self.codebook.embedding.chunk(self.codebook.pieces)

    @property
    def token_dim(self):
        return self.codebook.pieces * self.codebook.embedding.shape[1]
