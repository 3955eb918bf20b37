"""The clips that a task fits, chooses and tests on: annotations matched with features, and what is left out, once."""

import sys
from dataclasses import dataclass

import torch

from cmg.data.features import FeatureSet
from cmg.data.provenance import of_attributes
from cmg.data.videos import from_videos, video_of
from cmg.errors import UserError
from cmg.modalities import modality as row_of


@dataclass(frozen=True, eq=False)
class Split:
    """Clips of one modality.

    rows : LongTensor[N], of the feature set
    names : the clips, as the annotations call them
    labels : dict kind of probe -> labels as the kind's `ProbeData` has them, [N, …]
    n_excluded : clips that were left out of it because the checkpoint was pretrained on them
    of : the data set, in messages, where a task reads several
    """

    features: FeatureSet
    modality: str
    rows: torch.Tensor
    names: list[str]
    labels: dict
    n_excluded: int = 0
    of: str = ""

    def __len__(self):
        return len(self.names)


def match(features: FeatureSet, names) -> tuple[torch.Tensor, list[int], list[int]]:
    """Rows of a feature set for clips by their names; features of the whole video, or of a cut from it, count as well.

    Returns
    -------
    rows : LongTensor[n]; found : numbers of the n names that have features; missing : of the others
    """
    cuts = {}
    for name in features.ids:
        cuts.setdefault(video_of(name), name)
    whole = {name: name for name in features.ids}
    ids = [whole.get(name) or whole.get(video_of(name)) or cuts.get(name) for name in names]
    found = [n for n, name in enumerate(ids) if name is not None]
    rows, _ = features.rows_of([ids[n] for n in found])
    return rows, found, [n for n, name in enumerate(ids) if name is None]


class Splits(dict):
    """(role, modality) -> Split; the roles are "fit", "val" and "test". A split may play several.

    Parameters
    ----------
    pretrain_ids : clips that the checkpoint was pretrained on, to be left out of "test"

    Attributes
    ----------
    missing : annotated clips without features
    """

    def __init__(self, pretrain_ids=()):
        super().__init__()
        self.pretrain_ids, self.missing = list(pretrain_ids), {}

    def add(self, role: str, modality: str, features: FeatureSet, clips, labels, *, called="", of="", flag="--data"):
        """Match clips with features and label them.

        Parameters
        ----------
        clips : their names, or objects that have an `id`
        labels : function of (clips that are left, steps of a clip) -> the split's labels
        called : name of the split in the data set, for messages; the role by default

        Raises
        ------
        UserError : no clip has features.
        """
        names = [clip if isinstance(clip, str) else clip.id for clip in clips]
        rows, found, missing = match(features, names)
        self.missing |= {clips[n]: None for n in missing}
        if not found:
            expected = f"; expected ids such as {names[0]}" if names else ""
            raise UserError(f"{flag}: none of the {len(names)} clips of the {called or role} split has features"
                            f"{expected}")
        fresh = range(len(found))
        if role == "test":
            seen = from_videos([names[n] for n in found], self.pretrain_ids)
            fresh = [n for n in fresh if not seen[n]]
        kept = [found[n] for n in fresh]
        labels = labels([clips[n] for n in kept], features.shapes[modality][0])
        self[role, modality] = Split(features, modality, rows[list(fresh)], [names[n] for n in kept], labels,
                                     len(found) - len(kept), of)

    def testable(self, pairs) -> list[tuple[str, str]]:
        """The directions that have clips to test; tells on stderr of all that is left out.

        Raises
        ------
        UserError : the checkpoint was pretrained on every test clip.
        """
        kept = [(source, target) for source, target in pairs if len(self["test", target])]
        excluded = {split.of: split.n_excluded for (role, _), split in self.items() if role == "test"}
        if not kept:
            raise UserError(f"--checkpoint: all {sum(excluded.values())} test clips were pretrained on; nothing to "
                            "test")
        for source, target in pairs:
            if (source, target) not in kept:
                split = self["test", target]
                print(f"warning: {source} → {target}: all {split.n_excluded} test clips of {split.of} were pretrained "
                      "on, this direction is left out", file=sys.stderr)
        for of, count in excluded.items():
            tell_pretrained(count, f"test clips of {of}" if of else "test clips")
        if self.missing:
            first = next(iter(self.missing))
            print(f"warning: {len(self.missing)} annotated clips have no features and are left out, the first is "
                  f"{getattr(first, 'id', first)}", file=sys.stderr)
        return kept


def tell_pretrained(count: int, what="test clips"):
    """Warn of test clips that the checkpoint was pretrained on; `count` may be 0."""
    if count:
        print(f"warning: {count} {what} were pretrained on and are left out", file=sys.stderr)


def require_seconds(features: FeatureSet, what: str, flag="--data"):
    """`UserError` where a step of the modalities that have seconds is none; `what` is labelled by the second."""
    for m in features.modalities:
        length = of_attributes(features.attrs, m).seconds_per_step
        if row_of(m).timed and length not in (None, 1):
            raise UserError(f"{flag}: {length} s a step; {what} labelled second by second")
