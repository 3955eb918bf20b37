"""Baseline (Xia et al. 2023, section 4.1), and the frame of every other method: one Φ and one Ψ per modality, decoders,
and a codebook that all modalities share. Nothing aligns them.

L = L_recon + L_commit, with commitment to the own code only, and codes that follow each modality's own vectors.

Choices of this project, for which no source exists: a method that is not built on DCID has the reset of codes that *no*
modality uses (`--reset any`), which keeps the vocabulary alive without favouring shared codes; `--reset off` is a flag
away. Without MM-EMA (that is, in all methods but `unicode`), eq. 8 keeps its first half only.
"""

from torch import nn

from cmg.losses.masked import mse
from cmg.methods.base import Flag, Frame
from cmg.models.specific import build_decoder, build_specific
from cmg.models.unified import UnifiedModel

DEFAULTS = {"mm_ema": "off", "commitment": "own", "reset": "any"}

FLAGS = {
    "w_rec": Flag("reconstruction"),
    "w_commit": Flag("commitment, eq. 8"),
}


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


def frame(shapes, options):
    """Model, Ψ where a term needs one, and the modalities whose step t is second t."""
    model, specific, dim = UnifiedModel(shapes, options), None, options["dim"]
    if options["w_rec"] or options["w_club"]:
        specific = nn.ModuleDict()
        for m in model.modalities:
            shape = model.fronts[m]
            width = options["specific_dim"] or 4 * shape[-1] if len(shape) == 4 else dim
            specific[m] = build_specific(shape, width, head=options["equations"] == "released")
    # Words are no seconds: with `--text-alignment clip`, no term pairs word t with second t.
    timed = [m for m in model.modalities if m != "text" or options["text_alignment"] == "step"]
    return Frame(model, specific, options, timed)


def reconstruction(frame):
    released = frame.options["equations"] == "released"
    return Reconstruction(frame.model, frame.specific, frame.options["dim"], released)


def commitment(frame):
    scale = 2.0 if frame.options["equations"] == "released" else 1.0
    return Commitment(scale=scale, timed=frame.timed if frame.options["commitment"] == "cross" else ())


TERMS = {"rec": reconstruction, "commit": commitment}
