"""AVE annotations (Tian et al., ECCV 2018), read from the public files as they are.

`Annotations.txt` has one `Category&VideoID&Quality&StartTime&EndTime` row a clip, with or without that
header. Splits come from `{train,val,test}Set.txt` (rows of the same format) or, where such a file is
absent, from `{train,val,test}_order.h5` (dataset `order`: row numbers of `Annotations.txt`, header not
counted). `categories.txt`, if there is one, gives the classes' order; otherwise the order of first
appearance does, which is the same in the authors' copy.

Oddities of the public files, and what becomes of them:

* 45 of the 4097 videos occur two or three times under different classes: separate clips.
* Some ids start with `-`, nothing special here.
* One training row has an empty span, 0..0. The benchmark counts it (3339 training clips, all ten seconds
  of this one labelled background), so it is kept and only mentioned in `notes`; so is a span that ends
  after the clip, of which the seconds that exist are labelled.
* A row that repeats another of its split word for word is dropped and listed in `skipped`.

Any other irregularity is an error: a file that is broken in one place is not to be trusted in the others.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from cmg.data.hdf5 import opened
from cmg.errors import UserError
from cmg.files import read_text

SPLITS = ("train", "val", "test")
SECONDS = 10
ROW = "Category&VideoID&Quality&StartTime&EndTime"


class Clip(NamedTuple):
    """One annotated clip; the event lasts from second `onset` up to, not including, second `offset`."""

    id: str
    category: str
    onset: int
    offset: int


class AveAnnotations(NamedTuple):
    """The benchmark: its K classes, the clips of each split, dropped rows, and oddities that were kept."""

    classes: list[str]
    splits: dict[str, list[Clip]]
    skipped: list[str]
    notes: list[str]


def read_ave(folder) -> AveAnnotations:
    """Read an AVE annotation folder.

    Raises
    ------
    UserError
        A file is missing, or a row is broken; the line names the file and the row.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--annotations {folder}: no such folder; expected AVE's Annotations.txt and splits in it")
    rows = read_rows(folder / "Annotations.txt")
    clips = [clip for _, clip in rows]
    classes = _read_classes(folder, rows)

    splits, skipped, notes = {}, [], []
    owner: dict[Clip, str] = {}  # which split a clip is in: no test clip may be trained on
    for split in SPLITS:
        splits[split] = []
        for place, clip in _read_split(folder, split, clips):
            if owner.get(clip) == split:
                skipped.append(f"{place}: the same row a second time ({clip.id}), dropped")
                continue
            if clip in owner:
                raise UserError(f"{place}: clip {clip.id} ({clip.category}) is in {owner[clip]} as well")
            owner[clip] = split
            if clip.onset == clip.offset:
                notes.append(f"{place}: {clip.id} has an empty span {clip.onset}..{clip.offset}, all background")
            if clip.offset > SECONDS:
                notes.append(f"{place}: {clip.id} ends at {clip.offset} s, after the clip's {SECONDS} s")
            splits[split].append(clip)
        if not splits[split]:
            raise UserError(f"{folder}: the {split} split is empty; expected at least one clip")
    return AveAnnotations(classes, splits, skipped, notes)


def clip_labels(clips: list[Clip], classes: list[str]) -> torch.Tensor:
    """Class of each clip, int64 [N]; a clip keeps its class even where its span is empty."""
    number = {name: k for k, name in enumerate(classes)}
    return torch.tensor([number[clip.category] for clip in clips], dtype=torch.int64)


def segment_labels(clips: list[Clip], classes: list[str], T: int = SECONDS) -> torch.Tensor:
    """Class of each second, int64 [N, T]; K = len(classes) stands for background.

    >>> segment_labels([Clip("a", "Cat", 1, 3)], ["Bark", "Cat"], T=4).tolist()
    [[2, 1, 1, 2]]
    """
    onset = torch.tensor([clip.onset for clip in clips])
    offset = torch.tensor([clip.offset for clip in clips])
    second = torch.arange(T)
    inside = (second >= onset[:, None]) & (second < offset[:, None])  # (N, T)
    return torch.where(inside, clip_labels(clips, classes)[:, None], len(classes))


def _lines(path: Path):
    """Non-blank lines of a text file with their line numbers, from 1."""
    lines = read_text(path, f"rows of {ROW}").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def read_rows(path: Path) -> list[tuple[str, Clip]]:
    """Every row of an annotation file as (place to name in messages, clip)."""
    rows = []
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        fields = [field.strip() for field in line.split("&")]
        if not rows and line.strip().lower() == ROW.lower():
            continue
        if len(fields) != 5:
            raise UserError(f"{place}: {len(fields)} fields; expected 5, {ROW}")
        category, name, _, onset, offset = fields
        if not category or not name:
            raise UserError(f"{place}: empty category or video id")
        try:
            onset, offset = int(onset), int(offset)
        except ValueError:
            raise UserError(f"{place}: times {onset!r} and {offset!r}; expected whole seconds") from None
        if not 0 <= onset <= offset < 2**31:
            raise UserError(f"{place}: span {onset}..{offset}; expected 0 <= start <= end < 2^31")
        rows.append((place, Clip(name, category, onset, offset)))
    if not rows:
        raise UserError(f"{path}: no rows; expected {ROW}")
    return rows


def _read_classes(folder: Path, rows: list[tuple[str, Clip]]) -> list[str]:
    """The classes in order, and a check that every row's class is one of them."""
    path = folder / "categories.txt"
    if not path.exists():
        return list(dict.fromkeys(clip.category for _, clip in rows))
    classes = list(dict.fromkeys(line.strip() for _, line in _lines(path)))
    known = set(classes)
    for place, clip in rows:
        if clip.category not in known:
            raise UserError(f"{place}: class {clip.category!r} is not in {path.name}")
    return classes


def _read_split(folder: Path, split: str, clips: list[Clip]) -> list[tuple[str, Clip]]:
    """The clips of a split as (place, clip), from `<split>Set.txt` or else from `<split>_order.h5`."""
    text, order = folder / f"{split}Set.txt", folder / f"{split}_order.h5"
    if text.exists():
        known = set(clips)
        rows = read_rows(text)
        for place, clip in rows:
            if clip not in known:
                raise UserError(f"{place}: clip {clip.id} ({clip.category}) is not a row of Annotations.txt")
        return rows
    if not order.exists():
        raise UserError(f"{folder}: no {split} split; expected {text.name} or {order.name}")
    expected = "an HDF5 file with a dataset `order`, a column of numbers"
    with opened(order, expected) as file:
        try:
            numbers = [float(number) for number in file["order"][:]]
        except (OSError, KeyError, TypeError, ValueError):
            raise UserError(f"{order}: expected {expected}") from None
    rows = []
    for position, number in enumerate(numbers):
        place = f"{order}, entry {position}"
        if not (number.is_integer() and 0 <= number < len(clips)):
            raise UserError(f"{place}: {number:g}; expected a row of Annotations.txt, 0..{len(clips) - 1}")
        rows.append((place, clips[int(number)]))
    return rows
