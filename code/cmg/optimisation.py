"""The main optimiser of a run: its settings, its parameter groups, and its learning rate at every step."""

import math
from dataclasses import dataclass

import torch

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.errors import UserError

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class OptimiserConfig(Config):
    """Optimisation.

    Attributes
    ----------
    batch_size : clips a step, over all processes
    accumulate : split every batch into N micro-batches, for less memory; clips are compared within theirs
    optimizer : of all that has no optimiser of its own
    lr : learning rate, at its highest
    betas : of that optimiser's two averages
    weight_decay : of that optimiser
    decay_norms : weight decay on norms and biases as well
    schedule : of the learning rate after its warm-up
    lr_decay : factor on the rate an epoch, with --schedule exponential
    warmup_steps : steps in which the learning rate rises from 0
    clip_grad : gradient norm; 0 = off
    """

    batch_size: int = setting(80, whole(2))
    accumulate: int = setting(1, whole(1), metavar="N")
    optimizer: str = setting("adam", choices=tuple(OPTIMISERS))
    lr: float = setting(4e-4, number(above=0, below=100))
    betas: list = setting((0.9, 0.999), number(least=0, below=1), several=True)
    weight_decay: float = setting(0.0, number(least=0))
    decay_norms: bool = setting(True)
    schedule: str = setting("constant", choices=("constant", "cosine", "exponential"))
    lr_decay: float = setting(0.9, number(above=0))
    warmup_steps: int = setting(0, whole())
    clip_grad: float = setting(0.5, number(least=0))

    def __post_init__(self):
        super().__post_init__()
        if len(self.betas) != 2:
            raise UserError(f"--betas {' '.join(map(str, self.betas))}: expected two numbers")

    def groups(self, parameters):
        """Parameter groups: one, or with --no-decay-norms the vectors and scalars apart, without decay."""
        parameters = list(parameters)
        if self.decay_norms or not self.weight_decay:
            return [{"params": parameters}]
        matrices, vectors = ([p for p in parameters if (p.dim() > 1) == wide] for wide in (True, False))
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]

    def build(self, groups):
        """The optimiser of these groups."""
        kind = OPTIMISERS[self.optimizer]
        return kind(groups, lr=self.lr, betas=tuple(self.betas), weight_decay=self.weight_decay, fused=True)

    def rate(self, step, total, per_epoch):
        """The learning rate of a step of `total`, of which an epoch has `per_epoch`."""
        decayed = self.lr_decay ** (step // per_epoch)
        return self.lr * rate_factor(step, total, self.schedule, self.warmup_steps, decayed)


def rate_factor(step, total, schedule, warmup_steps=0, decayed=1.0):
    """Factor on the base rate at a step: linear warm-up, then constant, cosine to zero, or `decayed` by epochs."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "exponential":
        return decayed
    done = (step - warmup_steps) / max(1, total - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_rate(optimizer, rate):
    """Set the learning rate of all groups, each by its `lr_factor`; in place where a CUDA graph reads it."""
    for group in optimizer.param_groups:
        own = rate * group.get("lr_factor", 1.0)
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(own)
        else:
            group["lr"] = own
