"""Baseline (Xia et al. 2023, section 4.1), and the frame of every other method: one Φ and one Ψ per modality, decoders,
and a codebook that all modalities share. Nothing aligns them.

L = L_recon + L_commit, with commitment to the own code only, and codes that follow each modality's own vectors.

Choices of this project, for which no source exists: a method that is not built on DCID has the reset of codes that *no*
modality uses (`--reset any`), which keeps the vocabulary alive without favouring shared codes; `--reset off` is a flag
away. Without MM-EMA (that is, in all methods but `unicode`), eq. 8 keeps its first half only.
"""

from torch import nn

from cmg.methods import terms
from cmg.methods.base import Flag, Frame
from cmg.models.specific import build_specific
from cmg.models.unified import UnifiedModel

DEFAULTS = {"mm_ema": "off", "commitment": "own", "reset": "any"}

FLAGS = {
    "w_rec": Flag("reconstruction"),
    "w_commit": Flag("commitment, eq. 8"),
}


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
    return terms.Reconstruction(frame.model, frame.specific, frame.options["dim"], released)


def commitment(frame):
    scale = 2.0 if frame.options["equations"] == "released" else 1.0
    return terms.Commitment(scale=scale, timed=frame.timed if frame.options["commitment"] == "cross" else ())


TERMS = {"rec": reconstruction, "commit": commitment}
