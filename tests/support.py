"""What tests share: where things lie, small clips, runs as a user starts them, stand-ins for models."""

import csv
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cmg.configs import flat, with_values
from cmg.data.avs import S4Clip
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.extract.hashed import HashedWords
from cmg.methods import registry
from cmg.models.pretrained import Pretrained, Tokens
from cmg.pretrain import main, parse
from cmg.training import checkpoint
from cmg.training.loop import Trainer

ROOT = Path(__file__).resolve().parents[1]
CODE, FIXTURES, TABLES = ROOT / "code", ROOT / "tests" / "fixtures", ROOT / "scripts" / "tables"
BAR = re.compile(r"step/s|it/s|\?step|^step \d+ of \d+")  # how far a run is, which may stand on stderr as well
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


def settings_of(*flags, data="x", out="x"):
    """The settings that a command line of small sizes gives."""
    return parse(["--data", str(data), "--out", str(out), *SMALL, *flags])


def make_method(settings, shapes=SHAPES, **changed):
    """The method of these settings, some of them changed."""
    return settings.kind(shapes, with_values(settings.method, changed, strict=True))


def trainer_of(clips, *flags, folder=".", device="cpu", prepare=lambda method: method.train()):
    """A trainer as a command line gives it, without dropout, weights by seed 0."""
    settings = settings_of(*flags, data=clips)
    cache = "host" if settings.run.cache == "auto" else settings.run.cache
    features = FeatureSet(clips, settings.run.modalities, cache)
    torch.manual_seed(0)
    method = prepare(without_dropout(make_method(settings, features.shapes)).to(device))
    flags = settings.flags | {"modalities": list(features.modalities)}
    return Trainer(method, features, settings.run, settings.optimiser, folder, torch.device(device), flags)


def untrained(path, shapes, preset="small", method="unicode", features=None, prepare=None, **changed):
    """Save a checkpoint of a model that has learnt nothing, at a size of its own; returns the model in eval mode.

    features : FeatureSet whose ids and origin it says it was trained on. prepare : function of the model, before it is
    saved.
    """
    kind = registry.find(method)
    config = with_values(registry.recipe_of(kind, preset).method, {"dim": 16, "codes": 12})  # where it has them
    config = with_values(config, changed, strict=True)
    if features is not None:
        shapes, config = features.shapes, kind.settled(config, features)
    torch.manual_seed(0)
    model = kind.rebuild(shapes, config).eval()
    if prepare is not None:
        prepare(model)
    features = features or SimpleNamespace(shapes=shapes, ids=[], provenance={})
    flags = flat(config) | {"method": method, "preset": preset, "seed": 1}
    checkpoint.save(path, checkpoint.inference_part(model, flags, registry.origin(method), features, 0, 1))
    return model


def steps_of(trainer, number=None):
    """What each step of the run gives, (losses, carried, norm), one after the other."""
    while trainer.step < (number or trainer.total):
        for batch in trainer.loader():
            yield trainer.train_step(batch)
            trainer.step += 1
        trainer.epoch += 1


def write_s4_clip(folder, clip, frames, masks, tone):
    """Write a clip as AVSBench's folder has it; `tone` in Hz, five seconds of 16 kHz."""
    def picture(kind, second, array):
        path = folder / "s4_data" / kind / clip.split / clip.category / clip.name / f"{clip.name}_{second + 1}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    for second in range(5):
        picture("visual_frames", second, frames[second])
        if clip.split != "train" or second == 0:
            picture("gt_masks", second, masks[second])
    path = folder / "s4_data" / "audio_wav" / clip.split / clip.category / f"{clip.name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 9000 * np.sin(2 * np.pi * tone * np.arange(5 * 16000) / 16000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(sound.astype("<i2").tobytes())


def write_s4(folder):
    """AVSBench's folder with 32-pixel clips of a red and a blue box, of which the class's one is masked: 16, 4 and 4
    clips in pairs of the same frames."""
    folder.mkdir()
    tones = {"red_box": 300, "blue-box": 2500}
    lines = ["name,start_time,category,split"]
    for split, count in (("train", 16), ("val", 4), ("test", 4)):
        for number in range(count):
            category = list(tones)[number % 2]
            clip = S4Clip(f"{split}_{number}", "0", category, split)
            generator = np.random.default_rng([len(split), number // 2])  # pairs differ in sound and mask alone
            frames = generator.integers(0, 40, (5, 32, 32, 3)).astype(np.uint8)
            masks = np.zeros((5, 32, 32), np.uint8)
            for name, channel, side in (("red_box", 0, 0), ("blue-box", 2, 16)):
                y, x = generator.integers(0, 20), side + generator.integers(0, 6)
                frames[:, y : y + 10, x : x + 10, channel] = 230
                if name == category:
                    masks[:, y : y + 10, x : x + 10] = 255
            if clip.name == "test_1":
                masks[4] = 0  # nothing sounds in the last frame
            write_s4_clip(folder, clip, frames, masks, tones[category])
            lines.append(f"{clip.name},0,{category},{split}")
    (folder / "s4_meta_data.csv").write_text("\n".join(lines) + "\n")
    return folder


def hashed_words(*sentences):
    """Hashed words of sentences as `cmg.extract` stores them, ten a clip: ([n, 10, 300], valid [n, 10])."""
    x, valid = torch.zeros(len(sentences), 10, 300), torch.zeros(len(sentences), 10, dtype=torch.bool)
    for row, words in enumerate(sentences):
        x[row, : len(words)], valid[row, : len(words)] = torch.from_numpy(HashedWords()(words)).half().float(), True
    return x, valid


def run(clips, out, *flags):
    main(["--data", clips, "--out", str(out), *SMALL, *flags])
    return Path(out)


def rows(out):
    with open(Path(out) / "metrics.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def failures(out):
    """id -> path and reason, of the list of bad clips beside a feature file."""
    with open(f"{out}.failed.csv", newline="") as file:
        return {row["id"]: (row["path"], row["reason"]) for row in csv.DictReader(file)}


KILLED_CONVERSION = """
import os, signal, sys
from cmg.data import shards
from cmg.data.convert import main
shards.SHARD, before, whole = int(sys.argv[1]), int(sys.argv[2]), shards.Parts.flush
def flush(parts):
    whole(parts) if len(parts.files) < before else os.kill(os.getpid(), signal.SIGKILL)
shards.Parts.flush = flush
main(sys.argv[3:])
"""


def killed_conversion(flags, shard, before):
    """A `cmg.data.convert` in a process of its own that kill -9 ends when a shard of so many clips is to be written and
    `before` are there."""
    call = [sys.executable, "-c", KILLED_CONVERSION, str(shard), str(before), *map(str, flags)]
    done = subprocess.run(call, env={**os.environ, "PYTHONPATH": str(CODE)}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def refused(capsys, *argv):
    """The one line that a refused command prints; it must exit with status 2 and leave nothing else on stderr."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines()
             if line.strip() and not BAR.search(line)]
    assert len(lines) == 1, lines
    return lines[0]


def install(folder, monkeypatch, module, text, group, entries):
    """Put a module on the path as an installed package is; `entries` : dict name -> attribute, its entry points."""
    info = folder / "site" / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "site" / f"{module}.py").write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    lines = [f"{name} = {module}:{attribute}" for name, attribute in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    monkeypatch.syspath_prepend(folder / "site")


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


class OneHotModel(Pretrained):
    """Stands in for a pretrained model whose features are one-hot codes; a subclass says which shapes and how many.

    `shift` moves the codes of a modality: by half of them, it has a codebook of its own.
    """

    offers = ("vectors", "codes")
    shapes, size = {}, 0

    def __init__(self, **shift):
        super().__init__(type(self).shapes)
        self.shift = shift
        self.modalities = tuple(m for m in ("audio", "video", "text") if m in self.shapes)
        self.book = torch.randn(self.size, 16, generator=torch.Generator().manual_seed(0))

    def encode_modality(self, modality, features, valid=None):
        codes = (features[..., : self.size].argmax(-1) + self.shift.get(modality, 0)) % self.size
        return Tokens(codes, self.book[codes], features)


class VectorModel(OneHotModel):
    """The same without a codebook: its vectors are what the other has for codes."""

    offers = ("vectors",)

    def encode_modality(self, modality, features, valid=None):
        return Tokens(None, None, super().encode_modality(modality, features, valid).quantized)


def killed_and_resumed(flags, out, most):
    """A pretraining in a process of its own, killed with kill -9 some moments after its first latest.pt, before step
    `most`, and resumed to its end; returns the state that it went on from."""
    command = [sys.executable, "-m", "cmg.pretrain", *flags]
    environment = {**os.environ, "PYTHONPATH": str(CODE)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "latest.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    state = torch.load(out / "latest.pt", weights_only=True)
    assert 0 < state["position"]["step"] < most
    subprocess.run([*command, "--resume", "auto"], env=environment, check=True, capture_output=True)
    return state
