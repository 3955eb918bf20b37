"""Several feature files as one: those of the same modalities one below the other, those of others side by side."""

import sys

import numpy as np
import torch

from cmg.data.feature_file import FeatureFile, first_repeated
from cmg.data.provenance import differing, of_attributes
from cmg.data.videos import clip_of
from cmg.distributed import world
from cmg.errors import UserError
from cmg.modalities import modality, ordered


class Part:
    """Files that hold the same modalities of different clips, one below the other.

    Attributes
    ----------
    files : list[FeatureFile]. modalities : of the first one, or those asked for of them.
    ids, shapes, kinds, provenance, vocabularies : of all files together.
    clips : rows of the clips of a feature set, LongTensor[N], or None for all as they are; `join` sets it.
    """

    def __init__(self, files, modalities):
        self.files, self.clips, self._captions, first = files, None, None, files[0]
        self.modalities = ordered(m for m in first.modalities if m in modalities)
        self.shapes = {m: first.shapes[m] for m in self.modalities}
        self.kinds = {m: first.kinds[m] for m in self.modalities}
        self.provenance = {m: of_attributes(first.attrs, m) for m in self.modalities}
        self.vocabularies = {m: words for m, words in first.vocabularies.items() if m in self.modalities}
        for file in files[1:]:
            self._check_fits(file)
        self.ids = [name for file in files for name in file.ids]
        self.starts = np.cumsum([0, *(len(file.ids) for file in files)])
        if len(set(self.ids)) != len(self.ids):
            name = first_repeated(self.ids)
            where = " and in ".join(str(file.path) for file in files if name in file.ids)
            raise UserError(f"id '{name}' occurs twice: in {where}")

    def dtype(self, modality):
        return np.result_type(*(file.dtypes[modality] for file in self.files))

    def _check_fits(self, file):
        """A later file holds what the first one holds, made in the same way."""
        first = self.files[0]
        for m in self.modalities:
            if m not in file.modalities and not modality(m).timed:
                file.stand_in(m, self.shapes[m], first.dtypes[m], self.kinds[m])
                print(f"note: {file.path} holds no {m}: {len(file.ids)} clips without words", file=sys.stderr)
                continue
            if m not in file.modalities:
                raise UserError(f"{file.path}: has no '{m}' features, only {', '.join(file.modalities)}")
            if file.kinds[m] != self.kinds[m]:
                raise UserError(f"{file.path}: '{m}' holds {file.kinds[m]}, but {self.kinds[m]} in {first.path}")
            if file.shapes[m] != self.shapes[m]:
                there = f"{self.shapes[m]} in {first.path}"
                raise UserError(f"{file.path}: '{m}' clips have shape {file.shapes[m]}, but {there}")
            if file.vocabularies.get(m) != self.vocabularies.get(m):
                raise UserError(f"{file.path}: '{m}' has another vocabulary than that of {first.path}; expected "
                                "captions that were extracted with the same")
            mine, theirs = self.provenance[m], of_attributes(file.attrs, m)
            found = differing(mine, theirs) or next((  # of an encoder that nobody knows nothing else can be said
                (name, getattr(mine, name), getattr(theirs, name)) for name in ("backbone", "sha256")
                if getattr(mine, name) != getattr(theirs, name)), None)
            if found:
                name, *values = found
                ours, other = (f"'{value}'" if value is not None else "not known" for value in values)
                raise UserError(f"{file.path}: {name}/{m} is {other}, but {ours} in {first.path}")

    def choose(self, rows):
        """Take of every clip the first of its rows, a list of lists; `draw` takes another one."""
        count = torch.tensor([len(own) for own in rows])  # (N,)
        every = torch.tensor([row for own in rows for row in own])
        self._captions = every, count.cumsum(0) - count, count
        self.clips = every[count.cumsum(0) - count]

    def draw(self, seed, epoch):
        """Take of every clip one of its captions at random: a function of (seed, epoch) alone."""
        if self._captions is None or (self._captions[2] == 1).all():
            return
        every, first, count = self._captions
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch + 2**40) % 2**63)  # not that of the order
        drawn = torch.rand(len(count), generator=generator, dtype=torch.float64)
        self.clips = every[first + (drawn * count).long()]

    def keep(self, index):
        """Leave the other clips of the feature set out: LongTensor of rows of the set as it is now."""
        self.clips = self.rows(index)
        if self._captions is not None:
            every, first, count = self._captions
            self._captions = every, first[index], count[index]

    def rows(self, index):
        """Rows of this part for rows of the feature set, LongTensor[B]."""
        return index if self.clips is None else self.clips[index]

    def file_of(self, row):
        return self.files[int(np.searchsorted(self.starts, row, side="right")) - 1]

    def read(self, modality, rows):
        """Rows from disk, file by file: x Tensor[B, *shape], valid Tensor[B, T]."""
        if len(self.files) == 1:
            return tuple(map(torch.from_numpy, self.files[0].read(modality, rows)))
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        dtype = getattr(torch, self.dtype(modality).name)
        x = torch.empty((len(rows), *self.shapes[modality]), dtype=dtype)
        valid = torch.empty((len(rows), self.shapes[modality][0]), dtype=torch.bool)
        for number in np.unique(owner):
            here = np.flatnonzero(owner == number)
            part, real = self.files[number].read(modality, rows[here] - self.starts[number])
            x[here], valid[here] = torch.from_numpy(part).to(dtype), torch.from_numpy(real)
        return x, valid


def apart(files) -> list[list[FeatureFile]]:
    """Files by what they hold: those that share a modality are of one part, those that share none of different ones.

    Raises
    ------
    UserError : a file holds what two files before it hold apart.
    """
    found = []
    for file in files:
        akin = [group for group in found if {*group[0].modalities} & {*file.modalities}]
        if len(akin) > 1:
            raise UserError(f"{file.path}: holds {', '.join(file.modalities)} together, {akin[0][0].path} and "
                            f"{akin[1][0].path} hold them apart; expected files of the same modalities")
        if akin:
            akin[0].append(file)
        else:
            found.append([file])
    return found


def held(paths) -> tuple[str, ...]:
    """The modalities that a set of these files has."""
    return ordered(m for group in apart(map(FeatureFile, paths)) for m in group[0].modalities)


def join(parts: list[Part]) -> list[str]:
    """Give every part its rows of the clips that all of them have; returns the clips' ids.

    The order is that of the first part that has seconds. Ids of words may end in `#<k>`, the number of one of several
    captions of a clip (`cmg.data.captions`): the first is taken, unless `Part.draw` takes another.

    Raises
    ------
    UserError : no clip in common; other numbers or lengths of steps.
    """
    if len(parts) == 1:
        return parts[0].ids
    first = next((part for part in parts if _timed(part)), parts[0])
    ids = first.ids
    rows = {}
    for part in parts:
        _check_steps(first, part)
        rows[id(part)] = _rows_by_clip(part, {*first.ids})
        kept = [name for name in ids if name in rows[id(part)]]
        if not kept:
            raise UserError(f"{first.files[0].path} and {part.files[0].path} hold different modalities, and no clip is "
                            f"in both: ids are '{first.ids[0]}' and '{part.ids[0]}'; expected the same of a clip")
        ids = kept
    for part in parts:
        part.choose([rows[id(part)][name] for name in ids])
        captions = sum(len(rows[id(part)][name]) for name in ids)
        if captions > len(ids) and not world()[0]:
            print(f"note: {captions} captions of {len(ids)} clips: pretraining takes a random one of each every epoch, "
                  "everything else the first", file=sys.stderr)
        spare = len(rows[id(part)]) - len(ids)
        if spare and not world()[0]:
            print(f"note: {spare} of {len(rows[id(part)])} clips with {', '.join(part.modalities)} are left out, "
                  "because another file lacks them", file=sys.stderr)
    return ids


def _rows_by_clip(part, clips) -> dict[str, list[int]]:
    """Clip -> its row, or those of its captions."""
    found = {}
    for row, name in enumerate(part.ids):
        found.setdefault(name if _timed(part) else clip_of(name, clips), []).append(row)
    return found


def _timed(part):
    return [m for m in part.modalities if modality(m).timed]


def _check_steps(first, part):
    """Step t is the same second everywhere."""
    for m, other in ((m, other) for m in _timed(first)[:1] for other in _timed(part)):
        ours, theirs = first.shapes[m][0], part.shapes[other][0]
        if ours != theirs:
            raise UserError(f"{part.files[0].path}: {theirs} steps of {other}, but {ours} of {m} in "
                            f"{first.files[0].path}")
        ours, theirs = (one.seconds_per_step for one in (first.provenance[m], part.provenance[other]))
        if None not in (ours, theirs) and ours != theirs:
            raise UserError(f"{part.files[0].path}: {theirs:g} s a step of {other}, but {ours:g} of {m} in "
                            f"{first.files[0].path}")
