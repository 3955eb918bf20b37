"""The clips that a task fits, chooses and tests on: annotations matched with features, and what is left out, once."""

import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cmg.data.features import FeatureSet
from cmg.data.videos import from_videos, video_of
from cmg.errors import UserError
from cmg.modalities import modality as row_of

WAY_OUT = "expected other clips, or a pretraining with --hold-out 0.2, which leaves a fifth of the videos for tests"


@dataclass(frozen=True, eq=False)
class Split:
    """Clips of one modality.

    rows : LongTensor[N], of the feature set
    names : the clips, as the annotations call them
    labels : dict kind of probe -> labels as the kind's `ProbeData` has them, [N, …]
    n_excluded : clips that were left out of it because the checkpoint was pretrained on their videos
    n_in_train : further ones that were left out because their videos are fitted or chosen on
    of : the data set, in messages, where a task reads several
    """

    features: FeatureSet
    modality: str
    rows: torch.Tensor
    names: list[str]
    labels: dict
    n_excluded: int = 0
    n_in_train: int = 0
    of: str = ""

    def __len__(self):
        return len(self.names)


class Match(NamedTuple):
    """What features there are for n clips.

    rows : LongTensor[len(found)], of the feature set
    found, missing, ambiguous : numbers of the clips that have features, have none, or could have those of several cuts
    """

    rows: torch.Tensor
    found: list[int]
    missing: list[int]
    ambiguous: list[int]


def match(features: FeatureSet, names) -> Match:
    """Rows of a feature set for clips by their names. Features of the whole video count as well, and those of a cut
    from it where the list says of no times and there is one cut alone."""
    cuts = defaultdict(list)
    for name in features.ids:
        cuts[video_of(name)].append(name)
    whole = set(features.ids)
    ids = [[name] if name in whole else [video_of(name)] if video_of(name) in whole else cuts.get(name, [])
           for name in names]
    by_count = {count: [n for n, own in enumerate(ids) if min(len(own), 2) == count] for count in range(3)}
    rows, _ = features.rows_of([ids[n][0] for n in by_count[1]])
    return Match(rows, by_count[1], by_count[0], by_count[2])


class Splits(dict):
    """(role, modality) -> Split; the roles are "fit", "val" and "test". A split may play several.

    Parameters
    ----------
    pretrain_ids : clips that the checkpoint was pretrained on; "test" gets no clip of their videos, nor of those of
        "fit" and "val", which therefore come before it. None leaves nothing out.

    Attributes
    ----------
    missing : annotated clips without features
    ambiguous : annotated clips that could be any of several cuts with features
    """

    def __init__(self, pretrain_ids=()):
        super().__init__()
        self.pretrain_ids, self.missing, self.ambiguous = pretrain_ids, {}, {}

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
        rows, found, missing, ambiguous = match(features, names)
        self.missing |= {clips[n]: None for n in missing}
        self.ambiguous |= {clips[n]: None for n in ambiguous}
        if not found:
            expected = f"; expected ids such as {names[0]}" if names else ""
            raise UserError(f"{flag}: none of the {len(names)} clips of the {called or role} split has features"
                            f"{expected}")
        seen = learnt = [False] * len(found)
        if role == "test" and self.pretrain_ids is not None:
            known = [name for (other, _), split in self.items() if other != "test" for name in split.names]
            seen, learnt = (from_videos([names[n] for n in found], ids) for ids in (self.pretrain_ids, known))
        fresh = [n for n, left in enumerate(zip(seen, learnt)) if not any(left)]
        kept = [found[n] for n in fresh]
        labels = labels([clips[n] for n in kept], features.shapes[modality][0])
        self[role, modality] = Split(features, modality, rows[fresh], [names[n] for n in kept], labels, sum(seen),
                                     len(found) - len(kept) - sum(seen), of)

    def testable(self, pairs) -> list[tuple[str, str]]:
        """The directions that have clips to test; tells on stderr of all that is left out.

        Raises
        ------
        UserError : the checkpoint was pretrained on every test clip.
        """
        kept = [(source, target) for source, target in pairs if len(self["test", target])]
        tests = {split.of: split for (role, _), split in self.items() if role == "test"}
        why = "pretrained on" + " or learnt from" * any(split.n_in_train for split in tests.values())
        if not kept:
            left = sum(split.n_excluded + split.n_in_train for split in tests.values())
            raise UserError(f"--checkpoint: all {left} test clips were {why}; nothing to test; {WAY_OUT}")
        for source, target in pairs:
            if (source, target) not in kept:
                split = self["test", target]
                print(f"warning: {source} → {target}: all {split.n_excluded + split.n_in_train} test clips of "
                      f"{split.of} were {why}, this direction is left out", file=sys.stderr)
        for of, split in tests.items():
            what = f"test clips of {of}" if of else "test clips"
            tell_pretrained(split.n_excluded, what)
            if split.n_in_train:
                print(f"warning: {split.n_in_train} {what} are from videos that are learnt from and are left out",
                      file=sys.stderr)
        for clips, lack in ((self.missing, "have no features"), (self.ambiguous, "could be any of several cuts")):
            if clips:
                first = next(iter(clips))
                print(f"warning: {len(clips)} annotated clips {lack} and are left out, the first is "
                      f"{getattr(first, 'id', first)}", file=sys.stderr)
        return kept


def tell_pretrained(count: int, what="test clips"):
    """Warn of test clips that the checkpoint was pretrained on; `count` may be 0."""
    if count:
        print(f"warning: {count} {what} were pretrained on and are left out", file=sys.stderr)


def require_seconds(features: FeatureSet, what: str, flag="--data"):
    """`UserError` where a step of the modalities that have seconds is none; `what` is labelled by the second."""
    for m in features.modalities:
        length = features.provenance[m].seconds_per_step
        if row_of(m).timed and length not in (None, 1):
            raise UserError(f"{flag}: {length} s a step; {what} labelled second by second")
