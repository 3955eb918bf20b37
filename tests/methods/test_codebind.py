"""CodeBind's product codes: against numbers of the public implementation, and on ragged seconds by loops."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import cmg
from cmg.data.features import FeatureSet
from cmg.downstream.toc import Toc, subsets
from cmg.losses.product_codes import code_contrast, uniformity
from cmg.methods.codebook.codebind import PieceCommitment, PieceMatching, TokenContrast
from cmg.methods.codebook.method import State
from cmg.models.product_codebook import PieceCodebook, ProductCodebook
from support import FIXTURES, make_method, run, settings_of, write_clips

with np.load(FIXTURES / "codebind_vq.npz") as file:
    PUBLIC = {key: torch.from_numpy(file[key]) for key in file.files}
OWN = {"video": "vision", "audio": "audio"}  # names of the public codebooks


def close(found, expected, tolerance=1e-8):
    assert_close(found, torch.as_tensor(expected), rtol=tolerance, atol=tolerance)


def load(book, prefix):
    for ours, theirs in (("embedding", "codes"), ("weight", "sum"), ("count", "count")):
        book._buffers[ours] = PUBLIC[f"{prefix}/{theirs}"].clone()


def same(book, prefix):
    for ours, theirs in (("embedding", "codes"), ("weight", "sum"), ("count", "count")):
        close(getattr(book, ours), PUBLIC[f"{prefix}/{theirs}"])


def public_book():
    """Both parts of the fixture, whose widths are no halves."""
    size, piece = PUBLIC["init/common/codes"].shape
    book = ProductCodebook(tuple(OWN), size, 2 * PUBLIC["video/common"].shape[1], 0.99, "off", "off", 0, piece,
                  len(PUBLIC["init/audio/codes"]))
    load(book, "init/common")
    for m, name in OWN.items():
        load(book.own[m], f"init/{name}")
    return book


def test_the_public_numbers():
    """Modality after modality, as the public forward pass goes: the second one reads codes that the first has moved."""
    book, similarity = public_book(), {}
    for m in OWN:
        z = PUBLIC[f"{m}/z"].unsqueeze(1).requires_grad_()  # clips of one second
        valid = {n: torch.full(z.shape[:2], n == m) for n in OWN}
        q = book.quantize_all({m: z}, valid)[m]
        close(q.common.vectors.squeeze(1), PUBLIC[f"{m}/common"])
        close(q.specific.vectors.squeeze(1), PUBLIC[f"{m}/specific"])
        close(q.vectors.squeeze(1), PUBLIC[f"{m}/concat"])
        assert torch.equal(q.codes.squeeze(1), PUBLIC[f"{m}/common_codes"])
        assert torch.equal(q.specific.codes.squeeze(1), PUBLIC[f"{m}/specific_codes"])
        assert_close(q.straight, q.vectors)
        similarity[m] = q.distances
        close(1 - q.distances.squeeze(1) / 2, PUBLIC[f"{m}/similarity"])
        commit = PieceCommitment()(State({}, valid, semantic={m: z}, quantized={m: q}))[m]
        close(commit, PUBLIC[f"{m}/commit"])
        commit.backward()
        close(z.grad.squeeze(1), PUBLIC[f"{m}/grad_commit"])
        parts = [q.common, q.specific]
        close(sum(code_contrast(1 - part.distances / 2, valid[m]) for part in parts), PUBLIC[f"{m}/contrast"])
        close(uniformity(book.embedding) + uniformity(book.own[m].embedding), PUBLIC[f"{m}/uniform"])
        common, specific = book.halves({n: z.detach() for n in OWN})
        codes = {n: q.codes for n in OWN}
        PieceCodebook.update(book, common, codes, valid)
        book.own[m].update({m: specific[m]}, {m: q.specific.codes}, valid)
    same(book, "after/common")
    for m, name in OWN.items():
        same(book.own[m], f"after/{name}")
    valid = {m: torch.ones(len(d), 1, dtype=torch.bool) for m, d in similarity.items()}
    term = PieceMatching()
    usage = [term.distribution(similarity[m], valid[m]) for m in OWN]
    close(term.pair(*usage), PUBLIC["matching"])


# -- seconds, by loops -----------------------------------------------------------------------------------------------

B, T, D, M, PIECE = 4, 3, 16, 7, 4
MODALITIES = ("audio", "video")


@pytest.fixture
def case():
    """Clip 0 is whole, 1 ends early in video, 2 lacks audio, 3 lacks video."""
    torch.manual_seed(0)
    book = ProductCodebook(MODALITIES, M, D, 0.9, "off", "off", 0, PIECE, 5)
    for one in (book, *book.own.values()):
        for name in ("embedding", "weight", "count"):
            one._buffers[name] = torch.rand_like(one._buffers[name].double()) - 0.5 * (name != "count")
    z = {m: torch.randn(B, T, D, dtype=torch.float64) for m in MODALITIES}
    valid = {m: torch.ones(B, T, dtype=torch.bool) for m in MODALITIES}
    valid["video"][1, 1:] = valid["audio"][2] = valid["video"][3] = False
    for m in MODALITIES:
        z[m][~valid[m]] = 9.0
    return book, State({}, valid, semantic=z, quantized=book.quantize_all(z, valid))


def unit(x):
    return x / x.norm()


def pieces_of(x):
    return [unit(part) for part in x.split(PIECE)]


def steps(state, m):
    return [(b, t) for b in range(B) for t in range(T) if state.valid[m][b, t]]


def test_tokens_and_commitment_by_loops(case):
    book, state = case
    found = PieceCommitment()(state)
    for m, q in state.quantized.items():
        errors = {"common": [], "specific": []}
        for b, t in steps(state, m):
            token = []
            for (name, values), one, half in zip(errors.items(), (book, book.own[m]),
                                                 state.semantic[m][b, t].chunk(2)):
                for number, piece in enumerate(pieces_of(half)):
                    code = max(one.embedding, key=lambda e: float(piece @ unit(e)))
                    token.append(code)
                    values.append((piece - code).square().mean())
                    assert torch.equal(code, one.embedding[getattr(q, name).codes[b, t, number]])
            close(q.vectors[b, t], unit(torch.cat(token)))
        close(found[m], 0.25 * sum(torch.stack(x).mean() for x in errors.values()))


def test_matching_by_loops(case):
    """Clips that lack one of the two are neither queries nor candidates."""
    book, state = case
    usage = {m: {b: [] for b in (0, 1)} for m in MODALITIES}
    for m in MODALITIES:
        for b, t in steps(state, m):
            if b in (0, 1):
                cosines = [torch.stack([p @ unit(e) for e in book.embedding])
                           for p in pieces_of(state.semantic[m][b, t, : D // 2])]
                usage[m][b].append(torch.stack([c.softmax(0) for c in cosines]))
    usage = {m: [torch.stack(x).mean(0) for x in own.values()] for m, own in usage.items()}
    losses = []
    for p in range(D // 2 // PIECE):
        for i in (0, 1):
            scores = torch.stack([(usage["audio"][i][p] * usage["video"][j][p].log()).sum()
                                  + (usage["audio"][i][p].log() * usage["video"][j][p]).sum() for j in (0, 1)])
            losses.append(scores.logsumexp(0) - scores[i])
    close(PieceMatching()(state)["av"], torch.stack(losses).mean())


def test_contrast_is_of_common_tokens(case):
    book, state = case
    both = [(b, t) for b, t in steps(state, "audio") if state.valid["video"][b, t]]
    tokens = {m: {at: q.common.vectors[at] for at in steps(state, m)} for m, q in state.quantized.items()}
    values = []
    for a, b in (MODALITIES, MODALITIES[::-1]):
        one_way = []
        for i, t in both:
            rivals = {j: tokens[a][i, t] @ x / 0.05 for (j, s), x in tokens[b].items() if s == t}
            one_way.append(torch.stack([*rivals.values()]).logsumexp(0) - rivals[i])
        values.append(torch.stack(one_way).mean())
    close(TokenContrast(0.05, MODALITIES)(state)["av"], sum(values) / 2)


def test_update_by_loops(case):
    """One update for all modalities; the codebook of a specific part sees its own alone."""
    book, state = case
    common, own = torch.zeros(M, PIECE + 1).double(), {m: torch.zeros(5, PIECE + 1).double() for m in MODALITIES}
    for m, q in state.quantized.items():
        for b, t in steps(state, m):
            for sums, part, half in zip((common, own[m]), (q.common, q.specific), state.semantic[m][b, t].chunk(2)):
                for number, piece in enumerate(pieces_of(half)):
                    sums[part.codes[b, t, number]] += torch.cat([piece, torch.ones(1).double()])
    expected = [(one, 0.9 * torch.cat([one.weight, one.count.unsqueeze(1)], 1) + 0.1 * sums)
                for one, sums in ((book, common), *((book.own[m], own[m]) for m in MODALITIES))]
    book.update(state.semantic, {m: q.codes for m, q in state.quantized.items()}, state.valid)
    for one, sums in expected:
        weight, count = sums.split([PIECE, 1], 1)
        smooth = (count + 1e-5) / (count.sum() + len(count) * 1e-5) * count.sum()
        close(torch.cat([one.weight, one.count.unsqueeze(1)], 1), sums)
        close(one.embedding, weight / smooth)
        assert int(one.skipped) == 0


@pytest.mark.parametrize("codes", [1, 2, 30])
def test_terms_of_few_codes(codes):
    """One code has nothing to be far from, nor to be close to."""
    torch.manual_seed(0)
    e, similarity = torch.randn(codes, 3), torch.rand(2, 2, 1, codes)
    valid = torch.tensor([[True, True], [True, False]])
    values = []
    for b, t in ((0, 0), (0, 1), (1, 0)):
        row = similarity[b, t, 0].sort().values
        near, far = row[-max(1, codes // 10):].mean().view(1), row[: codes // 2]
        values.append(F.cross_entropy(torch.cat([near, far]).softmax(0), torch.tensor(0)))
    close(code_contrast(similarity, valid), sum(values) / 3, 1e-5)
    pairs = [(-(unit(e[i]) - unit(e[j])).square().sum()).exp() for i in range(codes) for j in range(i)]
    close(uniformity(e), (sum(pairs) / len(pairs)).log() if pairs else torch.tensor(0.0), 1e-5)


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5"))


def test_the_common_part_is_kept(clips, tmp_path):
    """Of a trained model: width D / 2, length 1, the first piece's code; codes start on data and move; TOC cuts every
    piece alike."""
    out = run(clips, tmp_path / "a", "--method", "codebind", "--piece-dim", "4", "--modalities", "video", "audio")
    model, batch = cmg.load_pretrained(out), FeatureSet(clips, ["video", "audio"]).__getitems__([0, 1, 2])
    for m in ("video", "audio"):
        tokens = model.encode(**{m: batch[m]})
        assert tokens.quantized.shape == tokens.semantic.shape == (3, 6, 8) and tokens.codes.shape == (3, 6)
        assert_close(tokens.quantized.norm(dim=-1), torch.ones(3, 6))
        first = (F.normalize(x, dim=-1) for x in (tokens.quantized[..., :4], model.codebook.embedding[tokens.codes]))
        assert_close(*first)
    dims = subsets(model, Toc((2,)))[2]
    assert torch.equal(dims[2:], dims[:2] + 4)
    assert (model.codebook.usage.sum(1) > 0).all()
    fresh = make_method(settings_of("--method", "codebind", "--piece-dim", "4")).model.codebook
    assert not torch.equal(fresh.own["audio"].embedding, model.codebook.own["audio"].embedding)
