"""A second codebook on what the first one calls specific (H-DCID, arXiv 2403.05168v1; SRCID, ICASSP 2025, 2412.19128).

    h^m = Ψ^m(x^m), pooled,   z2^m = Transformer2^m( h^m ),   token = [ e(z^m) ; e2(z2^m) ], 2D wide

Ψ is therefore part of the model that is kept: the second half of a token needs it. `codes` of a token are those of the
first codebook.
"""

import torch
from torch import nn

from cmg.models.pretrained import Tokens
from cmg.models.semantic import TemporalEncoder
from cmg.models.specific import GridSpecific, build_specific
from cmg.models.unified import UnifiedModel, unchanged


class ResidualModel(UnifiedModel):
    """Φ and Ψ of every modality, a second encoder on Ψ, and a codebook for each of the two.

    Parameters
    ----------
    width : channels of a grid's Ψ, see `SpecificConfig`. Others as of `UnifiedModel`.

    Attributes
    ----------
    codebooks : both, as a token has them side by side
    """

    def __init__(self, shapes, config, arithmetic=unchanged, width=0):
        super().__init__(shapes, config, arithmetic)
        dim = config.encoder.dim
        self.specific = nn.ModuleDict({
            m: build_specific(shape, (width or 4 * shape[-1]) if len(shape) == 4 else dim, arithmetic(GridSpecific))
            for m in self.modalities for shape in [self.input_shapes[m]]})
        self.encoders = nn.ModuleDict({
            m: TemporalEncoder(psi.pooled_dim, dim, config.encoder.layers) for m, psi in self.specific.items()})
        self.second = self.new_codebook(config, arithmetic)

    @classmethod
    def made(cls, shapes, config, arithmetic):
        return cls(shapes, config.model, arithmetic, config.specific.specific_dim)

    @property
    def codebooks(self):
        return [self.codebook, self.second]

    def below(self, pooled, valid):
        return {m: self.encode_second(m, h, valid[m]) for m, h in pooled.items()}

    def encode_second(self, modality, pooled, valid):
        """z2 of h [B, T, Y], at least in float32: Tensor[B, T, D]."""
        z = self.encoders[modality](pooled, valid)
        return z.to(torch.promote_types(z.dtype, torch.float32))

    def read(self, modality, inputs, semantic, valid):
        first = super().read(modality, inputs, semantic, valid)
        z = self.encode_second(modality, self.specific[modality](inputs)[1], valid)
        vectors = self.second.quantize(z, modality).vectors
        return Tokens(first.codes, torch.cat([first.quantized, vectors], -1), torch.cat([semantic, z], -1))
