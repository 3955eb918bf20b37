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
