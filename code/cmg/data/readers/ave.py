"""The AVE release: `visual_feature.h5` and `audio_feature.h5`, dataset `avadataset`, a row a row of Annotations.txt.

`labels.h5`, if it is there, is compared with the annotations. The split files stay where they are: the tasks read them.
"""

from pathlib import Path

import h5py

from cmg.data.ave import SECONDS, read_rows, segment_labels
from cmg.data.hdf5 import opened
from cmg.data.readers import contract
from cmg.data.readers.contract import clip, once
from cmg.errors import UserError

BLOCK = 32  # rows that are read together
FILES = {"video": "visual_feature.h5", "audio": "audio_feature.h5"}


class Reader(contract.Reader):
    """The AVE release: visual_feature.h5 and audio_feature.h5."""

    backbones = {"video": "vgg19", "audio": "vggish"}

    @staticmethod
    def add_flags(parser):
        parser.add_argument("--features", required=True, help="folder with the two files, and labels.h5 if there")
        parser.add_argument("--annotations", required=True, help="folder with Annotations.txt")

    def __init__(self, flags):
        folder, self.source = Path(flags.features), flags.features
        rows = [row for _, row in read_rows(Path(flags.annotations) / "Annotations.txt")]
        self.jobs, self.bad = once(((row.id, number) for number, row in enumerate(rows)),
                                   "the same video again, its first row is kept")
        self.sets = {m: features_of(folder / name, len(rows), (3, 5) if m == "video" else (3,))
                     for m, name in FILES.items()}
        compare_labels(folder / "labels.h5", rows)
        self.size = sum((folder / name).stat().st_size for name in FILES.values())

    def read(self, jobs):
        start, block = None, {}
        for name, row in jobs.items():
            if start != row - row % BLOCK:
                start = row - row % BLOCK
                block = {m: self.block(m, start) for m in self.sets}
            yield [clip(name, {m: x[row - start] for m, x in block.items()}, SECONDS)]

    def block(self, m, start):
        """The block of rows from `start` on."""
        found = self.sets[m]
        try:
            return found[start : start + BLOCK]
        except OSError as error:
            raise UserError(f"{found.file.filename}: damaged from row {start} on ({error})") from None


def features_of(path, rows, axes):
    """The dataset of a file, checked: `rows` clips of ten seconds, an array of as many `axes` as it may have."""
    expected = "an HDF5 file with a dataset `avadataset` of numbers"
    found = opened(path, expected).get("avadataset")
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu":
        raise UserError(f"{path}: expected {expected}")
    if found.shape[:2] != (rows, SECONDS) or found.ndim not in axes:
        raise UserError(f"{path}: shape {found.shape}, expected {rows} rows (Annotations.txt) of {SECONDS} seconds")
    return found


def compare_labels(path, rows):
    """Say for how many rows the released labels and the annotations differ: a sign of files that do not belong."""
    if not path.exists():
        return
    expected = "an HDF5 file with a dataset `avadataset`"
    with opened(path, expected) as file:
        try:
            labels = file["avadataset"][:]
        except (OSError, KeyError):
            raise UserError(f"{path}: expected {expected}") from None
    classes = list(dict.fromkeys(row.category for row in rows))
    expected = (segment_labels(rows, classes) < len(classes)).numpy()
    if labels.shape[:2] != expected.shape or labels.ndim != 3:
        raise UserError(f"{path}: shape {labels.shape}, expected {expected.shape} and the classes")
    # Which column is which class differs between copies, but the background is always one column, the last.
    differ = int(((labels[:, :, -1] == 0) != expected).any(1).sum())
    print(f"{path.name}: event seconds of {len(rows) - differ} of {len(rows)} rows agree with Annotations.txt")
