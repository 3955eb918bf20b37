"""The methods cmmixer and cmmixer-pair: what a step reads and rebuilds, runs, processes, and what is kept."""

import itertools
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import cmg
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.distributed import seed_shared
from cmg.errors import UserError
from cmg.losses.nt_xent import nt_xent
from cmg.methods import registry
from cmg.methods.cmmixer.augment import crop_and_flip, erase
from cmg.methods.cmmixer.draws import own_draws
from cmg.methods.cmmixer.grid import unfold
from cmg.methods.cmmixer.model import chosen_steps, pictures_of
from cmg.pretrain import main, parse
from cmg.training.loop import Trainer
from support import killed_and_resumed, refused, rows, same_weights, steps_of

SHAPES = {"video": (6, 20, 24, 3), "audio": (6, 16, 18)}  # neither is the size that a step reads
TINY = ["--side", "16", "--patch", "4", "--positions", "2", "--dim", "16", "--layers", "1", "--heads", "2",
        "--batch-size", "8", "--device", "cpu", "--log-every", "1"]
FLAGS = {"cmmixer": [*TINY, "--decoder-dim", "16", "--decoder-layers", "1", "--decoder-heads", "2"],
         "cmmixer-pair": [*TINY, "--projected", "12"]}


def write_raw(path, n=40, steps=6, seed=0):
    """Raw clips of four kinds: a colour and the row in which a spectrogram is loud."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 4
    frames = rng.integers(0, 60, (n, steps, *SHAPES["video"][1:]))
    frames[np.arange(n), ..., kind % 3] += 90 + 60 * (kind[:, None, None, None] == 3)
    maps = rng.normal(-60, 5, (n, steps, *SHAPES["audio"][1:]))
    for i in range(n):
        maps[i, :, :, 4 * kind[i] : 4 * kind[i] + 4] += 40
    shapes = {m: (steps, *shape[1:]) for m, shape in SHAPES.items()}
    valid = {m: np.ones((n, steps), bool) for m in SHAPES}
    valid["audio"][1::8, steps // 2 :] = False  # short clips, and one without sound
    valid["audio"][5] = False
    with FeatureWriter(path, shapes, {}, {"video": "uint8", "audio": "float16"}) as writer:
        writer.append([f"clip{i}" for i in range(n)], {"video": frames, "audio": maps}, valid)
    return str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw") / "raw.h5")


def argv(clips, out, *flags, method="cmmixer"):
    return ["--data", clips, "--out", str(out), "--method", method, "--epochs", "2", *FLAGS[method], *flags]


def run(clips, out, *flags, method="cmmixer"):
    main(argv(clips, out, *flags, method=method))
    return out


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    return run(clips, tmp_path_factory.mktemp("run") / "run", "--epochs", "12", "--lr", "5e-3")


def built(*flags, method="cmmixer"):
    settings = parse(argv("x", "x", *flags, method=method))
    torch.manual_seed(0)
    return settings.kind(SHAPES, settings.method)


# -- what a step reads -----------------------------------------------------------------------------------------------


def test_draws_are_the_same_on_any_number_of_processes(monkeypatch):
    seed_shared(0, 0)
    everyone = own_draws(6, 3, 2, device="cpu")
    for rank in range(3):
        monkeypatch.setattr("cmg.methods.cmmixer.draws.world", lambda rank=rank: (rank, 3))
        seed_shared(0, 0)
        assert torch.equal(own_draws(2, 3, 2, device="cpu"), everyone[2 * rank : 2 * rank + 2])


def test_steps_are_drawn_from_equal_parts_of_what_exists():
    exists = torch.ones(500, 8, dtype=torch.bool)
    exists[1::2, ::2] = False  # steps 1, 3, 5, 7 of every second clip
    seed_shared(0, 0)
    steps = chosen_steps(exists, 4, training=True)
    for step, part in zip(steps[::2].T, ((0, 1), (2, 3), (4, 5), (6, 7))):
        assert sorted(set(step.tolist())) == list(part)
    assert (steps[1::2] == torch.tensor([1, 3, 5, 7])).all()
    assert chosen_steps(exists[:2], 4, training=False).tolist() == [[1, 3, 5, 7], [1, 3, 5, 7]]
    one = torch.tensor([[False, False, True, False]])
    assert chosen_steps(one, 3, training=True).tolist() == [[2, 2, 2]]


def test_pictures_of_frames_and_maps():
    frames = torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(pictures_of(frames, 8, torch.float64), frames.permute(0, 1, 4, 2, 3).double() / 255)
    maps = torch.randn(2, 3, 8, 8)
    picture = pictures_of(maps, 8, torch.float32)  # rows are mel bands, columns time
    assert torch.equal(picture[:, :, 2], maps.mT) and picture.shape == (2, 3, 3, 8, 8)
    smaller = pictures_of(frames.float().mul(0).add(51).to(torch.uint8), 4, torch.float32)
    torch.testing.assert_close(smaller, torch.full((2, 3, 3, 4, 4), 0.2))


def test_augmentation():
    seed_shared(0, 0)
    x = torch.rand(200, 2, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(crop_and_flip(x, 1, flip=False), x)
    flipped = crop_and_flip(x, 1, flip=True)
    same = [(flipped - other).abs().flatten(1).amax(1) < 1e-9 for other in (x, x.flip(-1))]
    assert (same[0] ^ same[1]).all() and 60 < same[0].sum() < 140
    ramp = torch.linspace(0, 1, 12, dtype=torch.float64).expand(200, 2, 3, 12, 12)
    wide = crop_and_flip(ramp, 0.5, flip=False)[:, 0, 0, 6]  # a part of the ramp, from the left to the right
    assert ((wide[:, -2] - wide[:, 1]) < 9 / 11 + 1e-9).all() and (wide.diff(dim=1)[:, 1:-1] > 0.02).all()
    assert torch.equal(crop_and_flip(x, 0.5, True)[:, 0] * 0, x[:, 0] * 0)
    gone = (erase(x, 0.5) == 0)
    assert 60 < gone.flatten(1).any(1).sum() < 140 and gone[:, :1].expand_as(gone).equal(gone)
    assert 0.05 < gone[gone.flatten(1).any(1)].double().mean() < 0.3


def test_a_step_shows_both_modalities_and_counts_what_is_hidden_alone(clips):
    """The loss by hand, from predictions, pictures and mask."""
    method = built("--crop", "1", "--no-flip", "--erase", "0")
    batch = FeatureSet(clips).__getitems__(range(8))
    seed_shared(0, 0)
    method.begin(method.carry(method.eval().encode(batch)))
    state = method.train().encode(batch)
    assert state.mask.shape == (8, 4 * 8) and (state.mask.sum(1) == 24).all()
    assert state.exists.tolist() == [True] * 5 + [False] + [True] * 2  # clip 5 has no sound
    losses = method.losses(state)
    for m, x in state.pictures.items():
        target = torch.zeros(8, 32, 48)
        wide = x.permute(0, 2, 3, 4, 1).reshape(8, 3, 16, 32)
        for row, column in itertools.product(range(4), range(8)):
            part = wide[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            target[:, 8 * row + column] = part.permute(0, 2, 3, 1).flatten(1)
        error = (state.predictions[m] - target).square().mean(2)[state.mask & state.exists[:, None]]
        torch.testing.assert_close(losses[f"rebuild/{m}"], error.mean())


def test_both_modalities_weigh_the_same_from_the_first_step(clips):
    """Decibels of standard deviation 20 and colours between 0 and 1: of a prediction of nothing both losses are 1, but
    not in the released form."""
    batch = FeatureSet(clips).__getitems__(range(40))

    def of_nothing(*flags):
        method = built("--crop", "1", "--no-flip", "--erase", "0", *flags)
        for head in method.decoder.heads.values():
            torch.nn.init.zeros_(head.weight)
        seed_shared(0, 0)
        if method.starts_from_data:
            method.begin(method.carry(method.eval().encode(batch)))
        losses = method.train().losses(method.encode(batch))
        return [losses[f"rebuild/{m}"].item() for m in SHAPES]

    for targets in ("standard", "patch"):
        assert of_nothing("--targets", targets) == pytest.approx([1, 1], rel=0.15)
    video, audio = of_nothing("--targets", "raw")
    assert audio > 500 * video


def test_the_scale_is_that_of_the_clips(clips, trained):
    model = cmg.load_pretrained(trained)
    features = FeatureSet(clips)
    x = features.__getitems__(range(40))
    every = model.raw("video", x["video"]).mean((0, 1, 3, 4))
    torch.testing.assert_close(model.mean.video, every, rtol=0.1, atol=0.02)  # of the first batch, augmented
    assert model.mean.audio[0].item() == pytest.approx(-50, abs=3) and len(set(model.spread.audio.tolist())) == 1


def test_the_released_preset_sees_frames_alone(clips):
    size = ["--decoder-dim", "16", "--decoder-layers", "1", "--decoder-heads", "2"]
    method = built("--preset", "official", *size).eval()
    batch = FeatureSet(clips).__getitems__(range(8))
    predicted = []
    for scale in (1, 3):
        seed_shared(0, 0)
        predicted.append(method.encode(batch | {"audio": scale * batch["audio"]}).predictions)
    for m in SHAPES:
        assert torch.equal(predicted[0][m], predicted[1][m])
    assert not method.starts_from_data and method.model.mean.video.tolist() == pytest.approx([0.45] * 3)


def test_apart_each_modality_is_rebuilt_from_itself_alone(clips):
    method = built("--mix", "apart").eval()
    batch = FeatureSet(clips).__getitems__(range(8))
    predicted = []
    for scale in (1, 3):
        seed_shared(0, 0)
        predicted.append(method.encode(batch | {"audio": scale * batch["audio"]}).predictions)
    assert torch.equal(predicted[0]["video"], predicted[1]["video"])
    assert not torch.allclose(predicted[0]["audio"], predicted[1]["audio"])
    before, after = method.model.vits["video"].state_dict(), method.model.vits["audio"].state_dict()
    assert not torch.equal(before["embed.weight"], after["embed.weight"])
    pair = built(method="cmmixer-pair")  # each modality begins with its own encoder
    pair.model.load_state_dict(pair.taken_over(method.model.state_dict(), "cmmixer"))
    for m in SHAPES:
        assert torch.equal(pair.model.vits[m].embed.weight, method.model.vits[m].embed.weight)


def test_published_sizes():
    counts = {}
    for preset in ("base", "large", "huge", "official"):
        config = registry.configured(registry.find("cmmixer"), preset)
        with torch.device("meta"):
            method = registry.find("cmmixer")({"video": (9, 224, 224, 3), "audio": (9, 224, 224)}, config)
        counts[preset] = round(sum(p.numel() for p in method.model.parameters()) / 1e6)
        c = config.pictures
        assert method.model.vit.place.shape == (1, 1 + 4 * (224 // c.patch) ** 2, c.dim)
    assert counts == {"base": 86, "large": 303, "huge": 630, "official": 171}  # of ViT-B, -L, -H without classes


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_it_learns_and_keeps_its_encoder_alone(trained):
    table = rows(trained)
    for m in SHAPES:
        assert table[-1][f"loss/rebuild/{m}"] < 0.8 * table[0][f"loss/rebuild/{m}"]
    assert all(0.2 < row["mix/video"] < 0.8 for row in table)
    kept = torch.load(trained / "latest.pt", weights_only=True)
    assert all(name.startswith(("vit.", "mean.", "spread.")) for name in kept["model"])
    assert all(name.startswith("decoder.") for name in kept["method"])


def test_a_token_is_of_its_step_and_modality_alone(trained, clips):
    model = cmg.load_pretrained(trained)
    batch = FeatureSet(clips).__getitems__([0, 1, 2])
    for m in SHAPES:
        tokens = model.encode(**{m: batch[m]})
        assert tokens.codes is None and tokens.vectors.shape == (3, 6, 16)
        other = batch[m].clone()
        other[:, 2] = other[:, 3]
        changed = model.encode(**{m: other}).vectors
        torch.testing.assert_close(changed[:, [0, 1, 3, 4, 5]], tokens.vectors[:, [0, 1, 3, 4, 5]])
        torch.testing.assert_close(changed[:, 2], tokens.vectors[:, 3])
        assert not torch.allclose(changed[:, 2], tokens.vectors[:, 2])
        still = unfold(model.still(m, batch[m]), 2)
        assert torch.equal(still[:, 0], still[:, 1])  # the film stands still
    together = model.encode(clips)
    torch.testing.assert_close(together["audio"].vectors[:3], tokens.vectors, rtol=1e-4, atol=1e-5)


def test_retrieval_evaluates_it(trained, clips, tmp_path):
    from cmg.downstream.retrieval import main as retrieval

    found = retrieval(["--checkpoint", str(trained), "--data", clips, "--protocol", "paper", "--device", "cpu", "--out",
                       str(tmp_path)])
    assert {(row["source"], row["target"]) for row in found} == {("video", "audio"), ("audio", "video")}


# -- runs --------------------------------------------------------------------------------------------------------------


def test_from_mixing_to_retrieval_and_probes(trained, clips, tmp_path):
    """All of it by the commands: fine-tuning begins with the mixed encoder, its clips are retrieved in both directions
    by one vector each, that of the steps in the middle of their parts, and a probe reads its tokens."""
    from cmg.downstream.retrieval import main as retrieval

    out = run(clips, tmp_path / "pairs", "--init-from", str(trained), method="cmmixer-pair")
    found = {(row["source"], row["target"], row["metric"]): row
             for row in retrieval(["--checkpoint", str(out), "--data", write_raw(tmp_path / "other.h5", 24, seed=1),
                                   "--protocol", "paper", "--device", "cpu"])}
    names = [f"joint_{name}" for name in ("r1", "r5", "r10", "r25", "r50", "median_rank", "mean_rank")]
    assert set(found) == {(*pair, name) for pair in (("video", "audio"), ("audio", "video")) for name in names}
    row = found["video", "audio", "joint_r25"]
    assert row["n_test"] == 24 and row["n_gallery"] == 23  # clip 5 has no sound
    model = cmg.load_pretrained(out)
    batch = FeatureSet(clips).__getitems__([0, 1, 2, 3])
    for m in SHAPES:
        joint = model.items(m, batch[m], batch[f"valid/{m}"])["joint"]
        steps = chosen_steps(batch[f"valid/{m}"], 2, training=False)
        assert steps[1].tolist() == ([0, 2] if m == "audio" else [1, 4])  # clip 1 is heard in its first half
        shown = model.standard(m, model.raw(m, batch[m][torch.arange(4)[:, None], steps]))
        wide = shown.permute(0, 2, 3, 4, 1).flatten(3)
        torch.testing.assert_close(joint, model.vectors(m, wide))
        assert model.encode(**{m: batch[m]}).vectors.shape == (4, 6, 12)


def test_fine_tuning_starts_from_the_encoder_and_finds_pairs(trained, clips, tmp_path):
    """Clips of a kind are alike: a clip's own kind is found among the other modality's clips."""
    pretrained = cmg.load_pretrained(trained)
    settings = parse(argv(clips, tmp_path, "--lr", "3e-3", "--epochs", "60", "--crop", "1", method="cmmixer-pair"))
    features = FeatureSet(clips)
    torch.manual_seed(0)
    method = settings.kind(features.shapes, settings.method).train()
    method.model.load_state_dict(method.taken_over(pretrained.state_dict(), "cmmixer"))
    own = method.model.state_dict()
    assert method.taken_over(own, "cmmixer-pair") is own
    for vit in method.model.vits.values():
        for name, value in vit.state_dict().items():
            assert torch.equal(value, pretrained.vit.state_dict()[name])
    assert torch.equal(method.model.mean.audio, pretrained.mean.audio)
    trainer = Trainer(method, features, settings.run, settings.optimiser, tmp_path, torch.device("cpu"), settings.flags)
    losses = [losses["nt_xent"].item() for losses, *_ in steps_of(trainer)]
    assert np.mean(losses[-5:]) < 2 < np.log(2 * 8 - 1)  # the loss where all vectors are alike
    batch = features.__getitems__(range(40))
    with torch.no_grad():
        items = {m: method.eval().model.items(m, batch[m], batch[f"valid/{m}"])["joint"] for m in SHAPES}
    scores = torch.nn.functional.normalize(items["video"]) @ torch.nn.functional.normalize(items["audio"]).T
    sound = [i for i in range(40) if i != 5]  # which has none
    best = np.array(sound)[scores[sound][:, sound].argmax(1)]
    assert (best % 4 == np.array(sound) % 4).mean() > 0.8


@pytest.mark.parametrize("flags", [
    ["--precision", "bf16"], ["--accumulate", "2"], ["--cache", "disk"], ["--mix", "pixel", "--pixel-map", "bernoulli"],
    ["--mix", "soft"], ["--mix", "video"], ["--mix", "apart"], ["--targets", "patch"]], ids=lambda flags: flags[-1])
def test_flags_run(clips, tmp_path, flags):
    table = rows(run(clips, tmp_path / "run", *flags))
    assert len(table) == 10 and all(0.3 < row["loss/total"] < 6 for row in table)


@pytest.mark.parametrize("method", FLAGS)
def test_an_interrupted_run_resumes_to_the_same_bits(clips, tmp_path, method):
    whole, out = run(clips, tmp_path / "whole", method=method), tmp_path / "stopped"
    run(clips, out, "--max-steps", "7", method=method)
    run(clips, out, "--resume", "auto", method=method)
    same_weights(whole, out)
    assert [row["loss/total"] for row in rows(whole)] == [row["loss/total"] for row in rows(out)]


@pytest.mark.slow
@pytest.mark.parametrize("method", FLAGS)
def test_kill_9_and_resume_are_bit_identical(clips, trained, tmp_path, method):
    flags = ["--epochs", "40", "--save-every", "1e-6", "--checkpoint-epochs", "20", "--rand-augment", "2"]
    flags += ["--init-from", str(trained)] * (method == "cmmixer-pair")
    whole, out = run(clips, tmp_path / "whole", *flags, method=method), tmp_path / "killed"
    killed_and_resumed(argv(clips, out, *flags, method=method), out, 200)
    same_weights(whole, out)


RUNS = {"image": ("cmmixer", ["--mix", "image", "--rand-augment", "4"]), "pixel": ("cmmixer", ["--mix", "pixel"]),
        "parts": ("cmmixer", ["--mix", "soft", "--accumulate", "2"]), "apart": ("cmmixer", ["--mix", "apart"]),
        "pair": ("cmmixer-pair", [])}


def curve(clips, name, backend=None):
    """Losses and gradient norms of 10 steps in float64, and the weights after them; `backend` compiles the steps."""
    method, flags = RUNS[name]
    settings, features = parse(argv(clips, "x", *flags, method=method)), FeatureSet(clips)
    torch.manual_seed(0)
    method = settings.kind(features.shapes, settings.method).double().train()
    trainer = Trainer(method, features, settings.run, settings.optimiser, ".", torch.device("cpu"), settings.flags)
    if backend:
        trainer.compile(backend)
    step = trainer.train_step
    trainer.train_step = lambda batch: step({k: v.double() if v.is_floating_point() else v for k, v in batch.items()})
    found = [torch.stack([*losses.values(), norm]) for losses, _, norm in steps_of(trainer, 10)]
    return torch.stack(found), method.state_dict()


def rank_of_two(rank, clips, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}", rank=rank, world_size=2)
    for name in RUNS:
        torch.save(curve(clips, name), f"{out}.{name}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one(clips, tmp_path):
    mp.spawn(rank_of_two, (clips, str(tmp_path / "ranks")), nprocs=2)
    for name in RUNS:
        expected, alone = curve(clips, name)
        for rank in (0, 1):
            losses, state = torch.load(tmp_path / f"ranks.{name}.{rank}", weights_only=True)
            torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
            for key, value in state.items():
                torch.testing.assert_close(value, alone[key], rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image", "pixel", "pair"])
def test_a_traced_step_is_the_step(clips, name):
    """Draws keep their order, and nothing breaks the graph."""
    try:
        traced, expected = curve(clips, name, "aot_eager"), curve(clips, name)
        torch.testing.assert_close(traced[0], expected[0], rtol=1e-8, atol=1e-8)
    finally:
        torch._dynamo.config.allow_rnn = False
        torch.compiler.reset()


def test_the_contrast_of_a_step_is_that_of_its_clips(clips):
    method = built("--crop", "1", "--no-flip", "--erase", "0", "--temperature", "0.3", method="cmmixer-pair")
    seed_shared(0, 0)
    state = method.encode(FeatureSet(clips).__getitems__(range(8)))
    seen = state.exists
    assert seen.sum() == 7
    wide = {m: x[seen].permute(0, 2, 3, 4, 1).flatten(3) for m, x in state.pictures.items()}
    a, b = (method.model.vectors(m, x) for m, x in wide.items())
    expected = nt_xent(a, b, seen[seen], 0.3)
    torch.testing.assert_close(method.losses(state)["nt_xent"], expected, rtol=1e-5, atol=1e-6)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, said", [
    (["--side", "18"], "--side 18: expected a multiple of --patch 4"),
    (["--dim", "20", "--heads", "3"], "--dim 20: expected a multiple of --heads 3"),
    (["--decoder-dim", "20", "--decoder-heads", "3"], "--decoder-dim 20: expected a multiple of --decoder-heads 3"),
    (["--mask-ratio", "0.99"], "--mask-ratio 0.99: of 32 patches none or all are hidden"),
    (["--mask-ratio", "1"], "--mask-ratio: '1' is not a number above 0 and below 1"),
    (["--mix", "boxes"], "--mix: 'boxes' is unknown; expected image, video, pixel, soft, none"),
    (["--crop", "2"], "--crop 2: expected a share"), (["--alone", "1.5"], "--alone 1.5: expected a share"),
    (["--modalities", "video"], "--modalities video: --method cmmixer needs at least 2"),
])
def test_flags_that_make_no_sense(clips, tmp_path, capsys, flags, said):
    line = refused(capsys, *argv(clips, tmp_path / "out", *flags))
    assert said.replace("--mix: 'boxes'", "") in line or said in line or "invalid choice" in line, line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shapes, dtype, said", [
    ({"video": (6, 5, 5, 8), "audio": (6, 12)}, "float32", "video holds grids; --method cmmixer reads frames, maps"),
    ({"video": (6, 8, 8, 1), "audio": (6, 8, 8)}, "raw", "video clips are [6, 8, 8, 1]; --method cmmixer reads frames"),
    ({"video": (5, 8, 8, 3), "audio": (6, 8, 8)}, "raw", "5 steps of video but 6 of audio per clip"),
])
def test_data_that_it_cannot_read(tmp_path, capsys, shapes, dtype, said):
    dtypes = {"video": "uint8", "audio": "float16"} if dtype == "raw" else dtype
    with FeatureWriter(tmp_path / "a.h5", shapes, {}, dtypes) as writer:
        writer.append([f"c{i}" for i in range(8)], {m: np.ones((8, *shape)) for m, shape in shapes.items()})
    assert said in refused(capsys, *argv(str(tmp_path / "a.h5"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_fine_tuning_refuses_what_it_cannot_begin_with(clips, trained, tmp_path, capsys):
    from test_pretrain import write_clips

    features, other = str(write_clips(tmp_path / "features.h5", n=8)), tmp_path / "other"
    main(["--data", features, "--modalities", "video", "audio", "--out", str(other), "--preset", "small", "--dim", "16",
          "--max-steps", "1", "--device", "cpu", "--batch-size", "8"])
    for flags, said in ((["--dim", "8"], "its model has [1, 1, 16] for 'model.vits.video.cls', this one [1, 1, 8]"),
                        (["--temperature", "0"], "--temperature: '0' is not a number above 0"),
                        (["--modalities", "audio"], "--modalities audio: --method cmmixer-pair needs at least 2")):
        line = refused(capsys, *argv(clips, tmp_path / "out", "--init-from", str(trained), *flags,
                                     method="cmmixer-pair"))
        assert said in line, line
    said = refused(capsys, *argv(clips, tmp_path / "out", "--init-from", str(other), method="cmmixer-pair"))
    assert "--init-from" in said and "was trained on features of" in said
    assert "video holds grids; --method cmmixer-pair reads frames, maps" in refused(
        capsys, *argv(features, tmp_path / "out", "--modalities", "video", "audio", method="cmmixer-pair"))
    assert not (tmp_path / "out").exists()


def test_without_timm_one_line_says_what_to_install(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    line = refused(capsys, *argv(clips, tmp_path / "out"))
    assert line.endswith("--method cmmixer needs timm: pip install timm, or this project with its extra [vit]")
    with pytest.raises(UserError, match="needs timm"):
        built()
