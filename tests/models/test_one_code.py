"""One code for a second: the formula against a loop, on ragged clips; of pieces, a book for each of them."""

import pytest
import torch

from cmg.configs import with_values
from cmg.models.codebook import Codebook
from cmg.models.one_code import OneCodeBook, OneCodeModel
from cmg.models.unified import ModelConfig

AVT = ("audio", "video", "text")


def material(seed=0):
    """z and valid of three clips of four seconds and two words; some seconds belong to one modality, some to none."""
    torch.manual_seed(seed)
    z = {"audio": torch.randn(3, 4, 2), "video": torch.randn(3, 4, 2), "text": torch.randn(3, 2, 2)}
    valid = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in z.items()}
    valid["audio"][0, 2:] = False
    valid["video"][1, 3:] = valid["audio"][1, 3:] = False
    valid["video"][2] = False
    valid["text"][2] = False
    return z, valid


def book_of(z, size=5, **settings):
    torch.manual_seed(1)
    book = OneCodeBook(AVT, size, 2, decay=0.9, mm_ema="off", reset="off", **settings)
    book.embedding.copy_(torch.randn(size, 2))
    book.weight.copy_(book.embedding)
    return book


def by_hand(book, z, valid):
    """Second by second: its code, and the mean that it is of."""
    codes, means = torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4, 2)
    for i in range(3):
        for t in range(4):
            there = [z[m][i, t] for m in ("audio", "video") if valid[m][i, t]]
            means[i, t] = sum(there) / len(there) if there else torch.zeros(2)
            codes[i, t] = (book.embedding - means[i, t]).square().sum(1).argmin()
    return codes, means


def test_a_second_has_the_code_of_its_mean():
    z, valid = material()
    book = book_of(z)
    codes, _ = by_hand(book, z, valid)
    found = book.quantize_all(z, valid)
    for m in ("audio", "video"):
        assert torch.equal(found[m].vectors, book.embedding[codes])
        torch.testing.assert_close(found[m].straight, book.embedding[codes])
        assert torch.equal(found[m].codes, Codebook.quantize(book, z[m]).codes)  # what it would pick alone
    assert (found["audio"].codes != codes)[valid["audio"] & valid["video"]].any()
    assert torch.equal(found["text"].vectors, Codebook.quantize(book, z["text"]).vectors)


def test_alone_it_is_every_codebook():
    z, _ = material()
    book = book_of(z)
    one, other = book.quantize(z["audio"], "audio"), Codebook.quantize(book, z["audio"])
    assert all(torch.equal(a, b) for a, b in zip(one, other))


def test_gradient_of_a_token_is_that_of_its_own_vector():
    z, valid = material()
    z = {m: x.requires_grad_() for m, x in z.items()}
    book_of(z).quantize_all(z, valid)["audio"].straight.sum().backward()
    assert torch.equal(z["audio"].grad, torch.ones_like(z["audio"]))
    assert z["video"].grad is None


def test_the_code_follows_the_means():
    z, valid = material()
    book = book_of(z)
    codes, means = by_hand(book, z, valid)
    count, weight = 0.9 * book.count, 0.9 * book.weight
    for m in ("audio", "video"):
        for i, t in valid[m].nonzero().tolist():
            count[codes[i, t]] += 0.1
            weight[codes[i, t]] += 0.1 * means[i, t]
    words = book.quantize(z["text"]).codes
    for i, t in valid["text"].nonzero().tolist():
        count[words[i, t]] += 0.1
        weight[words[i, t]] += 0.1 * z["text"][i, t]
    own = {m: book.quantize(x).codes for m, x in z.items()}
    book.update(z, own, valid)
    torch.testing.assert_close(book.count, count)
    torch.testing.assert_close(book.weight, weight)
    total = count.sum()
    smoothed = (count + 1e-5) / (total + 5 * 1e-5) * total
    torch.testing.assert_close(book.embedding, weight / smoothed.unsqueeze(1))
    for number, m in enumerate(AVT):  # of its own picks, which are others
        assert torch.equal(book.usage[number], 0.01 * torch.bincount(own[m][valid[m]], minlength=5))
    assert not torch.equal(book.usage[0], book.usage[1])


def test_codes_start_between_the_modalities():
    """Each of two clusters of pairs lies far to both sides of its mean."""
    z = {"audio": torch.tensor([[[9.0, 0.0], [9.0, 4.0]]]), "video": torch.tensor([[[-9.0, 0.0], [-9.0, 4.0]]])}
    valid = {m: torch.ones(1, 2, dtype=torch.bool) for m in z}
    book = OneCodeBook(("audio", "video"), 2, 2, mm_ema="off")
    book.initialise(z, valid)
    assert sorted(book.embedding.tolist()) == [[0.0, 0.0], [0.0, 4.0]]


def pieced(pieces=2, size=5, width=3, **settings):
    """A book of pieces with material of its width, and a book of one piece each that has the same codes."""
    torch.manual_seed(2)
    z, valid = material()
    z = {m: torch.randn(*x.shape[:2], pieces * width) for m, x in z.items()}
    settings = {"decay": 0.9, "reset": "off"} | settings
    whole = OneCodeBook(AVT, size, pieces * width, pieces=pieces, **settings)
    whole.embedding.copy_(torch.randn(pieces * size, width))
    whole.weight.copy_(whole.embedding)
    alone = [OneCodeBook(AVT, size, width, **settings) for _ in range(pieces)]
    for book, part in zip(alone, whole.embedding.chunk(pieces)):
        book.embedding.copy_(part)
        book.weight.copy_(part)
    return whole, alone, z, valid


def test_pieces_are_books_side_by_side():
    whole, alone, z, valid = pieced()
    parts = [{m: x[..., 3 * p : 3 * p + 3] for m, x in z.items()} for p in range(2)]
    found = whole.quantize_all(z, valid)
    apart = [book.quantize_all(part, valid) for book, part in zip(alone, parts)]
    for m in AVT:
        assert found[m].codes.shape == (*z[m].shape[:2], 2) and found[m].distances.shape == (*z[m].shape[:2], 2, 5)
        for p in range(2):
            own = apart[p][m]
            assert torch.equal(found[m].codes[..., p] - 5 * p, own.codes)
            torch.testing.assert_close(found[m].distances[..., p, :], own.distances)
            assert torch.equal(found[m].vectors[..., 3 * p : 3 * p + 3], own.vectors)
            assert torch.equal(found[m].straight[..., 3 * p : 3 * p + 3], own.straight)
        assert torch.equal(whole.lookup(found[m].codes), whole.quantize(z[m]).vectors)

    whole.update(z, {m: q.codes for m, q in found.items()}, valid)
    for book, part, q in zip(alone, parts, apart):
        book.update(part, {m: one.codes for m, one in q.items()}, valid)
    for name in ("weight", "count"):
        torch.testing.assert_close(getattr(whole, name), torch.cat([getattr(book, name) for book in alone]))
    # the Laplace smoothing is over all codes of a book, in which each piece counts every step
    smoothed = (whole.count + 1e-5) / (whole.count.sum() + 10 * 1e-5) * whole.count.sum()
    torch.testing.assert_close(whole.embedding, whole.weight / smoothed.unsqueeze(1))
    assert torch.equal(whole.usage, torch.cat([book.usage for book in alone], 1))
    assert torch.equal(whole.idle, torch.cat([book.idle for book in alone], 1))


@pytest.mark.parametrize("method", ["data", "kmeans"])
def test_pieces_start_and_restart_at_targets_of_their_own(method):
    """Those of the first piece are near 10 in all columns, of the second near -10."""
    whole, _, z, valid = pieced(reset="both", reset_after=0)
    place = torch.tensor([10.0] * 3 + [-10.0] * 3)
    z = {m: place + 0.1 * x.clamp(-3, 3) for m, x in z.items()}
    whole.initialise(z, valid, method)
    expected = place.view(2, 1, 3).expand(2, 5, 3).flatten(0, 1)
    torch.testing.assert_close(whole.embedding, expected, atol=0.4, rtol=0)
    whole.embedding.zero_()  # all pick the first code of their piece, and the others are idle
    whole.weight.zero_()
    for _ in range(2):
        whole.update(z, {m: whole.quantize(x).codes for m, x in z.items()}, valid)
    restarted = [n for n in range(10) if n % 5]
    assert whole.revived == len(restarted)
    torch.testing.assert_close(whole.embedding[restarted], expected[restarted], atol=0.4, rtol=0)


def test_a_model_of_pieces_says_what_its_tokens_are_made_of():
    config = with_values(ModelConfig(), {"dim": 12, "layers": 1, "codes": 7, "pieces": 3})
    model = OneCodeModel({"audio": (4, 6), "video": (4, 6)}, config).eval()
    tokens = model.encode(audio=torch.randn(2, 4, 6))
    assert tokens.codes.shape == (2, 4, 3) and tokens.quantized.shape == (2, 4, 12)
    assert model.codebook.size == 21 and model.token_dim == 12
    side_by_side = [book[code - 7 * p] for p, (book, code) in enumerate(zip(model.parts, tokens.codes.unbind(-1)))]
    assert torch.equal(tokens.quantized, torch.cat(side_by_side, -1))
