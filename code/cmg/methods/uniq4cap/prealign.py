"""Stage 1 (UniQ4Cap §3.2): encoders of sight and of sound are aligned with one of captions.

    L = w_nce · NCE(sight, text) + w_mil · MIL-NCE(sound, text)

of unit vectors over a learnt temperature; half of the tokens of sight and sound are dropped in training.

Choices of this project, for the authors' code of this stage is not public: each encoder is a small transformer over
extracted features; modalities other than sound have the NCE; a clip's bag of positives is all its captions (`--bag
captions`), of which any may be the one that says what is heard, or with a single caption the seconds of its sound
(`--bag seconds`), of which any may be the one that the caption tells of; the contrast of MIL-NCE goes both ways, as in
its authors' code, or one (`--mil-sides one`).
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from cmg.cli import number
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.losses.nce import mil_nce, nce
from cmg.methods.contract import Recipe
from cmg.methods.uniq4cap.captions import CaptionMethod, CaptionsConfig, one_caption, shared_uniform
from cmg.modalities import modality
from cmg.models.pretrained import Pretrained, Tokens
from cmg.models.uniq4cap.encoders import CaptionEncoder, ClipEncoder, EncodersConfig
from cmg.optimisation import OptimiserConfig

STEEPEST = 100.0  # that 1 / temperature may become


@dataclass(frozen=True)
class PrealignConfig(Config):
    """Method prealign.

    Attributes
    ----------
    w_nce : weight of NCE, of sight and text
    w_mil : weight of MIL-NCE, of sound and text
    drop_tokens : share of the tokens of sight and sound that is dropped in training
    bag : a clip's positives in MIL-NCE, its captions or the seconds of its sound
    mil_sides : MIL-NCE contrasts both ways, as its authors' code, or one, as its formula
    align_temperature : of the contrasts, where it starts; it is learnt
    """

    w_nce: float = setting(1.0, number(least=0))
    w_mil: float = setting(1.0, number(least=0))
    drop_tokens: float = setting(0.5, number(least=0, below=1))
    bag: str = setting("captions", choices=("captions", "seconds"))
    mil_sides: str = setting("both", choices=("both", "one"))
    align_temperature: float = setting(0.07, number(above=0))
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    encoders: EncodersConfig = field(default_factory=EncodersConfig)


class AlignedEncoders(Pretrained):
    """What stage 1 leaves: an encoder a modality, all in one space."""

    def __init__(self, shapes, config, vocabulary):
        super().__init__(shapes)
        self.encoders = nn.ModuleDict({
            m: CaptionEncoder(vocabulary, shape[1], config) if m == "text" else ClipEncoder(shape, config)
            for m, shape in self.shapes.items()})

    def fits(self, modality, shape):
        """Of text any number of captions, of no more pieces than in training."""
        if modality == "text":
            return len(shape) == 2 and shape[1] <= self.shapes["text"][1]
        return super().fits(modality, shape)

    def encode_modality(self, modality, features, valid=None):
        """Unit vectors: of sight and sound one a second, of text one a caption."""
        self.require(modality, features.shape[1:])
        encoder = self.encoders[modality]
        if modality == "text":
            return Tokens(None, None, encoder(features))
        return Tokens(None, None, encoder.steps(encoder(features, valid)[0]))


class Prealign(CaptionMethod):
    """Stage 1."""

    name = "prealign"
    Config = PrealignConfig
    recipes = {
        "small": Recipe(PrealignConfig(), OptimiserConfig(
            batch_size=64, optimizer="adamw", lr=1e-3, weight_decay=0.05, decay_norms=False, schedule="cosine",
            warmup_steps=30, clip_grad=1.0), epochs=20),
        "paper": Recipe(PrealignConfig(encoders=EncodersConfig(
            aligned_width=1024, aligned_heads=16, aligned_dim=768, cells=7)), OptimiserConfig(
            batch_size=128, optimizer="adamw", lr=2e-4, weight_decay=0.05, decay_norms=False, schedule="cosine",
            warmup_steps=1000, clip_grad=1.0), epochs=25),
    }

    def __init__(self, shapes, config):
        super().__init__()
        self.config = config
        self.model = AlignedEncoders(shapes, config.encoders, config.captions.size)
        start = -torch.tensor(config.align_temperature).log()
        self.steepness = nn.ParameterDict({m: start.clone() for m in self.model.modalities if m != "text"})

    def losses(self, batch):
        """A term a modality beside text."""
        exists, text = batch["valid/text"], self.model.encoders["text"](batch["text"])  # (B, K, D)
        _, which = one_caption(batch["text"], exists)
        one = text[torch.arange(len(text), device=text.device), which]  # (B, D)
        found = {}
        for m, steepness in self.steepness.items():
            scale = steepness.exp().clamp(max=STEEPEST)
            encoder, x, valid = self.model.encoders[m], batch[m], batch[f"valid/{m}"]
            uniform = shared_uniform(x, x.shape[1] * encoder.side**2)
            tokens, there = encoder(x, valid, uniform, self.config.drop_tokens)
            if modality(m).source != "sound":
                found[f"nce/{m}"] = self.config.w_nce * nce(encoder.pooled(tokens, there), one, scale)
                continue
            both = self.config.mil_sides == "both"
            if self.config.bag == "captions":
                loss = mil_nce(encoder.pooled(tokens, there), text, exists, scale, both)
            else:
                loss = mil_nce(one, encoder.steps(tokens), there, scale, both)
            found[f"mil/{m}"] = self.config.w_mil * loss
        return found

    def update(self, carried):
        """What has learnt is marked so: stage 2 takes no encoder that has not."""
        for m in self.steepness:
            self.model.encoders[m].aligned.fill_(True)

    def kept(self):
        return self.model

    @classmethod
    def rebuild(cls, shapes, config):
        return AlignedEncoders(shapes, config.encoders, config.captions.size)

    @classmethod
    def check(cls, config, recipe):
        refuse_heads(config.encoders)


def refuse_heads(config):
    """`UserError` for a width that the heads of an encoder do not divide."""
    if config.aligned_width % config.aligned_heads:
        raise UserError(f"--aligned-width {config.aligned_width}: expected a multiple of --aligned-heads "
                        f"{config.aligned_heads}")
