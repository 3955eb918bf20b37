"""The linear reader of features: what names the class is read without error, and noise as often as chance has it."""

import runpy

import numpy as np
import pytest

from cmg.data.features import FeatureWriter
from support import ROOT

MAIN = runpy.run_path(str(ROOT / "scripts" / "linear_reader.py"))["main"]
CLASSES, SIZES, T = ("Bark", "Cat", "Truck"), {"train": 30, "val": 15, "test": 3}, 10


@pytest.fixture
def made(tmp_path):
    """Clips whose video names the class of a second, on a grid, and whose audio is noise; events fill seconds 2-5."""
    rng, ids, labels, rows = np.random.default_rng(0), [], [], []
    for split, size in SIZES.items():
        lines = [f"{CLASSES[n % 3]}&{split}_{n}&good&2&6\n" for n in range(size)]
        (tmp_path / f"{split}Set.txt").write_text("".join(lines))
        rows += lines
        for n in range(size):
            ids.append(f"{split}_{n}")
            labels.append([n % 3 if 2 <= t < 6 else 3 for t in range(T)])
    (tmp_path / "Annotations.txt").write_text("".join(rows))
    video = np.eye(4, dtype=np.float32)[np.array(labels)][:, :, None, None].repeat(2, 2)  # [N, T, 2, 1, 4]
    shapes = {"video": (T, 2, 1, 4), "audio": (T, 5)}
    with FeatureWriter(tmp_path / "x.h5", shapes, {"source": "made up", "seconds_per_step": 1.0}) as writer:
        writer.append(ids, {"video": video, "audio": rng.normal(size=(len(ids), T, 5)).astype(np.float32)}, None)
    return tmp_path


def test_what_is_there_is_read(made, capsys):
    MAIN([str(made / "x.h5"), str(made)])
    rows = {cells[1].split()[0]: cells[2:5] for line in capsys.readouterr().out.splitlines()[2:]
            if (cells := [cell.strip() for cell in line.split("|")])}
    assert rows["video"] == ["4", "100.0", "100.0"]
    values, segments, clips = rows["audio"]
    assert values == "5" and 50 < float(segments) < 70  # 60 % are background
    assert float(clips) < 75


def test_seconds_of_avvp_are_named_by_a_reader_of_ave(made, capsys):
    """Both of two that are seen at once, in the classes that AVE has too."""
    (made / "AVVP_val_pd.csv").write_text("filename\tevent_labels\na\tCat,Truck\nb\tBark\n")
    for kind in ("audio", "visual"):
        (made / f"AVVP_eval_{kind}.csv").write_text(
            "filename\tonset\toffset\tevent_labels\na\t0\t5\tCat\na\t3\t10\tTruck\nb\t2\t4\tBark\nb\t4\t9\tOwl\n")
    video = np.zeros((2, T, 2, 1, 4), np.float32)
    video[0, :5, :, :, 1] = video[0, 3:, :, :, 2] = video[1, 2:4, :, :, 0] = 1
    video[1, 4:, :, :, 3] = video[1, :2, :, :, 3] = 1
    with FeatureWriter(made / "y.h5", {"video": (T, 2, 1, 4), "audio": (T, 5)},
                       {"source": "made up", "seconds_per_step": 1.0}) as writer:
        writer.append(["a", "b"], {"video": video, "audio": np.zeros((2, T, 5), np.float32)}, None)
    MAIN([str(made / "x.h5"), str(made), "--avvp", str(made / "y.h5"), str(made)])
    rows = {cells[1].split()[0]: cells[5] for line in capsys.readouterr().out.splitlines()[2:]
            if (cells := [cell.strip() for cell in line.split("|")])}
    assert rows["video"] == "100.0" and 15 < float(rows["audio"]) < 60  # 14 of 60 pairs are true
