"""The shared codebook: an independent oracle, eq. 7 by hand, purity of reading, resets that last, finite statistics."""

import copy

import pytest
import torch
from torch.testing import assert_close

from cmg.errors import UserError
from cmg.metrics.codebook import match_rate, overlap, perplexity
from cmg.models.codebook import Codebook, cross_attention
from cmg.released.networks import ReleasedCodebook

AV = ("audio", "video")


def batch(modalities=AV, B=6, T=5, D=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = {m: torch.randn(B, T, D, generator=generator) for m in modalities}
    return z, {m: torch.ones(B, T, dtype=torch.bool) for m in modalities}


def codes_of(book, z):
    return {m: book.quantize(x).codes for m, x in z.items()}


def buffers(book):
    return {name: value.clone() for name, value in book.named_buffers()}


def test_plain_ema_agrees_with_the_library():
    """One modality without cross terms is a plain EMA codebook: 50 steps beside vector-quantize-pytorch."""
    oracle_module = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    start = torch.randn(16, 8)
    oracle = oracle_module.VectorQuantize(dim=8, codebook_size=16, decay=0.99, rotation_trick=False, eps=1e-5)
    inner = oracle._codebook
    inner.embed.data.copy_(start[None])
    inner.embed_avg.data.copy_(start[None])
    inner.cluster_size.data.fill_(1.0)
    oracle.train()
    book = Codebook(("audio",), 16, 8, mm_ema="off", reset="off")
    book.embedding.copy_(start)
    book.weight.copy_(start)
    valid = {"audio": torch.ones(10, 5, dtype=torch.bool)}
    for step in range(50):
        z = torch.randn(10, 5, 8, generator=torch.Generator().manual_seed(step)) + step / 25
        quantized = book.quantize(z)
        library, indices, _ = oracle(z)
        assert torch.equal(indices, quantized.codes)
        assert_close(library, quantized.straight, rtol=1e-5, atol=1e-6)
        book.update({"audio": z}, {"audio": quantized.codes}, valid)
        assert_close(inner.embed[0], book.embedding, rtol=1e-5, atol=1e-6)


def test_reading_is_pure_and_lookup_inverts_it():
    book = Codebook(AV, 12, 8)
    book.initialise(*batch(), method="data")
    before = buffers(book)
    z, _ = batch(seed=3)
    quantized = book.quantize(z["audio"].requires_grad_())
    assert torch.equal(book.lookup(quantized.codes), quantized.vectors)
    assert_close(quantized.straight, quantized.vectors)
    nearest = torch.cdist(z["audio"].flatten(0, 1), book.embedding).argmin(1).view(6, 5)
    assert torch.equal(quantized.codes, nearest)
    quantized.straight.sum().backward()
    assert torch.equal(z["audio"].grad, torch.ones_like(z["audio"]))  # straight-through
    for name, value in book.named_buffers():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("mm_ema", ["attention", "aligned", "off"])
def test_update_equals_eq_7_by_hand(mm_ema):
    """N and o accumulated step by step in Python, with padded seconds that must not count."""
    z, valid = batch()
    valid["video"][2, 3:] = False
    book = Codebook(AV, 4, 8, mm_ema=mm_ema, reset="off")
    book.initialise(z, valid, method="data")
    codes = codes_of(book, z)
    count, weight = 0.99 * book.count, 0.99 * book.weight
    for own, other in (AV, AV[::-1]):
        for b in range(6):
            keys = z[other][b][valid[other][b]]
            for t in range(5):
                if not valid[own][b, t]:
                    continue
                x = z[own][b, t]
                if mm_ema == "attention":
                    r = (keys @ x / 8**0.5).softmax(0) @ keys
                else:
                    r = z[other][b, t] if mm_ema == "aligned" and valid[other][b, t] else x
                count[codes[own][b, t]] += 0.01
                weight[codes[own][b, t]] += 0.01 * (x + r) / 2
    book.update(z, codes, valid)
    assert_close(book.count, count, rtol=1e-5, atol=1e-6)
    assert_close(book.weight, weight, rtol=1e-4, atol=1e-5)
    smooth = (count + 1e-5) / (count.sum() + 4e-5) * count.sum()
    assert_close(book.embedding, weight / smooth[:, None], rtol=1e-4, atol=1e-5)


def test_cross_attention_of_identical_steps_is_that_step():
    other = torch.randn(3, 1, 8).expand(3, 5, 8)
    assert_close(cross_attention(torch.randn(3, 4, 8), other, torch.ones(3, 5, dtype=torch.bool)), other[:, :4])
    valid = torch.zeros(3, 5, dtype=torch.bool)
    valid[:, 2] = True
    other = torch.randn(3, 5, 8)
    assert_close(cross_attention(torch.randn(3, 4, 8), other, valid), other[:, 2:3].expand(3, 4, 8))


@pytest.mark.parametrize("mm_ema", ["attention", "aligned"])
def test_a_modality_that_a_clip_lacks_has_no_say(mm_ema):
    """Targets of a clip without words are those of a codebook without text; alone, a step stands for itself."""
    z, valid = batch((*AV, "text"))
    valid["text"][0], valid["text"][1], valid["audio"][1] = False, False, False
    book, without = Codebook((*AV, "text"), 4, 8, mm_ema=mm_ema), Codebook(AV, 4, 8, mm_ema=mm_ema)
    target = book.target("video", z, valid)
    assert_close(target[0], without.target("video", z, valid)[0])
    assert_close(target[1], z["video"][1])
    r = [cross_attention(z["video"], z[n], valid[n]) if mm_ema == "attention" else z[n] for n in ("audio", "text")]
    assert_close(target[2:], (z["video"] / 2 + r[0] / 4 + r[1] / 4)[2:])


def test_order_of_modalities_does_not_matter():
    """The joint update is symmetric; a sequential one is not."""
    z, valid = batch(("audio", "video", "text"))
    books = [Codebook(names, 8, 8, reset="off") for names in (("audio", "video", "text"), ("text", "video", "audio"))]
    for book in books:
        book.embedding.copy_(z["audio"].flatten(0, 1)[:8])
        book.weight.copy_(book.embedding)
    codes = codes_of(books[0], z)
    for book in books:
        book.update(z, codes, valid)
    assert_close(books[0].embedding, books[1].embedding)


def test_non_finite_statistics_are_skipped_and_counted():
    book = Codebook(AV, 12, 8)
    z, valid = batch()
    book.initialise(z, valid, "data")
    codes, before = codes_of(book, z), buffers(book)
    z["video"][1, 2, 3] = float("nan")
    book.update(z, codes, valid)
    for name in ("embedding", "weight", "count"):
        assert torch.equal(getattr(book, name), before[name]), name
    assert int(book.skipped) == 1
    z, _ = batch(seed=5)
    book.update(z, codes_of(book, z), valid)
    assert book.embedding.isfinite().all() and not torch.equal(book.embedding, before["embedding"])


@pytest.mark.parametrize(("reset", "expected"), [("any", {3}), ("both", {1, 2, 3}), ("off", set())])
def test_which_codes_are_reset(reset, expected):
    """Code 0 is used by both modalities, 1 by audio, 2 by video, 3 by neither."""
    book = Codebook(AV, 4, 2, reset=reset, reset_after=5, mm_ema="off")
    book.embedding.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]]))
    book.weight.copy_(book.embedding)
    z = {"audio": torch.tensor([[[0.0, 0.0], [10.0, 0.0]]]), "video": torch.tensor([[[0.0, 0.0], [0.0, 10.0]]])}
    valid = {m: torch.ones(1, 2, dtype=torch.bool) for m in AV}
    codes = codes_of(book, z)
    for _ in range(6):
        assert int(book.revived) == 0
        book.update(z, codes, valid)
    book.update(z, codes, valid)
    assert int(book.revived) == len(expected)
    targets = torch.cat([z["audio"][0], z["video"][0]])
    for k in expected:  # a target of that batch
        assert (book.embedding[k] - targets).abs().amax(1).min() < 1e-6


def test_a_released_reset_lands_beside_a_living_code():
    book = ReleasedCodebook(("audio",), 3, 2, mm_ema="off", reset="any", reset_after=2)
    book.embedding.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0], [90.0, 90.0]]))
    book.weight.copy_(book.embedding)
    book.count.fill_(1)
    z = {"audio": torch.tensor([[[0.0, 0.0], [4.0, 0.0]]]).double()}
    for _ in range(4):
        book.update(z, {"audio": torch.tensor([[0, 1]])}, {"audio": torch.ones(1, 2, dtype=torch.bool)})
    assert int(book.revived) == 1
    distance = (book.embedding[2] - book.embedding[:2]).abs().amax(1).min()
    assert 0 < distance <= book.jitter


def test_a_reset_survives_the_next_update():
    """The public code resets the vector but not its statistics, so the next update undoes it; here they agree."""
    book = Codebook(AV, 4, 2, reset="any", reset_after=2, mm_ema="off")
    far = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [50.0, 50.0]])
    book.embedding.copy_(far)
    book.weight.copy_(far)
    z = {m: far[:3].view(1, 3, 2).clone() for m in AV}
    valid = {m: torch.ones(1, 3, dtype=torch.bool) for m in AV}
    codes = codes_of(book, z)
    for _ in range(10):
        book.update(z, codes, valid)
        book.idle[:, 3].clamp_(max=2)  # nobody selects it: only its own statistics could move it
        if int(book.revived):
            break
    fresh = book.embedding[3].clone()
    assert fresh.abs().max() < 2
    for _ in range(2):
        book.update(z, codes, valid)
    assert (book.embedding[3] - fresh).abs().max() < 0.02


def test_kmeans_start_lies_between_the_modalities_and_is_shared():
    """Two well separated modalities: codes start at their midpoints, and each is right for both of its sides."""
    torch.manual_seed(0)
    centre = 3 * torch.randn(4, 8)
    label = torch.arange(4).repeat(8).view(8, 4)
    centre[:, 0], gap = 0, torch.zeros(8)  # a gap along an axis that tells nothing of the class
    gap[0] = 20.0
    z = {"audio": centre[label] + gap + 0.01 * torch.randn(8, 4, 8), "video": centre[label] - gap}
    valid = {m: torch.ones(8, 4, dtype=torch.bool) for m in AV}
    book = Codebook(AV, 16, 8, mm_ema="aligned")
    book.initialise(z, valid, "kmeans")
    assert book.embedding[:, 0].abs().max() < 1
    for m, codes in codes_of(book, z).items():
        assert torch.equal(torch.cdist(book.embedding[codes], centre.expand(8, 4, 8)).argmin(-1), label), m


def test_precision_is_kept():
    """A bf16 EMA stalls at 75 on its way from 100 to 50: the codebook refuses to be cast."""
    book = Codebook(AV, 4, 8).to(torch.bfloat16)
    assert book.embedding.dtype == torch.float32
    assert ReleasedCodebook(AV, 4, 8).float().embedding.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert book.distances(torch.randn(2, 3, 8).bfloat16()).dtype == torch.float32


def test_copy_is_independent():
    book = Codebook(AV, 4, 8)
    twin = copy.deepcopy(book)
    z, valid = batch()
    book.update(z, codes_of(book, z), valid)
    assert not torch.equal(book.embedding, twin.embedding)


def test_metrics_closed_forms():
    assert perplexity(torch.tensor([5.0, 5.0, 5.0, 5.0])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([9.0, 0.0, 0.0])).item() == pytest.approx(1)
    assert overlap(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 2.0, 2.0])).item() == pytest.approx(0.5)
    a, b = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 0, 3, 4]])
    assert match_rate(a, b, torch.tensor([[True, True, True, False]])).item() == pytest.approx(200 / 3)


def test_a_codebook_does_not_start_from_padding():
    book = Codebook(("audio", "video"), size=4, dim=3)
    z = {m: torch.ones(2, 5, 3) for m in ("audio", "video")}
    with pytest.raises(UserError, match="no clip of the first batch has a single step"):
        book.initialise(z, {m: torch.zeros(2, 5, dtype=torch.bool) for m in z})
