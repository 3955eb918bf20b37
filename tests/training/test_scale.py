"""Features of any scale: 0 … 255 trains as the same numbers brought to about one, ordinary features stay as they are,
and a checkpoint knows what it was pretrained on."""

import os
import re

import h5py
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import cmg
from cmg.data import numbers
from cmg.data.features import FeatureSet
from cmg.distributed import finish
from cmg.errors import UserError
from cmg.models.scale import FeatureScale
from cmg.released.checkpoints import to_public
from support import (
    ROOT,
    SHAPES,
    SMALL,
    environment,
    free_port,
    interrupt_after,
    refused,
    rows,
    run,
    same_weights,
    steps_of,
    trainer_of,
    write_clips,
)

AV = ["--modalities", "video", "audio"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """plain.h5; bytes.h5, whose audio is stored as whole numbers 0 … 255 and lacks the last step of every third clip;
    hand.h5, the same numbers less each channel's mean and divided by one deviation."""
    folder = tmp_path_factory.mktemp("scale")
    for name in ("plain", "bytes", "hand"):
        write_clips(folder / f"{name}.h5")
    with h5py.File(folder / "plain.h5") as file:
        x, valid = file["audio"][:], file["valid/audio"][:]
    x = np.clip(np.round((np.clip(x / x.std(), -2, 2) + 2) * 63.75), 0, 255)
    x[..., 3] = 7  # a channel that never moves
    valid[::3, -1] = False
    x[~valid] = 0
    there = x[valid].astype("f8")  # (n, C)
    mean, deviation = there.mean(0), np.sqrt(((there - there.mean(0)) ** 2).mean())
    hand = (x - mean.astype("f4")) / np.float32(deviation)
    hand[~valid] = 0
    for name, audio in (("bytes", x), ("hand", hand)):
        with h5py.File(folder / f"{name}.h5", "a") as file:
            file["audio"][:], file["valid/audio"][:] = audio, valid
    return folder


def followed(path, *flags, backend=None):
    """Losses of six steps, with what `Trainer.run` does first."""
    trainer = trainer_of(str(path), *AV, *flags)
    trainer.measure()
    if backend:
        torch.compiler.reset()
        trainer.compile(backend)
    return torch.stack([torch.stack([*losses.values(), norm]).clone() for losses, _, norm in steps_of(trainer, 6)])


@pytest.mark.parametrize("flags", [[], ["--accumulate", "2"], ["--precision", "bf16"], ["--cache", "disk"]], ids=str)
def test_whole_numbers_train_as_the_same_brought_to_one_by_hand(folder, capsys, flags):
    found = followed(folder / "bytes.h5", *flags)
    assert re.fullmatch(r"audio features have mean 11\d and deviation \d\d\.\d; they are brought to 0 and 1 "
                        r"\(--standardise auto\)\n", capsys.readouterr().err)
    hand = followed(folder / "hand.h5", "--standardise", "off", *flags)
    torch.testing.assert_close(found, hand, rtol=1e-4, atol=1e-5)
    assert capsys.readouterr().err == ""
    assert followed(folder / "bytes.h5", "--standardise", "off", *flags).max() > 1000


def test_compiled_and_recorded_steps_read_the_same(folder, card):
    plain = followed(folder / "bytes.h5")
    torch.testing.assert_close(followed(folder / "bytes.h5", backend="eager"), plain, rtol=1e-3, atol=1e-4)
    torch._dynamo.config.allow_rnn = False
    torch.testing.assert_close(followed(folder / "bytes.h5", "--cuda-graph"), plain, rtol=0.01, atol=1e-3)


def test_ordinary_features_keep_their_bits(folder, tmp_path, capsys):
    """`auto` is `off` here; what it has seen is in the checkpoint, without more."""
    for mode in ("auto", "off"):
        run(str(folder / "plain.h5"), tmp_path / mode, "--standardise", mode)
        assert "standardise" not in capsys.readouterr().err
    same_weights(tmp_path / "auto", tmp_path / "off")
    kept = cmg.load_pretrained(tmp_path / "auto")
    assert kept.feature_scale.standardised == () and kept.feature_scale.known.keys() == SHAPES.keys()
    x = torch.randn(2, *SHAPES["audio"])
    assert kept.feature_scale("audio", x) is x
    with h5py.File(folder / "plain.h5") as file:
        text = file["text"][:][file["valid/text"][:]].astype("f8")
    assert kept.feature_scale.known["text"] == pytest.approx((text.mean(), text.std()), rel=1e-9)


def test_numbers_of_a_set():
    """Channels' means, and deviations from them and from the one mean, by hand: of steps 0, 2 in channel 0 and 5, 5 in
    channel 1; the third step does not exist."""
    x = torch.tensor([[[0.0, 5.0], [2.0, 5.0], [90.0, 90.0]]])
    valid = torch.tensor([[True, True, False]])
    found = numbers.measure(x.half(), valid)
    assert found == pytest.approx(numbers.Numbers(3, (4.5) ** 0.5, 0.5**0.5, (1, 5), (1, 0)))
    assert found.root_mean_square == pytest.approx((54 / 4) ** 0.5)
    scale = FeatureScale({"audio": (3, 2)})
    assert not scale.learn("audio", found) and scale.learn("audio", found, "on")
    expected = torch.tensor([[[-(2**0.5), 0], [2**0.5, 0], [0, 0]]])
    torch.testing.assert_close(scale("audio", x, valid), expected)
    assert numbers.measure(x.to(torch.uint8), valid) is None and numbers.measure(x, valid & False) is None


@pytest.mark.parametrize("size,touched", [(0, False), (0.009, True), (0.011, False), (29, False), (31, True)])
def test_what_auto_leaves_alone(size, touched):
    scale = FeatureScale({"audio": (2, 1)})
    found = numbers.measure(torch.tensor([[[size], [-float(size)]]]), torch.ones(1, 2, dtype=torch.bool))
    assert scale.learn("audio", found) == touched


def test_a_constant_is_moved_and_not_blown_up():
    scale = FeatureScale({"audio": (4, 3)})
    assert scale.learn("audio", numbers.measure(torch.full((2, 4, 3), 200.1), torch.ones(2, 4, dtype=torch.bool)))
    assert scale("audio", torch.full((1, 4, 3), 203.1)).flatten().tolist() == pytest.approx([3.0] * 12, abs=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_bits(folder, tmp_path, capsys):
    clips, flags = str(folder / "bytes.h5"), [*AV, "--save-every", "1e-6"]
    run(clips, tmp_path / "whole", *flags)
    interrupt_after(clips, tmp_path / "part", 7, flags)
    capsys.readouterr()
    run(clips, tmp_path / "part", *flags, "--resume", "auto")
    assert "standardise" not in capsys.readouterr().err
    same_weights(tmp_path / "whole", tmp_path / "part")
    first, second = (torch.load(tmp_path / name / "latest.pt", weights_only=True)["scale"]
                     for name in ("whole", "part"))
    assert str(first) == str(second) and first["audio"]["divisor"] > 30 and "offset" not in first["video"]
    line = refused(capsys, "--data", clips, "--out", str(tmp_path / "part"), *SMALL, *flags, "--standardise", "off",
                   "--resume", "auto")
    assert "--standardise off: " in line and "was trained with auto" in line


def test_use_reads_what_training_read(folder, tmp_path):
    """Every way into a kept model takes features as files hold them: tensors, a feature set, a task's tokens."""
    from cmg.downstream.tokens import encode_set

    out = run(str(folder / "bytes.h5"), tmp_path / "run", *AV)
    model, clips = cmg.load_pretrained(out), FeatureSet(folder / "bytes.h5", ["video", "audio"])
    hand = FeatureSet(folder / "hand.h5").__getitems__(range(40))
    valid = hand["valid/audio"]
    with torch.no_grad():
        wanted = model.encode_modality("audio", hand["audio"], valid).semantic
    raw = clips.__getitems__(range(40))["audio"]
    for found in (model.encode(audio=raw, valid={"audio": valid}), model.encode(clips)["audio"],
                  encode_set(model, clips, "audio"), model.encode(audio=raw.double(), valid={"audio": valid})):
        torch.testing.assert_close(found.semantic, wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="^audio features have shape .*pretrained on"):
        model.encode(audio=raw[..., :-1])
    with pytest.raises(UserError, match="audio features are standardised.*expected a run with --standardise off$"):
        content = torch.load(out / "latest.pt", weights_only=True)
        to_public({**content, "args": {**content["args"], "equations": "released"}}, "latest.pt")


def test_only_the_kept_model_itself_calls_what_reads_features_as_trained_on():
    """Whoever calls `encode_modality` past `tokens` forgets the scale."""
    callers = {path.name for path in (ROOT / "code").rglob("*.py") if ".encode_modality(" in path.read_text("utf-8")}
    assert callers == {"pretrained.py"}


def test_features_of_another_scale_are_refused(folder, tmp_path):
    model = cmg.load_pretrained(run(str(folder / "hand.h5"), tmp_path / "run", *AV))
    model.check(FeatureSet(folder / "plain.h5"))  # as alike as another set of the same encoder
    line = (r"^--data: audio features have mean 11\d and deviation \d\d\.\d; those that the checkpoint was pretrained "
            r"on have -?[\d.e-]+ and 1$")
    with pytest.raises(UserError, match=line):
        model.check(FeatureSet(folder / "bytes.h5"))
    model.check(FeatureSet(folder / "bytes.h5"), without="audio")
    with pytest.raises(UserError, match="audio features have mean"):
        model.encode(FeatureSet(folder / "bytes.h5"))
    silence = write_clips(tmp_path / "silence.h5")
    with h5py.File(silence, "a") as file:
        file["audio"][:] = -0.8
    model.check(FeatureSet(silence))
    other = cmg.load_pretrained(run(str(folder / "bytes.h5"), tmp_path / "other", *AV))
    with pytest.raises(UserError, match="audio features have mean"):
        other.check(FeatureSet(folder / "hand.h5"))


def test_a_checkpoint_of_before(folder, tmp_path, capsys):
    """It knows nothing of numbers: everything passes, nothing is standardised, and its run goes on like this."""
    clips, flags = str(folder / "bytes.h5"), [*AV, "--standardise", "off"]
    run(clips, tmp_path / "whole", *flags)
    out = run(clips, tmp_path / "part", *flags, "--max-steps", "5")
    content = torch.load(out / "latest.pt", weights_only=True)
    del content["scale"], content["args"]["standardise"]
    torch.save(content, out / "latest.pt")
    model = cmg.load_pretrained(out)
    assert model.feature_scale.known == {} and model.feature_scale.standardised == ()
    model.check(FeatureSet(folder / "hand.h5"))
    run(clips, out, *AV, "--resume", "auto")
    assert "they are brought" not in capsys.readouterr().err
    same_weights(tmp_path / "whole", out)
    assert rows(tmp_path / "whole")[-1]["loss/total"] == rows(out)[-1]["loss/total"]


@pytest.mark.parametrize("damage", [
    lambda row: row.update(mean="much"), lambda row: row.update(offset=row["offset"][:5]),
    lambda row: row.pop("divisor"), lambda row: row["offset"].fill_(float("nan")),
], ids=["a text", "another width", "a part", "no number"])
def test_damaged_numbers_are_told(folder, tmp_path, damage):
    out = run(str(folder / "bytes.h5"), tmp_path / "run", *AV, "--max-steps", "1")
    content = torch.load(out / "latest.pt", weights_only=True)
    damage(content["scale"]["audio"])
    torch.save(content, out / "latest.pt")
    with pytest.raises(UserError, match="'scale' holds something else|do not fit its flags"):
        cmg.load_pretrained(out / "latest.pt")


def rank_of_two(rank, path, port, out):
    os.environ.update(environment(rank, 2, port))
    dist.init_process_group("gloo")
    trainer = trainer_of(path, *AV)
    trainer.measure()
    torch.save(trainer.method.kept().feature_scale.content(), f"{out}.{rank}")
    finish()


def test_two_ranks_see_what_one_sees(folder, tmp_path):
    clips, out = str(folder / "bytes.h5"), str(tmp_path / "found")
    mp.spawn(rank_of_two, (clips, free_port(), out), nprocs=2)
    trainer = trainer_of(clips, *AV)
    trainer.measure()
    for rank in (0, 1):
        assert str(torch.load(f"{out}.{rank}", weights_only=True)) == str(trainer.method.kept().feature_scale.content())
