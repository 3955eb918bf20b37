"""What is retrieved from what: the items of every modality and of several as one, and which belong together."""

from typing import NamedTuple

import torch

from cmg.data.features import FeatureSet
from cmg.data.videos import clip_of, from_videos, video_of
from cmg.downstream.splits import WAY_OUT
from cmg.downstream.tokens import item_vectors
from cmg.errors import UserError
from cmg.metrics.retrieval import averaged, unit
from cmg.modalities import modality as row_of


class Items(NamedTuple):
    """All items of one modality: their clips' numbers [N], and their vectors [n, D] for those that have features.

    has : bool Tensor[N], which; vectors has a row for each of these, in order.
    """

    clips: torch.Tensor
    has: torch.Tensor
    vectors: dict[str, torch.Tensor]


class Collection:
    """Which items there are in each modality, and which of them belong to the same clip.

    Parameters
    ----------
    features : FeatureSet with the clips, an item a clip and modality
    texts : FeatureSet of captions of their own, ids `<clip>#<k>` or `<clip>`; replaces the clips' own text
    asked : ids of the captions that there should be, features or not
    pretrain_ids : clips to leave out
    whole : an item is a video instead of a clip, the mean of its clips' vectors; captions of their own stay apart
    """

    def __init__(self, features: FeatureSet, texts: FeatureSet | None = None, asked=(), pretrain_ids=(), whole=False):
        fresh = left(features.ids, pretrain_ids)
        self.n_excluded = len(features.ids) - len(fresh)
        named = video_of if whole else str
        own = list(map(named, fresh))
        self.sources = {m: (features, fresh, own) for m in features.modalities}  # and names, and clips of these
        self.joined = {m for m in self.sources if whole}
        if texts is not None:
            names = left(list(dict.fromkeys([*texts.ids, *asked])), pretrain_ids)
            known = set(features.ids)
            self.sources["text"] = texts, names, [named(clip_of(name, known)) for name in names]
            self.joined -= {"text"}
        clips = dict.fromkeys(clip for *_, own in self.sources.values() for clip in own)
        self.number = {clip: k for k, clip in enumerate(clips)}
        if not self.number:
            raise UserError(f"--checkpoint: all {len(features)} clips were pretrained on; nothing to retrieve; "
                            f"{WAY_OUT}")

    def items(self, model, modality, device="cpu") -> Items:
        """Encode one modality; an item without features, or without a single step, has no vectors."""
        features, names, clips = self.sources[modality]
        rows, missing = features.rows_of(names)
        absent = set(missing)
        has = torch.tensor([name not in absent for name in names])
        clips = torch.tensor([self.number[clip] for clip in clips])
        if not len(rows):
            raise UserError(f"--data: no {modality} item has features")
        vectors, there = item_vectors(model, features, modality, rows=rows, device=device)
        has[has.nonzero()[:, 0][~there.cpu()]] = False
        found = Items(clips, has, {kind: x[there] for kind, x in vectors.items()})
        return as_wholes(found) if modality in self.joined else found


def as_wholes(items: Items) -> Items:
    """One item for all of the same number, the mean of those that have features."""
    own = items.clips[items.has]
    clips = items.clips.unique()
    vectors = {kind: averaged(x, own.numpy())[0] for kind, x in items.vectors.items()}
    return Items(clips, torch.isin(clips, own), vectors)


def fused(parts: list[Items]) -> Items:
    """A clip's items of several modalities as one: the mean of their vectors of length 1, of those that it has.

    It is MultiSK's `v+a`, there without clips that lack a part; of all kinds of vectors that the parts have in common.
    """
    own = torch.cat([part.clips[part.has] for part in parts]).numpy()
    clips = torch.cat([part.clips for part in parts]).unique()
    kinds = [kind for kind, x in parts[0].vectors.items()
             if all(kind in part.vectors and part.vectors[kind].shape[1] == x.shape[1] for part in parts)]
    if not kinds:
        raise UserError("--checkpoint: its vectors of several modalities are of different widths; expected one space")
    vectors = {kind: averaged(torch.cat([unit(part.vectors[kind]) for part in parts]), own)[0] for kind in kinds}
    return Items(clips, torch.isin(clips, torch.from_numpy(own)), vectors)


def fused_pairs(pairs) -> list[tuple[str, str]]:
    """Directions between what is heard and seen, as one, and words: of the modalities that have seconds, where two or
    more are among the directions from and to one that has none.

    >>> fused_pairs([("text", "video"), ("text", "audio"), ("video", "text"), ("audio", "video")])
    [('text', 'video+audio')]
    """
    ends = dict.fromkeys(m for pair in pairs for m in pair)
    timed, words = ([m for m in ends if row_of(m).timed == is_so] for is_so in (True, False))
    found = []
    for word in words:
        to, back = [m for m in timed if (word, m) in pairs], [m for m in timed if (m, word) in pairs]
        found += [(word, "+".join(to))] * (len(to) > 1) + [("+".join(back), word)] * (len(back) > 1)
    return found


def left(names, pretrain_ids) -> list[str]:
    """What is left of the names without the clips that the checkpoint was pretrained on."""
    return [name for name, seen in zip(names, from_videos(names, pretrain_ids)) if not seen]
