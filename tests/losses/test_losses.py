"""Every loss against a closed form, a second implementation or a limit case, and a short descent."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from cmg.losses.club import CLUB
from cmg.losses.cross_cpc import CrossCPC
from cmg.losses.masked import masked_mean, mse
from cmg.losses.matching import CodeMatching
from cmg.methods.codebook.baseline import Commitment
from cmg.methods.codebook.dcid import Disentangling
from cmg.methods.codebook.method import State
from cmg.methods.codebook.unicode import Alignment
from cmg.models.codebook import Codebook
from cmg.models.specific import constant_map


def all_valid(*shape):
    return torch.ones(shape, dtype=torch.bool)


# -- vCLUB ---------------------------------------------------------------------------------------------------------


class TrueGaussian(CLUB):
    """q(y | x) set to the true conditional of y = rho x + sqrt(1 - rho²) noise, unit variances."""

    def __init__(self, rho, dim):
        super().__init__(dim, dim)
        self.mean = torch.nn.Linear(dim, dim, bias=False)
        self.mean.weight.data = rho * torch.eye(dim)
        self.logvar = torch.nn.Linear(dim, dim)
        self.logvar.weight.data.zero_()
        self.logvar.bias.data.fill_(math.log(1 - rho**2))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_club_equals_its_closed_form_for_gaussians(rho):
    """With the true conditional, vCLUB = rho² / (1 - rho²) per dimension, above the true mutual information."""
    torch.manual_seed(0)
    dim, shape = 3, (20000, 1, 3)
    x = torch.randn(shape)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(shape)
    bound = TrueGaussian(rho, dim).upper_bound(x, y, all_valid(20000, 1)).item()
    expected = rho**2 / (1 - rho**2)
    assert bound == pytest.approx(expected, abs=0.02 + 0.03 * expected)
    assert bound >= -0.5 * math.log(1 - rho**2) - 0.02  # the mutual information itself


def test_club_moments_equal_all_pairs():
    """The O(B) expectation over negatives equals the double sum of eq. 5, per second, with padded steps left out."""
    torch.manual_seed(1)
    club = CLUB(4, 5, hidden=8).double().requires_grad_(False)
    x, y = torch.randn(6, 3, 4).double(), torch.randn(6, 3, 5).double()
    valid = all_valid(6, 3)
    valid[2, 1:] = False
    mean, logvar = club.mean(x), club.logvar(x)

    def log_q(i, j, t):
        return float((-((mean[i, t] - y[j, t]) ** 2) / logvar[i, t].exp() - logvar[i, t]).sum() / 2)

    total, n = 0.0, 0
    for i in range(6):
        for t in range(3):
            if valid[i, t]:
                negatives = [log_q(i, j, t) for j in range(6) if valid[j, t]]
                total, n = total + log_q(i, i, t) - sum(negatives) / len(negatives), n + 1
    assert_close(club.upper_bound(x, y, valid), torch.tensor(total / n / 5).double())


class TrueCells(CLUB):
    """q(y | x) set to the true conditional of what cells hold, y_c = rho_c x + sqrt(1 - rho_c²) noise, or of their
    mean; one dimension each."""

    def __init__(self, rho, cells):
        super().__init__(1, cells)
        variance = [1 - r**2 for r in rho]
        if cells == 1:
            rho, variance = [sum(rho) / len(rho)], [sum(variance) / len(rho) ** 2]
        self.mean, self.logvar = torch.nn.Linear(1, cells, bias=False), torch.nn.Linear(1, cells)
        self.mean.weight.data = torch.tensor(rho)[:, None]
        self.logvar.weight.data.zero_()
        self.logvar.bias.data = torch.tensor(variance).log()


@pytest.mark.parametrize("rho", [(0.8, -0.6), (0.7, -0.7)])
def test_club_of_a_map_sees_what_its_mean_hides(rho):
    """Closed forms: rho² / (1 - rho²) on average over cells; of the mean, whose share of x is the mean of rho,
    share² / variance, which is 0 where cells cancel each other."""
    torch.manual_seed(0)
    x = torch.randn(40000, 1, 1)
    maps = torch.stack([r * x + math.sqrt(1 - r**2) * torch.randn_like(x) for r in rho], 2).unsqueeze(2)
    state = State({}, {"video": all_valid(40000, 1)}, semantic={"video": x}, specific={"video": maps},
                  pooled={"video": maps.mean((2, 3))})
    model = SimpleNamespace(modalities=("video",), input_shapes={"video": (1, 5, 6, 1)})
    specific = {"video": SimpleNamespace(pooled_dim=1, out_dim=1)}
    found = {reads: Disentangling(model, specific, 1, estimator=lambda _, cells: TrueCells(rho, cells),
                                  reads=reads)(state)["video"].item() for reads in ("mean", "map")}
    assert found["map"] == pytest.approx(sum(r**2 / (1 - r**2) for r in rho) / 2, rel=0.03)
    assert found["mean"] == pytest.approx(sum(rho) ** 2 / sum(1 - r**2 for r in rho), abs=0.02)


def test_club_likelihood_is_maximal_at_the_truth():
    torch.manual_seed(2)
    x = torch.randn(5000, 1, 2)
    y = 0.8 * x + 0.6 * torch.randn(5000, 1, 2)
    right, wrong = TrueGaussian(0.8, 2), TrueGaussian(0.3, 2)
    valid = all_valid(5000, 1)
    assert right.log_likelihood(x, y, valid) > wrong.log_likelihood(x, y, valid)


# -- Cross-CPC -----------------------------------------------------------------------------------------------------


def z_of(modalities, B=12, T=6, D=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(B, T, D, generator=generator) for m in modalities}


def test_cpc_is_log_batch_for_uninformative_predictions():
    """With W = 0 every candidate scores alike: the loss is log N exactly, the bound's value at zero information."""
    cpc = CrossCPC(("audio", "video"), 8, steps=2)
    for p in cpc.predict.parameters():
        p.data.zero_()
    losses = cpc(z_of(("audio", "video")), {m: all_valid(12, 6) for m in ("audio", "video")})
    assert set(losses) == {"a2v", "v2a"}
    for value in losses.values():
        assert value.item() == pytest.approx(math.log(12), abs=1e-5)


def test_cpc_falls_below_log_batch_when_the_future_is_told():
    """Two modalities that carry the same constant per clip: after training the loss nears 0."""
    torch.manual_seed(0)
    clip = torch.randn(16, 1, 8).expand(16, 6, 8)
    z, valid = {"audio": clip, "video": -clip}, {m: all_valid(16, 6) for m in ("audio", "video")}
    cpc = CrossCPC(("audio", "video"), 8, steps=2)
    optimizer = torch.optim.Adam(cpc.parameters(), 1e-2)
    for _ in range(150):
        loss = sum(cpc(z, valid).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0 <= loss.item() / 2 < 0.2 < math.log(16)


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_cpc_equals_a_loop_over_pairs(temperature):
    torch.manual_seed(3)
    names = ("audio", "video", "text")
    cpc = CrossCPC(names, 8, steps=2, temperature=temperature)
    z, valid = z_of(names, seed=4), {m: all_valid(12, 6) for m in names}
    valid["text"][3:7, 2:] = False
    losses = cpc(z, valid)

    def expected(a, b):
        context, terms = cpc.context[a](z[a])[0], []
        for k in (1, 2):
            values = []
            for t in range(6 - k):
                for i in range(12):
                    if not (valid[a][i, t] and valid[b][i, t + k]):
                        continue
                    scores, right = [], None
                    for j in range(12):
                        if valid[b][j, t + k]:
                            p, q = cpc.predict[a][k - 1](context[i, t]), z[b][j, t + k]
                            if temperature:
                                p, q = p / p.norm(), q / q.norm() / temperature
                            right = len(scores) if j == i else right
                            scores.append((p * q).sum())
                    values.append(torch.stack(scores).log_softmax(0)[right].neg())
            terms.append(torch.stack(values).mean())
        return torch.stack(terms).mean()

    for a, b in (("audio", "text"), ("text", "video"), ("video", "audio")):
        assert_close(losses[f"{a[0]}2{b[0]}"], expected(a, b), rtol=1e-5, atol=1e-5)


def test_cpc_scores_do_not_know_of_autocast():
    """Vectors that bf16 holds exactly, with dot products that it does not: 257 would be 256."""
    rows = torch.zeros(2, 1, 3)
    rows[:, 0] = torch.tensor([[16.0, 1.0, 0.0], [0.0, 1.0, 16.0]])
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            logits = CrossCPC(("audio", "video"), 3).scores(rows.to(dtype), rows.to(dtype))
        assert logits.dtype == torch.float32 and logits[0].tolist() == [[257.0, 1.0], [1.0, 257.0]]


def test_cpc_gradient_ignores_padding():
    names = ("audio", "text")
    z = {m: x.requires_grad_() for m, x in z_of(names).items()}
    valid = {m: all_valid(12, 6) for m in names}
    valid["text"][0] = False
    sum(CrossCPC(names, 8)(z, valid).values()).backward()
    assert z["text"].grad.isfinite().all() and z["text"].grad[0].abs().max() == 0


# -- code matching ---------------------------------------------------------------------------------------------------


def test_matching_equals_its_formula():
    torch.manual_seed(5)
    squared = {m: 4 * torch.rand(4, 3, 7).double() for m in ("audio", "video")}
    valid = {m: all_valid(4, 3) for m in squared}
    valid["video"][1, 2] = False
    loss = CodeMatching()(squared, valid)["av"]
    P = {m: torch.stack([(-d[i].sqrt()).softmax(-1)[valid[m][i]].mean(0) for i in range(4)])
         for m, d in squared.items()}

    def S(p, q):
        return (p * q.log()).sum() + (q * p.log()).sum()

    rows = torch.stack([torch.stack([S(P["audio"][i], P["video"][j]) for j in range(4)]) for i in range(4)])
    assert_close(loss, -rows.log_softmax(1).diagonal().mean(), rtol=1e-7, atol=1e-8)


def test_matching_does_not_know_of_autocast():
    torch.manual_seed(5)
    squared = {m: 4 * torch.rand(4, 3, 7) for m in ("audio", "video")}
    valid = {m: all_valid(4, 3) for m in squared}
    exact = CodeMatching()(squared, valid)["av"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(CodeMatching()(squared, valid)["av"], exact)


def test_matching_of_equal_distributions_is_log_batch():
    squared = {m: torch.ones(5, 2, 9) for m in ("audio", "video", "text")}
    losses = CodeMatching()(squared, {m: all_valid(5, 2) for m in squared})
    assert set(losses) == {"av", "at", "vt"}
    for value in losses.values():
        assert value.item() == pytest.approx(math.log(5), abs=1e-5)


def test_matching_leaves_out_clips_that_lack_a_modality():
    """The loss of five clips, two of which have no words, is the loss of the other three."""
    torch.manual_seed(6)
    squared = {m: (4 * torch.rand(5, 3, 7)).double().requires_grad_() for m in ("audio", "text")}
    valid = {m: all_valid(5, 3) for m in squared}
    valid["text"][1], valid["text"][4] = False, False
    loss = CodeMatching()(squared, valid)["at"]
    kept = [0, 2, 3]
    alone = CodeMatching()({m: d[kept] for m, d in squared.items()}, {m: v[kept] for m, v in valid.items()})["at"]
    assert_close(loss, alone, rtol=1e-12, atol=0)
    loss.backward()
    assert squared["audio"].grad.isfinite().all() and not squared["audio"].grad[[1, 4]].any()


# -- the decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(3, 3), (1, 4), (5, 2)])
def test_a_constant_map_is_folded_exactly(h, w):
    """The decoder's product with summed taps is the transposed convolution of the vector repeated over the grid."""
    torch.manual_seed(0)
    x, weight = torch.randn(6, 5).double().requires_grad_(), torch.randn(5, 4, 3, 3).double().requires_grad_()
    whole = torch.nn.functional.conv_transpose2d(x[:, :, None, None].expand(6, 5, h, w), weight)
    folded = constant_map(x, weight, h, w)
    assert_close(folded, whole)
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), (x, weight)) for y in (folded, whole))):
        assert_close(ours, theirs)


# -- commitment and alignment ----------------------------------------------------------------------------------------


def test_commitment_weights_of_eq_8():
    """beta·own + beta/2·other, per element: constants make both errors exact."""
    book = Codebook(("audio", "video"), 2, 4)
    book.embedding.copy_(torch.tensor([[0.0], [1.0]]).expand(2, 4))
    z = {"audio": torch.full((2, 3, 4), 0.1), "video": torch.full((2, 3, 4), 0.7)}
    quantized = {m: book.quantize(x) for m, x in z.items()}
    state = State({}, {m: all_valid(2, 3) for m in z}, semantic=z, quantized=quantized)
    losses = Commitment()(state)
    assert losses["audio"].item() == pytest.approx(0.25 * 0.1**2 + 0.125 * 0.9**2, rel=1e-5)
    assert losses["video"].item() == pytest.approx(0.25 * 0.3**2 + 0.125 * 0.7**2, rel=1e-5)
    assert Commitment(timed=["video"])(state)["audio"].item() == pytest.approx(0.25 * 0.1**2, rel=1e-5)


def test_alignment_limits():
    valid = {m: all_valid(8, 2) for m in ("audio", "video")}
    eye = torch.eye(8).unsqueeze(1).expand(8, 2, 8)
    same = Alignment(0.05, valid)(State({}, valid, semantic={"audio": eye, "video": eye}))["av"]
    assert same.item() == pytest.approx(0, abs=1e-4)
    ones = torch.ones(8, 2, 8)
    flat = Alignment(0.05, valid)(State({}, valid, semantic={"audio": ones, "video": ones}))["av"]
    assert flat.item() == pytest.approx(math.log(8), abs=1e-5)


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)).item() == 0
    prediction, valid = torch.zeros(2, 3, 4), all_valid(2, 3)
    valid[0] = False
    target = torch.cat([torch.full((1, 3, 4), 9.0), torch.full((1, 3, 4), 2.0)])
    assert mse(prediction, target, valid).item() == 4.0


def test_alignment_by_clip_ignores_the_order_of_words():
    torch.manual_seed(6)
    z = {"audio": torch.randn(5, 4, 8), "text": torch.randn(5, 4, 8)}
    valid = {m: all_valid(5, 4) for m in z}
    valid["text"][2, 1:] = False
    term = Alignment(0.1, timed=["audio"])
    loss = term(State({}, valid, semantic=z))["at"]
    pooled = [torch.stack([x[i][valid[m][i]].mean(0) for i in range(5)]) for m, x in z.items()]
    a, t = (p / p.norm(dim=1, keepdim=True) for p in pooled)
    logits = a @ t.t() / 0.1
    expected = -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2
    assert_close(loss, expected)
    shuffled = {"audio": z["audio"], "text": z["text"][:, [3, 1, 0, 2]]}
    moved = {"audio": valid["audio"], "text": valid["text"][:, [3, 1, 0, 2]]}
    assert_close(term(State({}, moved, semantic=shuffled))["at"], loss)
