"""What both stages ask of captions: numbers of pieces [N, K, L], K captions of a clip, with their vocabulary."""

from dataclasses import dataclass

import torch

from cmg.cli import whole
from cmg.configs import Config, setting, with_values
from cmg.distributed import first_row, shared_rand, world
from cmg.errors import UserError
from cmg.methods.contract import Method

HOW = "cmg.extract --text-backbone wordpiece"


@dataclass(frozen=True)
class CaptionsConfig(Config):
    """Captions.

    Attributes
    ----------
    vocabulary : V, pieces of words; default: as many as the data's vocabulary has
    """

    vocabulary: int | None = setting(None, whole(4), metavar="V")

    @property
    def size(self):
        """V, which must be known where a model is built."""
        if self.vocabulary is None:
            raise UserError("vocabulary: not known; expected how many pieces the captions' vocabulary has")
        return self.vocabulary


class CaptionMethod(Method):
    """Base of the two stages."""

    kinds = ("vectors", "grids", "tokens")
    least_modalities, least_clips = 2, 2
    follows_data = ("vocabulary",)

    @classmethod
    def settled(cls, config, features):
        return with_values(config, {"vocabulary": len(features.vocabularies["text"])})

    @classmethod
    def refuse(cls, config, features):
        """Every clip needs a caption, in pieces that the vocabulary has."""
        super().refuse(config, features)
        method = f"--method {cls.name}"
        for m, kind in features.kinds.items():
            if (kind == "tokens") != (m == "text"):
                raise UserError(f"--data: {m} holds {kind}; {method} reads captions as tokens ({HOW}), and other "
                                "modalities as vectors or grids")
        if "text" not in features.kinds:
            raise UserError(f"--modalities {' '.join(features.modalities)}: {method} needs text as well")
        if "text" not in features.vocabularies:
            raise UserError(f"--data: text has no vocabulary; {method} needs captions of {HOW}")
        size = len(features.vocabularies["text"])
        if config.captions.vocabulary not in (None, size):
            raise UserError(f"--vocabulary {config.captions.vocabulary}: that of --data has {size} pieces")
        ids, exists = features.tokens("text")
        if ids.min() < 0 or ids.max() >= size:
            raise UserError(f"--data: text holds the number {ids.max() if ids.max() >= size else ids.min()}; its "
                            f"vocabulary has {size} pieces")
        if not exists.any(1).all():
            raise UserError(f"--data: '{features.ids[int(exists.any(1).argmin())]}' has no caption; {method} needs one "
                            "of every clip")


def shared_uniform(x, *shape):
    """Uniform numbers [B, *shape] for the clips of x: row i is that of clip i of the whole batch, however many
    processes hold it."""
    first, B = first_row(x), len(x)
    total = B * world()[1]
    size = torch.Size((total, *shape)).numel()
    return shared_rand(size, x.device).view(total, *shape)[first : first + B]


def one_caption(ids, exists):
    """A caption of each clip, drawn from those that it has, int64 Tensor[B, L]; and which, int64 [B].

    ids : int Tensor[B, K, L]. exists : BoolTensor[B, K].
    """
    count = exists.sum(1)
    wanted = torch.minimum((shared_uniform(ids) * count).long(), count - 1)
    which = (exists.cumsum(1) <= wanted[:, None]).sum(1)
    return ids[torch.arange(len(ids), device=ids.device), which].long(), which
