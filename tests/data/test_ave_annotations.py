"""AVE's annotation files: the public ones as they are, and what happens to broken ones."""

import h5py
import numpy as np
import pytest
import torch

from cmg.data.ave import ROW, Clip, clip_labels, read_ave, segment_labels
from cmg.errors import UserError

ROWS = [
    "Cat&-abc_def123&good&0&10",
    "Bark&twice_twice&good&2&5",
    "Cat&twice_twice&good&6&9",  # the same video under another class: another clip
    "Bark&emptyempty_&good&0&0",
    "Cat&long_long_1&good&8&12",
]


def write(folder, rows=ROWS, header=False, order=None, **sets):
    """An annotation folder; splits as `trainSet=[rows]` or `order={"train": [numbers], …}`."""
    folder.mkdir(exist_ok=True)
    (folder / "Annotations.txt").write_text("\n".join(([ROW] if header else []) + rows) + "\n")
    for name, lines in sets.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    for split, numbers in (order or {}).items():
        with h5py.File(folder / f"{split}_order.h5", "w") as file:
            file["order"] = numbers
    return folder


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("form", ["order", "sets"])
def test_both_forms_with_and_without_header(tmp_path, header, form):
    if form == "order":
        folder = write(tmp_path, header=header, order={"train": [3, 0, 1], "val": [2], "test": [4]})
    else:
        folder = write(tmp_path, header=header, trainSet=[ROWS[3], ROWS[0], ROWS[1]], valSet=[ROWS[2]],
                       testSet=[ROWS[4]])
    found = read_ave(folder)
    assert found.classes == ["Cat", "Bark"]
    assert found.splits["train"] == [Clip("emptyempty_", "Bark", 0, 0), Clip("-abc_def123", "Cat", 0, 10),
                                     Clip("twice_twice", "Bark", 2, 5)]
    assert found.splits["val"] == [Clip("twice_twice", "Cat", 6, 9)]
    assert found.splits["test"] == [Clip("long_long_1", "Cat", 8, 12)]
    assert found.skipped == []
    assert len(found.notes) == 2
    assert "emptyempty_ has an empty span 0..0" in found.notes[0]
    assert "long_long_1 ends at 12 s" in found.notes[1]


def test_labels(tmp_path):
    clips = [Clip("a", "Bark", 2, 5), Clip("b", "Cat", 0, 0), Clip("c", "Cat", 8, 12)]
    assert clip_labels(clips, ["Cat", "Bark"]).tolist() == [1, 0, 0]
    labels = segment_labels(clips, ["Cat", "Bark"])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[2, 2, 1, 1, 1, 2, 2, 2, 2, 2], [2] * 10, [2] * 8 + [0, 0]]


def test_categories_file_orders_the_classes(tmp_path):
    folder = write(tmp_path, order={"train": [0], "val": [1], "test": [2]}, categories=["Bark", "Truck", "Cat"])
    assert read_ave(folder).classes == ["Bark", "Truck", "Cat"]


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    folder = write(tmp_path, order={"train": [0], "val": [1], "test": [2]})
    text = "\r\n".join([ROW, *ROWS, "", ""])
    (folder / "Annotations.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_ave(folder).splits["val"] == [Clip("twice_twice", "Bark", 2, 5)]


def test_repeated_row_is_dropped_and_listed(tmp_path):
    folder = write(tmp_path, trainSet=[ROWS[0], ROWS[1], ROWS[0]], valSet=[ROWS[2]], testSet=[ROWS[4]])
    found = read_ave(folder)
    assert [clip.id for clip in found.splits["train"]] == ["-abc_def123", "twice_twice"]
    assert len(found.skipped) == 1 and "trainSet.txt, line 3" in found.skipped[0]


GOOD = {"train": [0], "val": [1], "test": [2]}


@pytest.mark.parametrize("rows, message", [
    (["Cat&a&good&0"], "Annotations.txt, line 1: 4 fields; expected 5"),
    (ROWS + ["Cat&a&good&0&x"], "Annotations.txt, line 6: times '0' and 'x'; expected whole seconds"),
    (ROWS + ["Cat&a&good&0.5&2"], "Annotations.txt, line 6: times '0.5' and '2'; expected whole seconds"),
    (ROWS + ["Cat&a&good&9&3"], "Annotations.txt, line 6: span 9..3; expected 0 <= start <= end"),
    (ROWS + ["Cat&a&good&-1&3"], "Annotations.txt, line 6: span -1..3"),
    (ROWS + ["Cat&&good&0&3"], "Annotations.txt, line 6: empty category or video id"),
    ([ROW], "Annotations.txt: no rows"),
    (ROWS + [ROW], "Annotations.txt, line 6: times 'StartTime' and 'EndTime'"),
])
def test_broken_rows(tmp_path, rows, message):
    fails(write(tmp_path, rows, order=GOOD), message)


def test_broken_splits(tmp_path):
    fails(tmp_path / "absent", "no such folder")
    (tmp_path / "bare").mkdir()
    fails(tmp_path / "bare", "Annotations.txt: no such file")
    fails(write(tmp_path / "none"), "no train split; expected trainSet.txt or train_order.h5")
    fails(write(tmp_path / "range", order=GOOD | {"val": [5]}), "val_order.h5, entry 0: 5; expected a row")
    fails(write(tmp_path / "negative", order=GOOD | {"val": [1, -1]}), "val_order.h5, entry 1: -1; expected a row")
    fails(write(tmp_path / "void", order=GOOD | {"test": []}), "the test split is empty")
    fails(write(tmp_path / "leak", order=GOOD | {"test": [2, 0]}),
          "test_order.h5, entry 1: clip -abc_def123 (Cat) is in train")
    fails(write(tmp_path / "foreign", valSet=["Cat&never_seen&good&0&10"], order=GOOD),
          "valSet.txt, line 1: clip never_seen (Cat) is not a row of Annotations.txt")
    fails(write(tmp_path / "unknown", order=GOOD, categories=["Cat"]), "line 2: class 'Bark' is not in categories.txt")
    folder = write(tmp_path / "damaged", order=GOOD)
    (folder / "train_order.h5").write_bytes(b"not HDF5")
    fails(folder, "train_order.h5: not an HDF5 file; expected an HDF5 file with a dataset `order`")
    for kind, value in {"words": np.array([b"a"]), "rows": np.zeros((2, 2)), "one": np.int64(3)}.items():
        fails(write(tmp_path / kind, order=GOOD | {"train": value}), "train_order.h5: expected an HDF5 file with")
    for value in (np.nan, 0.5):
        fails(write(tmp_path / str(value), order=GOOD | {"train": [value]}), f"train_order.h5, entry 0: {value:g}; ")
    folder = write(tmp_path / "binary", order=GOOD)
    (folder / "Annotations.txt").write_bytes(b"\xff\xfe\x00")
    fails(folder, "not a UTF-8 text file")


def fails(folder, message):
    with pytest.raises(UserError) as caught:
        read_ave(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def public(digits):
    """The real annotation files, which lie beside the digit clips where there are any."""
    folder = digits.parent / "annotations" / "AVE"
    if not folder.is_dir():
        pytest.skip("no AVE annotation files beside the digit clips")
    return folder


def test_public_files_parse_whole(public):
    plain = read_ave(public)  # no header, *_order.h5
    other = read_ave(public / "DG-SCT_copy")  # header, *Set.txt, categories.txt
    assert plain.classes == other.classes and len(plain.classes) == 28
    assert plain.classes[0] == "Church bell" and plain.classes[27] == "Mandolin"
    assert plain.splits == other.splits
    assert {split: len(clips) for split, clips in plain.splits.items()} == {"train": 3339, "val": 402, "test": 402}
    clips = [clip for split in plain.splits.values() for clip in split]
    assert len({clip.id for clip in clips}) == 4097
    assert any(clip.id.startswith("-") for clip in clips)
    assert plain.skipped == other.skipped == []
    assert len(plain.notes) == 1 and "VWi2ENBuTbw has an empty span 0..0" in plain.notes[0]


def test_public_segment_labels(public):
    """Every second of every clip agrees with the label tensor that goes round with the features."""
    annotations = read_ave(public)
    with h5py.File(public / "labels_reconstructed.h5") as file:
        reference = torch.from_numpy(file["avadataset"][:]).argmax(-1)  # (4143, 10)
    for split, clips in annotations.splits.items():
        with h5py.File(public / f"{split}_order.h5") as file:
            order = torch.from_numpy(file["order"][:])
        assert torch.equal(segment_labels(clips, annotations.classes), reference[order])
