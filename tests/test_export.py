"""`cmg export`: what the model card says is what the run's records say; where it writes and where not."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import cmg
from cmg.configs import flat
from cmg.data.features import FeatureSet
from cmg.downstream.retrieval import main as retrieval
from cmg.export import main
from cmg.pretrain import parse
from support import run, write_clips

ROW = {"task": "ave", "source": "video", "target": "audio", "protocol": "strict", "metric": "accuracy", "value": 61.25,
       "std": 1.5, "chance": 10.0, "n_test": 100, "seed": 3, "epoch": 1, "commit": "abc"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs, whose best.pt was chosen by the target's labels, and its features."""
    folder = tmp_path_factory.mktemp("trained")
    clips = write_clips(folder / "clips.h5", n=16)
    out = run(str(clips), folder / "run", "--seed", "4", "--w-rec", "0", "--w-club", "0")
    (out / "best.pt").write_bytes((out / "epoch_001.pt").read_bytes())
    (out / "best.json").write_text('{"checkpoint": "epoch_001.pt", "chosen_by": "target"}')
    return out, clips


@pytest.fixture
def scored(trained, tmp_path):
    """A copy of it with results."""
    out = tmp_path / "run"
    out.mkdir()
    for name in ("best.pt", "best.json", "args.json"):
        (out / name).write_bytes((trained[0] / name).read_bytes())
    rows = [ROW, ROW | {"protocol": "paper", "value": 70.0, "std": None, "commit": "def"},
            ROW | {"task": "my_task", "metric": "f", "value": None, "chance": None},
            ROW | {"metric": "other epoch", "epoch": 0}]
    (out / "results.json").write_text(json.dumps(rows))
    return out


def card_of(out):
    return (Path(out) / "README.md").read_text(encoding="utf-8")


def section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]


def test_the_card_says_what_the_records_say(scored, tmp_path, capsys):
    main([str(scored), str(tmp_path / "shared"), "--licence", "cc-by-4.0", "--name", "digits"])
    assert "README.md, config.json, model.safetensors, pretrain_ids.json, " in capsys.readouterr().out
    text = card_of(tmp_path / "shared")
    tags = "- cross-modal\n- audio\n- video\n- text"
    assert text.startswith(f"---\nlicense: cc-by-4.0\nlibrary_name: cmg\ntags:\n{tags}\n---\n")
    model = cmg.load_pretrained(scored)
    size = sum(x.numel() for x in model.parameters()) / 1e6
    assert (f"A model of `unicode` that gives vectors and discrete codes of audio, video, text:\n{size:.2f} M "
            f"parameters, pretrained on 16 clips without labels, epoch\n1, numerics {cmg.NUMERICS}, written by") in text
    lines = [[cell.strip() for cell in line.split("|")[1:-1]]
             for line in section(text, "Scores").splitlines() if line.startswith("|")]
    assert lines[0] == ["task", "protocol", "source", "target", "metric", "value", "±", "chance", "n_test", "seed"]
    assert lines[2:] == [
        ["ave", "strict", "video", "audio", "accuracy", "61.2", "1.5", "10.0", "100", "3"],
        ["ave", "paper", "video", "audio", "accuracy", "70.0", "–", "10.0", "100", "3"],
        ["my_task", "strict", "video", "audio", "f", "–", "1.5", "–", "100", "3"]]
    scores = section(text, "Scores")
    assert "1 rows of results.json are of other checkpoints of the run and left out." in scores
    assert "cmg ave --checkpoint MODEL --data FEATURES.h5 --protocol strict --seed 3\n" in scores
    limits = section(text, "What must not be inferred")
    for said in ("This is one pretraining, seed 4: ±", "chosen by target labels", "Protocol `paper` measures",
                 "several commits", "share a code", "Nobody has looked for bias"):
        assert said in limits
    assert section(text, "Licence").startswith("\ncc-by-4.0.\n")


def test_without_results_it_says_so(trained, tmp_path):
    main([str(trained[0] / "latest.pt"), str(tmp_path / "plain")])
    text = card_of(tmp_path / "plain")
    assert "# plain\n" in text and "None: no task has been run on this checkpoint." in text
    assert "license: other" in text and "Not stated by whoever exported it." in text and "±" not in text
    assert "chosen by" not in text
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["chosen_by"] == "no labels" and "optimizer" not in config


def test_the_command_of_the_card_gives_the_settings_of_the_run(trained, tmp_path):
    main([str(trained[0]), str(tmp_path / "out")])
    (line,) = re.findall(r"^cmg pretrain .*$", card_of(tmp_path / "out"), re.M)
    found = parse([*shlex.split(line)[2:], "--out", "x"])
    content = torch.load(trained[0] / "best.pt", weights_only=True)
    for name, value in (flat(found.method) | flat(found.optimiser)).items():
        assert content["args"][name] == value, name
    assert (found.run.epochs, found.run.seed, found.flags["preset"]) == (2, 4, "small")


def test_python_of_the_card_runs(trained, tmp_path, monkeypatch):
    main([str(trained[0]), str(tmp_path / "out")])
    (snippet,) = re.findall(r"```python\n(.*?)```", card_of(tmp_path / "out"), re.S)
    monkeypatch.chdir(tmp_path)
    names = {"features": FeatureSet(trained[1]).stored(range(3))["audio"]}
    exec("\n".join(line for line in snippet.splitlines() if "encode_files" not in line), names)
    assert names["tokens"].codes.shape == (3, 6) and snippet.count("encode_files") == 1


def test_a_task_takes_the_folder(trained, tmp_path, capsys):
    """Its ids are left out under strict, whose labels chose it is known, and results lie in it."""
    out = tmp_path / "out"
    main([str(trained[0]), str(out)])
    fresh = write_clips(tmp_path / "more.h5", n=20)
    rows = retrieval(["--checkpoint", str(out), "--data", str(fresh), "--source", "audio", "--target", "text",
                      "--device", "cpu"])
    assert {(row["n_excluded"], row["n_test"], row["chosen_by"], row["checkpoint"]) for row in rows} == {
        (16, 4, "target", str(out / "config.json"))}
    assert (out / "results.json").is_file()
    again = tmp_path / "again"  # an exported model is exported like a run
    main([str(out), str(again)])
    assert "| retrieval | strict" in re.sub(" +", " ", card_of(again))
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_where_it_does_not_write(trained, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for argv, line in (
        ([trained[0], tmp_path / "full"], f"OUT {tmp_path}/full: the folder is not empty; expected a new one"),
        ([trained[0], tmp_path / "file"], f"OUT {tmp_path}/file: {tmp_path}/file is a file; expected a folder"),
        ([tmp_path / "absent.pt", tmp_path / "new"], f"{tmp_path}/absent.pt: no such checkpoint file"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        assert stop.value.code == 2 and capsys.readouterr().err == f"cmg.export: error: {line}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_a_disk_that_is_full_leaves_nothing(trained, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmg.training.exported.save_file", full)
    with pytest.raises(SystemExit):
        main([str(trained[0]), str(tmp_path / "out")])
    assert capsys.readouterr().err == f"cmg.export: error: {tmp_path}/out: cannot write (No space left on device)\n"
    assert not [*tmp_path.iterdir()]
