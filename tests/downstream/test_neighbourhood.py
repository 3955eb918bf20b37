"""Neighbourhood preservation of a checkpoint: rows of results.json against the metric by hand, any model, refusals."""

import csv
import json

import pytest
import torch

from cmg.data.features import FeatureSet
from cmg.data.synthetic import SyntheticFiles
from cmg.downstream import neighbourhood, retrieval
from cmg.downstream.neighbourhood import main
from cmg.figures import lines
from cmg.methods.multisk.method import MultiSK
from cmg.metrics.neighbourhood import knn_overlap, similarity_correlation
from cmg.pretrain import main as pretrain
from cmg.training.state import load_whole
from support import SHAPES, untrained, write_clips

MULTISK = {"width": 16, "joint_dim": 12, "heads": 2}


@pytest.fixture
def clips(tmp_path):
    return str(write_clips(tmp_path / "clips.h5"))


def arguments(clips, folder, *flags):
    return ["--checkpoint", str(folder / "run.pt"), "--data", clips, "--device", "cpu", "--out", str(folder), *flags]


def test_multisk_against_its_input_space_and_its_features(clips, tmp_path):
    model = untrained(tmp_path / "run.pt", SHAPES, "small", "multisk", **MULTISK)
    rows = main(arguments(clips, tmp_path, "--neighbours", "5"))
    assert json.loads((tmp_path / "results.json").read_text())[0]["task"] == "neighbourhood"
    found = {(row["source"], row["metric"]): row for row in rows}
    assert len(found) == len(rows) == 3 * 2 * 2
    batch = FeatureSet(clips).__getitems__(range(40))
    x, valid = batch["text"], batch["valid/text"]
    with torch.no_grad():
        embedded = model.embed("text", x, valid)
    mean = torch.stack([own[real].mean(0) for own, real in zip(x, valid)])
    for name, reference in (("input", embedded.input), ("features", mean)):
        overlap = found["text", f"{name}_overlap"]
        assert overlap["value"] == pytest.approx(knn_overlap(reference, embedded.joint, 5), abs=1e-3)
        assert (overlap["chance"], overlap["n_test"]) == (pytest.approx(500 / 39, abs=1e-3), 40)
        assert found["text", f"{name}_correlation"]["value"] == pytest.approx(
            similarity_correlation(reference, embedded.joint), abs=1e-2)
    assert found["text", "input_overlap"]["value"] > 30  # one block cannot scatter what it is given


def test_a_model_with_a_codebook_has_its_features_alone(clips, tmp_path):
    untrained(tmp_path / "run.pt", SHAPES)
    rows = main(arguments(clips, tmp_path, "--modalities", "video"))
    assert [(row["source"], row["metric"]) for row in rows] == [
        ("video", "features_overlap"), ("video", "features_correlation")]


def test_a_run_s_use_of_its_anchors(clips, tmp_path, monkeypatch, capsys):
    """Shares of clips by hand, each panel beside r / K; a run without anchors has none."""
    drawn, draw, run = [], lines.draw, tmp_path / "run"
    monkeypatch.setattr(lines, "draw", lambda *given: drawn.append(given) or draw(*given))
    flags = ["--data", clips, "--method", "multisk", "--width", "16", "--joint-dim", "12", "--heads", "2", "--anchors",
             "6", "--queue", "8", "--batch-size", "8", "--epochs", "1", "--log-every", "1", "--device", "cpu"]
    pretrain([*flags, "--out", str(run)])
    main(["--checkpoint", str(run), "--data", clips, "--device", "cpu"])
    method, _ = load_whole(run, MultiSK)
    batch = FeatureSet(clips).__getitems__(range(40))
    with torch.no_grad():
        embedded = method.model.embed("text", batch["text"], batch["valid/text"])
    anchors = method.structure.anchors["joint"][list(SHAPES).index("text")]
    near = (embedded.joint @ anchors.T / anchors.norm(dim=1)).argsort(1, descending=True)[:, :3]
    by_hand = [(near == k).any(1).float().mean().item() for k in range(6)]
    with open(run / "anchors.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["joint_text"]) for row in table] == pytest.approx(by_hand, abs=1e-4)
    assert sum(by_hand) == pytest.approx(3) and len(table[0]) == 1 + 2 * 3
    (shares, xlabel), = drawn
    assert [panel.title for panel in shares] == ["input space", "joint space"]
    assert [(k, pytest.approx(100 * share)) for k, share in enumerate(sorted(by_hand, reverse=True), 1)] == [
        point[:2] for point in shares[1].lines["T"]] and shares[1].chance == [50]
    assert xlabel == "6 anchors, those of most clips first" and {*shares[0].lines} == {"V", "A", "T"}
    assert (run / "anchors.png").exists()
    pretrain([*flags, "--assignment", "off", "--out", str(tmp_path / "off")])
    main(["--checkpoint", str(tmp_path / "off"), "--data", clips, "--device", "cpu"])
    assert len(drawn) == 1 and not list((tmp_path / "off").glob("anchors*"))


def test_refusals_are_one_line(clips, tmp_path, capsys):
    untrained(tmp_path / "run.pt", {"video": SHAPES["video"]}, "small", "multisk", **MULTISK)
    for flags, told in ((["--modalities", "audio"], "--modalities audio: --checkpoint has only video"),
                        (["--neighbours", "40"], "--data: 40 clips have video; expected more than the 40 neighbours")):
        with pytest.raises(SystemExit) as stop:
            main(arguments(clips, tmp_path, *flags))
        assert stop.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize("task", [neighbourhood, retrieval])
def test_synthetic_stands_for_the_clips_that_the_method_reads(clips, tmp_path, monkeypatch, capsys, task):
    """Of the settings that the checkpoint has, in every task by `cmg.downstream.task`."""
    untrained(tmp_path / "run.pt", SHAPES, "small", "multisk", **MULTISK)
    asked = []
    monkeypatch.setattr("cmg.downstream.task.files_for", lambda kinds, flags: asked.append((kinds, flags["width"]))
                        or SyntheticFiles("pretrain.h5", clips, "annotations"))
    told = {data: task.main(arguments(data, tmp_path)) for data in ("synthetic", clips)}
    assert told["synthetic"] == told[clips] and {*asked} == {(("vectors", "grids", "maps"), 16)}
    with pytest.raises(SystemExit):
        task.main([*arguments("synthetic", tmp_path), "--data", "synthetic", clips])
    assert f"--data synthetic {clips}: synthetic cannot be joined with feature files" in capsys.readouterr().err
