"""A codebook in blocks: what a token is, where gradients go, updates by loops, padding, restarts and starts."""

import pytest
import torch
from torch.testing import assert_close

from cmg.distributed import seed_shared
from cmg.models.block_codebook import BlockCodebook

MODALITIES, D, M, B, T = ("audio", "video", "text"), 3, 5, 2, 4  # blocks lie video, audio, text
ORDER = ("video", "audio", "text")


@pytest.fixture
def case():
    torch.manual_seed(0)
    book = BlockCodebook(MODALITIES, M, D, mm_ema="aligned", reset="off")
    book.embedding.normal_()
    book.weight.copy_(book.embedding)
    z = {m: torch.randn(B, T, D) for m in MODALITIES}
    valid = {m: torch.ones(B, T, dtype=torch.bool) for m in MODALITIES}
    return book, z, valid


def test_a_code_is_the_row_whose_own_block_is_nearest(case):
    book, z, valid = case
    for m, q in book.quantize_all(z, valid).items():
        assert q.vectors.shape == q.straight.shape == (B, T, 3 * D)
        block = book.embedding.view(M, 3, D)[:, ORDER.index(m)]
        assert torch.equal(q.codes, torch.cdist(z[m], block).argmin(-1))
        assert torch.equal(q.vectors, book.embedding[q.codes]) and torch.equal(book.quantize(z[m], m).codes, q.codes)
        assert_close(q.straight, q.vectors)


def test_a_token_sends_its_gradient_to_all_modalities_that_have_the_second(case):
    book, z, valid = case
    z = {m: x.requires_grad_() for m, x in z.items()}
    valid["text"][0, 2] = False
    weight = torch.randn(B, T, 3 * D)
    (book.quantize_all(z, valid)["audio"].straight * weight).sum().backward()
    for number, m in enumerate(ORDER):
        expected = weight.view(B, T, 3, D)[:, :, number] * valid[m].unsqueeze(-1)
        assert_close(z[m].grad, expected)


def test_update_by_loops(case):
    """Text lacks two seconds: its share of the others' targets goes to those that are there."""
    book, z, valid = case
    valid["text"][0, 2:] = False
    z["text"][0, 2:] = 99.0
    codes = {m: q.codes for m, q in book.quantize_all(z, valid).items()}
    weight, count = book.weight.view(M, 3, D).clone(), book.count.clone()
    book.update(z, codes, valid)
    sums, n = torch.zeros(M, 3, D), torch.zeros(M, 3)
    for number, m in enumerate(ORDER):
        for b in range(B):
            for t in range(T):
                if valid[m][b, t]:
                    parts = {o: 0.6 if o == m else 0.2 for o in ORDER if valid[o][b, t]}
                    target = sum(share * z[o][b, t] for o, share in parts.items()) / sum(parts.values())
                    sums[codes[m][b, t], number] += target
                    n[codes[m][b, t], number] += 1
    weight, count = 0.99 * weight + 0.01 * sums, 0.99 * count + 0.01 * n
    assert_close(book.weight.view(M, 3, D), weight)
    assert_close(book.count, count)
    smooth = (count + 1e-5) / (count.sum(0) + M * 1e-5) * count.sum(0)
    v, a, t = (weight / smooth.unsqueeze(-1)).unbind(1)
    t = (v + a + t) / 3
    a = (v + a + t) / 3
    v = (v + a + t) / 3
    assert_close(book.embedding, torch.cat([v, a, t], 1))


def test_the_cascade_brings_blocks_of_a_row_together():
    """Of three blocks the first is in the end 16/27 itself, 7/27 the second and 4/27 the third."""
    rows = torch.randn(4, 3, 2, dtype=torch.float64)
    mixed = BlockCodebook.cascade(rows)
    assert_close(mixed[:, 0], (16 * rows[:, 0] + 7 * rows[:, 1] + 4 * rows[:, 2]) / 27)
    assert (mixed - mixed.mean(1, keepdim=True)).norm() < (rows - rows.mean(1, keepdim=True)).norm() / 2


def test_idle_rows_restart_at_whole_seconds(case):
    book, z, valid = case
    book.reset, book.reset_after = "any", 2
    valid["audio"][:, 1:] = False
    book.idle.fill_(9)
    codes = {m: torch.zeros(B, T, dtype=torch.int64) for m in MODALITIES}
    seed_shared(0, 0)
    book.update(z, codes, valid)
    assert int(book.revived) == M - 1
    targets = {m: book.target(m, z, valid) for m in MODALITIES}
    allowed = torch.cat([targets[m] for m in ORDER], -1)[:, 0]
    for row in range(1, M):
        assert any(torch.equal(book.embedding[row], one) for one in allowed)
        assert torch.equal(book.weight[row], book.embedding[row]) and (book.count[row] == 1).all()


def test_k_means_starts_at_rows(case):
    book, z, valid = case
    seed_shared(0, 0)
    book.initialise(z, valid, "data")
    every = torch.cat([book.target(m, z, valid) for m in ORDER], -1).flatten(0, 1)
    assert all((book.embedding[row] == every).all(1).any() for row in range(M))
    book.initialise(z, valid, "kmeans")
    assert book.embedding.isfinite().all()


def test_one_modality_has_one_block():
    book = BlockCodebook(("audio",), M, D)
    z, valid = {"audio": torch.randn(B, T, D)}, {"audio": torch.ones(B, T, dtype=torch.bool)}
    assert torch.equal(book.target("audio", z, valid), z["audio"])
    book.update(z, {"audio": book.quantize(z["audio"], "audio").codes}, valid)
    assert book.embedding.shape == (M, D) and book.embedding.isfinite().all()
