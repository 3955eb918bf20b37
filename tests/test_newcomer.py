"""A newcomer's walk: a modality, a backbone, a reader, a method and a task are one file each, outside the package.

Each file is the smallest that works, and the public command takes it on small data. `desk` is the newcomer's folder: it
holds what was written by hand and nothing else, before and after.
"""

import filecmp
import json
import os
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest

import cmg
from cmg import modalities
from cmg.data import convert
from cmg.data.features import FeatureFile, FeatureSet, FeatureWriter
from cmg.extract.__main__ import main as extract
from cmg.modalities import Modality, declare
from cmg.pretrain import main as pretrain
from support import CODE, SMALL, rows, run, write_clips
from support_media import levels, tone, write_video, write_wav

BACKBONE = '''
import numpy as np


class Loudness:
    name, modality, sha256, expects, shape = "loudness", "audio", "", (), (1,)

    def __call__(self, steps):
        return np.stack([second.abs().amax(keepdim=True) for second in steps])  # [n, 1]
'''
DEPTH = '''
import numpy as np


class Depth:
    name, modality, sha256, expects, shape = "brightness", "depth", "", (), (5, 5, 1)

    def __call__(self, steps):
        return np.stack([frames[:, :25, :25].reshape(-1, 5, 5, 5, 5, 3).mean((0, 2, 4, 5))[..., None] / 255
                         for frames in steps])  # [n, 5, 5, 1]
'''
READER = '''
from pathlib import Path

import numpy as np

from cmg.data.readers import contract
from cmg.data.readers.contract import clip


class Reader(contract.Reader):
    """A folder of .npy files."""

    backbones = {"audio": "mine"}

    @staticmethod
    def add_flags(parser):
        parser.add_argument("--folder", required=True, help="with <id>.npy")

    def __init__(self, flags):
        self.jobs = {path.stem: path for path in sorted(Path(flags.folder).glob("*.npy"))}

    def read(self, jobs):
        for name, path in jobs.items():
            yield [clip(name, {"audio": np.load(path)}, steps=4)]
'''
METHOD = '''
import math

from torch import nn

from cmg.losses.masked import mse
from cmg.methods.contract import Method
from cmg.models.pretrained import Pretrained, Tokens


class Encoder(Pretrained):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.down = nn.ModuleDict({m: nn.Linear(math.prod(shape[1:]), 2) for m, shape in self.shapes.items()})

    def encode_modality(self, modality, features, valid=None):
        return Tokens(None, None, self.down[modality](features.flatten(2)))


class Bottleneck(Method):
    """Rebuild every step from two numbers."""

    def __init__(self, shapes, config):
        super().__init__()
        self.encoder = Encoder(shapes)
        self.up = nn.ModuleDict({m: nn.Linear(2, math.prod(shape[1:])) for m, shape in shapes.items()})

    def losses(self, batch):
        return {m: mse(up(self.encoder.encode_modality(m, batch[m]).vectors), batch[m].flatten(2), batch[f"valid/{m}"])
                for m, up in self.up.items()}

    def kept(self):
        return self.encoder
'''
TASK = '''
import cmg
from cmg.cli import Parser, command
from cmg.data.features import FeatureSet
from cmg.downstream.results import write_results


@command
def main(argv=None):
    p = Parser(prog="spread", description="How far apart clips lie, in every modality.")
    p.add_argument("--checkpoint", required=True, help="run folder or .pt file")
    p.add_argument("--data", required=True, help="feature file")
    p.add_argument("--out", required=True, help="folder of results.json")
    args = p.parse_args(argv)
    tokens = cmg.load_pretrained(args.checkpoint).encode(FeatureSet(args.data))
    write_results(args.out, [{"task": "spread", "source": m, "target": m, "metric": "std",
                              "value": found.vectors.mean(1).std(0).mean().item()} for m, found in tokens.items()])


if __name__ == "__main__":
    main()
'''


@pytest.fixture
def desk(tmp_path):
    """The newcomer's folder, which holds one file in the end."""
    folder = tmp_path / "desk"
    folder.mkdir()
    yield folder
    assert len(list(folder.iterdir())) == 1


def write(path, text):
    path.write_text(text)
    return str(path)



def test_a_backbone(desk, tmp_path):
    mine, media = write(desk / "mine.py", BACKBONE), tmp_path / "media"
    media.mkdir()
    for name, height in (("loud", 1.0), ("soft", 0.5)):
        write_wav(media / f"{name}.wav", height * tone(500, 3, 16000), 16000)  # a tone goes up to 0.5
    extract(["--videos", str(media), "--modalities", "audio", "--audio-backbone", mine, "--seconds", "3",
             "--workers", "0", "--out", str(tmp_path / "a.h5")])
    x, _ = FeatureFile(tmp_path / "a.h5").read("audio", [0, 1])
    np.testing.assert_allclose(x[..., 0], [[0.5] * 3, [0.25] * 3], atol=1e-3)


def test_a_reader(desk, tmp_path):
    mine, arrays = write(desk / "mine.py", READER), tmp_path / "arrays"
    arrays.mkdir()
    for number in range(3):
        np.save(arrays / f"{number}.npy", np.full((2 + number, 5), number / 4))
    convert.main([mine, "--folder", str(arrays), "--out", str(tmp_path / "a.h5")])
    x, valid = FeatureFile(tmp_path / "a.h5").read("audio", [0, 1, 2])
    assert (x == np.array([0, 0.25, 0.5]).reshape(3, 1, 1)).all() and valid.sum(1).tolist() == [2, 3, 4]


def test_a_method(desk, tmp_path):
    mine, clips = write(desk / "mine.py", METHOD), str(write_clips(tmp_path / "clips.h5"))
    pretrain(["--data", clips, "--method", mine, "--out", str(tmp_path / "run"), "--batch-size", "8", "--epochs", "8",
              "--lr", "1e-2", "--device", "cpu", "--log-every", "1"])
    table = rows(tmp_path / "run")
    assert table[-1]["loss/total"] < 0.6 * table[0]["loss/total"]
    model = cmg.load_pretrained(tmp_path / "run")
    assert {m: tokens.vectors.shape for m, tokens in model.encode(clips).items()} == {
        m: (40, 6, 2) for m in ("video", "audio", "text")}


def test_a_task(desk, tmp_path):
    mine, clips = write(desk / "mine.py", TASK), str(write_clips(tmp_path / "clips.h5"))
    out = run(clips, tmp_path / "run", "--epochs", "1")
    runpy.run_path(mine)["main"](["--checkpoint", str(out), "--data", clips, "--out", str(tmp_path / "found")])
    found = {row["source"]: row["value"] for row in json.loads((tmp_path / "found" / "results.json").read_text())}
    tokens = cmg.load_pretrained(out).encode(clips)
    assert found == {m: pytest.approx(one.quantized.mean(1).std(0).mean().item()) for m, one in tokens.items()}


def test_a_modality_that_a_feature_file_declares(desk, tmp_path, monkeypatch):
    """The one file is the feature file: all who read it, and the checkpoint, learn from it what depth is."""
    clips, known = desk / "depth.h5", dict(modalities.TABLE)
    monkeypatch.setattr(modalities, "TABLE", dict(known))
    declare(Modality("depth", "depth map", ("grids",)), "here")
    rng, shapes = np.random.default_rng(0), {"audio": (6, 12), "depth": (6, 5, 5, 3)}
    with FeatureWriter(clips, shapes, {"source": "mine"}) as writer:
        writer.append([f"{i}" for i in range(24)], {m: rng.standard_normal((24, *s)) for m, s in shapes.items()})

    monkeypatch.setattr(modalities, "TABLE", dict(known))  # as in a process that has not read the file
    out = run(str(clips), tmp_path / "run", "--epochs", "1")
    names = set(rows(out)[0])
    assert {"loss/rec/depth", "loss/cpc/a2depth", "loss/cpc/depth2a", "loss/cmcm/a_depth"} <= names
    monkeypatch.setattr(modalities, "TABLE", dict(known))
    model = cmg.load_pretrained(out)
    assert model.modalities == ("audio", "depth") and modalities.modality("depth").called == "depth map"
    assert model.encode(FeatureSet(clips))["depth"].codes.shape == (24, 6)


@pytest.mark.slow
def test_a_modality_that_is_a_row_of_the_table(desk, tmp_path):
    """In a copy of the package one file changes, and extraction in two processes and pretraining know the modality. Its
    backbone, on the desk, is a walk of its own."""
    copy = tmp_path / "copy"
    shutil.copytree(CODE / "cmg", copy / "cmg", ignore=shutil.ignore_patterns("__pycache__"))
    text, end = (copy / "cmg" / "modalities.py").read_text(), "\n)}\n"
    assert text.count(end) == 1
    write(copy / "cmg" / "modalities.py", text.replace(
        end, f'\n    Modality("depth", "depth map", ("grids",), source="frames"),{end}'))
    changed = [path for path in copy.rglob("*") if path.is_file() and not filecmp.cmp(
        path, CODE / path.relative_to(copy), shallow=False)]
    assert changed == [copy / "cmg" / "modalities.py"]

    mine, media = write(desk / "mine.py", DEPTH), tmp_path / "media"
    media.mkdir()
    for number in range(8):
        sound = 9000 * np.sin(np.arange(3 * 16000) * (0.05 + 0.01 * number))
        write_video(media / f"{number}.mkv", levels(6) + np.uint8(30 * number), fps=2, sound=sound)
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}

    def command(module, *flags):
        call = [sys.executable, "-m", module, *map(str, flags)]
        subprocess.run(call, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)

    command("cmg.extract", "--videos", media, "--modalities", "depth", "audio", "--depth-backbone", mine,
            "--workers", 2, "--seconds", 3, "--out", tmp_path / "a.h5")
    command("cmg.pretrain", "--data", tmp_path / "a.h5", "--out", tmp_path / "run", *SMALL, "--epochs", 1)
    record = json.loads((tmp_path / "run" / "args.json").read_text())
    assert record["shapes"] == {"audio": [3, 260], "depth": [3, 5, 5, 1]}
    assert record["features"]["depth"]["backbone"] == "brightness"

