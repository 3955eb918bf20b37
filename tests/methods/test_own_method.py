"""Methods from outside the package: a masked autoencoder, an objective, an installed package; files that changed."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import cmg
from cmg.data.features import FeatureSet
from cmg.distributed import seed_shared
from cmg.errors import UserError
from cmg.losses.self_cross import sample_hidden
from cmg.methods import registry
from cmg.modalities import pairs
from cmg.pretrain import main, parse
from cmg.training import checkpoint
from cmg.training.loop import Trainer
from support import (
    ROOT,
    SHAPES,
    install,
    killed_and_resumed,
    refused,
    rows,
    same_weights,
    steps_of,
    trainer_of,
    without_dropout,
    write_clips,
)
from support import run as run_family

EXAMPLE = ROOT / "examples" / "masked_autoencoder.py"
FLAGS = ["--width", "16", "--batch-size", "8", "--epochs", "2", "--device", "cpu", "--log-every", "1"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5"))


def argv(clips, out, *flags, method=EXAMPLE):
    return ["--data", clips, "--out", str(out), "--method", str(method), *FLAGS, *flags]


def run(clips, out, *flags, method=EXAMPLE):
    main(argv(clips, out, *flags, method=method))
    return out


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    return run(clips, tmp_path_factory.mktemp("run") / "run", "--epochs", "8", "--lr", "3e-3")


# -- the masked autoencoder ------------------------------------------------------------------------------------------


def test_what_is_hidden_is_seen_by_nobody_and_alone_counts(clips):
    method = registry.build(str(EXAMPLE), SHAPES, width=16, hide=0.3).eval()
    batch = FeatureSet(clips).__getitems__(range(8))
    x, valid = batch["text"], batch["valid/text"]
    seed_shared(0, 0)
    hidden = sample_hidden(valid, 0.3)
    assert 0 < hidden.sum() < valid.sum() and not (hidden & ~valid).any()
    encode = method.encoder.encode_modality
    other = torch.where((hidden | ~valid)[..., None], 9.0, x)  # what is hidden, and what is padding
    torch.testing.assert_close(encode("text", x, valid, hidden).vectors[valid],
                               encode("text", other, valid, hidden).vectors[valid])
    assert not torch.allclose(encode("text", x, valid).vectors[hidden], encode("text", other, valid).vectors[hidden])
    for line in method.decode.values():
        torch.nn.init.zeros_(line.weight)
        torch.nn.init.zeros_(line.bias)
    seed_shared(0, 0)
    loss = method.rebuilding("text", x, valid)  # of a prediction that is 0
    assert loss.item() == pytest.approx(x[hidden].pow(2).mean().item(), rel=1e-5)


def test_it_learns_and_keeps_its_encoder_alone(trained, clips):
    table = rows(trained)
    assert table[-1]["loss/total"] < 0.8 * table[0]["loss/total"]
    assert {name for name in table[0] if name.startswith("loss/rebuild")} == {f"loss/rebuild/{m}" for m in SHAPES}
    kept = torch.load(trained / "epoch_000.pt", weights_only=True)
    latest = torch.load(trained / "latest.pt", weights_only=True)
    assert len(kept["model"]) == 2 * 3 + 1 + 2 * 12 + 2 and "method" not in kept  # embeddings, blank, layers, norm
    assert sorted(latest["method"]) == sorted(f"decode.{m}.{part}" for m in SHAPES for part in ("weight", "bias"))
    record = json.loads((trained / "args.json").read_text())
    assert sum(x.numel() for x in kept["model"].values()) == record["parameters_kept"] < record["parameters"]

    model = cmg.load_pretrained(trained)
    assert not model.training and model.offers == ("vectors",) and model.method == str(EXAMPLE)
    assert f"method {EXAMPLE}, offers vectors\n  video [6, 5, 5, 8]: features not known" in repr(model)
    features = FeatureSet(clips)
    tokens = model.encode(features)
    batch = features.__getitems__(range(40))
    for m, shape in SHAPES.items():
        assert tokens[m].codes is tokens[m].quantized is None
        assert tokens[m].vectors.shape == (40, shape[0], 16) and tokens[m].vectors.isfinite().all()
        half = model.encode(**{m: batch[m].half()}, valid={m: batch[f"valid/{m}"]})
        torch.testing.assert_close(half.vectors, tokens[m].vectors, atol=0.02, rtol=0.02)
    with pytest.raises(UserError, match=r"video features have shape \(6, 5, 5, 7\) a clip"):
        model.encode(video=batch["video"][..., :7])


@pytest.mark.parametrize("flags", [["--precision", "bf16"], ["--accumulate", "2"], ["--cache", "disk"]],
                         ids=lambda flags: flags[0])
def test_the_loop_s_flags_are_its_flags(trained, clips, tmp_path, flags):
    """Losses near those of a plain run; from the first step on with other draws where a batch is split."""
    found = rows(run(clips, tmp_path / "run", "--lr", "3e-3", *flags, "--epochs", "1"))
    for mine, plain in zip(found, rows(trained), strict=False):
        assert mine["loss/total"] == pytest.approx(plain["loss/total"], rel=0.3 if "2" in flags else 0.02)


@pytest.mark.slow
def test_kill_9_and_resume_are_bit_identical(clips, tmp_path):
    """A real process, with dropout, killed at a moment that nobody chose."""
    flags = ["--epochs", "60", "--save-every", "1e-6", "--checkpoint-epochs", "20"]
    whole, out = run(clips, tmp_path / "whole", *flags), tmp_path / "killed"
    killed_and_resumed(argv(clips, out, *flags), out, 300)
    same_weights(whole, out)
    assert [row["loss/total"] for row in rows(whole)] == [row["loss/total"] for row in rows(out)]


def curve(clips, *flags, backend=None):
    """Losses and gradient norms of 20 steps in float64 without dropout, and the weights after them; `backend` compiles
    the steps."""
    settings, features = parse(argv(clips, "x", "--epochs", "4", *flags)), FeatureSet(clips)
    torch.manual_seed(0)
    method = without_dropout(settings.kind(features.shapes, settings.method)).double().train()
    trainer = Trainer(method, features, settings.run, settings.optimiser, ".", torch.device("cpu"), settings.flags)
    if backend:
        trainer.compile(backend)
    step = trainer.train_step
    trainer.train_step = lambda batch: step({k: v.double() if v.is_floating_point() else v for k, v in batch.items()})
    found = [torch.stack([*losses.values(), norm]) for losses, _, norm in steps_of(trainer, 20)]
    return torch.stack(found), method.state_dict()


def rank_of_two(rank, clips, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}", rank=rank, world_size=2)
    for parts in "12":
        torch.save(curve(clips, "--accumulate", parts), f"{out}.{parts}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one(clips, tmp_path):
    mp.spawn(rank_of_two, (clips, str(tmp_path / "ranks")), nprocs=2)
    for parts in "12":
        expected, alone = curve(clips, "--accumulate", parts)
        for rank in (0, 1):
            losses, state = torch.load(tmp_path / f"ranks.{parts}.{rank}", weights_only=True)
            torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
            for name, value in state.items():
                torch.testing.assert_close(value, alone[name], rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_a_traced_step_is_the_step(clips):
    """Every modality hides the steps that it hides in eager mode: draws keep their order."""
    try:
        torch.testing.assert_close(curve(clips, backend="aot_eager"), curve(clips), rtol=1e-9, atol=1e-9)
    finally:
        torch._dynamo.config.allow_rnn = False
        torch.compiler.reset()


def test_retrieval_evaluates_it(trained, clips, tmp_path):
    from cmg.downstream.retrieval import main as retrieval

    found = retrieval(["--checkpoint", str(trained), "--data", clips, "--protocol", "paper", "--device", "cpu", "--out",
                       str(tmp_path)])
    assert len({(row["source"], row["target"]) for row in found}) == 8  # and text with video and audio together
    assert all(row["n_test"] == 40 and 0 <= row["value"] for row in found)


# -- files that are not what they were -------------------------------------------------------------------------------


@pytest.fixture
def mine(clips, tmp_path):
    """A run with a copy of the example: the file and the run folder."""
    path = tmp_path / "mine.py"
    shutil.copy(EXAMPLE, path)
    return path, run(clips, tmp_path / "run", "--epochs", "1", method=path)


def test_a_checkpoint_runs_no_other_file_than_its_own(mine, tmp_path, monkeypatch):
    path, out = mine
    loaded = cmg.load_pretrained(out).state_dict()
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    if owner == 0:
        os.chown(path, 4712, -1)
    with pytest.raises(UserError, match=f"{path} is another user's, so it is not run"):
        cmg.load_pretrained(out)
    monkeypatch.undo()
    os.chown(path, owner, -1)
    text = path.read_text()
    mark = tmp_path / "mark"
    path.write_text(f"{text}\nopen({str(mark)!r}, 'w')\n")
    with pytest.raises(UserError, match=rf"\A[^\n]*{path} is not the file that it was trained with[^\n]*\Z"):
        cmg.load_pretrained(out)
    content = torch.load(out / "latest.pt", weights_only=True)
    content["method_of"]["files"] = {}  # a checkpoint that names a file without saying what is in it
    checkpoint.save(tmp_path / "foreign.pt", content)
    with pytest.raises(UserError, match="is not the file that it was trained with"):
        cmg.load_pretrained(tmp_path / "foreign.pt")
    assert not mark.exists()

    path.rename(tmp_path / "moved.py")
    with pytest.raises(UserError, match=rf"{path} is not there; give it by --method FILE, or load_"):
        cmg.load_pretrained(out)
    again = cmg.load_pretrained(out, method=str(tmp_path / "moved.py"))  # named by the user, so it is run
    assert mark.exists() and all(torch.equal(value, loaded[name]) for name, value in again.state_dict().items())


def test_a_run_goes_on_with_the_method_that_it_began_with(mine, clips, tmp_path, capsys):
    path, out = mine
    moved = path.rename(tmp_path / "moved.py")
    run(clips, out, "--resume", "auto", "--epochs", "2", method=moved)
    assert [row["step"] for row in rows(out)] == list(range(10))
    assert f"--method {path}: no such file" in refused(capsys, *argv(clips, out, "--resume", "auto", method=path))
    moved.write_text(moved.read_text().replace("0.5, number", "0.6, number"))  # as long as before
    line = refused(capsys, *argv(clips, out, "--resume", "auto", method=moved))
    assert line.endswith(f"--method {moved}: {out}/latest.pt was trained with another text of this file; expected the "
                         "same, or another --out")
    assert "was trained with" in refused(capsys, "--data", clips, "--out", str(out), "--resume", "auto")


def test_a_changed_file_is_read_anew(mine):
    path, _ = mine
    first = registry.find(str(path))
    assert registry.find(str(path)) is first and first.Config().hide == 0.5
    path.write_text(path.read_text().replace("0.5, number", "0.6, number"))
    assert registry.find(str(path)).Config().hide == 0.6


@pytest.mark.parametrize("text, message", [
    ("x = 1\n", "holds none of its kind"),
    ("from cmg.methods.contract import Method\n", "holds none of its kind"),
    ("from cmg.methods.contract import Method\n\n\nclass A(Method):\n    pass\n\n\nclass B(Method):\n    pass\n",
     "holds several (A, B); expected --method"),
    ("from cmg.methods.contract import Method\n\n\nclass A(Method):\n    pass\n",
     "A lacks kept, losses; expected all that cmg.methods.contract.Method asks for"),
])
def test_files_without_a_method_are_one_line(clips, tmp_path, capsys, text, message):
    (tmp_path / "mine.py").write_text(text)
    assert message in refused(capsys, *argv(clips, tmp_path / "run", method=tmp_path / "mine.py"))
    assert "gone.py: no such file" in refused(capsys, *argv(clips, tmp_path / "run", method=tmp_path / "gone.py"))
    assert not (tmp_path / "run").exists()


# -- an objective of one's own, an installed package -----------------------------------------------------------------

OBJECTIVE = ROOT / "examples" / "own_objective.py"


def test_an_objective_of_one_s_own_joins_others(clips, tmp_path, capsys, monkeypatch):
    shutil.copy(OBJECTIVE, tmp_path / "mine.py")
    name, elsewhere = f"dcid+{tmp_path}/mine.py", tmp_path / "elsewhere"
    plain = next(steps_of(trainer_of(clips, "--method", "dcid")))[0]
    trainer = trainer_of(clips, "--method", name, "--w-barlow", "0.25", "--barlow-lambda", "0.5")
    losses, state, _ = next(steps_of(trainer))
    assert {term: value for term, value in losses.items() if not term.startswith("barlow")} == plain
    means = {}
    for m, z in state["semantic"].items():  # of the clips that have both, which all of these have
        valid = state["valid"][m]
        means[m] = np.array([own[there].double().mean(0).numpy() for own, there in zip(z, valid)])
    D = means["audio"].shape[1]
    for a, b, key in pairs(means):
        C = np.corrcoef(means[a], means[b], rowvar=False)[:D, D:]
        by_hand = (((1 - C) * np.eye(D)) ** 2).sum() + 0.5 * ((C * (1 - np.eye(D))) ** 2).sum()
        assert losses[f"barlow/{key}"].item() == pytest.approx(0.25 * by_hand / D, rel=0.01)  # variances have + 1e-5
    assert "barlow" in trainer.method.terms
    assert "barlow" not in trainer_of(clips, "--method", name, "--w-barlow", "0").method.terms

    monkeypatch.chdir(tmp_path)
    out = run_family(clips, tmp_path / "run", "--method", "dcid+mine.py", "--w-barlow", "0.5", "--epochs", "1")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # the checkpoint says in full where the file lies
    model = cmg.load_pretrained(out)
    assert model.offers == ("vectors", "codes") and model.method == name
    assert json.loads((out / "args.json").read_text())["flags"]["w_barlow"] == 0.5
    line = refused(capsys, "--data", clips, "--out", "x", "--method", "dcid+mine.py")
    assert f"--method {elsewhere}/mine.py: no such file" in line
    line = refused(capsys, "--data", clips, "--out", "x", "--method", f"dcid+{EXAMPLE}")
    assert f"--method {EXAMPLE}: holds none of its kind" in line


def test_the_method_of_an_installed_package(clips, tmp_path, monkeypatch, capsys):
    assert "--method masked: expected one of aha" in refused(capsys, *argv(clips, tmp_path / "a", method="masked"))
    install(tmp_path, monkeypatch, "cmg_masked", EXAMPLE.read_text(), "cmg.methods", {"masked": "MaskedAutoencoder"})
    out = run(clips, tmp_path / "run", "--epochs", "1", method="masked")
    content = torch.load(out / "latest.pt", weights_only=True)
    assert content["method_of"] == {"name": "masked", "files": {}} and content["args"]["width"] == 16
    assert cmg.load_pretrained(out).encode(clips)["audio"].vectors.shape == (40, 6, 16)
    run(clips, out, "--epochs", "2", "--resume", "auto", method="masked")
    assert len(rows(out)) == 10
