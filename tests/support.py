"""What tests share: where things lie, small clips, runs as a user starts them, stand-ins for models."""

import csv
import itertools
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from cmg.data.features import FeatureWriter
from cmg.models.unified import Tokens
from cmg.pretrain import main
from cmg.training.loop import Trainer

ROOT = Path(__file__).resolve().parents[1]
CODE, FIXTURES, TABLES = ROOT / "code", ROOT / "tests" / "fixtures", ROOT / "scripts" / "tables"
DEVICE = os.environ.get("CMG_TEST_DEVICE", "cpu")  # of the parity tests and the golden curves
SHAPES = {"video": (6, 5, 5, 8), "audio": (6, 12), "text": (6, 10)}
SMALL = ["--preset", "small", "--dim", "16", "--specific-dim", "8", "--codes", "24", "--batch-size", "8",
         "--epochs", "2", "--device", "cpu", "--log-every", "1"]


def write_clips(path, n=40, seed=0, poison=None):
    """A feature file of clips whose modalities share a random direction per clip."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 1, 4))
    with FeatureWriter(path, SHAPES, {"source": "test"}, dtype="float32") as writer:
        features = {}
        for m, shape in SHAPES.items():
            mix = rng.standard_normal((4, shape[-1]))
            signal_ = (shared @ mix).reshape(n, *([1] * (len(shape) - 1)), shape[-1])
            features[m] = signal_ + 0.3 * rng.standard_normal((n, *shape))
        valid = {m: np.ones((n, 6), bool) for m in SHAPES}
        valid["text"][::3, 4:] = False
        writer.append([f"clip{i}" for i in range(n)], features, valid)
    if poison is not None:
        import h5py

        with h5py.File(path, "a") as file:
            file["audio"][poison, 2, 3] = float("nan")
    return path


def run(clips, out, *flags):
    main(["--data", clips, "--out", str(out), *SMALL, *flags])
    return Path(out)


def rows(out):
    with open(Path(out) / "metrics.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def refused(capsys, *argv):
    """The one line that a refused command prints; it must exit with status 2 and leave nothing else on stderr."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines()
             if line.strip() and "step/s" not in line and "?it/s" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def same_weights(a, b):
    a, b = (torch.load(Path(p) / "latest.pt", weights_only=True) for p in (a, b))
    assert a["position"] == b["position"]
    for part in ("model", "method"):
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), name
    for x, y in zip(a["optimizer"]["state"].values(), b["optimizer"]["state"].values()):
        assert all(torch.equal(x[k], y[k]) for k in x)


def interrupt_after(clips, out, stop, flags):
    original, count = Trainer.train_step, itertools.count(1)

    def dying(self, batch):
        if next(count) > stop:
            raise RuntimeError("pulled the plug")
        return original(self, batch)

    Trainer.train_step = dying
    try:
        run(clips, out, *flags, "--resume", "auto")
    except RuntimeError:
        pass
    finally:
        Trainer.train_step = original


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(rank, size, port_number):
    """What torchrun would tell a process."""
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port_number)}


def without_dropout(module):
    """The module with every dropout turned off, for comparisons between devices or numbers of processes."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0
    return module


class OneHotModel(torch.nn.Module):
    """Stands in for a pretrained model whose features are one-hot codes; a subclass says which shapes and how many.

    `shift` moves the codes of a modality: by half of them, it has a codebook of its own.
    """

    shapes, size, masked = {}, 0, True

    def __init__(self, **shift):
        super().__init__()
        self.shift = shift
        self.modalities = tuple(m for m in ("audio", "video", "text") if m in self.shapes)
        self.book = torch.randn(self.size, 16, generator=torch.Generator().manual_seed(0))

    def encode_modality(self, modality, features, valid=None):
        codes = (features[..., : self.size].argmax(-1) + self.shift.get(modality, 0)) % self.size
        return Tokens(codes, self.book[codes], features)
