"""What a run separates: its figures by hand, clips that it was pretrained on, and what is refused."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmg.data.features import FeatureSet, FeatureWriter
from cmg.downstream.separation import errors, main, measured, pictures_of
from cmg.methods.cmmixer.method import CMMixer
from cmg.pretrain import main as pretrain
from cmg.training import checkpoint
from cmg.training.state import load_whole

FLAGS = ["--method", "cmmixer", "--side", "16", "--patch", "4", "--positions", "2", "--dim", "16", "--layers", "1",
         "--heads", "2", "--decoder-dim", "16", "--decoder-layers", "1", "--decoder-heads", "2", "--batch-size", "8",
         "--device", "cpu", "--epochs", "1"]


def write(path, names, seed):
    rng = np.random.default_rng(seed)
    shapes, n = {"video": (3, 16, 16, 3), "audio": (3, 16, 16)}, len(names)
    with FeatureWriter(path, shapes, {}, {"video": "uint8", "audio": "float32"}) as writer:
        writer.append(names, {"video": rng.integers(0, 256, (n, *shapes["video"])),
                              "audio": rng.normal(-40, 10, (n, *shapes["audio"]))})
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and a file of twelve clips of which it was pretrained on four."""
    folder = tmp_path_factory.mktemp("made")
    trained = write(folder / "train.h5", [f"c{i}" for i in range(16)], 0)
    pretrain(["--data", trained, "--out", str(folder / "run"), *FLAGS])
    return folder / "run", write(folder / "other.h5", [f"c{i}" for i in range(12, 24)], 1)


def test_it_writes_figures_of_other_clips_and_a_picture(made, tmp_path, capsys):
    run, data = made
    table = main(["--checkpoint", str(run), "--data", data, "--device", "cpu", "--out", str(tmp_path), "--clips", "3"])
    assert json.loads((tmp_path / "results.json").read_text()) == table
    assert [(row["source"], row["target"], row["metric"], row["n_test"]) for row in table] == [
        (source, target, kind + name, 8) for source, target in (("audio", "video"), ("video", "audio"))
        for kind in ("", "alone_") for name in ("explained", "gain")]
    assert (tmp_path / "separation.png").stat().st_size > 5000 and (tmp_path / "separation.pdf").is_file()
    assert "| video, beside audio |" in capsys.readouterr().out
    told = EventAccumulator(str(run / "tb"), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert [one.step for one in told.Images("separation")] == [2]
    (gain,) = told.Scalars("test/separation/video beside audio gain")
    assert gain.step == 2 and gain.value == pytest.approx(table[1]["value"])
    again = main(["--checkpoint", str(run / "latest.pt"), "--data", data, "--device", "cpu", "--out", str(tmp_path)])
    assert [row["value"] for row in again] == [row["value"] for row in table]


def test_an_oracle_gains_from_its_own_clip_and_noise_from_none(made):
    """A network that answers with what it sees of the first modality: rebuilding it is perfect where every pixel is of
    its own clip, and as bad as another clip where it is not; of the second modality it says nothing of use."""
    run, data = made
    method, _ = load_whole(run, CMMixer)
    features = FeatureSet(data)
    pictures = pictures_of(method, features, range(4, 12), torch.device("cpu"))
    assert {m: tuple(x.shape) for m, x in pictures.items()} == {m: (8, 2, 3, 16, 16) for m in ("video", "audio")}
    truth = {m: method.targets(x) for m, x in pictures.items()}
    mask = torch.zeros(8, 32, dtype=torch.bool)
    mask[:, ::2] = True

    def reconstruct(mixed):
        return mask, {m: method.targets(mixed) for m in pictures}

    method.reconstruct = reconstruct
    own, other, mean = errors(method, pictures, True, 0)["audio"]  # frames alone are seen
    wanted = (truth["video"] - truth["audio"])[:, ::2].square().mean((1, 2))
    torch.testing.assert_close(own, wanted)
    torch.testing.assert_close(other, (truth["video"].roll(1, 0) - truth["audio"])[:, ::2].square().mean((1, 2)))
    torch.testing.assert_close(mean, (truth["audio"].mean(0) - truth["audio"])[:, ::2].square().mean((1, 2)))
    method.config = replace(method.config, mix="none")
    own, other, _ = errors(method, pictures, False, 0)["video"]  # itself is seen, whoever the other clip is
    assert (own == 0).all() and (other == 0).all()


def test_gains_are_means_over_clips(made):
    run, data = made
    method, _ = load_whole(run, CMMixer)
    rows = list(range(4, 12))
    table = measured(method, FeatureSet(data), rows, 3, torch.device("cpu"))
    pictures = pictures_of(method, FeatureSet(data), rows, torch.device("cpu"))
    for row in table:
        found = errors(method, pictures, row["metric"].startswith("alone"), 3)
        own, other, mean = (values.double() for values in found[row["target"]])
        gained = 100 * ((other if row["metric"].endswith("gain") else mean) - own) / mean.mean()
        assert row["value"] == pytest.approx(gained.mean().item(), abs=1e-3) and row["chance"] == 0
        assert row["test_error"] == pytest.approx(gained.std().item() / 8**0.5, abs=1e-3)


def test_apart_nothing_is_read_out_of_the_other_modality(made, tmp_path):
    folder, data = made
    trained = write(tmp_path / "train.h5", [f"c{i}" for i in range(16)], 0)
    pretrain(["--data", trained, "--out", str(tmp_path / "run"), *FLAGS, "--mix", "apart"])
    table = main(["--checkpoint", str(tmp_path / "run"), "--data", data, "--device", "cpu"])
    assert [row["metric"] for row in table] == ["explained", "gain"] * 2
    assert [row["value"] for row in table if row["metric"] == "gain"] == [0, 0]


def test_what_is_refused(made, tmp_path, capsys):
    run, data = made

    def line(*flags):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, flags), "--device", "cpu"])
        assert stop.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    seen = write(tmp_path / "seen.h5", ["c0", "c1"], 0)
    assert "0 clips that the checkpoint was not pretrained on" in line("--checkpoint", run, "--data", seen)
    silent = write(tmp_path / "silent.h5", ["n0", "n1", "n2"], 0)
    with h5py.File(silent, "r+") as h5:
        h5["valid/audio"][:2] = False
    assert "1 clips that the checkpoint was not pretrained on, and that have both" in line(
        "--checkpoint", run, "--data", silent)
    assert "holds what tasks need alone; expected a run folder, or its latest.pt" in line(
        "--checkpoint", run / "epoch_000.pt", "--data", data)
    assert "no such checkpoint file" in line("--checkpoint", tmp_path / "gone", "--data", data)
    whole = checkpoint.load(run / "latest.pt")
    for change, told in (({"args": whole["args"] | {"layers": 10**6}}, "they ask for far more than the"),
                         ({"args": whole["args"] | {"decoder_layers": 10**6}}, "they ask for far more than the"),
                         ({"method": 7}, "unsupported operand")):
        checkpoint.save(tmp_path / "changed.pt", whole | change)
        assert f"its weights do not fit its flags ({told}" in line(
            "--checkpoint", tmp_path / "changed.pt", "--data", data)
