"""The settings of CMMixer, and its sizes as published."""

from dataclasses import dataclass, field

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.methods.cmmixer.mixing import MODES


@dataclass(frozen=True)
class PictureConfig(Config):
    """Pictures and the encoder that reads them.

    Attributes
    ----------
    side : of the square picture that a step of every modality is brought to
    positions : P, steps of a clip that are folded into one picture
    patch : side of a patch
    dim : D, of the encoder
    layers : of the encoder
    heads : of the encoder's attention
    mlp_ratio : width of feed-forward layers, times D; of the decoder as well
    norm_eps : of LayerNorm; 1e-5 in what the released script builds, 1e-6 in its named sizes
    targets : pictures with mean 0 and variance 1 over the training clips; those with every patch's own mean and
        variance in the loss; or as they are, in which decibels outweigh colours (released)
    """

    side: int = setting(224, whole(4))
    positions: int = setting(4, whole(1))
    patch: int = setting(16, whole(1))
    dim: int = setting(768, whole(4, multiple_of=4))
    layers: int = setting(12, whole(1))
    heads: int = setting(12, whole(1))
    mlp_ratio: float = setting(4.0, number(above=0))
    norm_eps: float = setting(1e-6, number(above=0))
    targets: str = setting("standard", choices=("standard", "patch", "raw"))

    def __post_init__(self):
        super().__post_init__()
        if self.side % self.patch:
            raise UserError(f"--side {self.side}: expected a multiple of --patch {self.patch}")
        if self.dim % self.heads:
            raise UserError(f"--dim {self.dim}: expected a multiple of --heads {self.heads}")

    @property
    def grid(self):
        """Rows and columns of patches of a clip's folded pictures."""
        return self.side // self.patch, self.side * self.positions // self.patch


@dataclass(frozen=True)
class AugmentConfig(Config):
    """Augmentation.

    Attributes
    ----------
    rand_augment : operations of RandAugment on a clip's frames, one after another, each with a chance of a half
    crop : share of the frames' area that is left by a random resized crop at the least; 1: no crop
    flip : mirror the frames of half of the clips
    erase : chance of a random rectangle without content, of frames and of mel pictures each
    """

    rand_augment: int = setting(0, whole())
    crop: float = setting(0.5, number(above=0))
    flip: bool = setting(True)
    erase: float = setting(0.25, number(least=0))

    def __post_init__(self):
        super().__post_init__()
        for name in ("crop", "erase"):
            if getattr(self, name) > 1:
                raise UserError(f"--{name} {getattr(self, name):g}: expected a share, 1 at the most")


@dataclass(frozen=True)
class MixerConfig(Config):
    """Method cmmixer.

    Attributes
    ----------
    mix : a box for every position of a clip, one for the clip, single pixels, a weighted sum; none, what the released
        program computes; or apart, an autoencoder for each modality
    pixel_rate : share of the second modality's pixels with --mix pixel
    pixel_map : whether every clip has exactly this share, or every pixel this chance
    alone : share of the clips that show one modality only, so that the encoder has seen such clips
    mask_ratio : share of the patches that is hidden
    decoder_dim : of the decoder
    decoder_layers : of the decoder
    decoder_heads : of the decoder's attention
    """

    mix: str = setting("image", choices=(*MODES, "apart"))
    pixel_rate: float = setting(0.5, number(above=0, below=1))
    pixel_map: str = setting("exact", choices=("exact", "bernoulli"))
    alone: float = setting(0.1, number(least=0))
    mask_ratio: float = setting(0.75, number(above=0, below=1))
    decoder_dim: int = setting(256, whole(4, multiple_of=4))
    decoder_layers: int = setting(4, whole(1))
    decoder_heads: int = setting(16, whole(1))
    pictures: PictureConfig = field(default_factory=PictureConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.alone > 1:
            raise UserError(f"--alone {self.alone:g}: expected a share, 1 at the most")
        if self.decoder_dim % self.decoder_heads:
            raise UserError(f"--decoder-dim {self.decoder_dim}: expected a multiple of --decoder-heads "
                            f"{self.decoder_heads}")
        rows, columns = self.pictures.grid
        if not 1 <= int(rows * columns * (1 - self.mask_ratio)) < rows * columns:
            raise UserError(f"--mask-ratio {self.mask_ratio:g}: of {rows * columns} patches "
                            "none or all are hidden; expected some to see and some to rebuild")


@dataclass(frozen=True)
class PairConfig(Config):
    """Method cmmixer-pair: an encoder for each modality, fine-tuned for retrieval.

    Attributes
    ----------
    read_out : what an encoder says of a clip: its class token, or the mean of its patches
    projected : width of the vectors that are compared
    projector : what ends a projector; relu, as released, keeps all cosines above 0
    temperature : of the cosines
    """

    read_out: str = setting("cls", choices=("cls", "mean"))
    projected: int = setting(2048, whole(1))
    projector: str = setting("linear", choices=("linear", "relu"))
    temperature: float = setting(0.1, number(above=0))
    pictures: PictureConfig = field(default_factory=PictureConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


PUBLISHED = AugmentConfig(rand_augment=4)
SMALL = PictureConfig(side=32, patch=8, dim=128, layers=4, heads=4)
SIZES = {  # name -> encoder, and (dim, layers, heads) of the decoder
    "base": (PictureConfig(dim=768, layers=12, heads=12), (256, 4, 16)),
    "large": (PictureConfig(dim=1024, layers=24, heads=16), (512, 4, 16)),
    "huge": (PictureConfig(patch=14, dim=1280, layers=32, heads=16), (512, 4, 16)),
}
# What the released script builds, the defaults of its class, trains in fact: nothing is mixed, nothing normalised.
RELEASED = PictureConfig(dim=768, layers=24, heads=16, norm_eps=1e-5, targets="raw"), (512, 8, 16)
