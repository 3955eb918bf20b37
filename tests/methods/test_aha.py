"""What is built after AHA: residual levels of the anchor, its codes as targets within a window, reversed gradients."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import cmg
from cmg.data.features import FeatureSet
from cmg.distributed import seed_shared
from cmg.losses.distillation import reversed_gradient, window_distillation
from cmg.methods.codebook.aha import Adversary, Distillation
from cmg.models.codebook import Codebook
from cmg.models.level_codebook import LevelCodebook
from support import run, write_clips

B, T, D, M = 3, 4, 5, 6
MODALITIES = ("audio", "video")


@pytest.fixture
def case():
    """Three levels, two of them shared; audio ends early in clip 1 and is missing in clip 2."""
    torch.manual_seed(0)
    book = LevelCodebook(MODALITIES, M, D, 0.9, "off", "off", 0, levels=3, shared=2)
    for one in (book, *book.deeper):
        one.embedding.normal_()
        one.weight.copy_(one.embedding)
    z = {m: torch.randn(B, T, D) for m in MODALITIES}
    valid = {m: torch.ones(B, T, dtype=torch.bool) for m in MODALITIES}
    valid["audio"][1, 2:] = valid["audio"][2] = False
    return book, z, valid


def by_levels(book, z, levels):
    """Codes, what each level is given, and the token of one vector, in words."""
    rest, token, codes, given = z, torch.zeros(D), [], []
    for one in (book, *book.deeper)[:levels]:
        codes.append(int((one.embedding - rest).norm(dim=1).argmin()))
        given.append(rest)
        rest, token = rest - one.embedding[codes[-1]], token + one.embedding[codes[-1]]
    return codes, given, token


def test_tokens_by_loops(case):
    """The anchor has all levels, another modality those that are shared, and so has whatever is read later."""
    book, z, valid = case
    assert book.anchor == "audio"
    z = {m: x.requires_grad_() for m, x in z.items()}
    found, read = book.quantize_all(z, valid), book.quantize(z["audio"])
    for m, levels in (("audio", 3), ("video", 2)):
        for b in range(B):
            for t in range(T):
                codes, given, token = by_levels(book, z[m][b, t].detach(), levels)
                assert_close(found[m].vectors[b, t], token)
                assert [int(q.codes[b, t]) for q in found[m].levels] == codes and int(found[m].codes[b, t]) == codes[0]
                for one, q, x in zip((book, *book.deeper), found[m].levels, given):
                    assert_close(q.distances[b, t], (one.embedding - x).square().sum(1), rtol=1e-4, atol=1e-5)
        assert_close(found[m].straight, found[m].vectors)
        weight = torch.randn(B, T, D)
        (found[m].straight * weight).sum().backward()
        assert_close(z[m].grad, weight)
    assert_close(read.vectors, sum(q.vectors for q in found["audio"].levels[:2]))


def test_codes_follow_the_anchor_alone(case):
    book, z, valid = case
    sums = [torch.zeros(M, D + 1) for _ in range(3)]
    for b in range(B):
        for t in range(T):
            if valid["audio"][b, t]:
                for level, code, x in zip(sums, *by_levels(book, z["audio"][b, t], 3)[:2]):
                    level[code] += torch.cat([x, torch.ones(1)])
    expected = [0.9 * torch.cat([one.weight, one.count.unsqueeze(1)], 1) + 0.1 * own
                for one, own in zip((book, *book.deeper), sums)]
    book.update(z, {m: q.codes for m, q in book.quantize_all(z, valid).items()}, valid)
    for one, own in zip((book, *book.deeper), expected):
        weight, count = own.split([D, 1], 1)
        assert_close(torch.cat([one.weight, one.count.unsqueeze(1)], 1), own)
        smooth = (count + 1e-5) / (count.sum() + M * 1e-5) * count.sum()
        assert_close(one.embedding, weight / smooth)


def test_levels_start_at_what_those_above_left(case):
    book, z, valid = case
    seed_shared(0, 0)
    book.initialise(z, valid, "data")
    rest = z["audio"][valid["audio"]]
    for one in (book, *book.deeper):
        assert all((one.embedding[row] - rest).norm(dim=1).min() < 1e-6 for row in range(M))
        rest = rest - Codebook.quantize(one, rest.unsqueeze(0)).vectors[0]
    assert rest.norm() < z["audio"][valid["audio"]].norm()


@pytest.mark.parametrize("window", [0, 1, None])
def test_distillation_by_loops(case, window):
    book, z, valid = case
    valid["video"][0, 3] = False
    q = book.quantize_all(z, valid)
    term = Distillation("audio", 2, MODALITIES if window is not None else (), window, 0.5)
    expected = 0.0
    for level, one in enumerate((book, book.deeper[0])):
        values = []
        for b in range(B):
            for t in range(T):
                near = [s for s in range(T) if valid["audio"][b, s] and (window is None or abs(s - t) <= window)]
                if valid["video"][b, t] and near:
                    given = by_levels(book, z["video"][b, t], 2)[1][level]
                    log_p = (-(one.embedding - given).norm(dim=1) / 0.5).log_softmax(0)
                    values.append(min(-log_p[int(q["audio"].levels[level].codes[b, s])] for s in near))
        expected = expected + sum(values) / len(values)
    found = term(SimpleNamespace(quantized=q, valid=valid))
    assert_close(found, {"a2v": expected}, rtol=1e-4, atol=1e-5)


def test_a_window_takes_the_nearest_of_its_codes():
    """Two codes at distance 0 and d: the loss of a step is log(1 + e^{-d}) if its code is in reach, else that and d."""
    d = 3.0
    distances = torch.tensor([[[0.0, d * d]]]).expand(1, 3, 2)  # the student is at code 0 in all three seconds
    codes, there = torch.tensor([[1, 1, 0]]), torch.ones(1, 3, dtype=torch.bool)
    near = math.log(1 + math.exp(-d))
    for window, steps_far in ((0, 2), (1, 1), (None, 0)):
        found = window_distillation(distances, there, codes, there, window, 1.0)
        assert found.item() == pytest.approx(near + d * steps_far / 3, rel=1e-5)
    nothing = window_distillation(distances, there, codes, ~there, None, 1.0)
    assert nothing.item() == 0


def test_the_adversary_learns_and_psi_forgets():
    """The head's gradient is that of cross entropy, Ψ's the same, reversed, times λ, which rises from 0 to almost 1."""
    torch.manual_seed(0)
    term, psi = Adversary({"audio": D}, M), torch.randn(B, T, D, requires_grad=True)
    codes, valid = torch.randint(M, (B, T)), torch.rand(B, T) > 0.3
    state = SimpleNamespace(pooled={"audio": psi}, valid={"audio": valid}, steps=slice(None),
                            quantized={"audio": SimpleNamespace(codes=codes)})
    plain = F.cross_entropy(term.heads["audio"](psi)[valid], codes[valid])
    expected = torch.autograd.grad(plain, [psi, *term.parameters()])
    for epoch, strength in ((0, 0.0), (1, 2 / (1 + math.exp(-1)) - 1), (10, 2 / (1 + math.exp(-10)) - 1)):
        term.begin_epoch(epoch, 10)
        found = term(state)["audio"]
        assert_close(found, plain)
        own = torch.autograd.grad(found, [psi, *term.parameters()])
        assert_close(own[0], -strength * expected[0])
        assert_close(own[1:], expected[1:])
    assert_close(reversed_gradient(psi, 0.3), psi)


def test_a_trained_model_reads_shared_levels(tmp_path):
    clips = str(write_clips(tmp_path / "clips.h5"))
    out = run(clips, tmp_path / "a", "--method", "aha", "--levels", "3", "--shared-levels", "2")
    model, batch = cmg.load_pretrained(out), FeatureSet(clips).__getitems__([0, 1, 2])
    assert len(model.codebook.deeper) == 2
    for m in ("audio", "video"):
        tokens = model.encode(**{m: batch[m]})
        first = model.codebook.embedding[tokens.codes]
        rest = torch.cdist((tokens.quantized - first).flatten(0, 1), model.codebook.deeper[0].embedding).amin(1)
        assert tokens.quantized.shape == (3, 6, 16) and rest.max() < 1e-5
