"""Methods and their composition: what each is made of, that it trains, resumes, loads, and what it refuses."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import cmg
from cmg.configs import flat
from cmg.data.features import FeatureSet
from cmg.distributed import seed_shared
from cmg.errors import UserError
from cmg.methods.registry import SYSTEMS, available, build, find, recipe_of
from support import (
    SHAPES,
    SMALL,
    interrupt_after,
    make_method,
    refused,
    rows,
    run,
    same_weights,
    settings_of,
    trainer_of,
    write_clips,
)

RIVALS = ("smit", "mst", "codis", "turn", "cmcm")
OTHERS = ("micu", "codaar", "fcid", "srcid", "simmmdg", "codebind", "aha", "onecode")
COMPOSED = tuple(f"dcid+{name}" for name in RIVALS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5"))


def settings_for(method, *flags):
    return settings_of("--preset", "paper", "--method", method, *flags)


def made(method, *flags, modalities=("video", "audio"), seed=0):
    torch.manual_seed(seed)
    built = make_method(settings_for(method, *flags), {m: SHAPES[m] for m in modalities})
    built.begin_epoch(9, 10)
    return built


def batch_of(clips, modalities, n=8):
    return FeatureSet(clips, list(modalities)).__getitems__(list(range(n)))


def losses_of(method, batch):
    torch.manual_seed(0)
    seed_shared(0, 0)
    return method.losses(method.encode(batch))


# -- what a method is made of ----------------------------------------------------------------------------------------


def test_every_file_is_a_method():
    assert set(available()) - set(SYSTEMS) == {"baseline", *RIVALS, "dcid", "unicode", *OTHERS}


@pytest.mark.parametrize("name", RIVALS)
def test_dcid_adds_its_terms_and_nothing_else(name):
    plain, composed = made(name), made(f"dcid+{name}")
    assert set(plain.terms) == {"rec", "commit", name}
    assert set(composed.terms) == {"rec", "commit", "club", "cpc", name}
    assert plain.model.state_dict().keys() == composed.model.state_dict().keys()
    for method, reset in ((plain, "any"), (composed, "both")):
        book = method.model.codebook
        assert (book.mm_ema, book.reset) == ("off", reset) and method.terms["commit"].timed == ()


@pytest.mark.parametrize("name", RIVALS)
def test_a_term_is_worth_the_same_in_any_company(clips, name):
    """On the same weights, X's losses in `dcid+X` are those in `X`."""
    plain, composed = made(name).eval(), made(f"dcid+{name}", seed=1).eval()
    composed.load_state_dict(plain.state_dict(), strict=False)
    batch = batch_of(clips, SHAPES.keys() - {"text"})
    a, b = losses_of(plain, batch), losses_of(composed, batch)
    assert b.keys() - a.keys() == {"club/audio", "club/video", "cpc/a2v", "cpc/v2a"}
    for key in a:
        assert_close(a[key], b[key], rtol=1e-6, atol=1e-7)


def test_dcid_with_cmcm_is_unicode_without_mm_ema(clips, tmp_path):
    """As in the paper, whose two rows are equal in every cell: here to the last bit, over two epochs."""
    a = run(clips, tmp_path / "a", "--method", "dcid+cmcm", "--preset", "paper")
    b = run(clips, tmp_path / "b", "--preset", "paper", "--mm-ema", "off", "--commitment", "own")
    same_weights(a, b)
    assert [row["loss/total"] for row in rows(a)] == [row["loss/total"] for row in rows(b)]


def test_presets_set_what_a_method_has():
    def defaults(preset, method):
        return flat(recipe_of(find(method), preset).method)

    small = defaults("small", "smit")
    assert small["codes"] == 128 and small["text_alignment"] == "clip" and small["w_smit"] == 1
    assert {k for k, v in small.items() if k.startswith("w_") and v} == {"w_rec", "w_commit", "w_smit"}
    composed = defaults("small", "dcid+smit")
    assert composed["cpc_temperature"] == 0.1 and composed["w_align"] == 0 and composed["mm_ema"] == "off"
    assert composed["reset"] == "both" and defaults("official", "dcid+smit")["reset"] == "any"
    assert defaults("official", "unicode")["mm_ema"] == "aligned" and defaults("paper", "unicode")["w_align"] == 0
    assert defaults("paper", "mst")["transformer"] == "shared" and composed["transformer"] == "own"
    assert settings_for("mst", "--reset", "off").method.codebook.reset == "off"


# -- what runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modalities", [("audio", "video"), ("video", "text"), tuple(SHAPES)],
                         ids=lambda m: "".join(x[0] for x in m))
@pytest.mark.parametrize("method", ["baseline", *COMPOSED, *OTHERS])
def test_steps_are_finite_and_reach_every_parameter(clips, method, modalities):
    batch = batch_of(clips, modalities)
    takes = find(method).objectives[method.split("+")[-1]].alignments
    for text in takes if "text" in modalities else takes[:1]:
        trainer = trainer_of(clips, "--preset", "paper", "--method", method, "--text-alignment", text, "--reset-after",
                             "1", "--modalities", *modalities)
        built = trainer.method
        for trainer.step in range(2):
            losses, _, norm = trainer.train_step(batch)
            assert all(v.isfinite() for v in losses.values()) and norm.isfinite()
        assert all(p.grad is not None for p in built.trained_parameters())
        assert built.model.codebook.embedding.isfinite().all() and int(built.model.codebook.skipped) == 0


@pytest.mark.parametrize("name", ["rec", "commit", "club", "cpc", "cmcm", "align", *RIVALS[:-1], "fcmi", "cujp"])
def test_every_term_descends_in_twenty_steps(clips, name):
    """Alone, on one small batch, with everything that it trains."""
    built = made("unicode+smit+mst+codis+turn+micu", "--w-align", "1", "--specific-steps", "0").eval()
    batch, term, values = batch_of(clips, ("video", "audio")), built.terms[name], []
    if name == "club":  # the bound means nothing before its estimator knows the pair
        for _ in range(20):
            term.fit(built.encode(batch))
    optimizer = torch.optim.Adam(built.trained_parameters(), 3e-3)
    for _ in range(21):
        seed_shared(0, 0)
        loss = sum(term(built.encode(batch)).values())
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < values[0] - 0.1 * abs(values[0]) * (name not in ("cmcm", "cujp")), values  # on plateaus


@pytest.mark.parametrize("modalities", [("video", "audio"), ("audio", "text")])
@pytest.mark.parametrize("method", ["dcid+smit", "mst", "codis", "turn", "cmcm", "unicode", *OTHERS])
def test_padding_is_seen_by_no_loss(clips, method, modalities):
    built = made(method, modalities=modalities).eval()
    batch = batch_of(clips, modalities)
    batch["valid/audio"][:3, 4:] = False
    batch["valid/audio"][5] = False
    batch[f"valid/{modalities[0]}"][2, 5:] = False
    batch[f"valid/{modalities[1]}"][6] = False
    other = {k: v.clone() for k, v in batch.items()}
    for m in modalities:
        other[m][~other[f"valid/{m}"]] = 50.0
    for key, value in losses_of(built, batch).items():
        # A clip without any step attends to what there is; nothing may come of it.
        assert_close(losses_of(built, other)[key], value, rtol=1e-5, atol=1e-6, msg=key)
    sum(losses_of(built, batch).values()).backward()
    assert all(p.grad.isfinite().all() for p in built.parameters() if p.grad is not None)


@pytest.mark.parametrize("method", ["smit", "mst", "codis", "turn"])
def test_three_modalities_take_the_mean_over_pairs(clips, method):
    """The three pairs alone, on the same weights, average to what all three together give."""
    names = ("audio", "video", "text")
    built = made(method, modalities=names).eval()
    term, batch = built.terms[method], batch_of(clips, names)
    state = built.encode(batch)
    seed_shared(0, 0)
    together = sum(term(state).values())
    alone = []
    for left_out in names:
        part = copy.copy(state)
        kept = [m for m in names if m != left_out]
        for field in ("features", "semantic", "quantized", "valid"):
            setattr(part, field, {m: v for m, v in getattr(state, field).items() if m in kept})
        lone = copy.deepcopy(term)
        for held in ("heads", "teacher", "fillers"):
            if hasattr(lone, held):
                setattr(lone, held, torch.nn.ModuleDict({m: v for m, v in getattr(lone, held).items() if m in kept}))
        seed_shared(0, 0)
        alone.append(sum(lone(part).values()))
    tolerance = 0.2 if method == "turn" else 1e-5  # which steps are hidden is drawn anew
    assert together.item() == pytest.approx(sum(alone).item() / 3, rel=tolerance)


def test_codis_does_not_pair_words_with_seconds(clips):
    names = ("audio", "text")
    built = made("codis", "--text-alignment", "clip", modalities=names).eval()
    state = built.encode(batch_of(clips, names))
    before = built.terms["codis"](state)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    taught = built.terms["codis"].teacher["text"]
    built.terms["codis"].teacher["text"] = Reordered(taught, order)
    state.semantic["text"], state.valid["text"] = state.semantic["text"][:, order], state.valid["text"][:, order]
    for key, value in built.terms["codis"](state).items():
        assert_close(value, before[key], rtol=1e-5, atol=1e-6)


class Reordered(torch.nn.Module):
    """A Φ whose steps come in another order."""

    def __init__(self, inner, order):
        super().__init__()
        self.inner, self.order = inner, order

    def inputs(self, x, valid):
        return self.inner.inputs(x, valid[:, self.order.argsort()])

    def forward(self, x, valid):
        return self.inner(x, valid[:, self.order.argsort()])[:, self.order]


def test_the_learnt_temperature_comes_back_from_its_bound(clips):
    """Clips that do not find their partners ask for a smaller scale, also where a step has just gone beyond 100."""
    built = made("mst").eval()
    term, state = built.terms["mst"], built.encode(batch_of(clips, ("video", "audio")))
    state.semantic["video"] = -state.semantic["audio"].detach()
    term.log_scale.data.fill_(4.7)
    built.update(built.carry(state))
    assert term.log_scale.item() == pytest.approx(4.60517)
    sum(term(state).values()).backward()
    assert term.log_scale.grad.item() > 1


@pytest.mark.parametrize("modalities, same", [(("video", "text"), True), (("video", "audio"), False)])
def test_onecode_is_infonce_where_only_one_modality_has_seconds(clips, modalities, same):
    """With commitment to own codes; two that have them share a code, and only commitment knows."""
    plain = ["--w-rec", "0", "--w-club", "0", "--w-cpc", "0", "--w-cmcm", "0", "--mm-ema", "off", "--commitment", "own",
             "--w-align", "1", "--align-temperature", "0.05", "--w-commit", "0.25",
             "--text-alignment", "clip"]
    batch = batch_of(clips, modalities)
    found, expected = (losses_of(made(*args, modalities=modalities), batch) for args in (
        ("onecode",), ("unicode", *plain)))
    assert {name.replace("onecode/", "align/") for name in found} == set(expected)
    for name, value in found.items():
        equal = torch.equal(value, expected[name.replace("onecode/", "align/")])
        assert equal == (same or name.startswith("onecode/")), name


@pytest.mark.parametrize("method", ["smit+codis", "mst+turn", *OTHERS])
def test_bf16_stays_near_fp32(clips, method):
    built, batch = made(method).eval(), batch_of(clips, ("video", "audio"))
    exact = losses_of(built, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = losses_of(built, batch)
    for key, value in exact.items():
        assert rough[key].item() == pytest.approx(value.item(), rel=0.05, abs=0.01), key


def test_likelihood_steps_are_the_same_in_bf16(clips):
    """Autocast's copies of the weights outlive a step; the estimators go where they go without it, and so do the
    bounds that are read from them."""
    found, state = [], made("dcid").eval().encode(batch_of(clips, ("video", "audio")))
    for enabled in (False, True):
        term = made("dcid").terms["club"]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            term.fit(state)
            bounds = torch.stack(list(term(state).values())).detach()
        found.append(torch.cat([bounds, *(p.detach().flatten() for p in term.estimators.parameters())]))
    assert torch.equal(*found)


# -- state -----------------------------------------------------------------------------------------------------------


def test_teacher_follows_with_momentum(clips):
    built = made("codis+mst").train()
    term, batch = built.terms["codis"], batch_of(clips, ("video", "audio"))
    before = [p.clone() for p in term.teacher.parameters()]
    assert len(before) == len(list(built.model.semantic.parameters()))  # shared weights are one there, too
    assert not term.teacher.training and term.training
    assert not {id(p) for p in term.teacher.parameters()} & {id(p) for p in built.trained_parameters()}
    with torch.no_grad():
        for p in built.model.semantic.parameters():
            p.add_(1.0)
    built.update(built.carry(built.encode(batch)))
    for old, new in zip(before, term.teacher.parameters()):
        assert_close(new, old + (1 - term.momentum), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["codis", "dcid+turn", "mst", *OTHERS])
def test_resume_is_bit_exact(clips, tmp_path, method):
    flags = ["--method", method, "--save-every", "1e-6"]
    whole = run(clips, tmp_path / "whole", *flags)
    interrupt_after(clips, tmp_path / "part", 4, flags)
    run(clips, tmp_path / "part", *flags, "--resume", "auto")
    same_weights(whole, tmp_path / "part")


def test_shared_transformer_is_shared_and_loads(clips, tmp_path):
    out = run(clips, tmp_path / "run", "--method", "dcid+mst", "--epochs", "1")
    model = cmg.load_pretrained(out)
    audio, video = (model.semantic[m].temporal for m in ("audio", "video"))
    for a, v in zip(audio.encoder.layers, video.encoder.layers):
        assert a.self_attn is v.self_attn and a.linear1 is v.linear1 and a.linear2 is v.linear2
        assert a.norm1 is not v.norm1 and not torch.equal(a.norm1.weight, v.norm1.weight)
    own = cmg.load_pretrained(run(clips, tmp_path / "own", "--method", "dcid", "--epochs", "1"))
    sizes = [sum(p.numel() for p in m.semantic.parameters()) for m in (model, own)]
    layer = 4 * 16 * 16 + 4 * 16 + 2 * 16 * 1024 + 1024 + 16  # attention and feed-forward of a layer
    assert sizes[1] - sizes[0] == 2 * layer - 3 * (16 * 16 + 16)  # two copies saved, three projections added
    record = json.loads((out / "args.json").read_text())
    assert record["parameters_kept"] == sizes[0] and record["flags"]["transformer"] == "shared"

    batch = batch_of(clips, SHAPES)
    built = make_method(settings_of("--method", "dcid+mst")).eval()
    content = torch.load(out / "latest.pt", weights_only=True)
    built.load_state_dict({f"model.{k}": v for k, v in content["model"].items()} | content["method"])
    state = built.encode(batch)
    for m in SHAPES:
        assert torch.equal(model.encode_modality(m, batch[m], batch[f"valid/{m}"]).codes, state.quantized[m].codes)


def test_checkpoints_from_before_methods_load_and_resume(clips, tmp_path):
    """Their flags lack those that came later, which then hold what they always did."""
    out = run(clips, tmp_path / "run", "--epochs", "1")
    content = torch.load(out / "latest.pt", weights_only=True)
    later = {k for k in content["args"] if k.endswith(("smit", "mst", "codis", "turn")) or k in
             ("transformer", "commitment", "smit_temperature", "mst_temperature", "codis_temperature",
              "turn_temperature")}
    for name in later:
        del content["args"][name]
    torch.save(content, out / "latest.pt")
    assert cmg.load_pretrained(out / "latest.pt").modalities == ("audio", "video", "text")
    run(clips, out, "--resume", "auto")
    same_weights(out, run(clips, tmp_path / "whole"))


@pytest.mark.parametrize("method, key", [("dcid+turn", "turn/a2v"), ("micu", "fcmi/fine_audio"),
                                         ("codaar", "cpc/a2a"), ("fcid", "coarse_club/timed"),
                                         ("srcid", "second/club_audio"), ("codebind", "cmcm/av"),
                                         ("aha", "adversary/video")])
def test_released_arithmetic_takes_other_methods_too(clips, method, key):
    built = made(method, "--preset", "official")
    ids = [id(p) for group in built.clip_groups() for p in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in built.trained_parameters()}
    losses = losses_of(built, batch_of(clips, ("video", "audio")))
    assert all(v.isfinite() for v in losses.values()) and key in losses


def test_vclub_of_a_map_trains_and_resumes(clips, tmp_path):
    """Two epochs at once and in two goes. Of a 5×5 grid Ψ's map is one cell, so that mean and map are the same."""
    flags = ("--preset", "paper", "--modalities", "video", "audio", "--specific-steps", "3", "--club-reads", "map")
    whole = run(clips, tmp_path / "whole", *flags)
    interrupt_after(clips, tmp_path / "parts", 6, flags)
    same_weights(whole, run(clips, tmp_path / "parts", *flags, "--resume", "auto"))
    mean = run(clips, tmp_path / "mean", *flags[:-1], "mean")
    assert [row["loss/total"] for row in rows(mean)] == pytest.approx([row["loss/total"] for row in rows(whole)])


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, words", [
    (["--method", "mst", "--w-club", "1"], ["--w-club 1.0", "dcid", "not part of --method mst"]),
    (["--method", "smit", "--mm-ema", "attention"], ["--mm-ema attention", "unicode", "--method smit"]),
    (["--method", "dcid+turn", "--commitment", "cross"], ["--commitment cross", "unicode"]),
    (["--w-smit", "1"], ["--w-smit 1.0", "belongs to smit"]),
    (["--method", "codis", "--cpc-steps", "2"], ["--cpc-steps 2", "dcid"]),
    (["--preset", "official", "--club-reads", "map"], ["--club-reads map", "expected mean with --equations released"]),
    (["--method", "micu", "--cujp-parts", "3"], ["--cujp-parts 3: expected a divisor of --dim 16, at most 8"]),
    (["--method", "micu", "--cujp-orders", "3"], ["--cujp-orders 3: 2 parts have 2 orders"]),
    (["--method", "codaar+turn"], ["--method codaar+turn: codaar has a codebook of its own kind; expected it alone"]),
    (["--method", "codaar", "--text-alignment", "clip"], ["codaar takes words as seconds; expected step"]),
    (["--method", "fcid", "--text-alignment", "step"], ["fcid takes words as a whole; expected clip"]),
    (["--method", "fcid", "--modalities", "video", "audio"], ["fcid compares what is heard or seen with text"]),
    (["--method", "codaar", "--w-club", "1"], ["--w-club 1.0: codaar has no vCLUB"]),
    (["--method", "onecode", "--pieces", "3"], ["--pieces 3: expected a divisor of --dim 16"]),
    (["--pieces", "2"], ["--pieces 2: belongs to onecode, which is not part of --method unicode"]),
    (["--method", "codebind", "--piece-dim", "3"], ["--piece-dim 3: expected a divisor of 8, half of --dim 16"]),
    (["--method", "aha", "--shared-levels", "3"], ["--shared-levels 3: expected 1 to 2, the number of --levels"]),
    (["--method", "turn", "--modalities", "audio"], ["turn", "two or three", "audio"]),
    (["--method", "dcid+nothing"], ["--method dcid+nothing", "expected one of aha, baseline"]),
    (["--method", "dcid+dcid"], ["dcid is part of it already"]),
    (["--method", "unicode+cmcm"], ["cmcm is part of it already"]),
    (["--method", "baseline+smit"], ["baseline is part of it already"]),
    (["--method", "smit", "--w-smit", "0", "--w-rec", "0", "--w-commit", "0"], ["nothing to learn"]),
    (["--method", "mst", "--mst-temperature", "0"], ["--mst-temperature: '0' is not a number above 0"]),
    (["--method", "smit+"], ["expected one of aha"]),
])
def test_impossible_combinations_are_one_line(clips, tmp_path, capsys, flags, words):
    line = refused(capsys, "--data", clips, "--out", str(tmp_path / "x"), *SMALL, *flags)
    assert all(word in line for word in words), line
    assert not Path(tmp_path / "x").exists()


def test_what_two_methods_have_is_taken_by_both():
    assert settings_for("micu", "--mm-ema", "off").method.codebook.mm_ema == "off"
    assert settings_for("micu").method.codebook.mm_ema == "attention"


def test_clips_of_one_second_have_no_fine_term():
    """Which would be ln 1."""
    torch.manual_seed(0)
    built = make_method(settings_for("micu"), {"video": (1, 5, 5, 8), "audio": (1, 12)})
    assert built.terms["fcmi"].levels == {"coarse"}
    alone = make_method(settings_for("micu", "--fcmi-levels", "fine"), {"video": (1, 5, 5, 8), "audio": (1, 12)})
    assert "fcmi" not in alone.terms


def test_a_foreign_flag_at_its_own_value_is_no_error():
    assert settings_for("smit", "--w-club", "0", "--mm-ema", "off").flags["w_club"] == 0
    with pytest.raises(UserError, match="w-align"):
        settings_for("dcid+smit", "--w-align", "1")


@pytest.mark.parametrize("shapes", [{}, [("audio", (10, 128))], {"audio": 3}, {"audio": ()}, {"audio": (10, -1)},
                                    {"audio": (10, 128.0)}, {"sound": (10, 128)}])
def test_shapes_that_are_none_are_one_line(shapes):
    with pytest.raises(UserError, match="shapes: .*expected the shape of one clip|modality 'sound': unknown") as told:
        build("unicode", shapes, "small")
    assert "\n" not in str(told.value)


def test_built_from_shapes():
    built = build("unicode", {"audio": [10, 128], "video": (10, 7, 7, 32)}, "small", dim=16, codes=8)
    assert built.kept().encode(audio=torch.zeros(2, 10, 128)).codes.shape == (2, 10)
