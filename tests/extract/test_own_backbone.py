"""Backbones of a file of one's own and of an installed package, and a modality of one's own."""

import numpy as np
import pytest

from cmg import modalities
from cmg.data.features import FeatureFile, FeatureSet
from cmg.errors import UserError
from cmg.extract.__main__ import main
from cmg.extract.backbones import Choice, load_backbone
from cmg.extract.shards import parts_of
from cmg.extract.workers import Recipe
from cmg.modalities import Modality
from support import install
from support_media import levels, rows_of, tone, write_video, write_wav

LOUDNESS = """
import numpy as np


class Loudness:
    name, modality, sha256, expects, shape = "loudness", "audio", "", (), (2,)

    def __call__(self, steps):
        return np.stack([steps.abs().amax(1), steps.pow(2).mean(1).sqrt()], 1)  # [n, 2]
"""
DEPTH = """
import numpy as np


class Brightness:
    name, modality, expects, shape = "bright", "depth", ("a factor",), (1, 1, 1)

    def __init__(self, weights, device, precision):
        self.factor, self.sha256 = float(weights[0]), f"factor {weights[0]}"

    def __call__(self, steps):
        return np.stack([self.factor * frames.mean(keepdims=True)[0] for frames in steps])  # [n, 1, 1, 1]
"""


def refused(capsys, *argv):
    """The one line of a refused extraction."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def depth(monkeypatch):
    """One more row in the table of modalities."""
    row = Modality("depth", "depth map", ("grids",), source="frames")
    monkeypatch.setattr(modalities, "TABLE", {**modalities.TABLE, "depth": row})


@pytest.fixture
def clips(tmp_path):
    """Two wave files, of a whole and of half a scale."""
    (tmp_path / "clips").mkdir()
    for name, scale in (("loud", 1.0), ("soft", 0.5)):
        write_wav(tmp_path / "clips" / f"{name}.wav", scale * tone(440, 2, 16000), 16000)
    return tmp_path / "clips"


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_file_of_one_s_own(clips, tmp_path, workers):
    (tmp_path / "mine.py").write_text(LOUDNESS)
    main(["--videos", str(clips), "--modalities", "audio", "--audio-backbone", str(tmp_path / "mine.py"),
          "--seconds", "3", "--workers", str(workers), "--out", str(tmp_path / "a.h5")])
    file = FeatureFile(tmp_path / "a.h5")
    assert file.attrs["backbone/audio"] == "loudness" and file.attrs["sha256/audio"] == ""
    for name, scale in (("loud", 1.0), ("soft", 0.5)):
        x, valid = rows_of(tmp_path / "a.h5")[name]["audio"]
        np.testing.assert_allclose(x, [[0.5 * scale, 0.5 * scale / 2**0.5]] * 3, atol=2e-3)
        assert valid.tolist() == [True, True, False]
    assert not (tmp_path / "__pycache__").exists()


def test_another_text_of_the_file_does_not_go_on_where_the_first_stopped(tmp_path):
    (tmp_path / "mine.py").write_text(LOUDNESS)
    recipe = Recipe((Choice("audio", str(tmp_path / "mine.py")),), 2, 1)
    for _ in range(2):
        parts_of(tmp_path / "a.h5", recipe, {}).close()
    (tmp_path / "mine.py").write_text(LOUDNESS.replace("amax", "amin"))
    with pytest.raises(UserError, match="a.h5.parts: unfinished extraction with other settings"):
        parts_of(tmp_path / "a.h5", recipe, {})


def test_one_of_several_in_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(LOUDNESS + "\n\nclass Louder(Loudness):\n    name = 'louder'\n")
    assert load_backbone(Choice("audio", f"{path}:Louder")).name == "louder"
    with pytest.raises(UserError, match=r"several \(Loudness, Louder\); expected --audio-backbone .*mine.py:NAME"):
        load_backbone(Choice("audio", str(path)))
    with pytest.raises(UserError, match="--video-backbone .*mine.py: holds none of its kind"):
        load_backbone(Choice("video", str(path)))
    with pytest.raises(UserError, match="gone.py: no such file"):
        load_backbone(Choice("audio", "gone.py"))


def test_an_installed_package(tmp_path, monkeypatch):
    """Its entry point, of the modality that it is for: names may be the same in two."""
    install(tmp_path, monkeypatch, "cmg_loudness", LOUDNESS + DEPTH.replace("depth", "video"), "cmg.backbones",
            {"mine": "Loudness"})
    assert load_backbone(Choice("audio", "mine")).shape == (2,)
    with pytest.raises(UserError, match="--video-backbone mine: expected one of things, pixels, frames, vgg19, hf, or"):
        load_backbone(Choice("video", "mine"))


def test_a_row_of_the_table_is_extracted_like_the_others(depth, tmp_path, capsys):
    """Features of frames beside those of the built-in modality, and a file that declares what it holds."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "mine.py").write_text(DEPTH)
    write_video(tmp_path / "clips" / "a.mkv", levels(10), fps=4)  # seconds of mean level 1.5, 5.5 and 8.5
    call = ["--videos", tmp_path / "clips", "--modalities", "depth", "video", "--seconds", 4, "--frames", 8,
            "--workers", 0, "--out", tmp_path / "a.h5"]
    assert refused(capsys, *call).startswith("cmg.extract: error: --depth-backbone is needed to extract depth")
    assert "--depth-backbone pixels: expected a file" in refused(capsys, *call, "--depth-backbone", "pixels")
    call += ["--depth-backbone", tmp_path / "mine.py"]
    assert "--depth-weights: 0 given" in refused(capsys, *call)
    main([str(word) for word in (*call, "--depth-weights", 2)])
    row = rows_of(tmp_path / "a.h5")["a"]
    assert row["depth"][0].ravel().tolist() == [3, 11, 17, 17] and row["depth"][1].tolist() == [True] * 3 + [False]
    assert row["video"][0].shape == (4, 5, 5, 402)
    assert FeatureSet(tmp_path / "a.h5").provenance["depth"] == ("bright", "factor 2", 1.0, 8, "fp32")
    assert FeatureSet(tmp_path / "a.h5").provenance["video"] == ("things", None, 1.0, 8, None)
    del modalities.TABLE["depth"]  # as on a machine that has no such row
    assert FeatureFile(tmp_path / "a.h5").modalities == ("video", "depth")
    assert modalities.modality("depth") == Modality("depth", "depth map", ("grids",), source="frames")


def test_a_modality_that_nothing_reads_is_no_choice(monkeypatch, capsys):
    monkeypatch.setitem(modalities.TABLE, "imu", Modality("imu", "motion"))
    line = refused(capsys, "--videos", "x", "--modalities", "imu", "--out", "x.h5")
    assert "--modalities: invalid choice: 'imu'" in line
