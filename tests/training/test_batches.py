"""Loader processes: what they hand over, and that a run ends in one line where they cannot."""

import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmg.data.features import FeatureFile, FeatureSet, FeatureWriter
from cmg.errors import UserError
from cmg.training import batches
from cmg.training.batches import epoch_order, on_device
from support import refused, write_clips

CPU = torch.device("cpu")


@pytest.fixture
def audio(tmp_path):
    """300 clips of 24 bytes, and 8 and 2 bytes of row number and valid marks."""
    x = np.arange(300 * 12, dtype=np.float32).reshape(300, 2, 6) / 8
    with FeatureWriter(tmp_path / "a.h5", {"audio": (2, 6)}, {}, "float16") as writer:
        writer.append([str(i) for i in range(300)], {"audio": x})
    return FeatureSet(tmp_path / "a.h5", cache="disk"), x.astype(np.float16).astype(np.float32)


@pytest.fixture
def handed(monkeypatch):
    """The rows of every piece that loader processes hand over from now on."""
    original, found = torch.utils.data.DataLoader.__iter__, []

    def pieces(loader):
        for piece in original(loader):
            assert all(value.is_shared() for value in piece.values())
            found.append(piece["index"].tolist())
            yield piece

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", pieces)
    return found


ORDER = epoch_order(300, 8, seed=1, epoch=2, blocks=True)


@pytest.mark.parametrize("workers, piece", [(1, 34 * 7), (2, 34 * 7), (2, 35 * 20), (2, 1 << 20)])
def test_windows_come_whole_from_pieces_of_any_size(audio, handed, monkeypatch, workers, piece):
    features, x = audio
    monkeypatch.setattr(batches, "PIECE", piece)
    for rows, batch in zip(ORDER, on_device(features, ORDER, CPU, workers), strict=True):
        np.testing.assert_array_equal(batch["audio"], x[rows])
    assert sum(map(len, handed)) == 37 * 8 and max(map(len, handed)) == min(piece // 34, 128)


def test_no_more_than_half_of_the_free_shared_memory_is_asked_for(audio, handed, monkeypatch):
    """Two processes may have a piece each under way while a third is taken over."""
    features, _ = audio
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=34 * 10 * 3 * 2 + 1))
    assert len(list(on_device(features, ORDER, CPU, 2))) == len(ORDER) and max(map(len, handed)) == 10
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=34 * 3 * 2 - 1))
    with pytest.raises(UserError, match="/dev/shm: 0.0 MB free; expected 0.0 MB for --workers 2, or --workers 0"):
        next(on_device(features, ORDER, CPU, 2))
    assert next(on_device(features, ORDER, CPU, 0))["audio"].shape == (8, 2, 6)


def full(tensor):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def killed(parent, number):
    original = FeatureFile.read

    def read(self, modality, rows):
        if os.getpid() != parent and len(rows) > 1:
            number() if callable(number) else os.kill(os.getpid(), number)
        return original(self, modality, rows)

    return read


@pytest.mark.parametrize("fault, words", [
    ("full", "/dev/shm: unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28); "
     "expected more room, or --workers 0"),
    pytest.param(signal.SIGKILL, "is killed by signal: Killed", marks=pytest.mark.slow),
    pytest.param(signal.SIGBUS, "is killed by signal: Bus error", marks=pytest.mark.slow),
    pytest.param(lambda: os._exit(3), "exited unexpectedly with exit code 3", marks=pytest.mark.slow),
])
def test_a_loader_that_fails_or_dies_ends_the_run_in_one_line(tmp_path, capsys, monkeypatch, fault, words):
    write_clips(tmp_path / "a.h5", 40)
    if fault == "full":
        monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    else:
        monkeypatch.setattr(FeatureFile, "read", killed(os.getpid(), fault))
    began = time.monotonic()
    line = refused(capsys, "--data", str(tmp_path / "a.h5"), "--out", str(tmp_path / "run"), "--cache", "disk",
                   "--preset", "small", "--dim", "32", "--codes", "16", "--batch-size", "8", "--device", "cpu")
    assert line.startswith("cmg.pretrain: error: ") and words in line and "--workers 0" in line
    assert time.monotonic() - began < 30
