"""The model of all methods with a shared codebook: one semantic encoder Φ per modality, and the codebook."""

from dataclasses import dataclass, field

from torch import nn

from cmg.configs import Config, setting
from cmg.modalities import modality, ordered
from cmg.models.codebook import Codebook, CodebookConfig
from cmg.models.pretrained import Pretrained, Tokens
from cmg.models.semantic import EncoderConfig, GridPooling, SemanticEncoder
from cmg.models.shared import share_transformer


@dataclass(frozen=True)
class ModelConfig(Config):
    """Model.

    Attributes
    ----------
    equations : the paper's, or the released code's (cmg/released)
    """

    equations: str = setting("paper", choices=("paper", "released"))
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)


def unchanged(cls):
    """The paper's arithmetic: every class stands for itself. `cmg.released.arithmetic` puts others in their place."""
    return cls


class UnifiedModel(Pretrained):
    """Φ^m for every modality m and one codebook.

    Parameters
    ----------
    shapes : dict modality -> shape of one clip's features, e.g. {"video": (10, 7, 7, 512), "audio": (10, 128)}.
    config : ModelConfig
    arithmetic : function class -> class that takes its place.

    Example
    -------
    >>> model = UnifiedModel({"audio": (10, 128)}, ModelConfig(encoder=EncoderConfig(dim=32, layers=1)))
    >>> model.encode(audio=torch.zeros(2, 10, 128)).codes.shape
    torch.Size([2, 10])
    """

    offers = ("vectors", "codes")
    book = Codebook  # class of the codebook
    book_settings = ()  # names of what it takes beyond a `Codebook`
    first = ("audio", "video", "text")  # in which order the released code updates its codebook

    def __init__(self, shapes, config=ModelConfig(), arithmetic=unchanged):
        super().__init__(shapes)
        encoder = config.encoder
        first = [m for m in self.first if m in shapes]  # other modalities follow
        self.modalities = (*first, *(m for m in ordered(shapes) if m not in first))
        # Shapes of what `SemanticEncoder.inputs` gives, which Ψ and the decoders work on.
        self.input_shapes = {m: shape if modality(m).timed else (*shape[:-1], encoder.dim)
                             for m, shape in self.shapes.items()}
        self.semantic = nn.ModuleDict({
            m: SemanticEncoder(m, self.shapes[m], encoder, arithmetic(GridPooling)) for m in self.modalities})
        if encoder.transformer == "shared":
            share_transformer(self.semantic, encoder.layers)
        self.codebook = self.new_codebook(config, arithmetic)

    def new_codebook(self, config, arithmetic):
        book = config.codebook
        more = [getattr(book, name) for name in self.book_settings]
        return arithmetic(self.book)(self.modalities, book.codes, config.encoder.dim, book.decay, book.mm_ema,
                                     book.reset, book.reset_after, *more)

    @classmethod
    def made(cls, shapes, config, arithmetic):
        """The model of a method's settings, a `CodebookMethodConfig`."""
        return cls(shapes, config.model, arithmetic)

    @property
    def codebooks(self):
        """Those that pretraining moves."""
        return [self.codebook]

    @property
    def parts(self):
        """Tables of code vectors [M, D] that a token has a row of each of, side by side."""
        return [book.embedding for book in self.codebooks]

    @property
    def token_dim(self):
        """Width of a row of the first of them."""
        return self.codebook.embedding.shape[1]

    @property
    def device(self):
        return self.codebook.embedding.device

    @property
    def decoded(self):
        """Modalities whose features are rebuilt, and that therefore have a Ψ."""
        return self.modalities

    def clips(self, semantic, valid) -> dict:
        """Vectors of whole clips, modality -> ClipVectors, of a model that quantises these; else empty."""
        return {}

    def below(self, pooled, valid) -> dict:
        """What a second layer says of Ψ's vectors, modality -> Tensor[B, T, D], of a model that has one; else empty."""
        return {}

    def points(self, modality, semantic, valid=None):
        """What is quantised where tokens are read, Tensor[B, T, D]."""
        return semantic

    def mask(self, valid):
        """Which steps count, BoolTensor[B, T]: those that exist."""
        return valid

    def encode_modality(self, modality, features, valid=None):
        self.require(modality, features.shape[1:])
        encoder = self.semantic[modality]
        if valid is not None:
            valid = self.mask(valid)
        features = features.to(encoder.temporal.project.weight.dtype)  # public checkpoints are float64
        inputs = encoder.inputs(features, valid)
        return self.read(modality, inputs, encoder(inputs, valid), valid)

    def read(self, modality, inputs, semantic, valid) -> Tokens:
        """Tokens of z [B, T, D]; inputs [B, T, …] : what Φ and Ψ read."""
        points = self.points(modality, semantic, valid)
        quantized = self.codebook.quantize(points, modality)
        return Tokens(quantized.codes, quantized.vectors, points)
