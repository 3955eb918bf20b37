"""Two processes on gloo: every rank holds the same weights and codes after real steps, and statistics are summed."""

import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cmg.data.features import FeatureSet, FeatureWriter
from cmg.methods.base import build
from cmg.models.codebook import Codebook
from cmg.pretrain import parse
from cmg.training.distributed import finish
from cmg.training.loop import Trainer

SHAPES = {"video": (5, 5, 5, 6), "audio": (5, 7)}


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def worker(rank, size, port_number, path, preset):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port_number))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    codebook_sums(rank)
    options = vars(parse(["--data", path, "--out", "x", "--preset", preset, "--dim", "16", "--specific-dim", "8",
                          "--codes", "12", "--batch-size", "8", "--reset-after", "2"]))
    features = FeatureSet(path)
    torch.manual_seed(0)
    method = build(features.shapes, options)
    torch.manual_seed(1 + rank)
    trainer = Trainer(method.train(), features, options, ".", torch.device("cpu"), rank, size)
    for batch in trainer.loader():
        assert len(batch["index"]) == 4
        trainer.train_step(batch)
        trainer.step += 1
    mine = torch.cat([v.double().flatten() for v in method.state_dict().values()])
    first = mine.clone()
    dist.broadcast(first, 0)
    assert torch.equal(mine, first) and int(method.model.codebook.revived) > 0
    finish()


def codebook_sums(rank):
    """Each rank sees another cluster; the codes follow both."""
    book = Codebook(("audio",), 2, 2, mm_ema="off", reset="off")
    book.embedding.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    book.weight.copy_(book.embedding)
    z = {"audio": torch.full((3, 1, 2), -5.0 if rank == 0 else 5.0)}
    for _ in range(400):
        book.update(z, {"audio": book.quantize(z["audio"]).codes}, {"audio": torch.ones(3, 1, dtype=torch.bool)})
    torch.testing.assert_close(book.embedding, torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), atol=0.3, rtol=0)
    torch.testing.assert_close(book.count, torch.tensor([3.0, 3.0]), atol=0.1, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["small", "official"])
def test_two_ranks_stay_identical(tmp_path, preset):
    rng = np.random.default_rng(0)
    path = str(tmp_path / "clips.h5")
    with FeatureWriter(path, SHAPES, {}) as writer:
        writer.append([str(i) for i in range(40)], {m: rng.standard_normal((40, *s)) for m, s in SHAPES.items()})
    mp.spawn(worker, (2, port(), path, preset), nprocs=2)
