"""One transformer for all modalities (MS-CLIP, You et al., ECCV 2022): shared attention and feed-forward weights."""

from torch import nn

from cmg.models.semantic import TemporalEncoder


class SharedTemporalEncoder(TemporalEncoder):
    """A `TemporalEncoder` that keeps its input projection, LayerNorms and an output projection to itself.

    Attention and feed-forward are the very modules of `first`: the parameters of a model count them once, and a state
    dict names them under every modality.

    first : the SharedTemporalEncoder of the first modality; None if this is it.
    """

    def __init__(self, in_dim, dim, layers=2, first=None):
        super().__init__(in_dim, dim, layers)
        self.out = nn.Linear(dim, dim)
        for own, shared in zip(self.encoder.layers, first.encoder.layers if first else ()):
            own.self_attn, own.linear1, own.linear2 = shared.self_attn, shared.linear1, shared.linear2

    def forward(self, x, valid=None):
        return self.out(super().forward(x, valid))


def share_transformer(semantic, layers):
    """Give every Φ of a ModuleDict modality -> SemanticEncoder a temporal encoder that shares its transformer."""
    first = None
    for encoder in semantic.values():
        project = encoder.temporal.project
        encoder.temporal = SharedTemporalEncoder(project.in_features, project.out_features, layers, first)
        first = first or encoder.temporal
