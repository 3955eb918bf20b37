"""AVVP annotations (LLP data set; Tian et al., ECCV 2020), read from the public files as they are.

`AVVP_eval_audio.csv` and `AVVP_eval_visual.csv` are tab-separated, with one row an event: filename, onset, offset and
class. The public CMG code has them with all events of a video in one row, the cells lists with commas
(`AVVP_eval_audio_checked_combined.csv`); both forms are read. `AVVP_val_pd.csv` and `AVVP_test_pd.csv` name the
videos of the splits, `AVVP_train.csv` those that have no times, each with the classes that occur. A file
`categories.txt` or `AVVP_Categories.txt`, if there is one, gives the classes; otherwise they are taken in the order of
first appearance.

Oddities of the public files, and what becomes of them:

* rows with onset = offset (5 in the audio file) or onset > offset (1): the benchmark marks no second for them; they
  are dropped and listed in `skipped`, as are rows that repeat another word for word (8);
* names that are in no split (8 with sound, 7 of these with pictures: misspelt ids): listed in `unlisted`. Strict knows
  its videos by the splits and never meets them, paper takes every name there is;
* videos of a split without a row in a file: nothing is heard or seen in them, all ten seconds are background;
* decimal seconds inside names: part of the name, which is looked up whole and is never taken apart.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from cmg.errors import UserError
from cmg.files import read_text

SECONDS = 10
SPLITS = ("train", "val", "test")
FILES = {"audio": "AVVP_eval_audio", "video": "AVVP_eval_visual"}
COLUMNS = ["filename", "onset", "offset", "event_labels"]


class Event(NamedTuple):
    """Something heard or seen from second `onset` up to, not including, second `offset`."""

    category: str
    onset: int
    offset: int


class AvvpAnnotations(NamedTuple):
    """The benchmark: its K classes, the videos of each split, and what is heard and seen in each annotated video.

    events[modality][name] are in the file's order; `skipped` has a line for every row that was dropped, `unlisted`
    one for every annotated name that is in no split, `notes` what is odd but was kept.
    """

    classes: list[str]
    splits: dict[str, list[str]]
    events: dict[str, dict[str, list[Event]]]
    skipped: list[str]
    unlisted: list[str]
    notes: list[str]

    def account(self) -> list[str]:
        """Every row that was left out and every name that only `paper` uses, with the reason."""
        return self.skipped + self.unlisted + self.notes


def read_avvp(folder) -> AvvpAnnotations:
    """Read an AVVP annotation folder.

    Raises
    ------
    UserError
        A file is missing or a row is broken, or a class is not among the classes; the line names file and row.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--annotations {folder}: no such folder; expected AVVP_eval_audio.csv and others in it")
    skipped, unlisted, notes, splits = [], [], [], {}
    seen, classes = {}, {}
    for split in SPLITS:
        path = folder / (f"AVVP_{split}.csv" if split == "train" else f"AVVP_{split}_pd.csv")
        if path.exists():
            splits[split] = _read_split(path, split, seen, classes, notes)
    events = {}
    for modality, stem in FILES.items():
        path = next((folder / name for name in (f"{stem}.csv", f"{stem}_checked_combined.csv")
                     if (folder / name).exists()), folder / f"{stem}.csv")
        events[modality] = _read_events(path, skipped, notes)
        for name in events[modality] if splits else ():
            if name not in seen:
                unlisted.append(f"{path}: {name} is in no split, left out by strict")
    for owner in events.values():
        for own in owner.values():
            classes |= dict.fromkeys(event.category for event in own)
    listed = _listed_classes(folder)
    for name in classes if listed else ():
        if name not in listed:
            raise UserError(f"{folder}: class {name!r} is annotated but is not in the list of classes")
    return AvvpAnnotations(listed or list(classes), splits, events, skipped, unlisted, notes)


def event_labels(names: list[str], events: dict[str, list[Event]], classes: list[str], T: int = SECONDS):
    """What happens in each second, bool Tensor[N, T, K + 1]; the last column is background: nothing else does.

    Events of other classes are passed over, as are names without any event.

    >>> event_labels(["a"], {"a": [Event("Cat", 1, 3)]}, ["Bark", "Cat"], T=4)[0].int().tolist()
    [[0, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    """
    number = {name: k for k, name in enumerate(classes)}
    labels = torch.zeros(len(names), T, len(classes) + 1, dtype=torch.bool)
    for row, name in zip(labels, names):
        for event in events.get(name, ()):
            if event.category in number:
                row[event.onset:event.offset, number[event.category]] = True
    labels[..., -1] = ~labels.any(-1)
    return labels


def _rows(path: Path, columns: list[str]):
    """The rows of a tab-separated file with this header, as (place to name in messages, fields)."""
    lines = read_text(path, f"the columns {', '.join(columns)}").splitlines()
    rows = [(f"{path}, line {number}", line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows or rows[0][1] != columns:
        raise UserError(f"{path}: expected a first line with the tab-separated columns {', '.join(columns)}")
    for place, fields in rows[1:]:
        if len(fields) != len(columns) or not all(field.strip() for field in fields):
            raise UserError(f"{place}: expected {len(columns)} tab-separated fields, {', '.join(columns)}")
    return [(place, [field.strip() for field in fields]) for place, fields in rows[1:]]


def _read_split(path: Path, split: str, seen: dict, classes: dict, notes: list[str]) -> list[str]:
    """Names of one split; adds them to `seen`, and their classes to `classes`."""
    names = []
    for place, (name, labels) in _rows(path, ["filename", "event_labels"]):
        if name in seen:
            raise UserError(f"{place}: {name} is in {seen[name]} already")
        seen[name] = split
        labels = labels.split(",")
        if len(set(labels)) < len(labels):
            notes.append(f"{place}: {name} has a class twice ({','.join(labels)}), taken once")
        classes |= dict.fromkeys(labels)
        names.append(name)
    if not names:
        raise UserError(f"{path}: no videos after the first line; expected at least one")
    return names


def _read_events(path: Path, skipped: list[str], notes: list[str]) -> dict[str, list[Event]]:
    """Events of every name in one of the two files; a name keeps its place even if all its rows are dropped."""
    events = {}
    for place, (name, *cells) in _rows(path, COLUMNS):
        onsets, offsets, labels = (cell.split(",") for cell in cells)
        if not len(onsets) == len(offsets) == len(labels):
            raise UserError(f"{place}: {len(onsets)} onsets, {len(offsets)} offsets and {len(labels)} classes")
        own = events.setdefault(name, [])
        for onset, offset, label in zip(onsets, offsets, labels):
            try:
                event = Event(label.strip(), int(onset), int(offset))
            except ValueError:
                raise UserError(f"{place}: times {onset!r} and {offset!r}; expected whole seconds") from None
            if min(event.onset, event.offset) < 0 or max(event.onset, event.offset) >= 2**31:
                raise UserError(f"{place}: span {onset}..{offset}; expected seconds from 0 on and below 2^31")
            if event.onset >= event.offset:
                order = "is empty" if event.onset == event.offset else "ends before it starts"
                skipped.append(f"{place}: {name}, {event.category}: span {onset}..{offset} {order}, dropped")
            elif event in own:
                skipped.append(f"{place}: {name}, {event.category} {onset}..{offset} a second time, dropped")
            else:
                if event.offset > SECONDS:
                    notes.append(f"{place}: {name}, {event.category} ends at {offset} s, cut at {SECONDS} s")
                own.append(event)
    if not events:
        raise UserError(f"{path}: no events after the first line; expected at least one")
    return events


def _listed_classes(folder: Path) -> list[str]:
    for name in ("categories.txt", "AVVP_Categories.txt"):
        if (folder / name).exists():
            lines = read_text(folder / name, "names of classes").splitlines()
            return list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    return []
