"""Every term and every update of the codebook on ragged clips and missing modalities, beside plain loops.

The batch holds a whole clip, clips that end early in one modality or another, one with a hole, and clips that lack one
modality or two. What stands in the padding is large, so that a term that reads it does not agree.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from cmg.distributed import seed_shared, shared_permutation
from cmg.losses.self_cross import sample_hidden
from cmg.methods.codebook.baseline import Commitment
from cmg.methods.codebook.dcid import Disentangling
from cmg.metrics.codebook import summary
from cmg.modalities import direction, pairs
from cmg.models.codebook import Codebook
from support import SHAPES, make_method, settings_of

WIDE = {**SHAPES, "video": (6, 5, 6, 8)}  # Ψ's map has two cells
LENGTHS = {"video": (6, 3, 6, 6, 0, 5), "audio": (6, 6, 4, 0, 6, 6), "text": (6, 2, 0, 5, 0, 3)}
B, T = 6, 6


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    found = {}
    for m, lengths in LENGTHS.items():
        valid = torch.arange(T) < torch.tensor(lengths)[:, None]  # (B, T)
        valid[5, 1] = False
        x = torch.randn(B, *WIDE[m], generator=generator)
        x[~valid] = 30 + 30 * torch.randn(x[~valid].shape, generator=generator)
        found |= {m: x, f"valid/{m}": valid}
    return found


@pytest.fixture(scope="module", params=["step", "clip"])
def case(request, batch):
    """A method that holds every term, with words as seconds or of the clip as a whole, and the batch on its way."""
    torch.manual_seed(0)
    flags = ("--preset", "paper", "--method", "unicode+smit+mst+codis+turn", "--w-align", "1", "--cpc-steps", "2",
             "--text-alignment", request.param)
    method = make_method(settings_of(*flags), WIDE, specific_steps=0, dim=8, codes=12).eval()
    with torch.no_grad():
        method.model.codebook.embedding.normal_()
        for slow in method.terms["codis"].teacher.parameters():
            slow.add_(0.05 * torch.randn_like(slow))
        state = method.encode(batch)
    return method, state


@pytest.fixture(autouse=True)
def without_gradient():
    with torch.no_grad():
        yield


def steps(state, *modalities):
    """(b, t) of every step that exists in all of these modalities."""
    return [(b, t) for b in range(B) for t in range(T) if all(state.valid[m][b, t] for m in modalities)]


def average(values):
    values = list(values)
    return torch.stack(values).mean() if values else torch.tensor(0.0)


def clip_means(state, z=None):
    """modality -> clip -> mean of z over its steps, of clips that have any."""
    return {m: {b: x[b][state.valid[m][b]].mean(0) for b in range(B) if state.valid[m][b].any()}
            for m, x in (z or state.semantic).items()}


def timed(method, *modalities):
    return method.config.text_alignment == "step" or "text" not in modalities


def points(state, method, a, b, z=None):
    """What a and b are compared on: [(group, clip) -> vector] of each; only points of one group are compared."""
    z = z or state.semantic
    if timed(method, a, b):
        return [{(t, i): z[m][i, t] for i, t in steps(state, m)} for m in (a, b)]
    means = clip_means(state, z)
    return [{(0, i): v for i, v in means[m].items()} for m in (a, b)]


def cosine(a, b):
    return (a * b).sum() / a.norm() / b.norm()


def info_nce(queries, keys, temperature):
    """One direction, of dicts (group, clip) -> vector."""
    values = []
    for (group, i), q in queries.items():
        if (group, i) in keys:
            scores = {j: cosine(q, k) / temperature for (g, j), k in keys.items() if g == group}
            values.append(torch.stack([*scores.values()]).logsumexp(0) - scores[i])
    return average(values)


def agree(term, state, expected):
    """A term's losses are these, by the same names."""
    found = term(state)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert value.abs() > 0 and math.isfinite(value), key
        assert_close(found[key], value, rtol=2e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


# -- the terms -------------------------------------------------------------------------------------------------------


def test_reconstruction(case):
    method, state = case
    expected = {}
    for m, decoder in method.terms["rec"].decoders.items():
        rebuilt = [decoder(state.quantized[m].straight[b : b + 1], state.specific[m][b : b + 1])[0] for b in range(B)]
        expected[m] = average(((rebuilt[b][t] - state.features[m][b, t]) ** 2).mean() for b, t in steps(state, m))
    agree(method.terms["rec"], state, expected)


@pytest.mark.parametrize("cross", [False, True])
def test_commitment(case, cross):
    """Own code; and of each other modality the mean over the steps that both have."""
    method, state = case
    others = {m: [n for n in LENGTHS if n != m and timed(method, m, n) and cross] for m in LENGTHS}

    def error(m, n):
        return average(((state.semantic[m][b, t] - state.quantized[n].vectors[b, t]) ** 2).mean()
                       for b, t in steps(state, m, n))

    expected = {m: 0.25 * error(m, m) + sum(0.125 * error(m, n) / len(others[m]) for n in others[m]) for m in LENGTHS}
    agree(method.terms["commit"] if cross else Commitment(timed=()), state, expected)


@pytest.mark.parametrize("reads", ["mean", "map"])
def test_vclub(case, reads):
    """The bound against all pairs of clips that have the second, and the likelihood that its estimator is fitted by;
    with the map, every cell by itself."""
    method, state = case
    torch.manual_seed(2)
    term, bounds = Disentangling(method.model, method.specific, 8, reads=reads), {}

    def log_q(m, cell, i, j, t):
        q, z, y = term.estimators[m], state.semantic[m][i, t], state.specific[m][j, t].view(-1, 8)[cell]
        if reads == "mean" and m == "video":
            y = state.specific[m][j, t].view(-1, 8).mean(0)
        own = slice(8 * cell, 8 * cell + 8)  # of the estimator's outputs
        return (-((q.mean(z)[own] - y) ** 2) / q.logvar(z)[own].exp() - q.logvar(z)[own]).sum() / 2

    for m, q in term.estimators.items():
        cells = range(2 if m == "video" and reads == "map" else 1)
        likelihood = average(sum(log_q(m, cell, b, b, t) for cell in cells) for b, t in steps(state, m))
        assert_close(q.log_likelihood(*term.pair(state, m)), likelihood, rtol=2e-5, atol=1e-6)
        bounds[m] = average(
            (log_q(m, cell, i, i, t) - average(log_q(m, cell, i, j, t) for j in range(B) if state.valid[m][j, t])) / 8
            for i, t in steps(state, m) for cell in cells)
    agree(term, state, bounds)


def test_cross_cpc(case):
    method, state = case
    term, expected = method.terms["cpc"], {}
    for a in term.modalities:
        for b in term.modalities:
            of_k = []
            for k in (1, 2) if a != b else ():
                values = []
                for i, t in steps(state, a):
                    if t + k < T and state.valid[b][i, t + k]:
                        context = term.context[a](state.semantic[a][i : i + 1, : t + 1])[0][0, -1]
                        prediction = term.predict[a][k - 1](context)
                        scores = {j: prediction @ state.semantic[b][j, t + k] for j in range(B)
                                  if state.valid[b][j, t + k]}
                        values.append(torch.stack([*scores.values()]).logsumexp(0) - scores[i])
                of_k.append(average(values))
            if of_k:
                expected[direction(a, b)] = average(of_k)
    assert len(expected) == (6 if timed(method, "text") else 2)
    agree(term, state, expected)


def test_code_matching(case):
    method, state = case
    book = method.model.codebook.embedding
    use = {m: {} for m in LENGTHS}
    for m, z in state.semantic.items():
        for b in range(B):
            own = [(-(z[b, t] - book).norm(dim=1)).softmax(0) for t in range(T) if state.valid[m][b, t]]
            if own:
                use[m][b] = sum(own) / len(own)

    def loss(a, b):
        both = [i for i in use[a] if i in use[b]]
        S = {(i, j): (use[a][i] * use[b][j].log() + use[b][j] * use[a][i].log()).sum() for i in both for j in both}
        return average(torch.stack([S[i, j] for j in both]).logsumexp(0) - S[i, i] for i in both)

    agree(method.terms["cmcm"], state, {key: loss(a, b) for a, b, key in pairs(state.semantic)})


def test_alignment(case):
    method, state = case
    expected = {}
    for a, b, key in pairs(state.semantic):
        of_a, of_b = points(state, method, a, b)
        expected[key] = (info_nce(of_a, of_b, 0.1) + info_nce(of_b, of_a, 0.1)) / 2
    agree(method.terms["align"], state, expected)


def test_smit(case):
    method, state = case
    term, expected = method.terms["smit"], {}
    heads = {m: {i: term.heads[m](v) for i, v in own.items()} for m, own in clip_means(state).items()}

    def one_way(queries, keys):
        values = []
        for i in (i for i in queries if i in keys):
            scores = {j: queries[i] @ k for j, k in keys.items()}
            others = [s for j, s in scores.items() if j != i]
            own = scores[i] - 0.5 * (scores[i] - sum(others) / len(others))
            values.append(torch.stack([own, *others]).logsumexp(0) - own)
        return average(values)

    for a, b, key in pairs(state.semantic):
        expected[key] = (one_way(heads[a], heads[b]) + one_way(heads[b], heads[a])) / 3
    agree(term, state, expected)


def test_mst(case):
    method, state = case
    clips = {m: {(0, i): v for i, v in own.items()} for m, own in clip_means(state).items()}
    agree(method.terms["mst"], state, {
        key: (info_nce(clips[a], clips[b], 0.07) + info_nce(clips[b], clips[a], 0.07)) / 6
        for a, b, key in pairs(state.semantic)})


def plan_of(cosines, K):
    """Sinkhorn's plan in plain loops: point -> masses of K prototypes. cosines : point -> Tensor[K]."""
    kernel = {p: ((c - c.max()) / 0.05).exp() for p, c in cosines.items()}
    columns = torch.ones(K)
    for _ in range(50):
        rows = {p: 1 / len(kernel) / (k * columns).sum() for p, k in kernel.items()}
        columns = 1 / K / sum(rows[p] * k for p, k in kernel.items())
    return {p: rows[p] * k * columns for p, k in kernel.items()}


def test_codis(case):
    method, state = case
    term, expected, K = method.terms["codis"], {}, 12
    taught = {m: f(f.inputs(state.features[m], state.valid[m]), state.valid[m]) for m, f in term.teacher.items()}
    means, taught_means = clip_means(state), clip_means(state, taught)
    clips = {m: {(0, i): v for i, v in own.items()} for m, own in means.items()}
    taught_clips = {m: {(0, i): v for i, v in own.items()} for m, own in taught_means.items()}

    def predicted(student, plan, both):
        return average(-(plan[p] / plan[p].sum() * (student[p] / 0.07).log_softmax(0)).sum() for p in both)

    def to_prototypes(of):
        return {p: torch.stack([cosine(v, c) for c in term.prototypes]) for p, v in of.items()}

    for a, b, key in pairs(state.semantic):
        students = [to_prototypes(of) for of in points(state, method, a, b)]
        teachers = [to_prototypes(of) for of in points(state, method, a, b, taught)]
        plans = [plan_of(cosines, K) for cosines in teachers]
        both = [p for p in students[0] if p in students[1]]
        values = {
            "ot": sum((plan[p] * (1 - cosines[p])).sum() for plan, cosines in zip(plans, teachers) for p in plan),
            "code": predicted(students[0], plans[1], both) + predicted(students[1], plans[0], both),
            "inter": (info_nce(clips[a], taught_clips[b], 0.07) + info_nce(clips[b], taught_clips[a], 0.07)) / 2,
            "intra": (info_nce(clips[a], taught_clips[a], 0.07) + info_nce(clips[b], taught_clips[b], 0.07)) / 2}
        expected |= {f"{name}_{key}": value / 3 for name, value in values.items()}
    agree(term, state, expected)


def test_turn(case):
    """Each clip by itself and without its padding, instead of masks."""
    method, state = case
    term, expected = method.terms["turn"], {}
    seed_shared(3, 0)
    hidden = {m: sample_hidden(valid, 0.3) for m, valid in state.valid.items()}
    clips = {m: {(0, i): v for i, v in own.items()} for m, own in clip_means(state).items()}
    for a, b, key in pairs(state.semantic):
        for source, target in ((a, b), (b, a)):
            filler, values = term.fillers[target], []
            for i in range(B):
                real, told = state.valid[target][i], state.valid[source][i]
                if not (real.any() and told.any()):
                    continue
                features = state.features[target][i].flatten(1, -2).mean(1) if target == "video" else \
                    state.features[target][i]
                x = torch.where(hidden[target][i][:, None], filler.blank, filler.embed(features)) + filler.position[0]
                codes = state.quantized[source].straight[i] + filler.position[1]
                filled = torch.zeros_like(features)
                filled[real] = filler.out(filler.layer(x[real][None], codes[told][None]))[0]
                values += [(filled[t] - features[t]).abs().mean() for t in range(T) if hidden[target][i, t]]
            expected[direction(source, target)] = average(values) / 3
        expected[f"nce_{key}"] = (info_nce(clips[a], clips[b], 0.07) + info_nce(clips[b], clips[a], 0.07)) / 6
    seed_shared(3, 0)
    agree(term, state, expected)


# -- the codebook ----------------------------------------------------------------------------------------------------


def target_of(state, m, b, t, mm_ema):
    """(z + r) / 2 of one step."""
    z, heard = state.semantic[m][b, t], []
    for n in LENGTHS if mm_ema != "off" else ():
        others = state.semantic[n][b][state.valid[n][b]]
        if n == m:
            continue
        if mm_ema == "aligned" and state.valid[n][b, t]:
            heard.append(state.semantic[n][b, t])
        if mm_ema == "attention" and len(others):
            weights = torch.tensor([float(z @ other) / 8**0.5 for other in others]).softmax(0)
            heard.append(sum(w * other for w, other in zip(weights, others)))
    return (z + sum(heard) / len(heard)) / 2 if heard else z


@pytest.mark.parametrize("mm_ema", ["attention", "aligned", "off"])
def test_update(case, mm_ema):
    _, state = case
    torch.manual_seed(1)
    book = Codebook(("audio", "video", "text"), 12, 8, mm_ema=mm_ema, reset="off")
    count, weight = 0.99 * book.count, 0.99 * book.weight
    codes = {m: q.codes for m, q in state.quantized.items()}
    for m in LENGTHS:
        for b, t in steps(state, m):
            count[codes[m][b, t]] += 0.01
            weight[codes[m][b, t]] += 0.01 * target_of(state, m, b, t, mm_ema)
    book.update(state.semantic, codes, state.valid)
    assert_close(book.count, count)
    assert_close(book.weight, weight, rtol=2e-5, atol=1e-6)
    for number, m in enumerate(book.modalities):
        used = {int(codes[m][b, t]) for b, t in steps(state, m)}
        assert {k for k in range(12) if book.idle[number, k] == 0 and book.usage[number, k]} == used
        assert sum(book.usage[number]).item() == pytest.approx(0.01 * len(steps(state, m)))


@pytest.mark.parametrize("mm_ema", ["attention", "aligned", "off"])
def test_start_by_k_means(case, mm_ema):
    """Lloyd's iterations over the targets of the steps that exist, from the same first centres."""
    _, state = case
    book = Codebook(("audio", "video", "text"), 12, 8, mm_ema=mm_ema)
    found = [target_of(state, m, b, t, mm_ema) for m in book.modalities for b, t in steps(state, m)]
    seed_shared(5, 0)
    centres = [found[i].clone() for i in shared_permutation(len(found), found[0].device)[:12]]
    for _ in range(20):
        own = {k: [] for k in range(12)}
        for point in found:
            own[min(own, key=lambda k: (point - centres[k]).norm())].append(point)
        centres = [sum(own[k]) / len(own[k]) if own[k] else centres[k] for k in own]
    seed_shared(5, 0)
    book.initialise(state.semantic, state.valid)
    assert_close(book.embedding, torch.stack(centres), rtol=1e-4, atol=1e-5)


def test_metrics(case):
    method, state = case
    codes = {m: q.codes for m, q in state.quantized.items()}
    book = Codebook(("audio", "video", "text"), 12, 8, reset="off")
    book.update(state.semantic, codes, state.valid)
    found = summary(book, codes, state.valid)
    use = {m: [sum(int(codes[m][b, t]) == k for b, t in steps(state, m)) / len(steps(state, m)) for k in range(12)]
           for m in LENGTHS}
    for m, share in use.items():
        entropy = -sum(p * math.log(p) for p in share if p)
        assert found[f"codebook/perplexity_{m[0]}"].item() == pytest.approx(math.exp(entropy), rel=1e-5)
        assert int(found[f"codebook/codes_{m[0]}"]) == sum(p > 0 for p in share)
    for a, b, key in pairs(book.modalities):
        both = steps(state, a, b)
        same = sum(int(codes[a][i, t] == codes[b][i, t]) for i, t in both)
        assert found[f"codebook/match_{key}"].item() == pytest.approx(100 * same / len(both), rel=1e-5)
        assert found[f"codebook/overlap_{key}"].item() == pytest.approx(sum(map(min, use[a], use[b])), rel=1e-5)
