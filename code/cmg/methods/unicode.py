"""Uni-Code (Xia et al., NeurIPS 2023): DCID (vCLUB + Cross-CPC), code matching and the MM-EMA codebook.

L = L_recon + L_commit + L_cpc + L_cmcm + L_MI. Every term has a weight flag, and a weight of 0 leaves its modules and
its cost out; without reconstruction and vCLUB there is no Ψ either.
"""

from torch import nn

from cmg.methods import terms
from cmg.methods.base import Method
from cmg.models.specific import build_specific
from cmg.models.unified import UnifiedModel


class UniCode(Method):
    """`Method` with the released code's clipping by module where its arithmetic is asked for."""

    released = False

    def clip_groups(self):
        if not self.released:
            return super().clip_groups()
        words = [p for e in self.model.semantic.values() if e.words for p in e.words.parameters()]
        ours = set(words)
        encoder = [p for part in (self.model, self.specific) if part is not None for p in part.parameters()]
        groups = [words, [p for p in encoder if p not in ours]]
        groups += [list(self.terms[name].parameters()) for name in ("rec", "cpc") if name in self.terms]
        return [g for g in groups if g]


def build(shapes, options):
    released = options["equations"] == "released"
    model = UnifiedModel(shapes, options)
    dim = options["dim"]
    weights = {name: options[f"w_{name}"] for name in ("rec", "commit", "club", "cpc", "cmcm", "align")}
    specific = None
    if weights["rec"] or weights["club"]:
        specific = nn.ModuleDict()
        for m in model.modalities:
            shape = (*model.shapes[m][:-1], dim) if m == "text" else model.shapes[m]
            width = options["specific_dim"] or 4 * shape[-1] if len(shape) == 4 else dim
            specific[m] = build_specific(shape, width, head=released)
    parts = {}
    if weights["rec"]:
        parts["rec"] = terms.Reconstruction(model, specific, dim, released)
    # Words are no seconds: with `--text-alignment clip`, no term pairs word t with second t.
    timed = [m for m in model.modalities if m != "text" or options["text_alignment"] == "step"]
    if weights["commit"]:
        parts["commit"] = terms.Commitment(scale=2.0 if released else 1.0, timed=timed)
    if weights["club"]:
        parts["club"] = terms.Disentangling(model, specific, dim, options["club_steps"], options["club_lr"],
                                            options["equations"])
    if len(model.modalities) > 1:
        if weights["cpc"] and len(timed) > 1:
            parts["cpc"] = terms.Prediction(timed, dim, options["cpc_steps"], options["cpc_temperature"],
                                            options["equations"])
        if weights["cmcm"]:
            parts["cmcm"] = terms.Matching(options["equations"])
        if weights["align"]:
            parts["align"] = terms.Alignment(options["align_temperature"], timed)
    method = UniCode(model, specific, parts, weights, options["specific_steps"])
    method.released = released
    return method
