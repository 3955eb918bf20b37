"""The settings of MultiSK and its presets.

small     for small data and two CPU cores: narrow towers, the corrected logits.
released  the shipped configuration of the public code (0.89 B parameters). Its moving average of the weights, which is
          saved there and never evaluated, is left out.
"""

from dataclasses import dataclass, field

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.errors import UserError
from cmg.losses.sspc import LOGITS
from cmg.methods.contract import Recipe
from cmg.modalities import modality
from cmg.models.multisk import TowerConfig
from cmg.models.multisk_audio import MelFrontConfig
from cmg.optimisation import OptimiserConfig

ASSIGNMENTS = ("multi", "top-r", "sinkhorn", "off")


@dataclass(frozen=True)
class AnchorConfig(Config):
    """Anchors, and how clips are assigned to them.

    Attributes
    ----------
    anchors : K, of every modality in each of the two spaces
    anchor_share : of the anchors that a clip selects, r = int(share · K)
    assignment : multi: Multi-Assignment Sinkhorn-Knopp; top-r: the r nearest; sinkhorn: one anchor a clip, balanced;
        off: none, the contrastive loss alone
    sinkhorn_epsilon : ε, how soft an assignment is
    sinkhorn_iterations : of every assignment
    sinkhorn_guard : δ in every denominator of Multi-Assignment Sinkhorn-Knopp; 0 = none
    queue : earlier clips that are assigned along with a batch; SSPC begins when they are there
    logits : of a clip's assignment. released: exp(s / 0.1), which is never negative; fixed: (s - b) / 0.1, b learnt
    """

    anchors: int = setting(64, whole(2))
    anchor_share: float = setting(0.5, number(above=0, below=1))
    assignment: str = setting("multi", choices=ASSIGNMENTS)
    sinkhorn_epsilon: float = setting(0.07, number(above=0))
    sinkhorn_iterations: int = setting(20, whole(1))
    sinkhorn_guard: float = setting(1e-5, number(least=0))
    queue: int = setting(5500, whole(1))
    logits: str = setting("released", choices=LOGITS)

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.picks < self.anchors:
            raise UserError(f"--anchor-share {self.anchor_share:g}: a clip would select {self.picks} of "
                            f"{self.anchors} anchors; expected 1 to {self.anchors - 1}")

    @property
    def picks(self):
        """r, how many anchors a clip selects."""
        return int(self.anchors * self.anchor_share)


@dataclass(frozen=True)
class MultiSKConfig(Config):
    """MultiSK.

    Attributes
    ----------
    w_sspc : weight of the structure loss beside the contrastive one
    contrast_temperature : τ of the contrastive loss
    weak : modalities that say little of the others
    w_weak : weight of what a weak modality takes part in, in both losses
    """

    w_sspc: float = setting(1.0, number(least=0))
    contrast_temperature: float = setting(0.05, number(above=0))
    weak: list = setting(("audio",), several=True)
    w_weak: float = setting(0.1, number(above=0))
    towers: TowerConfig = field(default_factory=TowerConfig)
    structure: AnchorConfig = field(default_factory=AnchorConfig)

    def __post_init__(self):
        super().__post_init__()
        for name in self.weak:
            modality(name)

    def weight(self, a, b):
        """w_mn of two modalities, which may be the same."""
        return self.w_weak if {a, b} & {*self.weak} else 1.0


RECIPES = {
    "small": Recipe(
        MultiSKConfig(structure=AnchorConfig(queue=2048, logits="fixed")),
        OptimiserConfig(optimizer="adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", warmup_steps=20,
                        batch_size=128), epochs=20),
    "released": Recipe(
        MultiSKConfig(towers=TowerConfig(4096, 6144, 64, MelFrontConfig((128, 128, 256, 512, 1024, 2048, 4096),
                                                                        (2, 2, 1, 1, 1, 1)))),
        OptimiserConfig(lr=5e-5, schedule="exponential", lr_decay=0.9, batch_size=2160, clip_grad=0.0), epochs=15),
}
