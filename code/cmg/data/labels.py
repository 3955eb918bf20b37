"""Labels of one's own, read into the form of AVE: one class a clip, and perhaps the seconds at which its event is.

A CSV with the columns `id` and `label`; of more, three are read:

start, end : of the event, in seconds, which are rounded to whole ones; both empty, or no such columns, where it fills
    the clip.
split : train, val or test. Without the column a clip's split is that of its video's place in [0, 1)
    (`cmg.data.videos.place_of`): test below 0.2, val below 0.4, else train. So the test clips are those that
    `cmg.pretrain --hold-out 0.2` leaves out.
"""

import argparse

from cmg.cli import number
from cmg.data.ave import SPLITS, AveAnnotations, Clip
from cmg.data.videos import place_of
from cmg.errors import UserError
from cmg.files import read_columns

ENDLESS = 2**31 - 1  # the end of an event that fills the clip
SHARES = {"test": 0.2, "val": 0.4, "train": 1.0}  # place below which a clip is in this split


def read_labels(path) -> AveAnnotations:
    """Read a labels.csv; classes are in alphabetical order.

    Raises
    ------
    UserError : another file; a row that is broken, or a clip's second one; a single label, or a split without clips.
        The line names file and row.
    """
    splits, lines, divided = {split: [] for split in SPLITS}, {}, False
    for line, (name, label, start, end, split) in enumerate(
            read_columns(path, "id", "label", optional=("start", "end", "split")), 2):
        place, divided = f"{path}, line {line}", split is not None
        if not name or not label:
            raise UserError(f"{place}: empty id or label")
        if name in lines:
            raise UserError(f"{place}: clip {name} is in line {lines[name]} as well; expected one row a clip")
        lines[name] = line
        if not divided:
            split = next(split for split, share in SHARES.items() if place_of(name) < share)
        if split not in splits:
            raise UserError(f"{place}: split {split!r}; expected {', '.join(SPLITS)}")
        splits[split].append(Clip(name, label, *_span(place, start, end)))
    for split, clips in splits.items():
        if not clips:
            why = "" if divided else " (without a column split a clip's name decides)"
            way_out = "some" if divided else f"that column, of {', '.join(SPLITS)}, or more clips"
            raise UserError(f"{path}: none of {len(lines)} clips is in the {split} split{why}; expected {way_out}")
    classes = sorted({clip.category for clips in splits.values() for clip in clips})
    if len(classes) < 2:
        raise UserError(f"{path}: the only label is {classes[0]!r}; expected two or more")
    return AveAnnotations(classes, splits, [], [])


def has_seconds(annotations: AveAnnotations) -> bool:
    """Whether any event begins or ends within its clip."""
    return any((clip.onset, clip.offset) != (0, ENDLESS) for clips in annotations.splits.values() for clip in clips)


def _span(place, start, end) -> tuple[int, int]:
    if not start and not end:
        return 0, ENDLESS
    try:
        start, end = (number(least=0, below=ENDLESS)(time) for time in (start, end))
    except argparse.ArgumentTypeError:
        raise UserError(f"{place}: event from {start!r} to {end!r}; expected two numbers of seconds, or none") from None
    if end < start:
        raise UserError(f"{place}: the event ends at {end:g} s, before it begins at {start:g} s")
    return int(start + 0.5), int(end + 0.5)
