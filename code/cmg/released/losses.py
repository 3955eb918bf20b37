"""The released code's losses, defects included: what `--equations released` minimises."""

import torch
from torch import nn
from torch.nn import functional as F

from cmg.distributed import first_row, gather, shared_permutation, shared_rand, world
from cmg.losses.club import CLUB
from cmg.losses.cross_cpc import CrossCPC
from cmg.losses.matching import CodeMatching
from cmg.methods.codebook.baseline import Commitment, Reconstruction
from cmg.methods.codebook.cmcm import Matching
from cmg.methods.codebook.dcid import Disentangling, Prediction
from cmg.methods.codebook.fcid import ClipCLUB
from cmg.modalities import direction
from cmg.models.precision import recur


class ReleasedCLUB(CLUB):
    """One permutation of the batch as negatives; squared errors and log-variances are averaged over time before they
    are divided; nothing is masked."""

    def upper_bound(self, x, y, valid, permutation=None):
        """The bound, a scalar, in nats.

        permutation : LongTensor[B], which clip of the whole batch, over all processes, gives each clip's negative;
            drawn if None.
        """
        mean, logvar = self.mean(x), self.logvar(x)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        everyone, begin = gather(y), first_row(y)
        if permutation is None:
            permutation = shared_permutation(len(everyone), y.device)
        negatives = everyone[permutation[begin : begin + len(y)]]
        variance = logvar.mean(1).exp()  # (B, Y)
        positive = -((mean - y) ** 2).mean(1) / variance
        negative = -((mean - negatives) ** 2).mean(1) / variance
        return (positive - negative).sum(-1).mean() / 2


class ReleasedClipCLUB(ClipCLUB, ReleasedCLUB):
    """Of clips, which have no time, the mean over D takes its place, and the last sum runs over the batch."""

    def upper_bound(self, x, y, valid, permutation=None):
        """As of `ReleasedCLUB`; x, y : Tensor[B, 1, D]."""
        mean, variance = self.mean(x), self.logvar(x).mean((1, 2)).exp()  # (B, 1, D), (B,)
        everyone, begin = gather(y), first_row(y)
        if permutation is None:
            permutation = shared_permutation(len(everyone), y.device)
        negatives = everyone[permutation[begin : begin + len(y)]]
        gap = ((mean - negatives) ** 2 - (mean - y) ** 2).mean((1, 2)) / variance
        return world()[1] * gap.sum() / 2  # ranks are averaged later


class ReleasedDisentangling(Disentangling):
    """vCLUB of the quantised vector, with its straight-through gradient, instead of z; of a head of its own on Ψ."""

    READABLE = ("mean",)

    def vectors(self, state, m):
        return state.quantized[m].straight[:, state.steps]


class ReleasedCrossCPC(CrossCPC):
    """Two-layer LSTMs; one t a batch, drawn from 1..T-K-1; negatives are the other clips' *predictions*; terms within a
    modality with weight 0.1; nothing is masked."""

    layers, bias = 2, True

    @staticmethod
    def least_steps(steps):
        return steps + 2

    def forward(self, z, valid, t=None):
        """One loss per ordered pair of modalities, "a2a" among them.

        t : int or LongTensor[1], last context step; drawn if None.
        """
        (_, T, _), device = next(iter(z.values())).shape, next(iter(z.values())).device
        if t is None:
            t = (1 + shared_rand(1, device) * (T - self.steps - 1)).long()
        t = torch.as_tensor(t, device=device).view(1)
        context = {m: recur(self.context[m], z[m])[0].index_select(1, t) for m in self.modalities}  # (B, 1, D)
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
                losses[direction(a, b)] = torch.stack(terms).mean() * (0.1 if a == b else 1.0)
        return losses


class ReleasedPrediction(Prediction, ReleasedCrossCPC):
    """The same on a state."""


class ReleasedCodeMatching(CodeMatching):
    """S with a missing transpose: off the diagonal, the second term takes (B_i, A_j) instead of (A_i, B_j)."""

    def pair(self, a, b):
        similarity = a @ (b + 1e-10).log().t() + b @ (a + 1e-10).log().t()  # (B, B)
        # It shifts by the smallest entry and adds 1e-5 to the denominator. logsumexp gives the same numbers without
        # its overflow.
        offset = (-similarity).max()
        log_all = torch.logsumexp(similarity + offset, 1)
        log_all = torch.logaddexp(log_all, torch.full_like(log_all, 1e-5).log())
        return -(similarity.diagonal() + offset - log_all).mean()


class ReleasedMatching(Matching, ReleasedCodeMatching):
    """The same on a state."""


class ReleasedReconstruction(Reconstruction):
    """Rebuilds, of text, the trainable biLSTM's own output, not detached, so that the target can move towards the
    prediction."""

    def target_shapes(self, model):
        return model.input_shapes

    def targets(self, state):
        return state.inputs


class ReleasedCommitment(Commitment):
    """Both halves of eq. 8 twice."""

    scale = 2.0


def clip_by_module(method):
    """Gradients of biLSTMs, of encoders and of every term are clipped apart."""
    words = [p for e in method.model.semantic.values() if e.words for p in e.words.parameters()]
    ours = set(words)
    encoder = dict.fromkeys(p for part in (method.model, method.specific) if isinstance(part, nn.Module)
                            for p in part.parameters())  # Ψ may be part of the model
    groups = [words, [p for p in encoder if p not in ours], *(term.parameters() for term in method.terms.values())]
    groups = [[p for p in group if p.requires_grad] for group in groups]
    return [group for group in groups if group]
