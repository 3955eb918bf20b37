"""A codebook whose rows have a block of columns for each modality (CoDAAR, arXiv 2605.12145): one index, n blocks.

A modality searches its own block and is given the number of the row; a token is the whole row [n · D]. A block follows
its own modality and, less, what the others hold at the same second; a cascade over the blocks then brings those of a
row together where they are read:

    w_m ← γ w_m + (1 - γ) Σ ( own z^m + other Σ_m' z^m' )  over the seconds of m in the row,  other = 1 / (n + 2)
    for m from the last block to the first:  e_m := mean over all blocks, those that were mixed already among them

The statistics are never mixed, so that each step starts from unmixed means (as released; its paper's equations are not
in reach). A modality that was not pretrained on has no block, and cannot be read.
"""

import torch

from cmg.modalities import ordered
from cmg.models.codebook import Codebook, Quantized
from cmg.models.unified import UnifiedModel


class BlockCodebook(Codebook):
    """M rows of n blocks of width D; `embedding` and `weight` are [M, n · D], `count` [M, n].

    Parameters are those of `Codebook`; `mm_ema` "off" leaves the other modalities out, anything else pairs second with
    second. Blocks lie in the order of `cmg.modalities.TABLE`: video, audio, text.
    """

    def __init__(self, modalities, size=400, dim=256, *args, **kwargs):
        super().__init__(modalities, size, dim * len(modalities), *args, **kwargs)
        self.blocks = ordered(modalities)
        self.embedding.uniform_(-1 / size, 1 / size)
        self.weight.copy_(self.embedding)
        self.count = self.count.new_full((size, len(self.blocks)), self.first_count)

    def columns(self, modality):
        """Where the block of a modality lies in a row."""
        width, number = self.embedding.shape[1] // len(self.blocks), self.blocks.index(modality)
        return slice(number * width, (number + 1) * width)

    def distances(self, z, modality):
        return self.squared(z, self.embedding[:, self.columns(modality)])

    def quantize_all(self, z, valid):
        """As of `Codebook`; `straight` passes the gradient of a token to all modalities, block by block: what the rows'
        blocks stand for. A modality that lacks the second gets none."""
        found = {m: self.quantize(x, m) for m, x in z.items()}
        own = {m: torch.where(valid[m].unsqueeze(-1), x, x.detach()) for m, x in z.items()}
        joined = torch.cat([own[m] for m in self.blocks], -1)  # (B, T, n · D)
        return {m: q._replace(straight=joined + (q.vectors - joined).detach()) for m, q in found.items()}

    def quantize(self, z, modality):
        """Rows whose own block is nearest to z [B, T, D]. `straight` passes no gradient: see `quantize_all`."""
        distances = self.distances(z, modality)
        codes = distances.argmin(-1)
        vectors = self.lookup(codes).to(z.dtype)
        return Quantized(vectors, vectors, codes, distances)

    def target(self, m, z, valid):
        """What the steps of modality m add to the block of their rows, Tensor[B, T, D]; other modalities that lack the
        step leave their share to the others."""
        own = z[m].to(self.embedding.dtype)
        others = [n for n in self.blocks if n != m]
        if self.mm_ema == "off" or not others:
            return own
        share = 1 / (len(self.blocks) + 2)
        there = torch.stack([valid[n] for n in others]).to(own.dtype).unsqueeze(-1)  # (others, B, T, 1)
        mixed = (1 - share * len(others)) * own + share * sum(w * z[n].to(own.dtype) for w, n in zip(there, others))
        return mixed / (1 - share * (len(others) - there.sum(0)))

    def candidates(self, targets, valid):
        """Whole rows, where all modalities have the step."""
        every = torch.stack([valid[m] for m in self.blocks]).all(0)
        return torch.cat([targets[m] for m in self.blocks], -1).flatten(0, 1), every.flatten()

    def moved(self, sums, counts):
        g, order = self.decay, [self.modalities.index(m) for m in self.blocks]
        count = self.kept(g * self.count + (1 - g) * counts[order].t())  # (M, n)
        weight = g * self.weight.view(self.size, len(order), -1) + (1 - g) * sums[order].transpose(0, 1)  # (M, n, D)
        embedding = self.cascade(weight / self.read(count).unsqueeze(-1))
        return embedding.flatten(1), weight.flatten(1), count

    def kept(self, count):
        """What is kept of counts."""
        return count

    def read(self, count):
        """What sums are divided by."""
        return self.smoothed(count)

    @staticmethod
    def cascade(rows):
        """The blocks of [M, n, D] brought together, the last one first."""
        blocks = list(rows.unbind(1))
        for number in reversed(range(len(blocks))):
            blocks[number] = sum(blocks) / len(blocks)
        return torch.stack(blocks, 1)


class BlockModel(UnifiedModel):
    """Φ of every modality and a `BlockCodebook`; its tokens are [B, T, n · D]."""

    book = BlockCodebook
