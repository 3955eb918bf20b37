"""A task of one's own, in a file outside the package: by itself, and as an evaluation of a table of four modalities."""

import json
import runpy

import numpy as np
import pytest

import cmg
import support
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.data.synthetic import SyntheticSpec, synthetic_files
from cmg.tables.__main__ import main as make_table
from cmg.training import checkpoint

MINE = (support.ROOT / "examples" / "own_task.py").read_text()
T, CODES = 10, 4


class OneHotModel(support.OneHotModel):
    shapes, size = {"video": (T, CODES), "audio": (T, CODES)}, CODES


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_by_itself(mine, tmp_path, monkeypatch, capsys):
    """Code 1 says early, code 2 says late, code 0 nothing; audio that swaps them is wrong about every clip."""
    shift = {}
    monkeypatch.setattr("cmg.downstream.task.build_model", lambda content, device, *_: OneHotModel(**shift))
    checkpoint.save(tmp_path / "best.pt", {
        "format": 1, "args": {"seed": 5}, "shapes": {m: list(s) for m, s in OneHotModel.shapes.items()}, "model": {},
        "numerics": 2, "epoch": 3, "step": 9, "pretrain_ids": ["test_0", "test_1"]})
    onset = {f"{split}_{n}": 6 * (n % 2) for split in ("train", "val", "test") for n in range(12)}
    folder = tmp_path / "AVE"
    folder.mkdir()
    rows = {name: f"Bell&{name}&good&{start}&{start + 3}\n" for name, start in onset.items()}
    (folder / "Annotations.txt").write_text("".join(rows.values()))
    for split in ("train", "val", "test"):
        (folder / f"{split}Set.txt").write_text("".join(row for name, row in rows.items() if name.startswith(split)))
    codes = np.zeros((len(onset), T), int)
    for row, start in zip(codes, onset.values()):
        row[start:start + 3] = 1 + start // 6
    with FeatureWriter(tmp_path / "ave.h5", OneHotModel.shapes, {"backbone/video": "eyes"}) as writer:
        writer.append(list(onset), {m: np.eye(CODES, dtype=np.float32)[codes] for m in OneHotModel.shapes}, None)
    call = ["--checkpoint", tmp_path / "best.pt", "--data", tmp_path / "ave.h5", "--annotations", folder, "--device",
            "cpu", "--batch-size", "4", "--probe-lr", "0.01"]
    main = runpy.run_path(str(mine))["main"]
    found = main([*map(str, call)])
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert [(row["source"], row["target"], row["metric"], row["value"], row["source_value"], row["chance"])
            for row in found] == [("video", "audio", "accuracy", 100.0, 100.0, 50.0),
                                  ("audio", "video", "accuracy", 100.0, 100.0, 50.0)]
    assert {(row["task"], row["n_train"], row["n_test"], row["n_excluded"], row["match_rate"]) for row in found} == {
        ("lateness", 12, 10, 2, 100.0)}
    captured = capsys.readouterr()
    assert "Lateness" in captured.out and "| video → audio | accuracy | 100.0 ± 0.0 |" in captured.out
    assert captured.err.splitlines() == [
        "warning: 2 test clips were pretrained on and are left out",
        f"note: {tmp_path / 'best.pt'} does not know where its features of video, audio come from"]
    assert found[0]["features"] == {"video": None, "audio": None}
    assert found[0]["numerics"] == 2 < cmg.NUMERICS  # the older one of pretraining and measuring
    shift["audio"] = 1  # early reads late, late reads 3, which no probe of video has seen
    assert main([*map(str, call), "--source", "video"])[0]["value"] <= 50.0


@pytest.mark.slow
def test_four_modalities_through_pretraining_ave_and_a_table(mine, tmp_path):
    files = synthetic_files(tmp_path, SyntheticSpec(clips=48, ave_clips=(24, 16, 16), classes=3, grids=("depth",)))
    table = mine.with_suffix(".toml")
    flags = 'flags = "--probe-epochs 2 --data {ave} --annotations {annotations}"'
    table.write_text(
        'defaults = "--preset small --w-rec 0 --w-club 0 --epochs 1 --batch-size 16 --dim 16 --codes 16"\n'
        f'evaluations.ave = {{task = "ave", metrics = ["accuracy", "segment_accuracy"], {flags}}}\n'
        f'evaluations.mine = {{task = "mine.py", {flags}}}\nrows = [{{name = "full", flags = ""}}]\n')
    make_table([str(table), "--data", str(files.pretrain), "--set", f"ave={files.ave}",
                f"annotations={files.annotations}", "--seeds", "0", "--device", "cpu", "--out", str(tmp_path / "o")])
    content = json.loads((tmp_path / "o" / "table.json").read_text())
    four = {"video": "v", "audio": "a", "text": "t", "depth": "depth"}
    directions = {f"{a}2{b}": (m, n) for m, a in four.items() for n, b in four.items() if a != b}
    timed = {key for key in directions if "t" not in key.split("2")}
    lines = {(line["task"], line["metric"], line["direction"]): line for line in content["lines"]}
    assert set(lines) == {(task, "accuracy", key) for task in ("ave", "mine") for key in directions} | {
        ("ave", "segment_accuracy", key) for key in timed}
    for task in ("ave", "mine"):
        rows = json.loads((tmp_path / "o" / "full-seed0" / task / "results.json").read_text())
        for row in rows:
            key = next(key for key, ends in directions.items() if ends == (row["source"], row["target"]))
            assert lines[task, row["metric"], key]["values"] == [row["value"]]
            sha256 = FeatureSet(files.ave).provenance["depth"].sha256
            assert row["features"]["depth"] == f"synthetic, sha256 {sha256[:12]}…, 1 s a step"
    alone = tmp_path / "alone"
    again = runpy.run_path(str(mine))["main"]([
        "--checkpoint", str(tmp_path / "o" / "full-seed0"), "--data", str(files.ave), "--annotations",
        str(files.annotations), "--probe-epochs", "2", "--device", "cpu", "--out", str(alone)])
    by_table = json.loads((tmp_path / "o" / "full-seed0" / "mine" / "results.json").read_text())
    for name in ("source", "target", "metric", "chance", "n_train", "n_test", "checkpoint", "features"):
        assert [row[name] for row in again] == [row[name] for row in by_table]
    assert (tmp_path / "o" / "table.png").exists()
