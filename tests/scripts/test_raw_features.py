"""Raw clips as vectors: blocks of the pictures they come from, and a file that methods of vectors train on."""

import runpy

import numpy as np
import pytest
import torch

from cmg.data.feature_file import FeatureFile, FeatureWriter
from cmg.pretrain import main as pretrain
from support import ROOT

MAIN = runpy.run_path(str(ROOT / "scripts" / "raw_features.py"))["main"]
ATTRS = {"source": "made up", "seconds_per_step": 1.0, "backbone/video": "frames", "backbone/audio": "melimage"}


@pytest.fixture
def raw(tmp_path):
    rng = np.random.default_rng(0)
    x = {"video": rng.integers(0, 256, (300, 4, 8, 8, 3), dtype=np.uint8), "audio": rng.normal(size=(300, 4, 8, 8))}
    valid = {m: rng.random((300, 4)) < 0.8 for m in x}
    with FeatureWriter(tmp_path / "raw.h5", {m: part.shape[1:] for m, part in x.items()}, ATTRS,
                       {"video": "uint8", "audio": "float16"}) as writer:
        writer.append([f"clip{n}" for n in range(300)], x, valid)
    return tmp_path / "raw.h5", x, valid


def test_blocks_are_means_in_the_order_of_the_picture(raw, tmp_path):
    path, x, valid = raw
    MAIN([str(path), str(tmp_path / "out.h5"), "--side", "2"])
    file = FeatureFile(tmp_path / "out.h5")
    assert file.ids == FeatureFile(path).ids and file.shapes == {"video": (4, 12), "audio": (4, 4)}
    assert file.attrs["seconds_per_step"] == 1.0
    rows = [299, 0, 7]
    for m, channels in (("video", 3), ("audio", 1)):
        found, real = file.read(m, rows)
        blocks = x[m][rows].astype(float).reshape(3, 4, 2, 4, 2, 4, channels).mean((3, 5))  # [n, T, row, column, C]
        want = np.moveaxis(blocks, -1, 2).reshape(3, 4, -1)  # channel by channel
        np.testing.assert_allclose(found, want, rtol=2e-3, atol=2e-3)  # float16
        np.testing.assert_array_equal(real, valid[m][rows])


def test_a_method_of_vectors_trains_on_them(raw, tmp_path):
    MAIN([str(raw[0]), str(tmp_path / "out.h5")])
    pretrain(["--data", str(tmp_path / "out.h5"), "--preset", "small", "--dim", "16", "--batch-size", "32", "--codes",
              "16", "--max-steps", "2", "--device", "cpu", "--out", str(tmp_path / "run")])
    state = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)
    assert state["position"]["step"] == 2


def test_features_are_refused(raw, tmp_path, capsys):
    MAIN([str(raw[0]), str(tmp_path / "out.h5")])
    with pytest.raises(SystemExit) as stop:
        MAIN([str(tmp_path / "out.h5"), str(tmp_path / "again.h5")])
    assert stop.value.code == 2 and "expected raw clips" in capsys.readouterr().err
    assert not (tmp_path / "again.h5").exists()
