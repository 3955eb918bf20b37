"""Features of another data set, moved to where those of pretraining lie (`--adapt`): a read-out of any run.

Every channel c gets the mean and the deviation that it had in pretraining,

    x'_c = (x_c - μ_c) (σ*_c + ε) / (σ_c + ε) + μ*_c

with μ*, σ* of the pretraining features, which a checkpoint keeps, and μ, σ of the clips of the data set that probes are
fitted on, of each modality by itself, without their labels. ε is a hundredth of σ* (of all channels), so that a channel
that hardly moves is not blown up. It is what AdaBN (Li et al. 2016, arXiv 1603.04779) does in every layer, at the
input, and the diagonal of CORAL (Sun et al. 2016, arXiv 1511.05547). No work on cross-modal generalization has it; it
makes *target* clips without labels part of what is known, so its figures stand beside the others and not in their
place. It takes what a set shows for how it was recorded: where classes or backgrounds are others, it may cost.
"""

import torch

from cmg.data.numbers import Numbers, measure, sample
from cmg.downstream.tokens import Encoded
from cmg.errors import UserError

EPSILON = 0.01


def require_fitted(splits):
    """`UserError` if clips are tested of whose data set none is fitted on."""
    for (_, m), split in splits.items():
        if split.features is not splits["fit", m].features:
            raise UserError(f"--adapt: no {m} clip of the set that is tested is fitted on, and test clips are not to "
                            "be measured; expected a task that fits and tests on one set")


def mover(scale, modality, numbers: Numbers):
    """Function (x [B, T, …, C], valid [B, T]) -> x', from features such as `numbers` to those of a `FeatureScale`."""
    kept = scale.tensors(modality)
    means, spreads = kept["means"], kept["spreads"]
    own_means, own_spreads = (torch.tensor(x, device=means.device) for x in (numbers.channels, numbers.spreads))
    epsilon = EPSILON * spreads.square().mean().sqrt()
    factor = (spreads + epsilon) / (own_spreads + epsilon).clamp_min(torch.finfo(spreads.dtype).tiny)  # (C,)

    def move(x, valid):
        moved = (x.to(means.dtype) - own_means) * factor + means
        return moved * valid.view(*valid.shape, *[1] * (x.dim() - 2))

    return move


class Adapted(Encoded):
    """Tokens of moved features, in the place of an `Encoded`.

    Raises
    ------
    UserError : a checkpoint of before channels were kept.
    """

    def __init__(self, model, splits, device="cpu"):
        super().__init__(model, splits, device)
        self._moves = {}
        asked = dict.fromkeys(m for _, m in splits)
        if lacking := [m for m in asked if "spreads" not in model.feature_scale.tensors(m)]:
            raise UserError(f"--adapt: the checkpoint does not know mean and deviation of every channel of "
                            f"{' and '.join(lacking)}; expected one of this version or later")

    def move(self, split):
        if split.modality not in self._moves:
            fitted = self.splits["fit", split.modality]
            clips = sample(fitted.features, fitted.rows)
            numbers = measure(clips[split.modality], clips[f"valid/{split.modality}"])
            self._moves[split.modality] = mover(self.model.feature_scale, split.modality, numbers)
        return self._moves[split.modality]
