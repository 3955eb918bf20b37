"""The segmentation task from the benchmark's folder to results."""

import contextlib
import io
import json
import shutil

import pytest
import torch

import cmg
from cmg.data.avs import S4Set, read_s4
from cmg.downstream import avs
from cmg.downstream.avs.checkpoints import trained
from cmg.downstream.avs.queries import QueryReader
from cmg.downstream.avs.training import Training, to_frames
from cmg.errors import UserError
from cmg.extract.backbones import Choice
from cmg.files import locked
from cmg.metrics.segmentation import Scores
from cmg.training import checkpoint
from support import untrained


def best_without_query(masks):
    """The highest mIoU and F of masks that know the frames but not the query: (miou, f_measure) in %.

    Clips come in pairs of the same frames, with the one or the other box asked for. For a mask that covers shares r and
    b of two separate boxes of one size the two IoUs add up to at most r/(1+b) + b/(1+r), which is at its most, 1, where
    each of r and b is 0 or 1; so the candidates are either box, both and, for an empty true mask, none.
    """
    red, blue = masks[0::2, :1].repeat(1, 5, 1, 1), masks[1::2, :1].repeat(1, 5, 1, 1)  # boxes stand still
    found = []
    for guess in (red, blue, red | blue, red & False):
        scores = Scores()
        scores.add(18.0 * guess.repeat_interleave(2, 0).flatten(0, 1) - 9, masks.flatten(0, 1))
        found.append(scores.strict())
    return max(one.miou for one in found), max(one.f_measure for one in found)


@pytest.mark.slow
def test_trained_by_sound_and_asked_by_text(run, s4, pretrained, capsys):
    rows = run("--epochs", 20, "--schedule", "constant")
    miou, f = rows
    assert (miou["task"], miou["source"], miou["target"], miou["metric"]) == ("avs", "audio", "text", "miou")
    assert f["metric"] == "f_measure" and miou["n_train"] == 16 and miou["n_test"] == 4
    assert miou["n_frames"] == 20 and miou["n_empty"] == 1 and miou["protocol"] == "strict"
    assert miou["value"] == pytest.approx(miou["source_value"], abs=1e-3)  # the codes are the same

    # At least half of what no mask without the query can reach, and with the query of another class less than that.
    folder = read_s4(s4)
    clips, test = folder.splits["test"], S4Set(folder, folder.splits["test"], 32)
    frames, masks = (torch.stack(parts) for parts in zip(*(test[i][:2] for i in range(4))))
    free_miou, free_f = best_without_query(masks)
    assert free_miou == pytest.approx(100 * (10 + 924 / 1024) / 20, abs=1e-3)  # one box always: 10 hits, and background
    assert free_f == pytest.approx(100 * 1.3 * 0.5 / (0.3 * 0.5 + 1), abs=1e-3)  # both boxes: P = 1/2, R = 1
    assert miou["value"] > (free_miou + 100) / 2 and f["value"] > (free_f + 100) / 2
    assert miou["chance"] < free_miou and f["chance"] < free_f

    # In every frame most of what is chosen lies in the box that was asked for.
    net = trained(checkpoint.load(run.out / "best.pt"))
    reader = QueryReader(folder, "codes", checkpoint.load_pretrained(pretrained),
                         backbones={"text": Choice("text", "hash")})
    with torch.no_grad():
        chosen = net(to_frames(frames, "cpu"), reader("text", clips)).logits > 0
    inside, outside = chosen & masks[:, :1], chosen & masks[[1, 0, 3, 2], :1]
    assert (inside.sum((2, 3)) > outside.sum((2, 3))).all()
    assert json.loads((run.out / "results.json").read_text()) == rows
    assert {row["numerics"] for row in rows} == {cmg.NUMERICS}
    assert json.loads((run.out / "args.json").read_text())["numerics"] == cmg.NUMERICS
    assert {path.name for path in run.out.iterdir()} == {"args.json", "best.pt", "best_paper.pt", "latest.pt",
                                                         "masks_strict.png", "masks_strict.pdf", "metrics.csv",
                                                         "results.json", "tb"}
    assert "audio → text (codes)" in capsys.readouterr().out

    again = avs.main(["--stage", "test", "--out", str(run.out), "--device", "cpu"])
    assert again == rows  # everything but the folder comes from the run
    paper = avs.main(["--stage", "test", "--out", str(run.out), "--device", "cpu", "--protocol", "paper"])
    assert paper[0]["protocol"] == "paper" and paper[0]["value"] > (free_miou + 100) / 2
    assert len(json.loads((run.out / "results.json").read_text())) == 4


def test_a_resumed_run_gives_the_same_network(run, tmp_path):
    run("--stage", "train", "--epochs", 3, "--schedule", "constant", "--distort", "0.1", out=tmp_path / "whole")
    stop = Training._train_epoch

    def interrupted(self):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return stop(self)

    flags = ("--stage", "train", "--epochs", 3, "--schedule", "constant", "--distort", "0.1", "--resume", "auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_train_epoch", interrupted)
        with pytest.raises(SystemExit):
            run(*flags)
    run(*flags)
    whole, parts = (checkpoint.load(folder / "latest.pt") for folder in (tmp_path / "whole", run.out))
    assert whole["epoch"] == parts["epoch"] == 3 and whole["best"] == parts["best"]
    assert all(torch.equal(a, b) for a, b in zip(whole["net"].values(), parts["net"].values()))
    read = [(folder / "metrics.csv").read_text() for folder in (tmp_path / "whole", run.out)]
    assert read[0] == read[1] and len(read[0].splitlines()) == 4


def test_bf16_raw_and_no_queries_train(run, tmp_path):
    flags = ("--epochs", 1, "--w-matching", "0.1", "--precision", "bf16")
    raw = run("--query", "raw", *flags, out=tmp_path / "raw")
    assert {(row["source"], row["target"], row["query"]) for row in raw} == {("audio", "audio", "raw")}
    none = run("--query", "none", "--epochs", 1, out=tmp_path / "none")
    assert {row["source"] for row in none} == {"none"} and none[0]["value"] == none[0]["chance"]


def test_pretrained_test_clips_are_left_out_of_strict(run, pretrained, tmp_path):
    content = checkpoint.read(pretrained)
    content["pretrain_ids"] = ["test_0", "test_3"]
    checkpoint.save(tmp_path / "seen.pt", content)
    rows = run("--epochs", 1, "--checkpoint", tmp_path / "seen.pt")
    assert rows[0]["n_test"] == 2 and rows[0]["n_excluded"] == 2
    paper = run("--stage", "test", "--epochs", 1, "--checkpoint", tmp_path / "seen.pt", "--protocol", "paper")
    assert paper[0]["n_test"] == 4 and paper[0]["n_excluded"] == 0
    content["pretrain_ids"] += ["test_1", "test_2"]
    checkpoint.save(tmp_path / "seen.pt", content)
    told = refused(run, "--stage", "test", "--epochs", 1, "--checkpoint", tmp_path / "seen.pt")
    assert "--checkpoint: all 4 test clips were pretrained on; nothing to test; expected other clips, or" in told


def refused(run, *flags):
    """The one line that a call ends with."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as caught:
        run(*flags)
    assert caught.value.code == 2
    assert said.getvalue().count("\n") == 1
    return said.getvalue().strip()


def test_what_a_user_can_get_wrong_is_one_line(run, pretrained, tmp_path):
    assert "--target audio: the same as --source" in refused(run, "--target", "audio")
    assert "--query raw: is from audio to audio only" in refused(run, "--query", "raw", "--source", "text")
    assert "expected a text with one {}" in refused(run, "--prompt", "a box")
    assert "--size: '8' is not a whole number of at least 32" in refused(run, "--size", "8")
    assert "no s4_meta_data.csv there" in refused(run, "--annotations", tmp_path)
    assert "not a segmentation network" in refused(run, "--stage", "test", "--out", pretrained.parent)
    content = checkpoint.read(pretrained)
    untrained(tmp_path / "silent.pt", {"audio": content["shapes"]["audio"]})
    assert refused(run, "--checkpoint", tmp_path / "silent.pt").endswith(
        "--target text: --checkpoint has only audio")

    run("--stage", "train", "--epochs", 1)
    assert "is not empty; continue with --resume auto" in refused(run, "--epochs", 1)
    with locked(run.out):
        assert "another process is at work there" in refused(run, "--epochs", 1, "--resume", "auto")
    with pytest.raises(UserError, match="latest.pt: not a checkpoint of cmg.pretrain, 'shapes' is missing"):
        checkpoint.read(run.out / "latest.pt")
    assert "--epochs 2: the run in --out has 1" in refused(run, "--epochs", 2, "--resume", "auto")
    assert "--size 64: the network in --out was trained with 32" in refused(
        run, "--stage", "test", "--epochs", 1, "--size", 64)
    content["model"]["codebook.embedding"] += 1
    checkpoint.save(tmp_path / "other.pt", content)
    assert "its codebook is not the one" in refused(
        run, "--stage", "test", "--epochs", 1, "--checkpoint", tmp_path / "other.pt")


def test_a_network_that_was_changed_is_one_line(run):
    run("--stage", "train", "--epochs", 1)
    path = run.out / "best.pt"
    whole = checkpoint.load(path)

    def test(*_):
        avs.main(["--stage", "test", "--out", str(run.out), "--device", "cpu"])

    for change, told in (({"args": None}, "best.pt: not a segmentation network, 'args' is missing in it or holds"),
                         ({"args": whole["args"] | {"channels": 4096}}, "its weights do not fit its flags (they ask"),
                         ({"args": whole["args"] | {"channels": 8}}, "its weights do not fit its flags (Error(s) in"),
                         ({"args": whole["args"] | {"backbone": "x"}}, "not a segmentation network, its backbone is"),
                         ({"args": whole["args"] | {"text_weights": 3}}, "its text_weights is 3"),
                         ({"args": whole["args"] | {"batch_size": "4"}}, "its batch_size is '4'"),
                         ({"net": {name: x * float("nan") for name, x in whole["net"].items()}}, "are not finite")):
        checkpoint.save(path, whole | change)
        assert told in refused(test)
    assert not (run.out / "results.json").exists()


def test_a_test_of_one_class_is_told(run, s4, tmp_path, capsys):
    folder = shutil.copytree(s4, tmp_path / "one")
    table = folder / "s4_meta_data.csv"
    kept = [line for line in table.read_text().splitlines() if not line.endswith("blue-box,test")]
    table.write_text("\n".join(kept) + "\n")
    rows = run("--epochs", 1, "--annotations", folder)
    assert {row["chance"] - row["value"] for row in rows} == {0.0}
    assert "warning: all 2 test clips are of one class: no query is wrong" in capsys.readouterr().err
