"""Several processes on gloo compute what one process computes on the whole batch, and a lost one ends the run."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch._subclasses.fake_tensor import FakeTensorMode

from cmg.data.features import FeatureFile, FeatureSet
from cmg.distributed import average_gradients, broadcast, finish, from_all, gather, share, total
from cmg.errors import UserError
from cmg.models.codebook import Codebook
from cmg.pretrain import main
from support import CODE, SMALL, environment, free_port, same_weights, trainer_of, write_clips

STEPS = 20
SETTINGS = {
    "small": ["--specific-steps", "2"],
    "paper": ["--preset", "paper", "--cpc-steps", "2"],
    "official": ["--preset", "official", "--lr", "1e-3"],
    "parts": ["--preset", "paper", "--accumulate", "2"],
    "micu": ["--preset", "paper", "--method", "micu"],
    "codaar": ["--preset", "paper", "--method", "codaar"],
    "fcid": ["--preset", "paper", "--method", "fcid"],
    "aha": ["--preset", "paper", "--method", "aha", "--shared-levels", "2", "--levels", "3"],
    "codebind": ["--preset", "paper", "--method", "codebind", "--piece-dim", "4", "--own-codes", "6"],
    "srcid": ["--preset", "paper", "--method", "srcid"],
    "onecode": ["--method", "onecode"],
    "pieces": ["--method", "onecode", "--pieces", "2"],
    "rivals": ["--preset", "paper", "--method", "dcid+smit+mst+codis+turn+simmmdg"],
}


def curve(path, flags, rank=0, size=1):
    """Losses of 20 steps in float64 without dropout, and the state after them."""
    def in_float64(method):
        for book in (part for part in method.double().train().model.modules() if isinstance(part, Codebook)):
            for name, buffer in book.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    book._buffers[name] = buffer.double()
        return method

    trainer = trainer_of(path, "--reset-after", "3", *flags, prepare=in_float64)
    trainer.method.begin_epoch(9, 10)
    torch.manual_seed(1 + rank)
    found = []
    while trainer.step < STEPS:
        for batch in trainer.loader():
            batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
            losses, _, norm = trainer.train_step(batch)
            found.append(torch.stack([*losses.values(), norm]).double())
            trainer.step += 1
        trainer.epoch += 1
    return torch.stack(found), {name: value.clone() for name, value in trainer.method.state_dict().items()}


def rank_of_two(rank, size, port_number, path, out):
    os.environ.update(environment(rank, size, port_number))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    collectives()
    codebook_sums()
    one_copy_of_features(f"{out}.h5")
    for name, flags in SETTINGS.items():
        found, state = curve(path, flags, rank, size)
        torch.save((found, state), f"{out}.{name}.{rank}")
    finish()


def collectives():
    """gather, total and share against their definitions, gradients included: rank r holds r + 1 and r + 2."""
    rank = dist.get_rank()
    x = torch.tensor([[rank + 1.0], [rank + 2.0]], requires_grad=True)
    everyone = gather(x)
    assert everyone.flatten().tolist() == [1, 2, 2, 3]
    assert gather(x.detach() > 1.5).flatten().tolist() == [False, True, True, True]
    # The mean over ranks of what each computes from the gathered rows: its gradient, averaged as the trainer does.
    weight = torch.tensor([1.0, 10.0, 100.0, 1000.0]) * (rank + 1)
    ((everyone.flatten() * weight).sum() + total(x.sum() ** 2)).backward()
    average_gradients([x])
    # d/dx_i of mean over ranks: 3/2 of the base weight, and 2 Σ x of its own rank; then averaged over both ranks
    own = [[1.5, 15.0], [150.0, 1500.0]]
    sums = [2 * 3.0, 2 * 5.0]
    expected = sum(torch.tensor(o) + s for o, s in zip(own, sums)) * 2 / 2
    torch.testing.assert_close(x.grad.flatten(), expected)
    assert share(torch.tensor(float(rank))).item() == 0.5  # one valid entry on two ranks
    assert share(torch.tensor(0.0)).item() == 0.5  # none at all: a sum of 0 over any denominator is 0
    assert broadcast(x.detach()).flatten().tolist() == [1, 2]
    transposed = torch.ones(1, 2, requires_grad=True)
    slope = torch.arange(4.0).view(2, 2) + rank
    (gather(transposed).t() * slope).sum().backward()  # a gradient that comes in column by column
    assert transposed.grad.tolist() == [[[1, 5], [3, 7]][rank]]
    with FakeTensorMode():  # as where a graph is traced: the shapes, and no other process is asked
        fake = torch.empty(3, 2)
        assert gather(fake).shape == (6, 2) and total(fake).shape == broadcast(fake).shape == (3, 2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5"))


def codebook_sums():
    """Each rank sees another cluster; the codes follow both."""
    book = Codebook(("audio",), 2, 2, mm_ema="off", reset="off")
    book.embedding.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    book.weight.copy_(book.embedding)
    z = {"audio": torch.full((3, 1, 2), -5.0 if dist.get_rank() == 0 else 5.0)}
    for _ in range(400):
        book.update(z, {"audio": book.quantize(z["audio"]).codes}, {"audio": torch.ones(3, 1, dtype=torch.bool)})
    torch.testing.assert_close(book.embedding, torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), atol=0.3, rtol=0)
    torch.testing.assert_close(book.count, torch.tensor([3.0, 3.0]), atol=0.1, rtol=0)


def one_copy_of_features(path):
    """Both ranks map the memory that each filled in part; its batches are what the file holds."""
    rank, file = dist.get_rank(), FeatureFile(path)
    features = FeatureSet(path)
    rows = [599, 3, 256, 255, 511, 512, 3]
    for m, x in features.stored(rows).items():
        if m in features.modalities:
            np.testing.assert_array_equal(x, file.read(m, rows)[0])
    mine, other = from_all(shared_memory("self"))
    assert mine == other and sum(size for _, size in mine) >= features.nbytes
    assert not [n for n in os.listdir("/proc/self/fd") if "memfd" in os.path.realpath(f"/proc/self/fd/{n}")]
    with patch("cmg.data.features.cache_for", lambda *_: ("host", "disk")[rank]):
        assert FeatureSet(path, cache="auto").cache == "disk"  # on both: its epochs have an order of their own
    with pytest.raises(UserError, match=r"\A[^\n]* share memory .*no room.* expected --cache disk\Z"):
        with patch("torch.from_file", side_effect=RuntimeError("no room")) if rank else patch("builtins.print"):
            FeatureSet(path)


def shared_memory(process):
    """(inode, bytes) of all mappings of memory that belongs to no file system."""
    maps = Path(f"/proc/{process}/maps").read_text()
    found = re.findall(r"^(\w+)-(\w+) rw-s \S+ \S+ (\d+) +/memfd:cmg \(deleted\)$", maps, re.M)
    return sorted((int(inode), int(end, 16) - int(begin, 16)) for begin, end, inode in found)


@pytest.fixture(scope="module")
def both_ranks(clips, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("ranks") / "found")
    write_clips(f"{out}.h5", n=600)  # more than two blocks of reading
    mp.spawn(rank_of_two, (2, free_port(), clips, out), nprocs=2)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_equal_one(clips, both_ranks, name):
    """20 steps on 2 × 4 clips give the losses, gradient norms, weights and codes of 20 steps on 8.

    A third of the clips has words missing, so ranks hold different numbers of valid steps; codes are reset on the way.
    """
    (losses, state), (others, twin) = (torch.load(f"{both_ranks}.{name}.{rank}", weights_only=True) for rank in (0, 1))
    assert torch.equal(losses, others) and all(torch.equal(value, twin[key]) for key, value in state.items())
    expected, alone = curve(clips, SETTINGS[name])
    assert len(losses) == STEPS and int(alone["model.codebook.revived"]) > 0
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
    for key, value in state.items():
        torch.testing.assert_close(value, alone[key], rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_another_number_resumes_it(clips, tmp_path):
    out = tmp_path / "run"
    argv = ["--data", clips, "--out", str(out), *SMALL, "--epochs", "40", "--save-every", "1e-6"]
    command, number = [sys.executable, "-m", "cmg.pretrain", *argv], free_port()
    ranks = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(CODE), **environment(rank, 2, number)},
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    deadline = time.monotonic() + 120
    while not (out / "latest.pt").exists() and ranks[0].poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    held = [shared_memory(process.pid) for process in ranks]
    ranks[1].send_signal(signal.SIGKILL)
    _, said = ranks[0].communicate(timeout=60)
    ranks[1].communicate()
    assert ranks[0].returncode == 2
    assert "process 0 of 2: another one was lost at step" in said.splitlines()[-1] and "latest.pt" in said
    assert "Traceback" not in said
    assert held[0] == held[1] and len(held[0]) == 9  # features, marks, finiteness of three: gone with the processes

    content = torch.load(out / "latest.pt", weights_only=True)
    assert len(content["streams"]["cpu"]) == 2 and not torch.equal(*content["streams"]["cpu"])
    stopped = content["position"]["step"]
    main([*argv, "--resume", "auto", "--max-steps", str(stopped + 4)])
    content = torch.load(out / "latest.pt", weights_only=True)
    assert content["position"]["step"] == stopped + 4 and len(content["streams"]["cpu"]) == 1
    with open(out / "metrics.csv", newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(stopped + 4))


@pytest.mark.slow
def test_two_processes_go_on_to_the_same_bits_as_two(clips, tmp_path):
    """Dropout included: every process takes up its own random stream."""
    def run(out, *flags):
        argv = ["--data", clips, "--out", str(out), *SMALL, "--schedule", "constant", *flags]
        command, number = [sys.executable, "-m", "cmg.pretrain", *argv], free_port()
        ranks = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(CODE), **environment(rank, 2, number)},
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
        said = [process.communicate(timeout=120)[1] for process in ranks]
        assert [process.returncode for process in ranks] == [0, 0], said
        return out

    whole, part = run(tmp_path / "whole"), run(tmp_path / "part", "--max-steps", "7")
    same_weights(whole, run(part, "--resume", "auto"))
    streams = [torch.load(out / "latest.pt", weights_only=True)["streams"]["cpu"] for out in (whole, part)]
    assert torch.equal(*streams) and not torch.equal(*streams[0])
