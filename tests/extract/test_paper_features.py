"""The paper's features end to end: media → VGG-19 and VGGish → feature file → pretraining → AVE; what joins what."""

import json

import h5py
import numpy as np
import pytest

from cmg import pretrain
from cmg.data import convert
from cmg.data.features import FeatureFile, FeatureSet
from cmg.downstream import ave
from cmg.errors import UserError
from cmg.extract.__main__ import main as extract

PAPER = ["--video-backbone", "vgg19", "--video-weights", "random:0", "--audio-backbone", "vggish",
         "--audio-weights", "random:0", "--frames", "1", "--seconds", "2", "--workers", "0", "--device", "cpu"]


@pytest.mark.slow
def test_from_media_to_transfer(digit_media, tmp_path, capsys):
    """Random weights, so nothing is learned; every number must still find its way. One frame a second, for time."""
    videos, annotations = digit_media / "videos", digit_media / "annotations"
    for name, ids in (("pretrain", ["pre_000[012]"]), ("ave", ["ave_train_00[01]", "ave_*_000"])):
        extract(["--videos", str(videos), "--select", *ids, *PAPER, "--out", str(tmp_path / f"{name}.h5")])
    file = FeatureFile(tmp_path / "pretrain.h5")
    assert file.shapes == {"video": (2, 7, 7, 512), "audio": (2, 128)} and len(file.ids) == 3
    assert {key: file.attrs[key] for key in ("backbone/video", "sha256/video", "backbone/audio", "sha256/audio",
                                             "frames_per_second/video", "precision/video", "precision/audio")} == {
        "backbone/video": "vgg19", "sha256/video": "random:0", "backbone/audio": "vggish",
        "sha256/audio": "random:0", "frames_per_second/video": 1, "precision/video": "fp32", "precision/audio": "fp32"}
    for m in ("video", "audio"):
        x, valid = file.read(m, range(3))
        assert valid.all() and x.min() == 0 and 0.05 < (x > 0).mean() < 0.95  # after a ReLU, neither dead nor full
        assert np.abs(x[0] - x[1]).max() > 0.1
    run = tmp_path / "run"
    pretrain.main(["--data", str(tmp_path / "pretrain.h5"), "--out", str(run), "--preset", "small", "--max-steps", "3",
                   "--batch-size", "3", "--device", "cpu", "--codes", "16", "--dim", "32"])
    ave.main(["--checkpoint", str(run / "latest.pt"), "--data", str(tmp_path / "ave.h5"), "--annotations",
              str(annotations), "--probe-epochs", "2", "--probe-seeds", "1", "--probe-lr", "1e-3", "--device", "cpu",
              "--out", str(tmp_path / "results")])
    rows = json.loads((tmp_path / "results" / "results.json").read_text())
    assert {(row["source"], row["target"]) for row in rows} == {("video", "audio"), ("audio", "video")}
    assert all(0 <= row["value"] <= 100 and row["n_test"] in (1, 2) for row in rows), rows


def feature_file(path, **attrs):
    """A file as `cmg.extract` or `cmg.data.convert` writes them, of one clip."""
    with h5py.File(path, "w") as file:
        file["audio"], file["valid/audio"] = np.zeros((1, 10, 128), np.float16), np.ones((1, 10), bool)
        file["id"] = np.array([path.stem], dtype=object)
        file.attrs.update({"schema": 1, "seconds_per_step": 1.0, "source": "", **attrs})
    return path


def test_features_join_only_those_of_the_same_weights(tmp_path, capsys):
    """Name and sha256 both count. Released features have no sha256 unless who converts them says which it is."""
    mine = feature_file(tmp_path / "mine.h5", **{"backbone/audio": "vggish", "sha256/audio": "ab" * 32})
    more = feature_file(tmp_path / "more.h5", **{"backbone/audio": "vggish", "sha256/audio": "ab" * 32})
    assert FeatureSet([mine, more]).ids == ["mine", "more"]

    def release(name, *flags):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "Annotations.txt").write_text(f"Bark&{name}&good&0&10\n")
        for part, shape in (("visual", (1, 10, 7, 7, 4)), ("audio", (1, 10, 128))):
            with h5py.File(folder / f"{part}_feature.h5", "w") as file:
                file["avadataset"] = np.zeros(shape)
        out = tmp_path / f"{name}.h5"
        convert.main(["ave", "--features", str(folder), "--annotations", str(folder), "--out", str(out), *flags])
        return out

    released, other = release("released"), release("other")
    assert FeatureSet([released, other]).ids == ["released", "other"]
    with pytest.raises(UserError, match="mine.h5: sha256/audio is 'abab.*', but not known in .*released.h5"):
        FeatureSet([released, mine], ["audio"])
    known = release("known", "--audio-sha256", "ab" * 32)
    assert FeatureSet([mine, known], ["audio"]).ids == ["mine", "known"]
    with pytest.raises(UserError, match="released.h5: sha256/audio is not known, but 'abab"):
        FeatureSet([known, released])
    with pytest.raises(SystemExit):
        release("wrong", "--audio-sha256", "abc")
    assert "--audio-sha256: expected 64 hexadecimal digits" in capsys.readouterr().err
    seeded = feature_file(tmp_path / "seeded.h5", **{"backbone/audio": "vggish", "sha256/audio": "random:0"})
    with pytest.raises(UserError, match="'random:0'"):
        FeatureSet([seeded, mine])
