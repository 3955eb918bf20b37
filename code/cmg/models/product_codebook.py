"""Product codes with a common and a specific part (CodeBind, arXiv 2605.18257; formulas from its public code).

    z = [ common | specific ],  both cut into pieces of d columns, each piece brought to length 1
    code of a piece = argmax_i cos(piece, e_i);   token of a part = its pieces' codes side by side, at length 1 again
    c ← γ c + (1 - γ) n,   w ← γ w + (1 - γ) Σ pieces,   e = w / smoothed(c)      (Laplace smoothing, in all codebooks)

All pieces choose from one codebook of M rows: that of the common part is every modality's, each modality has one of its
own for the specific part. Means e of unit pieces are shorter than 1; a token holds them as they are.

Choices of this project: the halves of z are the parts (published: a split of the embedding, at widths not given here);
one update a step for all modalities (released: one after another within the forward pass, so that the second modality
reads what the first has moved); idle codes restart as in every codebook here (released: each is pulled towards random
features at a rate that falls with its use). `codes` of a kept token are those of its first common piece.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from cmg.models.codebook import Codebook, as_steps
from cmg.models.unified import UnifiedModel


class Pieces(NamedTuple):
    """straight, vectors [B, T, P · d], codes [B, T, P], distances [B, T, P, M]: as of `Quantized`, piece by piece;
    errors [B, T, P]: mean squared difference of a piece and its code, with gradient to the encoder."""

    straight: torch.Tensor
    vectors: torch.Tensor
    codes: torch.Tensor
    distances: torch.Tensor
    errors: torch.Tensor

    def unit(self):
        """The same with tokens of length 1."""
        return self._replace(straight=F.normalize(self.straight, dim=-1), vectors=F.normalize(self.vectors, dim=-1))


class PieceCodebook(Codebook):
    """M codes of width d for all pieces of a vector, by cosine. Parameters are those of `Codebook`, with d as `dim`."""

    def pieces(self, z):
        """Unit pieces of z [.., P · d]: Tensor[.., P, d] in the codebook's precision."""
        z = z.to(torch.promote_types(z.dtype, self.embedding.dtype))
        return F.normalize(z.unflatten(-1, (-1, self.embedding.shape[1])), dim=-1)

    def distances(self, z, modality=None):
        """‖piece - e/‖e‖‖² = 2 - 2 cos of z [.., P · d]: Tensor[.., P, M]."""
        return self.squared(self.pieces(z), F.normalize(self.embedding, dim=-1))

    def search(self, z):
        """`Pieces` of z [B, T, P · d]."""
        pieces, distances = self.pieces(z), self.distances(z)
        codes = distances.argmin(-1)
        vectors = self.lookup(codes).to(pieces.dtype)  # (B, T, P, d)
        straight = pieces + (vectors - pieces).detach()
        errors = (pieces - vectors).square().mean(-1)
        return Pieces(straight.flatten(-2), vectors.flatten(-2), codes, distances, errors)

    def quantize(self, z, modality=None):
        """The same with tokens of length 1."""
        return self.search(z).unit()

    def initialise(self, z, valid, *args, **kwargs):
        super().initialise(*self.folded(z, valid), *args, **kwargs)

    def update(self, z, codes, valid):
        """codes : dict modality -> [B, T, P]. Others as of `Codebook`."""
        z, valid = self.folded(z, valid)
        super().update(z, {m: x.flatten(1) for m, x in codes.items()}, valid)

    def folded(self, z, valid):
        """See `as_steps`."""
        return as_steps({m: self.pieces(x) for m, x in z.items()}, valid)


class Product(NamedTuple):
    """straight, vectors [B, T, D]: both parts side by side, at length 1; codes [B, T, P], distances [B, T, P, M] of the
    common part, as of `Quantized`; common, specific: the `Pieces` of each part."""

    straight: torch.Tensor
    vectors: torch.Tensor
    codes: torch.Tensor
    distances: torch.Tensor
    common: Pieces
    specific: Pieces


class ProductCodebook(PieceCodebook):
    """The common part's codebook, and in `own` that of every modality's specific part.

    Parameters
    ----------
    dim : D; the first half of z is common. piece : d, a divisor of D / 2. own_codes : size of each of `own`.
        Others as of `Codebook`.
    """

    def __init__(self, modalities, size, dim, decay, mm_ema, reset, reset_after, piece=8, own_codes=256):
        super().__init__(modalities, size, piece, decay, mm_ema, reset, reset_after)
        self.common = dim // 2
        self.own = nn.ModuleDict({m: PieceCodebook((m,), own_codes, piece, decay, "off", reset, reset_after)
                                  for m in modalities})

    def halves(self, z):
        """dict of Tensor[.., D] -> those of the common and of the specific part."""
        return ({m: x[..., : self.common] for m, x in z.items()}, {m: x[..., self.common :] for m, x in z.items()})

    def quantize_all(self, z, valid):
        """`Product` of all modalities; `quantize` takes the common part alone."""
        found, (common, specific) = {}, self.halves(z)
        for m in z:
            parts = self.search(common[m]), self.own[m].search(specific[m])
            straight, vectors = (F.normalize(torch.cat(side, -1), dim=-1) for side in zip(*(p[:2] for p in parts)))
            found[m] = Product(straight, vectors, parts[0].codes, parts[0].distances,
                               *(p.unit() for p in parts))
        return found

    def initialise(self, z, valid, *args, **kwargs):
        common, specific = self.halves(z)
        super().initialise(common, valid, *args, **kwargs)
        for m, book in self.own.items():
            book.initialise({m: specific[m]}, {m: valid[m]}, *args, **kwargs)

    def update(self, z, codes, valid):
        """codes : of the common part; those of the specific parts are found again."""
        common, specific = self.halves(z)
        super().update(common, codes, valid)
        for m, book in self.own.items():
            book.update({m: specific[m]}, {m: book.quantize(specific[m]).codes}, {m: valid[m]})


class ProductModel(UnifiedModel):
    """Φ of every modality and a `ProductCodebook`; what is kept of a token is its common part, [B, T, D / 2]."""

    book = ProductCodebook
    book_settings = ("piece_dim", "own_codes")

    @property
    def parts(self):
        return [self.codebook.embedding] * (self.codebook.common // self.codebook.embedding.shape[1])

    @property
    def token_dim(self):
        """Decoders read both parts."""
        return 2 * self.codebook.common

    def points(self, modality, semantic, valid=None):
        return semantic[..., : self.codebook.common]

    def read(self, modality, inputs, semantic, valid):
        tokens = super().read(modality, inputs, semantic, valid)
        return tokens._replace(codes=tokens.codes[..., 0])
