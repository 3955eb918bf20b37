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
FORM = {"means": 1, "spreads": 1, "offset": 1, "divisor": 0}  # dimensions of what a checkpoint keeps of a modality


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

    # What is kept in tensors, as buffers "video_means" and so on: means and spreads are those of the channels of the
    # features that the model was pretrained on.

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.known, self.standardised = shapes, {}, ()

    def learn(self, modality, numbers: Numbers, mode="auto"):
        """Take over what a sample of the features is like; whether they are standardised from now on."""
        self.known[modality] = numbers.mean, numbers.deviation
        means, spreads = torch.tensor(numbers.channels), torch.tensor(numbers.spreads)
        self._set(modality, means=means, spreads=spreads)
        size = numbers.root_mean_square
        if mode == "off" or not size or (mode == "auto" and LEAST <= size <= MOST):
            return False
        moves = numbers.within > 1e-6 * size
        self._set(modality, offset=means, divisor=torch.tensor(numbers.within if moves else 1.0))
        return True

    def _set(self, modality, **tensors):
        # Not part of the state dict: what standardises nothing is the same as before there was this. See `content`.
        for name, x in tensors.items():
            if FORM[name]:
                x = x.expand(self.shapes[modality][-1:])  # an error of torch's, where a checkpoint is no whole one
            self.register_buffer(f"{modality}_{name}", x, persistent=False)
        if "offset" in tensors:
            self.standardised = tuple(dict.fromkeys((*self.standardised, modality)))

    def tensors(self, modality):
        """Those of `FORM` that are known of a modality, by name."""
        return {name: getattr(self, f"{modality}_{name}") for name in FORM if hasattr(self, f"{modality}_{name}")}

    def forward(self, modality, x, valid=None):
        """Features [B, T, …, C] as networks read them, at least in float32; valid [B, T] or None for all steps."""
        if modality not in self.standardised:
            return x
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        own = self.tensors(modality)
        x = (x - own["offset"]) / own["divisor"]
        return x if valid is None else x * valid.view(*valid.shape, *[1] * (x.dim() - 2))

    def batch(self, batch):
        """The same of a training batch, a dict with modality and "valid/<modality>" as names."""
        return batch | {m: self(m, batch[m], batch[f"valid/{m}"]) for m in self.standardised}

    # -- in checkpoints ------------------------------------------------------------------------------------------

    def content(self) -> dict:
        """What a checkpoint keeps: modality -> mean and deviation of its features, those of its channels, Tensor[C]
        each, and of features that are standardised the offset, Tensor[C], and the divisor, a 0-d tensor."""
        return {m: {"mean": mean, "deviation": deviation} | {name: x.cpu() for name, x in self.tensors(m).items()}
                for m, (mean, deviation) in self.known.items()}

    def load(self, content):
        """Take over what a checkpoint kept; one of before this was written knows nothing."""
        for m, row in content.items():
            self.known[m] = row["mean"], row["deviation"]
            self._set(m, **{name: row[name].clone() for name in FORM if name in row})


def formed(content) -> bool:
    """Whether a part of a checkpoint is what `FeatureScale.content` gives."""
    return all(
        isinstance(row["mean"], float) and isinstance(row["deviation"], float)
        and ("offset" in row) == ("divisor" in row) and ("means" in row) == ("spreads" in row)
        and all(row[name].dim() == dim and row[name].isfinite().all() for name, dim in FORM.items() if name in row)
        for row in content.values())
