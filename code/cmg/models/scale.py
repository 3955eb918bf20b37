"""Features of any scale: what is taken off them, and what they are divided by, before any network reads them.

Of the usual encoders nothing is: their numbers have a root mean square between 0.06 (vectors of length 1) and 3, those
of the built-in set 2. Whole numbers 0 … 255 have 140, and the squared error of a decoder would be all that counts.
"""

import torch
from torch import nn

from cmg.data.numbers import Numbers

MODES = ("auto", "on", "off")
# Root mean squares that `auto` leaves alone: from vectors of length 1 and a width of ten thousand, to ten times what
# encoders give.
LEAST, MOST = 0.01, 30.0


class FeatureScale(nn.Module):
    """(x - offset) / divisor, modality by modality, of those that are standardised; others pass as they are.

    The offset is each channel's mean, the divisor one deviation for all channels, so that a channel that never moves is
    not blown up. Steps that do not exist stay zero.

    Parameters
    ----------
    shapes : dict modality -> shape of one clip's features.

    Attributes
    ----------
    known : dict modality -> (mean, deviation) of the features that the model was pretrained on, before any of this.
        What is not in it is not known.
    standardised : names of the modalities that do not pass as they are.
    """

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.known, self.standardised = shapes, {}, ()

    def learn(self, modality, numbers: Numbers, mode="auto"):
        """Take over what a sample of the features is like; whether they are standardised from now on."""
        self.known[modality] = numbers.mean, numbers.deviation
        size = numbers.root_mean_square
        if mode == "off" or not size or (mode == "auto" and LEAST <= size <= MOST):
            return False
        moves = numbers.within > 1e-6 * size
        self._set(modality, torch.tensor(numbers.channels), torch.tensor(numbers.within if moves else 1.0))
        return True

    def _set(self, modality, offset, divisor):
        # Not part of the state dict: what standardises nothing is the same as before there was this. See `content`.
        offset = offset.expand(self.shapes[modality][-1:])  # an error of torch's, where a checkpoint is no whole one
        self.register_buffer(f"{modality}_offset", offset, persistent=False)
        self.register_buffer(f"{modality}_divisor", divisor, persistent=False)
        self.standardised = tuple(dict.fromkeys((*self.standardised, modality)))

    def _tensors(self, modality):
        return {name: getattr(self, f"{modality}_{name}") for name in ("offset", "divisor")}

    def forward(self, modality, x, valid=None):
        """Features [B, T, …, C] as networks read them, at least in float32; valid [B, T] or None for all steps."""
        if modality not in self.standardised:
            return x
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = (x - self._tensors(modality)["offset"]) / self._tensors(modality)["divisor"]
        return x if valid is None else x * valid.view(*valid.shape, *[1] * (x.dim() - 2))

    def batch(self, batch):
        """The same of a training batch, a dict with modality and "valid/<modality>" as names."""
        return batch | {m: self(m, batch[m], batch[f"valid/{m}"]) for m in self.standardised}

    # -- in checkpoints ------------------------------------------------------------------------------------------

    def content(self) -> dict:
        """What a checkpoint keeps: modality -> mean and deviation of its features, and of those that are standardised
        the offset, Tensor[C], and the divisor, a 0-d tensor."""
        found = {m: {"mean": mean, "deviation": deviation} for m, (mean, deviation) in self.known.items()}
        return found | {m: found[m] | {name: x.cpu() for name, x in self._tensors(m).items()}
                        for m in self.standardised}

    def load(self, content):
        """Take over what a checkpoint kept; one of before this was written knows nothing."""
        for m, row in content.items():
            self.known[m] = row["mean"], row["deviation"]
            if "offset" in row:
                self._set(m, row["offset"].clone(), row["divisor"].clone())


def formed(content) -> bool:
    """Whether a part of a checkpoint is what `FeatureScale.content` gives."""
    return all(
        isinstance(row["mean"], float) and isinstance(row["deviation"], float)
        and ("offset" not in row or (row["offset"].dim(), row["divisor"].dim()) == (1, 0))
        and all(x.isfinite().all() for name, x in row.items() if name in ("offset", "divisor"))
        for row in content.values())
