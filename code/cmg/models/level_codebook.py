"""One modality's residual levels as the codebook of all (after AHA, arXiv 2602.03570, whose code is not published).

    r_1 = z,   c_l = argmin_i ‖r_l - E_l,i‖,   r_{l+1} = r_l - E_l,c_l;     token = Σ_l E_l,c_l

The first `shared` levels are what all modalities are read in; the anchor's own token has them all. Codes follow the
anchor alone, each level what is left of it by those above. From the paper's abstract are the residual levels, their
first ones as the shared space, and the anchor; everything else is this project's, sizes and updates included. `codes`
of a token are those of the first level.
"""

from typing import NamedTuple

import torch
from torch import nn

from cmg.models.codebook import Codebook, Quantized
from cmg.models.unified import UnifiedModel


class Levels(NamedTuple):
    """straight, vectors [B, T, D]: of the sum; codes [B, T], distances [B, T, M]: of the first level, as of
    `Quantized`; levels: the `Quantized` of every level, of what was left for it."""

    straight: torch.Tensor
    vectors: torch.Tensor
    codes: torch.Tensor
    distances: torch.Tensor
    levels: tuple[Quantized, ...]


class LevelCodebook(Codebook):
    """The first level, and in `deeper` the others.

    Parameters
    ----------
    levels : how many. shared : of them, those that other modalities are read in. Others as of `Codebook`.

    Attributes
    ----------
    anchor : audio where there is any, else the first modality of the model.
    """

    def __init__(self, modalities, size, dim, decay, mm_ema, reset, reset_after, levels=2, shared=1):
        super().__init__(modalities, size, dim, decay, mm_ema, reset, reset_after)
        self.anchor, self.shared = self.modalities[0], shared
        self.deeper = nn.ModuleList(
            Codebook((self.anchor,), size, dim, decay, "off", reset, reset_after) for _ in range(levels - 1))

    def search(self, z, levels):
        """`Levels` of z [B, T, D], the first so many."""
        found, rest, vectors = [], z, torch.zeros_like(z)
        for book in (self, *self.deeper)[:levels]:
            q = Codebook.quantize(book, rest)
            rest, vectors = rest - q.vectors, vectors + q.vectors
            found.append(q)
        return Levels(z + (vectors - z).detach(), vectors.detach(), found[0].codes, found[0].distances, tuple(found))

    def quantize(self, z, modality=None):
        """In the shared levels."""
        return self.search(z, self.shared)

    def quantize_all(self, z, valid):
        """The anchor in all levels, the others in those that are shared."""
        return {m: self.search(x, 1 + len(self.deeper) if m == self.anchor else self.shared) for m, x in z.items()}

    def initialise(self, z, valid, *args, **kwargs):
        super().initialise(z, valid, *args, **kwargs)
        rest, own, above = z[self.anchor], {self.anchor: valid[self.anchor]}, self
        for book in self.deeper:
            rest = rest - Codebook.quantize(above, rest).vectors
            book.initialise({self.anchor: rest}, own, *args, **kwargs)
            above = book

    def update(self, z, codes, valid):
        """Every level from what the levels above left before they moved."""
        rest, own = z[self.anchor], {self.anchor: valid[self.anchor]}
        found = self.search(rest, 1 + len(self.deeper)).levels
        super().update(z, codes, valid)
        for book, above, q in zip(self.deeper, found, found[1:]):
            rest = rest - above.vectors
            book.update({self.anchor: rest}, {self.anchor: q.codes}, own)

    def moved(self, sums, counts):
        """By the anchor alone, the first of the modalities."""
        return super().moved(sums[:1], counts[:1])

    def candidates(self, targets, valid):
        return targets[self.anchor].flatten(0, 1), valid[self.anchor].flatten()


class LevelModel(UnifiedModel):
    """Φ of every modality and a `LevelCodebook`."""

    book = LevelCodebook
    book_settings = ("levels", "shared_levels")
