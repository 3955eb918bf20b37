"""A small benchmark, a checkpoint whose sound and words share codes, and runs of the task on both."""

import pytest
import torch
from torch.nn import functional as F

from cmg.data.avs import read_s4
from cmg.downstream import avs
from cmg.downstream.avs.queries import QueryReader
from cmg.extract.backbones import Choice
from cmg.extract.cepstra import Cepstra
from cmg.extract.hashed import HashedWords
from cmg.training import checkpoint
from support import hashed_words, untrained, write_s4


@pytest.fixture(scope="session")
def s4(tmp_path_factory):
    return write_s4(tmp_path_factory.mktemp("s4") / "Single-source")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, s4):
    """A checkpoint whose audio and text of the same class lie close to the same code, fitted to do so."""
    torch.manual_seed(0)
    shapes = {"audio": (10, *Cepstra.shape), "text": (10, *HashedWords.shape)}
    path = tmp_path_factory.mktemp("pretrained") / "best.pt"
    model = untrained(path, shapes, codes=8)
    model.codebook.embedding.copy_(F.layer_norm(torch.randn(8, 16), (16,)))  # within reach of Φ's last LayerNorm
    folder = read_s4(s4)
    reader = QueryReader(folder, "raw", backbones={"audio": Choice("audio", "cepstra")})
    clips = folder.splits["train"][:2]
    sound = reader("audio", clips)  # (2, 5, 260)
    words, spoken = hashed_words(["red", "box"], ["blue", "box"])
    everything = torch.ones(sound.shape[:2], dtype=torch.bool)
    wanted = model.codebook.embedding[:2]
    optimizer = torch.optim.Adam(model.semantic.parameters(), lr=3e-3)
    for _ in range(60):
        loss = 0
        for m, x, valid in (("audio", sound, everything), ("text", words, spoken)):
            encoder = model.semantic[m]
            said = encoder(encoder.inputs(x, valid), valid)
            loss = loss + F.mse_loss(said[valid], wanted[:, None].expand_as(said)[valid])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    checkpoint.save(path, checkpoint.load(path) | {"model": model.state_dict(), "pretrain_ids": ["elsewhere"]})
    return path


@pytest.fixture
def run(s4, pretrained, tmp_path):
    """Run the task with small settings -> its rows; the run folder is `run.out`."""
    def call(*flags, out=tmp_path / "run"):
        return avs.main([
            "--annotations", str(s4), "--checkpoint", str(pretrained), "--out", str(out), "--device", "cpu",
            "--preset", "small", "--size", "32", "--channels", "16", "--fusion", "0", "1", "--lr", "5e-3",
            "--batch-size", "4", "--distort", "0", *map(str, flags),
        ])

    call.out = tmp_path / "run"
    return call
