"""What a run leaves to read, in all places alike: metrics.csv, TensorBoard, and a stand-in for wandb."""

import json
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmg.downstream.task import Run
from cmg.pretrain import main
from cmg.training.recorder import tell_run
from support import SMALL, refused, rows, run, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5", n=16))


@pytest.fixture
def wandb(monkeypatch):
    """The module, as far as it is used; `said` is all that it was told."""
    said = []

    def of(name):
        return lambda *args, **kwargs: said.append((name, args, kwargs))

    started = SimpleNamespace(define_metric=of("define_metric"), log=of("log"), finish=of("finish"),
                              config=SimpleNamespace(update=of("config")))
    module = SimpleNamespace(init=lambda **given: said.append(("init", (), given)) or started, Error=ConnectionError,
                             Image=lambda path: f"image of {path}", said=said)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def board(folder):
    found = EventAccumulator(str(folder / "tb"), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return found.Reload()


def picture(path):
    plt.imsave(path, np.arange(24.0).reshape(4, 6))
    return path


def test_tensorboard_holds_what_the_csv_does_flags_scores_and_pictures(clips, tmp_path):
    out = run(clips, tmp_path / "run", "--epochs", "1")
    kept = rows(out)
    name = "test/ave strict/video → audio accuracy"
    tell_run(out, {}, 1, {name: 61.5, "absent": None}, [picture(tmp_path / "a.png")])
    found = board(out)
    assert set(found.Tags()["scalars"]) == {*kept[0], name} - {"step"}
    assert [(e.step, e.value) for e in found.Scalars(name)] == [(1, 61.5)]
    for name in ("loss/total", "train/grad_norm", "epoch"):
        assert [(e.step, e.value) for e in found.Scalars(name)] == [
            (row["step"], pytest.approx(row[name], rel=1e-5)) for row in kept]
    (text,) = found.Tensors("flags/text_summary")
    assert "| codes | 24 |" in text.tensor_proto.string_val[0].decode()
    (image,) = found.Images("a")
    assert (image.width, image.height, image.step) == (6, 4, 1)


def test_wandb_is_told_the_same_and_finds_its_run_again(clips, tmp_path, wandb):
    flags = ["--epochs", "2", "--report-to", "wandb"]
    out = run(clips, tmp_path / "run", *flags, "--max-steps", "2", "--schedule", "constant")
    assert not (out / "tb").exists() and json.loads((out / "args.json").read_text())["flags"]["report_to"] == ["wandb"]
    names = [name for name, *_ in wandb.said]
    assert names == ["init", "define_metric", "config", "log", "log", "finish"]
    begun = wandb.said[0][2]
    assert (begun["dir"], begun["name"], begun["project"], begun["resume"]) == (str(out), "run", "cmg", "allow")
    assert wandb.said[2][1][0]["codes"] == 24
    logged = [args[0] for name, args, _ in wandb.said if name == "log"]
    for told, row in zip(logged, rows(out)):
        assert told.keys() == row.keys() and told["step"] == row["step"]
        assert told["loss/total"] == pytest.approx(row["loss/total"], rel=1e-5)
    tell_run(out, {"report_to": ["wandb"]}, 1, {"val/x": 3.0}, [picture(tmp_path / "a.png")])
    assert [args[0] for name, args, _ in wandb.said[-3:] if name == "log"] == [
        {"step": 1, "val/x": 3.0}, {"step": 1, "a": f"image of {tmp_path / 'a.png'}"}]
    assert {given["id"] for name, _, given in wandb.said if name == "init"} == {begun["id"]} and len(begun["id"]) == 8


def test_a_tracker_that_is_absent_or_refuses_is_one_line(clips, tmp_path, capsys, monkeypatch, wandb):
    flags = ["--data", clips, "--out", str(tmp_path / "run"), *SMALL, "--report-to", "tensorboard", "wandb"]
    wandb.init = lambda **_: (_ for _ in ()).throw(wandb.Error("no API key\nmore"))
    line = refused(capsys, *flags)
    assert "--report-to wandb: no API key; expected `wandb login`, or WANDB_MODE=offline" in line
    monkeypatch.setitem(sys.modules, "wandb", None)
    line = refused(capsys, *flags)
    assert "--report-to wandb: the package wandb is not installed; expected `pip install cmg-unicode[wandb]`" in line
    with pytest.raises(SystemExit):
        main([*flags[:-1], "wandbb"])


def test_a_task_goes_on_where_its_run_s_tracker_is_absent(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "metrics.csv").write_text("step\n")
    of = Run(None, None, None, tmp_path / "best.pt", {"args": {"report_to": ["wandb"]}, "step": 4}, None)
    of.tell({"x": 1.0})
    assert f"note: no tracker of {tmp_path} was told (--report-to wandb: the package" in capsys.readouterr().err
    of._replace(path=tmp_path / "elsewhere" / "best.pt").tell({"x": 1.0})  # of no run folder, nothing is told
    assert capsys.readouterr().err == ""
