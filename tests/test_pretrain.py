"""Pretraining as a user runs it: every modality pair and preset, resume after a real kill, refusals in one line."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import cmg
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.downstream import retrieval
from cmg.errors import UserError
from cmg.methods.registry import SYSTEMS, available
from cmg.models.precision import has_bf16
from cmg.optimisation import OptimiserConfig, rate_factor
from cmg.pretrain import main, parse
from cmg.training.batches import epoch_order
from cmg.training.loop import Trainer
from support import (
    CODE,
    SHAPES,
    SMALL,
    interrupt_after,
    make_method,
    refused,
    rows,
    run,
    same_weights,
    settings_of,
    steps_of,
    trainer_of,
    write_clips,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5"))


# -- what runs -------------------------------------------------------------------------------------------------------

PAIRS = [list(c) for n in (2, 3) for c in itertools.combinations(SHAPES, n)]


@pytest.mark.parametrize("preset", ["paper", "official", "small"])
@pytest.mark.parametrize("modalities", PAIRS, ids=lambda m: "".join(x[0] for x in m))
def test_every_pair_and_preset(clips, tmp_path, modalities, preset):
    out = run(clips, tmp_path / "run", "--preset", preset, "--modalities", *modalities, "--epochs", "1")
    table = rows(out)
    assert len(table) == 5 and all(np.isfinite(list(row.values())).all() for row in table)
    names = {k for k in table[0] if k.startswith("loss/cpc")}
    n = len(modalities) - (preset == "small" and "text" in modalities)  # there, words are no seconds
    assert len(names) == (n * n if preset == "official" else n * (n - 1))
    model = cmg.load_pretrained(out)
    features = FeatureSet(clips).__getitems__([0, 1, 2])
    for m in modalities:
        tokens = model.encode(**{m: features[m]})
        assert tokens.codes.shape == (3, 6) and tokens.codes.dtype == torch.int64
        assert torch.equal(model.codebook.lookup(tokens.codes).to(tokens.quantized.dtype), tokens.quantized)
        assert torch.equal(tokens.codes, torch.cdist(tokens.semantic.to(model.codebook.embedding.dtype),
                                                     model.codebook.embedding).argmin(-1))
    with pytest.raises(UserError, match="shape"):
        model.encode(**{modalities[0]: features[modalities[0]][..., :-1]})


def test_encode_gives_padded_steps_no_say(clips, tmp_path):
    model = cmg.load_pretrained(run(clips, tmp_path / "run", "--modalities", "audio", "text", "--epochs", "1"))
    batch = FeatureSet(clips).__getitems__([0, 1, 3])
    audio, text, short = batch["audio"], batch["text"], batch["valid/text"]
    assert short.sum(1).tolist() == [4, 6, 4]
    found = model.encode(text=text, audio=audio, valid={"text": short.numpy()})
    with torch.no_grad():
        assert torch.equal(found["text"].semantic, model.encode_modality("text", text, short).semantic)
    assert torch.equal(found["audio"].semantic, model.encode(audio=audio).semantic)
    # Four seconds, and the same with two that do not exist: the same tokens, which two real ones would change.
    first, padded = audio[:, :4], torch.where(torch.arange(6)[:, None] < 4, audio, 0)
    there = (torch.arange(6) < 4).expand(3, -1)
    alone = model.encode(audio=first).semantic
    torch.testing.assert_close(model.encode(audio=padded, valid={"audio": there}).semantic[:, :4], alone)
    assert (model.encode(audio=padded).semantic[:, :4] - alone).abs().max() > 0.01
    for valid, words in (({"video": there}, "only audio"), ({"audio": there[:, :5]}, r"\[3, 5\]; expected \[3, 6\]")):
        with pytest.raises(UserError, match=words):
            model.encode(audio=audio, valid=valid)


@pytest.mark.parametrize(("preset", "steps"), [("paper", 2), ("official", 3)])
def test_clips_may_be_as_short_as_cross_cpc_allows(tmp_path, capsys, preset, steps):
    for name, n in (("short", steps - 1), ("enough", steps)):
        with FeatureWriter(tmp_path / f"{name}.h5", {m: (n, 3) for m in ("audio", "video")}, {}) as writer:
            x = np.random.default_rng(0).standard_normal((8, n, 3))
            writer.append([f"c{i}" for i in range(8)], {"audio": x, "video": -x})
    flags = [*SMALL, "--preset", preset]
    line = refused(capsys, "--data", str(tmp_path / "short.h5"), "--out", str(tmp_path / "a"), *flags)
    assert "--cpc-steps 1" in line and f"at least {steps} steps, these have {steps - 1}" in line
    table = rows(run(str(tmp_path / "enough.h5"), tmp_path / "b", "--preset", preset))
    assert len(table) == 2 and all(np.isfinite(list(row.values())).all() for row in table)


def test_run_folder(clips, tmp_path):
    out = run(clips, tmp_path / "run")
    record = json.loads((out / "args.json").read_text())
    assert record["flags"]["dim"] == 16 and record["clips"] == 40 and record["versions"]["torch"].startswith("2.")
    assert record["numerics"] == cmg.NUMERICS >= 3
    assert {p.name for p in out.iterdir()} >= {"args.json", "metrics.csv", "tb", "epoch_000.pt", "epoch_001.pt",
                                               "latest.pt"}
    assert not list(out.glob("*.tmp*"))
    content = torch.load(out / "epoch_001.pt", weights_only=True)
    assert content["numerics"] == cmg.NUMERICS
    assert content["step"] == 10 and content["pretrain_ids"][:2] == ["clip0", "clip1"]
    kept = sum(v.numel() for k, v in content["model"].items() if not k.startswith("codebook"))
    assert kept == record["parameters_kept"] < record["parameters"]
    assert [int(row["step"]) for row in rows(out)] == list(range(10))


def test_a_zero_weight_removes_the_term(clips):
    settings, shapes = settings_of(), {m: SHAPES[m] for m in ("video", "audio")}
    full = make_method(settings, shapes)
    assert set(full.terms) == {"rec", "commit", "club", "cpc", "cmcm", "align"} and full.specific is not None
    for name in full.terms:
        assert name not in make_method(settings, shapes, **{f"w_{name}": 0.0}).terms
    assert make_method(settings, shapes, w_rec=0.0, w_club=0.0).specific is None


def test_losses_fall(clips, tmp_path):
    table = rows(run(clips, tmp_path / "run", "--epochs", "12", "--lr", "3e-3", "--modalities", "video", "audio"))
    for name in ("rec/audio", "rec/video", "cpc/a2v", "cpc/v2a", "cmcm/av"):
        first, last = (np.mean([row[f"loss/{name}"] for row in part]) for part in (table[:5], table[-5:]))
        assert last < 0.95 * first, name


def test_released_clipping_is_by_module(clips):
    method = make_method(settings_of("--preset", "official"))
    groups = method.clip_groups()
    assert len(groups) == 4  # biLSTM, encoders, decoders, Cross-CPC
    assert {id(p) for g in groups for p in g} == {id(p) for p in method.trained_parameters()}


def test_specific_steps_estimates_the_same_terms(clips):
    """Averaged over draws of the seconds, reconstruction at 2 of 6 equals that at all."""
    torch.manual_seed(0)
    shapes = {m: SHAPES[m] for m in ("video", "audio")}
    method = make_method(settings_of(), shapes, specific_steps=0).eval()
    batch = FeatureSet(clips, ["video", "audio"]).__getitems__(list(range(8)))
    with torch.no_grad():
        exact = method.losses(method.encode(batch))
        method.specific_steps = 2
        draws = [method.losses(method.encode(batch)) for _ in range(200)]
    for m in shapes:
        assert torch.stack([d[f"rec/{m}"] for d in draws]).mean().item() == pytest.approx(
            exact[f"rec/{m}"].item(), rel=0.03)
    assert draws[0]["cpc/a2v"] == exact["cpc/a2v"]


def test_a_clip_without_any_text_does_no_harm(clips):
    for preset in ("small", "paper"):
        method = make_method(settings_of("--preset", preset))
        batch = FeatureSet(clips).__getitems__(list(range(8)))
        batch["valid/text"][:3] = False
        state = method.encode(batch)
        losses = method.losses(state)
        sum(losses.values()).backward()
        assert all(v.isfinite() for v in losses.values())
        assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
        method.update(method.carry(state))
        assert int(method.model.codebook.skipped) == 0 and method.model.codebook.embedding.isfinite().all()


def test_bf16_stays_near_fp32(clips, tmp_path):
    a = rows(run(clips, tmp_path / "a", "--epochs", "1"))
    b = rows(run(clips, tmp_path / "b", "--epochs", "1", "--precision", "bf16"))
    for x, y in zip(a, b):
        assert y["loss/total"] == pytest.approx(x["loss/total"], rel=0.05)


@pytest.mark.parametrize("has", [False, True])
def test_bf16_on_a_processor_without_is_told(monkeypatch, clips, tmp_path, capsys, has):
    """And its LSTMs, which oneDNN has not for it, compute in float32."""
    monkeypatch.setattr("cmg.pretrain.CPU_HAS_BF16", has)
    monkeypatch.setattr("cmg.models.precision.CPU_HAS_BF16", False)
    run(clips, tmp_path / "a", "--max-steps", "1", "--precision", "bf16")
    told = "--precision bf16: this processor has no arithmetic for it; fp32 is many times faster"
    assert (told in capsys.readouterr().err) == (not has)


def test_bf16_is_known_by_its_unit_alone():
    names = {"avx2": True, "avx512_bf16": False, "amx_bf16": False, "cpu_name": "bf16"}
    assert not has_bf16(names)
    assert has_bf16(names | {"amx_bf16": True})


def test_disk_cache_gives_the_same_run(clips, tmp_path):
    a = rows(run(clips, tmp_path / "a", "--epochs", "1"))
    b = rows(run(clips, tmp_path / "b", "--epochs", "1", "--cache", "disk", "--workers", "2"))
    assert [row["loss/total"] for row in a] == [row["loss/total"] for row in b]


def test_accumulated_parts_make_one_step_and_one_codebook_update(clips):
    """Terms that compare no clips: gradients of two halves average to those of the whole batch, step by step."""
    flags = ["--w-cpc", "0", "--w-cmcm", "0", "--w-align", "0", "--w-club", "0", "--specific-steps", "0"]
    found = []
    for parts in ("1", "2"):
        trainer = trainer_of(clips, *flags, "--modalities", "video", "audio", "--accumulate", parts)
        *_, (losses, carried, norm) = steps_of(trainer, 5)
        assert carried["semantic"]["video"].shape[0] == 8  # the micro-batches together
        codes = trainer.method.model.codebook.embedding
        found.append(torch.cat([torch.stack([*losses.values(), norm]), codes.flatten()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_every_method_builds():
    for name in set(available()) - set(SYSTEMS):  # those have sizes of their own
        assert list(make_method(settings_of("--method", name)).parameters())


# -- order and schedule ----------------------------------------------------------------------------------------------


def test_epoch_order():
    batches = epoch_order(23, 5, seed=1, epoch=2)
    assert [len(b) for b in batches] == [5, 5, 5, 5] and len({i for b in batches for i in b}) == 20
    assert batches == epoch_order(23, 5, 1, 2) != epoch_order(23, 5, 1, 3)
    parts = [epoch_order(23, 4, 1, 2, rank, 2) for rank in range(2)]
    assert [a + b for a, b in zip(*parts)] == epoch_order(23, 4, 1, 2)
    assert [len(b) for b in epoch_order(3, 5, 0, 0)] == [3]
    whole = epoch_order(23, 8, 1, 2)
    assert epoch_order(23, 8, 1, 2, micro=2) == whole
    (first, second), _ = zip(*(epoch_order(23, 8, 1, 2, rank, 2, micro=2) for rank in range(2)))
    assert first == whole[0][:2] + whole[0][4:6] and second == whole[0][2:4] + whole[0][6:]  # a slice of either half


def test_learning_rate():
    factors = [rate_factor(s, 12, "cosine", 4) for s in range(13)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and factors[8] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0) and rate_factor(99, 12, "constant", 4) == 1
    falling = OptimiserConfig(lr=2.0, schedule="exponential", lr_decay=0.5, warmup_steps=2)
    assert [falling.rate(s, 12, per_epoch=3) for s in range(10)] == [1, 2, 2, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]


# -- fine-tuning -----------------------------------------------------------------------------------------------------


def more_clips(path, names, shapes=SHAPES, attrs=None):
    rng = np.random.default_rng(5)
    with FeatureWriter(path, shapes, attrs or {"source": "test"}, dtype="float32") as writer:
        writer.append(names, {m: rng.standard_normal((len(names), *shape)) for m, shape in shapes.items()})
    return str(path)


def test_fine_tuning_begins_with_the_weights_of_another_run(clips, tmp_path, monkeypatch):
    """At the first step of a run on other clips, of other lengths: all tensors of the first run, a codebook that does
    not start again from the data, and an optimiser without a past. Both runs' clips are remembered, over a resume."""
    first = run(clips, tmp_path / "first", "--codebook-init", "data", "--epochs", "1")
    before = torch.load(first / "latest.pt", weights_only=True)
    shapes = {m: (4, *shape[1:]) for m, shape in SHAPES.items()}
    other = more_clips(tmp_path / "other.h5", [f"other{n}" for n in range(16)], shapes)
    seen, step = [], Trainer.optimise

    def looked_at(self, batch):
        seen.append(({k: v.clone() for k, v in self.method.state_dict().items()}, dict(self.optimizer.state)))
        return step(self, batch)

    monkeypatch.setattr(Trainer, "optimise", looked_at)
    flags = ["--codebook-init", "data", "--epochs", "1", "--seed", "9", "--init-from", str(first / "latest.pt")]
    second = run(other, tmp_path / "second", *flags)
    weights, past = seen[0]
    expected = before["method"] | {f"model.{k}": v for k, v in before["model"].items()}
    assert weights.keys() == expected.keys() and not past
    for name, value in weights.items():
        assert torch.equal(value, expected[name]), name
    record = json.loads((second / "args.json").read_text())
    assert record["flags"]["init_from"] == str(first / "latest.pt")
    assert (record["clips"], record["clips_before"]) == (16, 40)
    ids = [*(f"clip{n}" for n in range(40)), *(f"other{n}" for n in range(16))]
    assert torch.load(second / "epoch_000.pt", weights_only=True)["pretrain_ids"] == ids
    shutil.rmtree(first)  # a run that goes on needs it no more
    run(other, second, *flags, "--resume", "auto", "--epochs", "2")
    content = torch.load(second / "epoch_001.pt", weights_only=True)
    assert content["pretrain_ids"] == ids and content["earlier_ids"] == ids[:40]
    last = more_clips(tmp_path / "third.h5", [f"third{n}" for n in range(16)])
    third = run(last, tmp_path / "third", "--epochs", "1", "--init-from", str(second))  # itself fine-tuned
    assert torch.load(third / "latest.pt", weights_only=True)["pretrain_ids"][:56] == ids


def test_strict_leaves_out_the_clips_of_both_runs(clips, tmp_path):
    first = run(clips, tmp_path / "first", "--epochs", "1")
    names = [f"other{n}" for n in range(16)]
    second = run(more_clips(tmp_path / "other.h5", names), tmp_path / "second", "--epochs", "1", "--init-from",
                 str(first))
    tested = more_clips(tmp_path / "test.h5", ["clip3", "clip4", "other5", *(f"new{n}" for n in range(5))])
    found = retrieval.main(["--checkpoint", str(second), "--data", tested, "--device", "cpu"])
    assert {(row["n_excluded"], row["n_gallery"]) for row in found} == {(3, 5)}


def test_fine_tuning_refuses_what_does_not_fit(clips, tmp_path, capsys):
    first = run(clips, tmp_path / "first", "--epochs", "1")
    before = {p.name for p in tmp_path.iterdir()}
    start = ["--out", str(tmp_path / "b"), *SMALL, "--init-from", str(first)]
    capsys.readouterr()
    line = refused(capsys, "--data", clips, *start, "--dim", "32")
    assert f"--init-from {first / 'latest.pt'}: its model has [" in line and "expected the same settings" in line
    line = refused(capsys, "--data", clips, *start, "--modalities", "video", "audio")
    assert "was trained on features of {'video': [5, 5, 8], 'audio': [12], 'text': [10]} a step" in line
    line = refused(capsys, "--data", clips, *start[:-1], str(tmp_path / "none"))
    assert "none: no such checkpoint file" in line
    kept = torch.load(first / "latest.pt", weights_only=True)
    kept["features"]["audio"]["backbone"] = "vggish"
    torch.save(kept, tmp_path / "vggish.pt")
    named = more_clips(tmp_path / "named.h5", [f"c{n}" for n in range(16)], attrs={"backbone/audio": "logmel"})
    line = refused(capsys, "--data", named, *start[:-1], str(tmp_path / "vggish.pt"))
    assert "--data: audio features have backbone logmel" in line and "was pretrained on vggish" in line
    name = next(iter(kept["model"]))
    kept["model"][name].fill_(float("nan"))
    kept["features"]["audio"]["backbone"] = None
    torch.save(kept, tmp_path / "nan.pt")
    assert "its weights are not finite" in refused(capsys, "--data", clips, *start[:-1], str(tmp_path / "nan.pt"))
    assert {p.name for p in tmp_path.iterdir()} - before == {"vggish.pt", "named.h5", "nan.pt"}


# -- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["small", "official"])
def test_resume_equals_an_uninterrupted_run(clips, tmp_path, preset):
    flags = ["--preset", preset, "--save-every", "1e-6", "--schedule", "cosine", "--epochs", "3"]
    whole = run(clips, tmp_path / "whole", *flags)
    part = tmp_path / "part"
    for stop in (4, 11):  # inside an epoch both times: --max-steps would change the schedule, so stop the loop itself
        interrupt_after(clips, part, stop, flags)
    run(clips, part, *flags, "--resume", "auto")
    same_weights(whole, part)
    assert rows(whole)[-1]["loss/total"] == rows(part)[-1]["loss/total"]
    assert [row["step"] for row in rows(part)] == list(range(15))


@pytest.mark.slow
def test_kill_9_and_resume_are_bit_identical(clips, tmp_path):
    """A real process, killed with SIGKILL at a moment that nobody chose, then `--resume auto`."""
    flags = ["--epochs", "30", "--save-every", "1e-6", "--checkpoint-epochs", "10"]
    whole = run(clips, tmp_path / "whole", *flags)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "cmg.pretrain", "--data", clips, "--out", str(out), *SMALL, *flags]
    env = {**os.environ, "PYTHONPATH": str(CODE)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "latest.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3 + 0.4 * np.random.default_rng().random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = torch.load(out / "latest.pt", weights_only=True)["position"]["step"]
    assert 0 < killed_at < 150, "the run was over before it could be killed"
    subprocess.run([*command, "--resume", "auto"], env=env, check=True, capture_output=True)
    same_weights(whole, out)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_refusals(clips, tmp_path, capsys):
    base = ["--data", clips, "--out", str(tmp_path / "new"), *SMALL]
    assert "--colour" in refused(capsys, *base, "--colour", "red")
    assert "no such file; expected a feature" in refused(capsys, "--data", "absent.h5", "--out", str(tmp_path / "new"))
    assert "--decay: '2' is not a number above 0 and below 1" in refused(capsys, *base, "--decay", "2")
    assert "--dim: '30' is not a multiple of 4" in refused(capsys, *base, "--dim", "30")
    assert "--cpc-steps 6" in refused(capsys, *base, "--cpc-steps", "6")
    assert "--method nothing" in refused(capsys, *base, "--method", "nothing")
    assert "--device" in refused(capsys, *base, "--device", "quantum")
    assert "no such checkpoint" in refused(capsys, *base, "--resume", str(tmp_path / "none.pt"))
    assert not (tmp_path / "new").exists()
    full = tmp_path / "full"
    full.mkdir()
    (full / "note.txt").write_text("mine")
    assert "not empty" in refused(capsys, "--data", clips, "--out", str(full), *SMALL)


def test_a_run_that_goes_on_is_of_its_first_arithmetic(clips, tmp_path):
    out = run(clips, tmp_path / "run", "--epochs", "1")
    content = torch.load(out / "latest.pt", weights_only=True)
    del content["numerics"]  # as of before there were versions
    torch.save(content, out / "latest.pt")
    run(clips, out, "--resume", "auto")
    told = [torch.load(out / name, weights_only=True)["numerics"] for name in ("epoch_001.pt", "latest.pt")]
    assert told == [0, 0] and json.loads((out / "args.json").read_text())["numerics"] == 0


def test_resume_refuses_other_flags(clips, tmp_path, capsys):
    out = run(clips, tmp_path / "run", "--epochs", "1")
    line = refused(capsys, "--data", clips, "--out", str(out), *SMALL, "--resume", "auto", "--decay", "0.5")
    assert "--decay 0.5" in line and "0.99" in line
    (out / "latest.pt").write_bytes((out / "latest.pt").read_bytes()[:1000])
    line = refused(capsys, "--data", clips, "--out", str(out), *SMALL, "--resume", "auto")
    assert "not a readable checkpoint" in line


def test_modalities_of_unequal_length_are_refused(tmp_path, capsys):
    path = tmp_path / "odd.h5"
    with FeatureWriter(path, {"audio": (6, 3), "text": (4, 3)}, {}) as writer:
        writer.append(["a", "b"], {"audio": np.zeros((2, 6, 3)), "text": np.zeros((2, 4, 3))})
    assert "same number" in refused(capsys, "--data", str(path), "--out", str(tmp_path / "x"), *SMALL)


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_nan_feature_names_the_clip(tmp_path, capsys, cache):
    path = write_clips(tmp_path / "poisoned.h5", poison=7)
    line = refused(capsys, "--data", str(path), "--out", str(tmp_path / "run"), *SMALL, "--cache", cache)
    assert line.startswith("cmg.pretrain: error: ") and "'clip7'" in line and "poisoned.h5" in line


def test_a_gradient_that_is_not_finite_stops_the_run(clips, tmp_path, capsys):
    """The loss may be finite in the very step whose gradient is not: nothing may be saved after it."""
    original = Trainer.train_step

    def poisoned(self, batch):
        if self.step == 4:  # the last step of the first epoch
            handle = self.parameters[0].register_hook(lambda grad: grad * float("nan"))
            try:
                return original(self, batch)
            finally:
                handle.remove()
        return original(self, batch)

    Trainer.train_step = poisoned
    try:
        line = refused(capsys, "--data", clips, "--out", str(tmp_path / "run"), *SMALL)
    finally:
        Trainer.train_step = original
    assert "gradient norm" in line and "step 4" in line and not (tmp_path / "run" / "latest.pt").exists()


def test_a_diverging_loss_names_its_term_and_spares_the_checkpoint(clips, tmp_path, capsys):
    out = run(clips, tmp_path / "run", "--epochs", "1")
    before = (out / "latest.pt").read_bytes()
    original = Trainer.train_step

    def poisoned(self, batch):
        if self.step == 7:
            with torch.no_grad():
                self.method.terms["cpc"].predict["audio"][0].weight.fill_(float("inf"))
        return original(self, batch)

    Trainer.train_step = poisoned
    try:
        line = refused(capsys, "--data", clips, "--out", str(out), *SMALL, "--resume", "auto")
    finally:
        Trainer.train_step = original
    assert "cpc/a2v" in line and "step 7" in line and "latest.pt" in line and "rec/" not in line
    assert (out / "latest.pt").read_bytes() == before
    assert torch.load(out / "latest.pt", weights_only=True)["model"]["codebook.embedding"].isfinite().all()


# -- settings given back ---------------------------------------------------------------------------------------------


def test_args_json_gives_a_run_back_and_flags_win(clips, tmp_path, capsys):
    out = run(clips, tmp_path / "a", "--method", "dcid", "--modalities", "audio", "video", "--lr", "2e-3")
    config, again = str(out / "args.json"), tmp_path / "b"
    main(["--config", config, "--out", str(again)])
    same_weights(out, again)
    flags = [json.loads((folder / "args.json").read_text())["flags"] for folder in (out, again)]
    assert flags[1] == flags[0] | {"out": str(again)} and flags[0]["preset"] == "small" and flags[0]["dim"] == 16
    assert "not empty" in refused(capsys, "--config", config)  # its own folder is --out
    main(["--config", config, "--resume", "auto", "--epochs", "3"])  # and goes on there
    assert torch.load(out / "latest.pt", weights_only=True)["epoch"] == 2

    settings = parse(["--config", config, "--out", "x", "--dim", "32", "--batch_size", "4", "--epochs=1"])
    assert settings.flags == flags[0] | {"out": "x", "dim": 32, "batch_size": 4, "epochs": 1, "resume": None}
    assert settings.method.encoder.dim == 32 and settings.optimiser.batch_size == 4 and settings.run.epochs == 1
    assert "belongs to dcid" in refused(capsys, "--config", config, "--out", "x", "--method", "baseline")
    assert "--preset paper: --config" in refused(capsys, "--config", config, "--out", "x", "--preset", "paper")


@pytest.mark.parametrize("flags, line", [
    ({"codebook_size": 3}, "'codebook_size' is no setting of --method unicode; did you mean codes?"),
    ({"epoch": 3}, "'epoch' is no setting of --method unicode; did you mean epochs?"),
    ({"colour": "red"}, "'colour' is no setting of --method unicode"),
    ({"dim": 30}, "--dim: '30' is not a multiple of 4 of at least 4 and below 2^31"),
    ({"epochs": 1.5}, "--epochs: '1.5' is not a whole number of at least 1 and below 2^31"),
    ({"method": "none"}, "--method none: expected one of"),
    ({"method": 3}, "'method' is 3; expected a name"),
    ({"preset": ["small"]}, "'preset' is ['small']; expected a name"),
    ({"lr": None}, "--lr: 'None' is not a number above 0"),
    ({"transformer": {}}, "--transformer: '{}' is not a text"),
    ({"synthetic_clips": -1}, "--synthetic-clips: '-1' is not a whole number of at least 1 and below 2^31"),
    ([1], "not the args.json of a run; expected a JSON object of flags"),
])
def test_a_config_of_unknown_settings_is_one_line(clips, tmp_path, capsys, flags, line):
    path = tmp_path / "args.json"
    path.write_text(json.dumps({"flags": flags} if isinstance(flags, dict) else flags))
    assert line in refused(capsys, "--config", str(path), "--data", clips, "--out", str(tmp_path / "x"))
    assert "absent.json" in refused(capsys, "--config", "absent.json", "--data", clips, "--out", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("flags, line", [
    (["--codebook-size", "3"], "unrecognized arguments: --codebook-size 3; did you mean --codes?"),
    (["--epoch", "3"], "unrecognized arguments: --epoch 3; did you mean --epochs?"),
    (["--learning_rate=1"], "unrecognized arguments: --learning-rate=1; did you mean --lr?"),
])
def test_a_mistyped_flag_names_the_nearest(clips, tmp_path, capsys, flags, line):
    assert f"cmg.pretrain: error: {line} " in refused(capsys, "--data", clips, "--out", str(tmp_path / "x"), *flags)
