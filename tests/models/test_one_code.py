"""One code for a second: the formula against a loop, on ragged clips."""

import torch

from cmg.models.codebook import Codebook
from cmg.models.one_code import OneCodeBook

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
