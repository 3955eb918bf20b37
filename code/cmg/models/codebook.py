"""The shared codebook: one discrete vocabulary for all modalities, moved by multi-modal EMA and never by a gradient.

Reading (`quantize`, `lookup`) has no side effect. Writing (`update`) happens once per optimiser step, from statistics
of all modalities together, in the codebook's own precision, and leaves the buffers as they are if any of the
statistics is not finite. Only pretraining calls it, so evaluation cannot disturb the codes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.distributed import broadcast, gather, shared_permutation, shared_rand, total
from cmg.errors import UserError


@dataclass(frozen=True)
class CodebookConfig(Config):
    """The shared codebook.

    Attributes
    ----------
    codes : M, size of the codebook
    decay : γ of the EMA
    codebook_init : where codes start
    mm_ema : what a code learns from the other modalities
    reset : codes unused by which modalities are reset
    reset_after : batches a code may stay unused (N_re)
    pieces : of a vector, each with a code of its own
    piece_dim : columns of a piece of a product code
    own_codes : codes of each modality's specific part
    levels : residual levels of the anchor
    shared_levels : those of them that all modalities are read in
    """

    codes: int = setting(400, whole(1))
    decay: float = setting(0.99, number(above=0, below=1))
    codebook_init: str = setting("kmeans", choices=("uniform", "data", "kmeans"))
    mm_ema: str = setting("attention", choices=("attention", "aligned", "off"))
    reset: str = setting("both", choices=("both", "any", "off"))
    reset_after: int = setting(100, whole())
    pieces: int = setting(1, whole(1))
    piece_dim: int = setting(8, whole(1))
    own_codes: int = setting(256, whole(1))
    levels: int = setting(2, whole(1))
    shared_levels: int = setting(1, whole(1))


class Quantized(NamedTuple):
    """straight [B, T, D]: code vectors forward, identity backward; vectors [B, T, D]: the same, without gradient;
    codes [B, T] int64; distances [B, T, M]: squared distances, with gradient to the encoder."""

    straight: torch.Tensor
    vectors: torch.Tensor
    codes: torch.Tensor
    distances: torch.Tensor


def cross_attention(z, other, valid):
    """r = cross-att(z; other, other) of eq. 7: for each step of z a mean of the other modality's steps, [B, T, D].

    The code update passes no gradient, so learned projections would never be trained; the attention is plain scaled
    dot product between the (layer-normalised) semantic vectors.

    z : Tensor[B, T, D]; other : Tensor[B, T', D]; valid : BoolTensor[B, T'], which steps of `other` exist.
    """
    score = z @ other.transpose(1, 2) * z.shape[-1] ** -0.5  # (B, T, T')
    score = score.masked_fill(~valid.unsqueeze(1), torch.finfo(score.dtype).min)
    return score.softmax(-1) @ other


class Codebook(nn.Module):
    """M code vectors of width D with EMA statistics.

    Parameters
    ----------
    modalities : names.
    size, dim : M, D.
    decay : EMA factor γ.
    mm_ema : "attention": the paper's cross-attention; "aligned": the other modality's vector of the same step (the
        released code); "off": own vectors only.
    reset : which codes count as alive: "both": selected by at least two modalities within the last `reset_after`
        batches (paper); "any": by at least one (released code); "off": all.
    """

    epsilon = 1e-5  # of the Laplace smoothing
    dtype = torch.float32
    first_count = 1.0  # a raw count of 0 would throw every code that the first batch misses far away (weight / ~0)

    def __init__(self, modalities, size=400, dim=256, decay=0.99, mm_ema="attention", reset="both", reset_after=300):
        super().__init__()
        self.modalities = tuple(modalities)
        self.decay, self.mm_ema, self.reset, self.reset_after = decay, mm_ema, reset, reset_after
        embedding = torch.empty(size, dim, dtype=self.dtype).uniform_(-1 / 400, 1 / 400)  # whatever M, as released
        self.register_buffer("embedding", embedding)
        self.register_buffer("weight", embedding.clone())
        self.register_buffer("count", torch.full((size,), self.first_count, dtype=self.dtype))
        self.register_buffer("idle", torch.full((len(self.modalities), size), -1, dtype=torch.int64))
        self.register_buffer("usage", torch.zeros(len(self.modalities), size))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))

    @property
    def size(self):
        return len(self.embedding)

    def _apply(self, fn):
        """Follow `.to(device)`, refuse a change of precision: an EMA in bf16 stops moving."""
        dtypes = {name: buffer.dtype for name, buffer in self._buffers.items()}
        super()._apply(fn)
        for name, buffer in self._buffers.items():
            if buffer.dtype != dtypes[name]:
                self._buffers[name] = buffer.to(dtypes[name])
        return self

    def distances(self, z, modality=None):
        """Squared Euclidean distances [.., M] in the codebook's precision, never below 0."""
        return self.squared(z, self.embedding)

    @staticmethod
    def squared(z, codes):
        """Those of z [.., D] to codes [M, D], in the precision of these."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(codes.dtype)
            cross = z @ codes.t()
            return (z.square().sum(-1, keepdim=True) - 2 * cross + codes.square().sum(-1)).clamp_min(0)

    def quantize_all(self, z, valid):
        """`quantize` of all modalities: dicts of Tensor[B, T, D] and BoolTensor[B, T] -> dict of Quantized."""
        return {m: self.quantize(x, m) for m, x in z.items()}

    def quantize(self, z, modality=None):
        """Nearest codes of z [B, T, D], whosever it is; no side effect. Returns `Quantized`."""
        distances = self.distances(z, modality)
        codes = self.nearest(distances)
        vectors = self.lookup(codes).to(z.dtype)
        return Quantized(z + (vectors - z).detach(), vectors, codes, distances)

    def nearest(self, distances):
        """Indices of the nearest codes: [.., M] -> LongTensor[..]."""
        return distances.argmin(-1)

    def lookup(self, codes):
        """Code vectors of indices [..]: Tensor[.., D]."""
        return self.embedding[codes]

    @torch.no_grad()
    def initialise(self, z, valid, method="kmeans", iterations=20):
        """Start from data: codes are sampled targets of the first update ("data") or their k-means centres ("kmeans").

        The targets, (z + r) / 2, lie between the modalities. Centres of the vectors themselves would belong to one
        modality each, because untrained encoders do not overlap, and the codebook would start out split.

        z : dict modality -> Tensor[B, T, D]; valid : dict modality -> BoolTensor[B, T].
        """
        targets = {m: gather(self.target(m, z, valid)) for m in self.modalities}  # (N, T, D), of all processes
        rows, real = self.candidates(targets, {m: gather(valid[m]) for m in self.modalities})
        points = rows[real]  # (n, D)
        if not len(points):
            raise UserError("--data: no clip of the first batch has a single step that is no padding")
        self.embedding.copy_(broadcast(self.start(points, iterations if method == "kmeans" else 0)))
        self.weight.copy_(self.embedding)
        self.count.fill_(1.0)

    def start(self, points, iterations):
        """First codes [M, D] for targets [n, D]: see `centres`."""
        return centres(points, self.size, iterations)

    @torch.no_grad()
    def update(self, z, codes, valid):
        """Move the codes towards what was quantised to them: eq. 7, then the reset of idle codes.

        z : dict modality -> Tensor[B, T, D]; codes, valid : dict modality -> [B, T]. Call after the optimiser step.
        """
        sums, counts, targets = [], [], {}
        for m in self.modalities:
            target = self.target(m, z, valid)  # (B, T, D)
            targets[m] = target
            one_hot = self.hits(codes[m], valid[m])  # (B·T, M)
            # A padded step has weight 0, but 0 · nan is nan: the statistics must be finite over all steps.
            sums.append(one_hot.t() @ target.flatten(0, 1))  # (M, D)
            counts.append(one_hot.sum(0))
        sums, counts = total(torch.stack(sums)), total(torch.stack(counts))  # (m, M, D), (m, M)

        finite = sums.isfinite().all()
        new = self.moved(sums, counts)
        for name, value in zip(("embedding", "weight", "count"), new):
            buffer = getattr(self, name)
            buffer.copy_(torch.where(finite, value, buffer))
        self.skipped += ~finite
        self.usage.mul_(0.99).add_(counts.to(self.usage.dtype), alpha=0.01)
        self.idle.copy_(torch.where(counts > 0, 0, self.idle + 1))
        if self.reset != "off":
            everyone = ({m: gather(x[m]) for m in self.modalities} for x in (targets, valid))
            self.revive(*self.candidates(*everyone), finite)

    def hits(self, codes, valid):
        """Which code every step has, one-hot, nothing for steps that are padding: [B, T] each -> Tensor[B·T, M]."""
        weight = valid.flatten().to(self.embedding.dtype)
        one_hot = torch.zeros(len(weight), self.size, dtype=self.embedding.dtype, device=weight.device)
        return one_hot.scatter_(1, codes.flatten().unsqueeze(1), weight.unsqueeze(1))

    def candidates(self, targets, valid):
        """What codes may restart at, Tensor[n, D], and which of it exists: dicts of Tensor[B, T, D] and [B, T]."""
        return (torch.cat([targets[m].flatten(0, 1) for m in self.modalities]),
                torch.cat([valid[m].flatten() for m in self.modalities]))

    def target(self, m, z, valid):
        """What the steps of modality m add to their codes, Tensor[B, T, D]: (z + r) / 2, r the other modalities' mean.

        What a modality lacks (a missing caption, the end of a clip that is shorter) is left out of r: step by step
        where steps are paired, else clip by clip. A step that no other modality has a say in adds z itself.
        """
        own = z[m].to(self.embedding.dtype)
        others = [n for n in self.modalities if n != m]
        if self.mm_ema == "off" or not others:
            return own
        cross = [z[n].to(own.dtype) for n in others]
        if self.mm_ema == "attention":
            cross = [cross_attention(own, c, valid[n]) for c, n in zip(cross, others)]
        exists = [valid[n] if self.mm_ema == "aligned" else valid[n].any(1, keepdim=True) for n in others]
        weight = torch.stack(exists).to(own.dtype).unsqueeze(-1)  # (others, B, T or 1, 1)
        count = weight.sum(0)
        r = sum(w * c for w, c in zip(weight, cross)) / count.clamp_min(1)
        return torch.where(count > 0, (own + r) / 2, own)

    def moved(self, sums, counts):
        """(embedding, weight, count) after one update with per-modality sums [m, M, D] and counts [m, M]: one joint
        update of all modalities (eq. 7); counts are kept raw and smoothed where they are read."""
        g = self.decay
        count = g * self.count + (1 - g) * counts.sum(0)
        weight = g * self.weight + (1 - g) * sums.sum(0)
        return weight / self.smoothed(count).unsqueeze(1), weight, count

    def smoothed(self, count):
        total = count.sum(0)
        return (count + self.epsilon) / (total + self.size * self.epsilon) * total

    def revive(self, targets, real, finite):
        """Move idle codes to where they are needed.

        targets : Tensor[n, D], real : BoolTensor[n], both of this batch on all processes; finite : 0-d BoolTensor.
        """
        recent = (self.idle <= self.reset_after).sum(0)  # (M,), by how many modalities
        dead = recent < (min(2, len(self.modalities)) if self.reset == "both" else 1)
        fresh, dead = self.restarts(targets, real, finite, dead)
        for name, value in fresh.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.where(dead.view(-1, *[1] * (buffer.dim() - 1)), value, buffer))
        self.idle.copy_(torch.where(dead, 0, self.idle))
        self.revived += dead.sum()

    def restarts(self, targets, real, finite, dead):
        """(what codes restart with, dict buffer -> a value for every code [M, …]; which codes do [M]): a random target
        (z + r) / 2 of this batch, a place between the modalities. All statistics move along, or the next update would
        undo it."""
        fresh = targets[self.drawn(real)]
        return {"embedding": fresh, "weight": fresh, "count": torch.ones_like(self.count)}, dead & finite

    def drawn(self, real):
        """For every code the position of a target that exists, LongTensor[M]."""
        return sample(real, self.size)


def centres(points, size, iterations):
    """So many of the points [n, D], drawn by chance and moved by k-means: Tensor[size, D]."""
    order = shared_permutation(len(points), points.device)
    found = points[order.repeat(-(-size // len(points)))[:size]]
    for _ in range(iterations):
        nearest = torch.cdist(points, found).argmin(1)
        one_hot = torch.zeros(len(points), size, dtype=points.dtype, device=points.device)
        one_hot.scatter_(1, nearest.unsqueeze(1), 1.0)
        count = one_hot.sum(0).unsqueeze(1)
        found = torch.where(count > 0, one_hot.t() @ points / count.clamp_min(1), found)
    return found


def as_steps(pieces, valid):
    """Pieces as steps of their own: dicts of Tensor[B, T, P, d] and BoolTensor[B, T] -> of [B, T · P, d] and
    [B, T · P]."""
    valid = {m: valid[m].repeat_interleave(x.shape[2], 1) for m, x in pieces.items()}
    return {m: x.flatten(1, 2) for m, x in pieces.items()}, valid


def sample(allowed, n):
    """n random positions among those that `allowed`, BoolTensor[N], marks; any position if it marks none.

    By inverse CDF, because `multinomial` would read the weights back to the host.
    """
    cdf = (allowed.double() + 1e-12).cumsum(0)
    return torch.searchsorted(cdf, shared_rand(n, cdf.device) * cdf[-1]).clamp_max(len(cdf) - 1)
