"""UniQ4Cap's two stages: what they learn, on one process and on two, stopped and resumed; what they refuse."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import cmg
from cmg.data.features import FeatureSet
from cmg.data.synthetic_captions import vocabulary
from cmg.distributed import finish
from cmg.methods import registry
from cmg.methods.uniq4cap.captions import one_caption
from cmg.models.uniq4cap.encoders import spared
from cmg.models.uniq4cap.generation import WritingConfig
from cmg.optimisation import OptimiserConfig
from cmg.pretrain import main
from cmg.training.loop import Trainer
from cmg.training.run_config import RunConfig
from support import environment, free_port, killed_and_resumed, refused, same_weights, without_dropout
from support_captions import ALIGNED, TINY, flags, write_captioned


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("captioned") / "clips.h5")


def stage(method, clips, out, *more):
    sizes = ALIGNED if method == "prealign" else {**ALIGNED, **TINY}
    main(["--data", clips, "--method", method, "--out", str(out), "--device", "cpu", "--batch-size", "8",
          "--epochs", "2", "--log-every", "1", *flags(sizes), *more])
    return out


def trainer_of(clips, method, **changed):
    """A trainer without dropout, in float64; `changed` are settings of the method, of the optimiser and of the run."""
    kind, features = registry.find(method), FeatureSet(clips)
    recipe = registry.recipe_of(kind)
    method_names = set(registry.configured(kind).__dataclass_fields__) | {*TINY, *ALIGNED, "caption_dropout",
                                                                         "aligned_dropout"}
    config = registry.configured(kind, None, {k: v for k, v in changed.items() if k in method_names})
    config = kind.settled(config, features)
    optimiser = OptimiserConfig(**{**{k: getattr(recipe.optimiser, k) for k in OptimiserConfig.__dataclass_fields__},
                                   **{k: v for k, v in changed.items() if k in OptimiserConfig.__dataclass_fields__}})
    torch.manual_seed(0)
    built = without_dropout(kind(features.shapes, config)).double().train()
    run = RunConfig(epochs=changed.get("epochs", 1))
    return Trainer(built, features, run, optimiser, ".", torch.device("cpu"), {"method": method})


def steps(trainer, number):
    found = []
    while len(found) < number:
        for batch in trainer.loader():
            batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
            losses, carried, norm = trainer.train_step(batch)
            found.append(torch.stack([*losses.values(), norm, *trainer.method.metrics(carried).values()]).double())
            trainer.step += 1
            if len(found) == number:
                break
        trainer.epoch += 1
    return torch.stack(found)


# -- what they learn ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clips_are_learnt_by_heart(tmp_path):
    """Greedy captions of 32 clips are their own, word by word; those of clips whose sight and sound are others' are
    not, which shows that they are read."""
    trainer = trainer_of(write_captioned(tmp_path / "a.h5", captions=1), "uniq4cap", encoders="none", **{
        **TINY, "caption_width": 32, "caption_hidden": 64}, batch_size=32, lr=5e-3, weight_decay=0.0, warmup_steps=10,
        epochs=200, w_mtm=0.0, w_mtc=0.0)
    steps(trainer, 200)
    features, model = trainer.features, trainer.method.kept().eval()
    model.vocabularies = features.vocabularies
    batch = features.__getitems__(range(32))
    seen = {m: batch[m].double() for m in ("video", "audio")}
    wanted = features.vocabularies["text"].sentences(batch["text"][:, 0].tolist())
    writing = WritingConfig(beams=1, max_length=22)
    assert model.describe(seen, writing=writing) == wanted
    dealt = {m: x.roll(1, 0) for m, x in seen.items()}
    assert model.describe(dealt, writing=writing) == wanted[-1:] + wanted[:-1]


@pytest.mark.slow
def test_hard_rivals_are_told_apart(tmp_path):
    """MTM with rivals that MTC drew: a dozen pairs are all judged rightly, where two thirds are what "never" gets."""
    trainer = trainer_of(write_captioned(tmp_path / "a.h5", n=12, captions=1), "uniq4cap", encoders="none", **{
        **TINY, "caption_width": 32, "caption_hidden": 64}, batch_size=12, lr=5e-3, warmup_steps=10, epochs=160,
        w_mgm=0.0)
    judged = steps(trainer, 160)[:, -1]
    assert judged[:10].mean() < 0.7 and judged[-10:].mean() > 0.98


def test_clips_with_the_same_caption_are_no_rivals(tmp_path):
    """Neither the caption nor the clip, by any of its captions; where nothing else is left, nothing is judged. The
    release takes them all."""
    trainer = trainer_of(write_captioned(tmp_path / "a.h5", n=8), "uniq4cap", encoders="none", **TINY, batch_size=8)
    method = trainer.method
    batch = {k: v.double() if v.is_floating_point() else v for k, v in trainer.features.__getitems__(range(8)).items()}
    batch["text"][1:] = batch["text"][:1]  # one and the same clip, but for the last one
    batch["text"][7, :, 1] = 5

    def state_of(rivals):
        object.__setattr__(method.config, "rivals", rivals)
        state = method.encode(batch)
        state["ids"] = batch["text"][:, 0].long()
        return state

    state = state_of("different")
    seen, judge = [], method.model.matching
    method.model.matching = lambda source, exists, ids: seen.append((source, ids)) or judge(source, exists, ids)
    found = method.matching(state, torch.zeros(8, 8), torch.zeros(8, 8))
    (source, ids), last = seen[0], state["source"][7]
    assert all(torch.equal(one, last) for one in source[8:15]) and (ids[16:23, 1] == 5).all()
    assert not torch.equal(source[15], last) and ids[23, 1] != 5 and state["rivalled"].all()
    batch["text"][7] = batch["text"][0]
    state = state_of("different")
    alone = method.matching(state, torch.zeros(8, 8), torch.zeros(8, 8))
    assert state["rivalled"].sum(0).tolist() == [8, 0, 0] and not torch.equal(alone, found)
    logits = judge(state["source"], state["exists"], state["ids"])
    torch.testing.assert_close(alone, torch.nn.functional.cross_entropy(logits, torch.ones(8).long()))
    assert method.metrics(method.carry(state))["matching/accuracy"] == logits.argmax(1).double().mean()
    state = state_of("all")
    method.matching(state, torch.zeros(8, 8), torch.zeros(8, 8))
    assert state["rivalled"].all()


def test_stage_two_starts_from_stage_one(clips, tmp_path):
    stage("prealign", clips, tmp_path / "aligned")
    aligned = cmg.load_pretrained(tmp_path / "aligned")
    trainer = trainer_of(clips, "uniq4cap", **TINY, **ALIGNED, batch_size=8)
    missing, extra = trainer.method.kept().load_state_dict(aligned.state_dict(), strict=False)
    assert all(name.startswith("encoders.text.") for name in extra)  # all else has its place
    assert not any(name.startswith("encoders.") for name in missing)
    before = {name: x.clone() for name, x in trainer.method.kept().encoders.state_dict().items()}
    moved = trainer.method.kept().transformer.word.weight.clone()
    steps(trainer, 3)
    assert all(torch.equal(x, before[name]) for name, x in trainer.method.kept().encoders.state_dict().items())
    assert not torch.equal(moved, trainer.method.kept().transformer.word.weight)
    assert trainer.method.training and not any(part.training for part in trainer.method.kept().encoders.modules())


def test_no_decay_on_norms_and_biases(clips):
    trainer = trainer_of(clips, "uniq4cap", encoders="none", **TINY, batch_size=8)
    kept, free = trainer.optimizer.param_groups
    assert kept["weight_decay"] == 0.05 and free["weight_decay"] == 0
    assert {p.dim() for p in free["params"]} == {0, 1} and min(p.dim() for p in kept["params"]) == 2


def test_tokens_are_dropped_of_what_is_there():
    there = torch.tensor([[True] * 8, [True] * 3 + [False] * 5, [True] + [False] * 7, [False] * 8])
    kept = spared(there, torch.rand(4, 8), 0.5)
    assert kept.sum(1).tolist() == [4, 2, 1, 0] and not (kept & ~there).any()
    often = torch.stack([spared(there[:1], torch.rand(1, 8), 0.5)[0] for _ in range(2000)]).float().mean(0)
    assert (often - 0.5).abs().max() < 0.06


def test_one_of_the_captions_that_exist_is_drawn():
    ids = torch.arange(4).view(1, 4, 1).expand(900, -1, 2)
    exists = torch.tensor([True, False, True, True]).expand(900, -1)
    found, which = one_caption(ids, exists)
    assert torch.equal(found[:, 0], which)
    assert (which.bincount(minlength=4) / 900 - torch.tensor([1, 0, 1, 1]) / 3).abs().max() < 0.06


# -- several processes, kill and resume --------------------------------------------------------------------------------


CASES = {"prealign": {**ALIGNED}, "seconds": {**ALIGNED, "bag": "seconds"}, "uniq4cap": {**TINY, "encoders": "none"}}


def method_of(case):
    return "uniq4cap" if case == "uniq4cap" else "prealign"


def curve(clips, case):
    trainer = trainer_of(clips, method_of(case), batch_size=8, **CASES[case])
    found = steps(trainer, 6)
    return found, {name: x.clone() for name, x in trainer.method.state_dict().items()}


def rank_of_two(rank, size, port, clips, out):
    os.environ.update(environment(rank, size, port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for case in CASES:
        torch.save(curve(clips, case), f"{out}.{case}.{rank}")
    finish()


@pytest.fixture(scope="module")
def both_ranks(clips, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("ranks") / "found")
    mp.spawn(rank_of_two, (2, free_port(), clips, out), nprocs=2)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(clips, both_ranks, case):
    """Losses, gradient norms, MTM's judgements on hard rivals, and weights of 6 steps."""
    (losses, state), (others, twin) = (torch.load(f"{both_ranks}.{case}.{rank}", weights_only=True) for rank in (0, 1))
    assert torch.equal(losses, others) and all(torch.equal(value, twin[key]) for key, value in state.items())
    expected, alone = curve(clips, case)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
    for key, value in state.items():
        torch.testing.assert_close(value, alone[key], rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prealign", "uniq4cap"])
def test_kill_and_resume(clips, tmp_path, method):
    """Killed with kill -9: the same bits as a run that was left alone."""
    more = ["--epochs", "40", "--checkpoint-epochs", "1", *([] if method == "prealign" else ["--encoders", "none"])]
    whole, part = tmp_path / "whole", tmp_path / "part"
    stage(method, clips, whole, *more)
    sizes = ALIGNED if method == "prealign" else {**ALIGNED, **TINY}
    killed_and_resumed(["--data", clips, "--method", method, "--out", str(part), "--device", "cpu", "--batch-size", "8",
                        "--log-every", "1", *flags(sizes), *more], part, 160)
    same_weights(whole, part)


@pytest.mark.parametrize("method", ["prealign", "uniq4cap"])
def test_a_stopped_run_goes_on_to_the_same_bits(clips, tmp_path, method):
    more = [] if method == "prealign" else ["--encoders", "none"]
    whole = stage(method, clips, tmp_path / "whole", *more, "--schedule", "constant")
    part = tmp_path / "part"
    stage(method, clips, part, *more, "--schedule", "constant", "--max-steps", "5")
    stage(method, clips, part, *more, "--schedule", "constant", "--resume", "auto")
    same_weights(whole, part)


# -- what is kept and refused ------------------------------------------------------------------------------------------


def test_what_is_kept(clips, tmp_path):
    out = stage("uniq4cap", clips, tmp_path / "run", "--encoders", "none")
    model = cmg.load_pretrained(out)
    assert model.offers == ("vectors", "sentences", "matching") and model.vocabularies["text"] == vocabulary(6)
    tokens = model.encode(clips)
    assert {m: tuple(t.vectors.shape) for m, t in tokens.items()} == {
        "video": (32, 6, 8), "audio": (32, 6, 8), "text": (32, 2, 8)}
    torch.testing.assert_close(tokens["text"].vectors.norm(dim=-1), torch.ones(32, 2))
    batch = FeatureSet(clips).__getitems__(range(3))
    for seen in (["video"], ["audio"], ["video", "audio"]):
        said = model.describe({m: batch[m] for m in seen})
        assert len(said) == 3 and all(isinstance(one, str) for one in said)


@pytest.mark.parametrize(("more", "message"), [
    (["--modalities", "video", "audio"], "needs text as well"),
    (["--vocabulary", "9"], "--vocabulary 9: that of --data has"),
    (["--caption-words", "8"], "captions of --data have 22 pieces; expected 22 at least"),
    (["--caption-heads", "3"], "--caption-width 16: expected a multiple of --caption-heads 3"),
    (["--w-mtc", "0", "--w-mtm", "0", "--w-mgm", "0"], "nothing to learn from"),
    (["--encoders", "aligned"], "has learnt nothing; expected --init-from"),
])
def test_refusals(clips, tmp_path, capsys, more, message):
    sizes = flags({**TINY, **ALIGNED})
    line = refused(capsys, "--data", clips, "--method", "uniq4cap", "--out", str(tmp_path / "run"), "--device", "cpu",
                   "--batch-size", "8", *sizes, "--encoders", "none", *more)
    assert message in line


def test_a_clip_without_captions_is_named(tmp_path, capsys):
    clips = write_captioned(tmp_path / "clips.h5", absent=[7])
    line = refused(capsys, "--data", clips, "--method", "prealign", "--out", str(tmp_path / "run"))
    assert "'clip7' has no caption; --method prealign needs one of every clip" in line
