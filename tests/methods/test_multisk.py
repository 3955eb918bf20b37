"""MultiSK as a method: queues step by step against the public implementation, ranks, resume, missing modalities."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.testing import assert_close

import cmg
from cmg.configs import flat
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.errors import UserError
from cmg.losses.multi_assignment import multi_assignment, soft_targets
from cmg.methods import registry
from cmg.methods.multisk.settings import AnchorConfig, MultiSKConfig
from cmg.methods.multisk.structure import Sides, Structure
from cmg.models.multisk import TowerConfig, unit
from cmg.pretrain import main, parse
from cmg.training.loop import Trainer
from support import FIXTURES, SHAPES, killed_and_resumed, refused, rows, same_weights, steps_of, write_clips

SIZES = {"width": 16, "joint_dim": 12, "heads": 2, "anchors": 6, "queue": 20}
FLAGS = ["--method", "multisk", "--width", "16", "--joint-dim", "12", "--heads", "2", "--anchors", "6", "--queue", "20",
         "--mel-widths", "4", "6", "8", "--mel-blocks", "1", "1", "--batch-size", "8", "--epochs", "2", "--device",
         "cpu", "--log-every", "1"]
MAPS = {"video": (6, 8), "audio": (6, 4, 5), "text": (4, 10)}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5"))


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """40 clips of other numbers of steps in every modality, audio as maps; some lack text, some audio."""
    path, rng = tmp_path_factory.mktemp("features") / "ragged.h5", np.random.default_rng(0)
    valid = {m: np.arange(shape[0]) < rng.integers(1, shape[0] + 1, (40, 1)) for m, shape in MAPS.items()}
    valid["text"][::3], valid["audio"][1::5] = False, False
    with FeatureWriter(path, MAPS, {"source": "test"}, dtype="float32") as writer:
        features = {m: rng.standard_normal((40, *shape)) for m, shape in MAPS.items()}
        writer.append([f"clip{i}" for i in range(40)], features, valid)
    return str(path)


def argv(clips, out, *flags):
    return ["--data", clips, "--out", str(out), *FLAGS, *flags]


def run(clips, out, *flags):
    main(argv(clips, out, *flags))
    return out


def trainer_of(clips, *flags):
    settings, features = parse(argv(clips, "x", *flags)), FeatureSet(clips)
    torch.manual_seed(0)
    method = settings.kind(features.shapes, settings.method).double().train()
    trainer = Trainer(method, features, settings.run, settings.optimiser, ".", torch.device("cpu"), settings.flags)
    step = trainer.train_step
    trainer.train_step = lambda batch: step({k: v.double() if v.is_floating_point() else v for k, v in batch.items()})
    return trainer


# -- queues ----------------------------------------------------------------------------------------------------------


def test_queues_are_those_of_the_release():
    """Contents and losses step by step: used before they are updated, silent for ceil(L / B) steps."""
    with np.load(FIXTURES / "multisk_queue.npz") as file:
        f = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    names = {"text": "t", "video": "v", "audio": "a"}
    L, K = int(f["L"]), len(f["anchor_in/t"])
    # Input spaces of the release have widths of their own; zeros behind the narrower ones change no cosine.
    width = max(f[f"anchor_in/{m}"].shape[1] for m in "tva")

    def plain(key):
        return torch.stack([f[key.format(m)] for m in names.values()])

    def stack(key):
        return torch.stack([torch.nn.functional.pad(f[key.format(m)], (0, width - f[key.format(m)].shape[-1]))
                            for m in names.values()])

    config = MultiSKConfig(towers=TowerConfig(width, f["anchor_joint/t"].shape[1], 1),
                           structure=AnchorConfig(anchors=K, queue=L))
    structure = Structure(names, config).double()
    structure.anchors["input"].data, structure.anchors["joint"].data = stack("anchor_in/{}"), plain("anchor_joint/{}")
    structure.queue_input.copy_(stack("init/in/{}"))
    structure.queue_joint.copy_(plain("init/joint/{}"))
    silent = 0
    for s in range(int(f["steps"])):
        assert structure.seen == f[f"s{s}/seen_before"]
        x, e = unit(stack(f"s{s}/x_raw/{{}}")), unit(plain(f"s{s}/e_raw/{{}}"))
        similarities = structure.similarities(x, e)
        loss = structure.losses(similarities, structure.targets(similarities)).sum()
        assert_close(loss, f[f"s{s}/loss"], rtol=1e-8, atol=1e-10)
        assert bool(loss) == bool(f[f"s{s}/active"])
        silent += not loss
        structure.update(x.transpose(0, 1), e.transpose(0, 1))
        assert structure.seen == f[f"s{s}/seen_after"]
        assert_close(structure.queue_input, stack(f"s{s}/queue_in/{{}}"), rtol=1e-12, atol=0)
        assert_close(structure.queue_joint, plain(f"s{s}/queue_joint/{{}}"), rtol=1e-12, atol=0)
    assert silent == -(-L // int(f["B"])) < int(f["steps"])


@pytest.mark.parametrize("shapes", [SHAPES, {m: SHAPES[m] for m in ("video", "audio")}], ids=["three", "two"])
def test_all_pairs_with_their_weights(shapes):
    """The loss of a step, term by term: 9 pairs of three modalities, 4 of two, a tenth wherever there is audio."""
    torch.manual_seed(0)
    method = registry.build("multisk", shapes, **SIZES, logits="released").double()
    structure, names = method.structure, list(method.model.modalities)
    M = len(names)
    for queue in (structure.queue_input, structure.queue_joint):
        queue.copy_(unit(torch.randn_like(queue)))
    structure.seen += 20
    batch = {m: torch.randn(8, *shape).double() for m, shape in shapes.items()}
    batch |= {f"valid/{m}": torch.ones(8, shape[0], dtype=torch.bool) for m, shape in shapes.items()}
    state = method.encode(batch)
    found = method.losses(state)
    z, zh = unit(structure.anchors["input"]), unit(structure.anchors["joint"])
    total = {True: 0.0, False: 0.0}
    for i, m in enumerate(names):
        for j, n in enumerate(names):
            x, e = state.embeddings[m].input, state.embeddings[n].joint
            sides = [(x @ z[i].t(), structure.queue_input[i] @ z[i].t()),
                     (e @ zh[i].t(), structure.queue_joint[j] @ zh[i].t())]
            target = [soft_targets(multi_assignment(torch.cat([q, s]), 3))[20:] for s, q in sides]
            bce = torch.nn.functional.binary_cross_entropy_with_logits
            value = sum(bce(torch.exp(sides[k][0] / 0.1), target[1 - k]) for k in (0, 1))
            total[i == j] = total[i == j] + (0.1 if "audio" in (m, n) else 1.0) * value
            assert_close(state.targets.joint[j, i], target[1])
    assert_close(found["sspc/own"], total[True])
    assert_close(found["sspc/cross"], total[False])
    assert len([name for name in found if name.startswith("contrast")]) == M * (M - 1) // 2
    assert sum(method.pair_weights.values()) == pytest.approx(1)


def test_targets_carry_no_gradient():
    torch.manual_seed(0)
    method = registry.build("multisk", SHAPES, **SIZES)
    method.structure.seen += 20
    batch = {m: torch.randn(8, *shape) for m, shape in SHAPES.items()}
    batch |= {f"valid/{m}": torch.ones(8, 6, dtype=torch.bool) for m in SHAPES}
    state = method.encode(batch)
    assert not state.targets.input.requires_grad and not state.targets.joint.requires_grad
    sum(method.losses(state).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert all(p.grad.abs().max() > 0 for p in method.structure.parameters())


@pytest.mark.parametrize("assignment", ["multi", "top-r", "sinkhorn", "off"])
def test_every_assignment_learns(clips, tmp_path, assignment):
    out = run(clips, tmp_path / "run", "--assignment", assignment, "--epochs", "6", "--lr", "3e-3")
    table = rows(out)
    first, last = table[0], table[-1]
    kinds = {name.split("/")[1] for name in first if name.startswith("loss/")}
    assert kinds == {"contrast", "total"} | ({"sspc"} if assignment != "off" else set())
    before, after = (sum(row[name] for name in row if name.startswith("loss/contrast")) for row in (first, last))
    assert after < 0.8 * before
    if assignment != "off":
        assert [row["loss/sspc/own"] == row["loss/sspc/cross"] == 0 for row in table] == [True] * 3 + [False] * 27
        assert last["loss/sspc/cross"] < table[3]["loss/sspc/cross"]
        use = [last[name] for name in last if name.startswith("anchors/usage")]
        assert len(use) == 6 and all(0 < value <= 1 + 1e-6 for value in use)
        assert assignment == "top-r" or min(use) > 0.9
    model = cmg.load_pretrained(out)
    assert model.method == "multisk" and model.offers == ("vectors",)


def test_usage_is_the_entropy_over_log_k():
    structure = Structure(["video", "audio"], MultiSKConfig(structure=AnchorConfig(anchors=4, queue=4)))
    inputs, joint = torch.zeros(2, 2, 4), torch.zeros(2, 2, 2, 4)
    inputs[0, 0, 0] = inputs[1, 0, 1] = 1  # video: two of four anchors
    inputs[:, 1] = 1  # audio: all
    joint[:, 0, 0, 0] = 1
    joint[:, 1, 1, :2] = 1
    joint[:, 0, 1, 3] = 1  # of another modality: is not looked at
    found = structure.metrics(Sides(inputs, joint))
    assert {key: round(value.item(), 5) for key, value in found.items()} == {
        ("input", "video"): 0.5, ("input", "audio"): 1.0, ("joint", "video"): 0.0, ("joint", "audio"): 0.5}


# -- whole runs ------------------------------------------------------------------------------------------------------


def test_missing_modalities_and_ragged_steps(ragged, tmp_path):
    out = run(ragged, tmp_path / "run", "--epochs", "4")
    assert all(np.isfinite(list(row.values())).all() for row in rows(out))
    model, features = cmg.load_pretrained(out), FeatureSet(ragged)
    tokens = model.encode(features)
    assert {m: tuple(t.vectors.shape) for m, t in tokens.items()} == {m: (40, s[0], 12) for m, s in MAPS.items()}
    batch = features.__getitems__(range(40))
    embedded = model.embed("text", batch["text"], batch["valid/text"])
    assert torch.equal(~embedded.present, torch.arange(40) % 3 == 0)


def test_a_batch_without_common_clips_is_no_nan():
    method = registry.build("multisk", SHAPES, **SIZES)
    batch = {m: torch.randn(8, *shape) for m, shape in SHAPES.items()}
    batch |= {f"valid/{m}": torch.ones(8, 6, dtype=torch.bool) for m in SHAPES}
    batch["valid/text"][:] = False
    found = method.losses(method.encode(batch))
    assert found["contrast/vt"] == found["contrast/at"] == 0 and found["contrast/va"] > 0
    sum(found.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@pytest.mark.slow
def test_kill_9_and_resume_are_bit_identical(ragged, tmp_path):
    """Queues, their counter and the moments of audio's norms are part of the checkpoint."""
    flags = ["--epochs", "40", "--save-every", "1e-6", "--checkpoint-epochs", "40"]
    whole, out = run(ragged, tmp_path / "whole", *flags), tmp_path / "killed"
    state = killed_and_resumed(argv(ragged, out, *flags), out, 200)
    assert "structure.queue_joint" in state["method"]
    same_weights(whole, out)
    assert [row["loss/total"] for row in rows(whole)] == [row["loss/total"] for row in rows(out)]


def curve(clips, *flags, backend=None):
    """Losses, gradient norms and usage of 12 steps in float64, and the state after them."""
    trainer = trainer_of(clips, "--epochs", "4", *flags)
    if backend:
        trainer.compile(backend)
    found = [torch.stack([*losses.values(), norm, *trainer.method.metrics(carried).values()])
             for losses, carried, norm in steps_of(trainer, 12)]
    return torch.stack(found), trainer.method.state_dict()


def rank_of_two(rank, clips, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}", rank=rank, world_size=2)
    for parts in "12":
        torch.save(curve(clips, "--accumulate", parts), f"{out}.{parts}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one(ragged, tmp_path):
    """Losses, weights, queues and the moments of norms, with micro-batches as well."""
    mp.spawn(rank_of_two, (ragged, str(tmp_path / "ranks")), nprocs=2)
    for parts in "12":
        expected, alone = curve(ragged, "--accumulate", parts)
        for rank in (0, 1):
            losses, state = torch.load(tmp_path / f"ranks.{parts}.{rank}", weights_only=True)
            assert_close(losses, expected, rtol=1e-8, atol=1e-8)
            for name, value in state.items():
                assert_close(value, alone[name], rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("assignment", ["multi", "sinkhorn"])
def test_a_traced_step_is_the_step(ragged, assignment):
    flags = ["--assignment", assignment]
    try:
        assert_close(curve(ragged, *flags, backend="aot_eager")[0], curve(ragged, *flags)[0], rtol=1e-8, atol=1e-8)
    finally:
        torch._dynamo.config.allow_rnn = False
        torch.compiler.reset()


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_the_released_preset_has_the_released_size():
    """892,771,074 parameters less those that the public code makes and never uses: the biases of anchors and what it
    calls anc_dist (2 · 3 · 64 each), the audio front's first norm (2), the towers' last norms (3 · 8192), and the mask
    tokens of video and audio (2 · 4096): 33,538."""
    shapes = {"video": (12, 4096), "audio": (12, 64, 40), "text": (20, 300)}
    with torch.device("meta"):
        method = registry.build("multisk", shapes, "released")
    number = sum(p.numel() for p in method.parameters())
    assert number == 892_771_074 - 2 * (2 * 3 * 64) - 2 - 3 * 8192 - 2 * 4096
    assert sum(p.numel() for p in method.model.towers["audio"].front.parameters()) == 314_710_018 - 2
    assert sum(p.numel() for p in method.structure.parameters()) == 1_966_080
    config = registry.configured(type(method), "released")
    assert flat(config)["queue"] == 5500 and config.structure.picks == 32


def test_settings_that_make_no_sense_are_one_line(clips, ragged, tmp_path, capsys):
    def line(*flags, data=clips):
        found = refused(capsys, *argv(data, tmp_path / "run", *flags))
        assert not (tmp_path / "run").exists()
        return found

    assert line("--queue", "7").endswith("--queue 7: holds less than the 8 clips of a batch; expected at least 8")
    assert "--anchor-share 0.1: a clip would select 0 of 6 anchors; expected 1 to 5" in line("--anchor-share", "0.1")
    assert "modality 'sound': unknown" in line("--weak", "sound")
    assert "needs at least 2" in line("--modalities", "video")
    assert "audio clips have 6 × 4 frames; MultiSK's convolutions need a multiple of 16" in line(
        "--mel-widths", *"44444", "--mel-blocks", *"1111", data=ragged)
    with pytest.raises(UserError, match="--anchor-share: '1' is not a number above 0 and below 1"):
        AnchorConfig(anchor_share=1)  # r = K


def test_args_json_says_all(clips, tmp_path):
    out = run(clips, tmp_path / "run", "--max-steps", "1", "--modalities", "video", "audio")
    flags = json.loads((out / "args.json").read_text())["flags"]
    assert (flags["preset"], flags["logits"], flags["assignment"], flags["anchors"]) == ("small", "fixed", "multi", 6)
