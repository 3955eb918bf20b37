"""The terms that methods are put together from: each reads a `State` and returns named, unweighted scalars."""

import torch
from torch import nn

from cmg.distributed import average_gradients
from cmg.losses.club import CLUB
from cmg.losses.cross_cpc import CrossCPC
from cmg.losses.info_nce import contrast
from cmg.losses.masked import clip_vectors, mse
from cmg.losses.matching import CodeMatching
from cmg.modalities import pairs
from cmg.models.specific import build_decoder


class Reconstruction(nn.Module):
    """MSE between the features and D([code; specific]), keys by modality.

    Text: the paper rebuilds its input, the word embeddings. The released code rebuilds the trainable biLSTM's output,
    not detached, so that the target can move towards the prediction (`released=True`).
    """

    def __init__(self, model, specific, dim, released):
        super().__init__()
        self.released = released
        targets = model.fronts if released else model.shapes
        self.decoders = nn.ModuleDict({
            m: build_decoder(model.fronts[m], dim, specific[m].out_dim, targets[m][-1]) for m in model.modalities
        })

    def forward(self, state):
        targets, at = state.front if self.released else state.features, state.steps
        return {
            m: mse(decoder(state.quantized[m].straight[:, at], state.specific[m]), targets[m][:, at],
                   state.valid[m][:, at])
            for m, decoder in self.decoders.items()
        }


class Commitment(nn.Module):
    """Pull z towards its own code and towards the codes that the other modalities chose for the same step (eq. 8).

    beta·‖z - sg[e_own]‖² + beta/2 ‖z - sg[e_other]‖², the second term averaged over the other modalities; squared
    norms are means over elements. The released code doubles both (`scale=2`).

    timed : modalities whose step t is second t, the only ones that teach each other. None: all.
    """

    def __init__(self, beta=0.25, scale=1.0, timed=None):
        super().__init__()
        self.beta, self.scale, self.timed = beta, scale, timed

    def forward(self, state):
        timed = state.semantic if self.timed is None else self.timed
        losses = {}
        for m, z in state.semantic.items():
            loss = mse(z, state.quantized[m].vectors, state.valid[m])
            others = [n for n in timed if n != m] if m in timed else []
            for n in others:
                both = state.valid[m] & state.valid[n]
                loss = loss + mse(z, state.quantized[n].vectors, both) / (2 * len(others))
            losses[m] = self.beta * self.scale * loss
        return losses


class Disentangling(nn.Module):
    """vCLUB between Φ and Ψ of every modality, with its alternating likelihood steps (eq. 5).

    Parameters
    ----------
    steps, lr : likelihood steps per batch and their Adam learning rate (5 and 1e-3 in the released code).
    equations : "released" bounds the MI with the quantised vector (straight-through), "paper" with z itself.
    """

    def __init__(self, model, specific, dim, steps=5, lr=1e-3, equations="paper"):
        super().__init__()
        self.steps, self.quantised = steps, equations == "released"
        self.estimators = nn.ModuleDict({
            m: CLUB(dim, specific[m].pooled_dim, equations=equations) for m in model.modalities
        })
        self.optimizer = torch.optim.Adam(self.estimators.parameters(), lr=lr, fused=True)
        self.estimators.requires_grad_(False)  # the main backward pass needs no gradient of them

    def vectors(self, state, m):
        return (state.quantized[m].straight if self.quantised else state.semantic[m])[:, state.steps]

    def objective(self, given):
        """-log q(y | x), summed: the estimators share no parameter, so the gradient is that of each alone."""
        return -sum(q.log_likelihood(*given[m]) for m, q in self.estimators.items())

    def fit(self, state):
        """The likelihood steps, in float32: autocast would make copies of the weights in bf16 once, and all steps but
        the first would read what is out of date."""
        given = {}
        for m in self.estimators:
            x = self.vectors(state, m).detach()
            given[m] = x, state.pooled[m].detach().to(x.dtype), state.valid[m][:, state.steps]
        self.estimators.requires_grad_(True)
        with torch.autocast(x.device.type, enabled=False):
            for _ in range(self.steps):
                self.optimizer.zero_grad(set_to_none=True)
                self.objective(given).backward()
                average_gradients(self.estimators.parameters())
                self.optimizer.step()
        self.estimators.requires_grad_(False)

    def forward(self, state):
        """The bounds, in float32 as well: differences of moments, whose gradients in bf16 are off by a tenth."""
        bounds = {}
        for m, q in self.estimators.items():
            x = self.vectors(state, m)
            with torch.autocast(x.device.type, enabled=False):
                bounds[m] = q.upper_bound(x, state.pooled[m].to(x.dtype), state.valid[m][:, state.steps])
        return bounds


class Prediction(CrossCPC):
    """Cross-CPC on the semantic vectors of a state (eq. 6), between the modalities that it was built for."""

    def forward(self, state):
        return super().forward({m: state.semantic[m] for m in self.modalities}, state.valid)


class Matching(CodeMatching):
    """L_cmcm on the code distances of a state."""

    def forward(self, state):
        return super().forward({m: q.distances for m, q in state.quantized.items()}, state.valid)


def seconds_or_clip(z, valid, timed):
    """What one side of a pair is compared on, and which of it exists: z [B, T, D] and valid [B, T] as they are where
    both sides are timed (step t is second t), else the clip's mean over valid steps, [B, 1, D] and [B, 1]."""
    if timed:
        return z, valid
    mean, exists = clip_vectors(z, valid)
    return mean.unsqueeze(1), exists.unsqueeze(1)


class Alignment(nn.Module):
    """Symmetric InfoNCE between two modalities in the shared space itself, cosine / temperature.

    Not in the paper: Cross-CPC aligns modalities only up to the linear map W_k, and leaves it to commitment and MM-EMA
    to bring them to the same *place*, where they can share a code. This term asks for the place directly.

    timed : modalities whose step t is second t. A pair of them is compared second by second, with the same second of
        the other clips as negatives; any other pair clip by clip, on means over valid steps.
    """

    def __init__(self, temperature, timed):
        super().__init__()
        self.temperature, self.timed = temperature, tuple(timed)

    def forward(self, state):
        losses = {}
        for a, b, key in pairs(state.semantic):
            timed = a in self.timed and b in self.timed
            (za, va), (zb, vb) = (seconds_or_clip(state.semantic[m], state.valid[m], timed) for m in (a, b))
            losses[key] = (contrast(za, va, zb, vb, self.temperature) + contrast(zb, vb, za, va, self.temperature)) / 2
        return losses
