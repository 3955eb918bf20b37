"""Convolutions by Toom and Cook against torch's own."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from cmg.methods import registry
from cmg.models import toom_cook as module
from cmg.models.specific import Conv1, GridDecoder, GridSpecific
from cmg.models.toom_cook import conv3, conv_transpose3, toom_cook
from cmg.training import host

# Rows, columns, transposed, padding: what Ψ and its decoder run on a 7×7 grid, and grids that are not square
CASES = [(7, 7, False, 0), (5, 5, False, 0), (3, 3, False, 1), (5, 5, False, 1), (5, 7, False, 0),
         (3, 3, True, 0), (5, 5, True, 0), (3, 4, True, 0)]


def direct(x, weight, transposed, padding):
    return F.conv_transpose2d(x, weight) if transposed else F.conv2d(x, weight, padding=padding)


def example(rows, columns, transposed, channels, dtype, n=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, rows, columns, generator=generator, dtype=dtype)
    weight = torch.randn(channels, channels - 2, 3, 3, generator=generator, dtype=dtype)
    weight = weight if transposed else weight.transpose(0, 1).contiguous()
    return x.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("rows, columns, transposed, padding", CASES)
def test_convolution_and_its_gradients(rows, columns, transposed, padding):
    x, weight = example(rows, columns, transposed, 6, torch.float64)
    expected = direct(x, weight, transposed, padding)
    actual = toom_cook(x, weight, transposed, padding)
    assert_close(actual, expected, rtol=0, atol=1e-11)
    out = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad(y, (x, weight), out) for y in (actual, expected)]
    for got, wanted in zip(*gradients):
        assert_close(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows, columns, transposed, padding", CASES)
def test_rounding_is_as_documented(rows, columns, transposed, padding):
    x, weight = example(rows, columns, transposed, 128, torch.float32, n=16)
    exact = direct(x.double(), weight.double(), transposed, padding)

    def error(y):
        return ((y - exact).std() / exact.std()).item()

    assert error(toom_cook(x, weight, transposed, padding)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        rough = toom_cook(x, weight, transposed, padding)
    assert rough.dtype == torch.bfloat16
    longest = max(rows, columns) + (2 if transposed else 2 * padding)
    assert error(rough.double()) < (0.025 if longest <= 5 else 0.05)


def test_wide_maps_take_the_faster_way_and_others_torchs(monkeypatch):
    x, weight = example(5, 5, False, 130, torch.float32)
    bias = torch.randn(128)
    module.use(False)
    assert torch.equal(conv3(x, weight, bias), F.conv2d(x, weight, bias))
    module.use(True)
    calls = []
    monkeypatch.setattr(module, "toom_cook", lambda *args, **flags: calls.append(args) or toom_cook(*args, **flags))
    assert_close(conv3(x, weight, bias), F.conv2d(x, weight, bias), rtol=1e-3, atol=1e-3)
    assert_close(conv_transpose3(x, weight.transpose(0, 1), bias),
                 F.conv_transpose2d(x, weight.transpose(0, 1), bias), rtol=1e-3, atol=1e-3)
    assert len(calls) == 2
    narrow, few = example(5, 5, False, 20, torch.float32)
    assert torch.equal(conv3(narrow, few), F.conv2d(narrow, few))
    large = torch.randn(2, 130, 9, 9)  # more points than are chosen
    assert torch.equal(conv3(large, weight), F.conv2d(large, weight))
    assert len(calls) == 2


def test_conv1():
    conv = Conv1(5, 3).double()
    x = torch.randn(4, 5, 2, 3, dtype=torch.float64)
    assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias))


def test_specific_encoder_and_decoder_do_not_depend_on_the_way(monkeypatch):
    torch.manual_seed(0)
    encoder, decoder = GridSpecific(8, 6).double(), GridDecoder(4, 6, 8).double()
    video, code = torch.randn(2, 3, 7, 7, 8, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    parameters = [*encoder.parameters(), *decoder.parameters()]

    def run():
        rebuilt = decoder(code, encoder(video)[0])
        return rebuilt, torch.autograd.grad(rebuilt.square().sum(), parameters)

    expected, gradients = run()
    monkeypatch.setattr(module, "CHANNELS", 1)
    module.use(True)
    actual, others = run()
    assert actual.shape == video.shape
    assert_close(actual, expected, rtol=0, atol=1e-11)
    for got, wanted in zip(others, gradients):
        assert_close(got, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("wanted, available, expected", [
    ("auto", 5, "on"), ("auto", 3.9, "off"), ("on", 0, "on"), ("off", 99, "off")])
def test_a_run_uses_it_where_its_memory_is_a_quarter_of_what_there_is(monkeypatch, wanted, available, expected):
    method = registry.build("unicode", {"video": (3, 7, 7, 128), "audio": (3, 8)}, "paper", dim=8, specific_dim=160)
    shapes = {"video": (3, 7, 7, 128), "audio": (3, 8)}
    products = [*method.specific["video"].products(7), *method.terms["rec"].decoders["video"].products(7)]
    assert [points for points, *_ in products] == [49, 25, 25, 25, 49, 49]
    needed = module.memory(products, 2 * 3)
    monkeypatch.setattr(host, "available_memory", lambda: available * needed)
    assert host.choose_convolutions(wanted, method, shapes, clips=2) == (expected, needed)
    assert module._used == (expected == "on")


def test_the_memory_is_what_the_points_take():
    """Against what autograd keeps for the way back of one convolution, beside its input and kernel."""
    x, weight = example(7, 7, False, 130, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        toom_cook(x, weight)
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    points = sum(sizes.values()) - sum(t.untyped_storage().nbytes() for t in (x, weight)
                                       if t.untyped_storage().data_ptr() in sizes)
    # what is kept are values and kernels at the points; their products are there for a moment as well
    assert module.memory([(49, 130, 128)], 4) == pytest.approx(points + 4 * 49 * 4 * 128, rel=0.05)
