"""The lists that pair UCF101's pictures with VGGSound's sounds, read from the public files as they are.

`UCF101sameVGGSound.txt` and `VGGSoundsameUCF101.txt` hold the names of the same classes line by line, in either data
set's words. `ucf2vggsound.csv` (category, video_id) and `vggsound2ucf.csv` (category, video_id, split) list the clips.

Oddities of the public files, and what becomes of them:

* line 11 of the first list is `Bowling<TAB>bowling`: what stands before the tab is the name, the rest goes to `notes`.
  The public script took the whole line, found no such clips, and so UCF's Bowling is not in the clip list at all;
* 16 names, but VGGSound has no clips of `playing frisbee` and UCF none of `Bowling`: 14 classes have clips on both
  sides. `overlapping` keeps these; the clips of the others are counted in `skipped`;
* UCF clips have no split: the groups of UCF101's first official split take its place (g01 to g07 test), the last three
  groups of its training half are for choosing. A column `split`, where there is one, goes before that.
"""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from cmg.errors import UserError
from cmg.files import read_text

SPLITS = ("train", "val", "test")
LISTS = {"video": ("UCF101sameVGGSound.txt", "ucf2vggsound.csv"),
         "audio": ("VGGSoundsameUCF101.txt", "vggsound2ucf.csv")}
TEST_GROUPS, VAL_GROUPS = range(1, 8), range(23, 26)


class Item(NamedTuple):
    """A clip, the number of its class, and its split."""

    id: str
    label: int
    split: str


class PairLists(NamedTuple):
    """Names of the K classes per modality, in the same order, and the clips of each modality."""

    classes: dict[str, list[str]]
    items: dict[str, list[Item]]
    skipped: list[str]
    notes: list[str]

    def overlapping(self) -> "PairLists":
        """Only the classes that have clips on both sides, numbered anew."""
        used = {m: {item.label for item in items} for m, items in self.items.items()}
        kept = [k for k in range(len(self.classes["video"])) if all(k in labels for labels in used.values())]
        number = {k: new for new, k in enumerate(kept)}
        skipped = list(self.skipped)
        for k in range(len(self.classes["video"])):
            if k not in number:
                both = " / ".join(self.classes[m][k] for m in LISTS)
                left = sum(item.label == k for items in self.items.values() for item in items)
                skipped.append(f"class {both}: clips on one side only, its {left} clips are left out by strict")
        classes = {m: [names[k] for k in kept] for m, names in self.classes.items()}
        items = {m: [item._replace(label=number[item.label]) for item in items if item.label in number]
                 for m, items in self.items.items()}
        return PairLists(classes, items, skipped, self.notes)


def read_pair_lists(folder) -> PairLists:
    """Read the four lists.

    Raises
    ------
    UserError
        A file is missing, class lists of unequal length, a row of an unknown class, a clip without a split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--annotations {folder}: no such folder; expected {LISTS['video'][1]} and others in it")
    classes, items, skipped, notes = {}, {}, [], []
    for modality, (names, clips) in LISTS.items():
        classes[modality] = _read_classes(folder / names, notes)
        items[modality] = _read_clips(folder / clips, classes[modality], skipped)
    if len(classes["video"]) != len(classes["audio"]):
        raise UserError(f"{folder}: {len(classes['video'])} classes in {LISTS['video'][0]}, {len(classes['audio'])} in "
                        f"{LISTS['audio'][0]}; expected the same classes line by line")
    return PairLists(classes, items, skipped, notes)


def _read_classes(path: Path, notes: list[str]) -> list[str]:
    names = []
    for number, line in enumerate(read_text(path, "names of classes").splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = line.strip().split("\t")
        if rest:
            notes.append(f"{path}, line {number}: {line.strip()!r} has a stray tab, read as {name.strip()!r}")
        if name.strip() in names:
            raise UserError(f"{path}, line {number}: class {name.strip()!r} a second time")
        names.append(name.strip())
    return names


def _read_clips(path: Path, classes: list[str], skipped: list[str]) -> list[Item]:
    rows = [row for row in csv.reader(read_text(path, "the columns category and video_id").splitlines()) if row]
    if not rows or rows[0] not in (["category", "video_id"], ["category", "video_id", "split"]):
        raise UserError(f"{path}: expected a first line with the columns category, video_id and perhaps split")
    number = {name: k for k, name in enumerate(classes)}
    items, seen = [], set()
    for line, row in enumerate(rows[1:], 2):
        place = f"{path}, line {line}"
        if len(row) != len(rows[0]):
            raise UserError(f"{place}: {len(row)} fields; expected {', '.join(rows[0])}")
        category, name = (field.strip() for field in row[:2])
        if category not in number:
            raise UserError(f"{place}: class {category!r} is not in the list of classes")
        if name in seen:
            skipped.append(f"{place}: {name} a second time, dropped")
            continue
        seen.add(name)
        split = row[2].strip() if len(row) == 3 else _split_of_group(name, place)
        if split not in SPLITS:
            raise UserError(f"{place}: split {split!r}; expected {', '.join(SPLITS)}")
        items.append(Item(name, number[category], split))
    return items


def _split_of_group(name: str, place: str) -> str:
    match = re.search(r"_g(\d+)_c\d+$", name)
    if not match:
        raise UserError(f"{place}: {name} has no split and no group such as _g01_c01")
    group = int(match[1])
    return "test" if group in TEST_GROUPS else "val" if group in VAL_GROUPS else "train"
