"""The segmentation network and its image backbones."""

import pytest
import torch
from torch.nn import functional as F

from cmg.downstream.avs.backbones import BACKBONES, Tiny
from cmg.downstream.avs.networks import Segmenter, Tpavi
from cmg.errors import UserError


def test_tpavi_is_the_sum_over_all_pairs_of_cells():
    torch.manual_seed(0)
    block = Tpavi(6, query_width=5).double()
    torch.nn.init.normal_(block.scale.weight)
    x, query = torch.randn(2, 3, 6, 2, 2).double(), torch.randn(2, 3, 5).double()
    z, aligned = block(x, query)
    cells = x.permute(0, 1, 3, 4, 2).reshape(2, 12, 6)
    answers = block.align(query).repeat_interleave(4, 1)  # the frame's query at each of its cells
    y = torch.zeros(2, 12, 3).double()
    for b in range(2):
        for p in range(12):
            for q in range(12):
                y[b, p] += (block.theta(cells[b, p]) @ block.phi(answers[b, q])) * block.g(cells[b, q]) / 12
    out = block.mu(y)
    out = (out - out.mean((0, 1))) / (out.var((0, 1), correction=0) + block.scale.eps).sqrt() * block.scale.weight
    expected = F.layer_norm(cells + out, (6,)).view(2, 3, 2, 2, 6).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(aligned, block.align(query))


def test_tpavi_starts_as_a_layer_norm():
    x = torch.randn(2, 5, 8, 3, 3)
    z, _ = Tpavi(8)(x, torch.randn(2, 5, 128))
    torch.testing.assert_close(z, F.layer_norm(x.permute(0, 1, 3, 4, 2), (8,)).permute(0, 1, 4, 2, 3))


@pytest.mark.parametrize("size", [64, 50])
def test_segmenter_answers_per_pixel_at_any_size(size):
    net = Segmenter(7, "tiny", channels=16, dilations=(1, 2), fusion=(1, 3))
    out = net(torch.rand(2, 5, 3, size, size), torch.randn(2, 5, 7))
    assert out.logits.shape == (2, 5, size, size)
    assert [tuple(a.shape) for a in out.queries] == [(2, 5, 16)] * 2
    assert [tuple(grid.shape[:3]) for grid in out.maps] == [(2, 5, 16)] * 2


def test_weights_have_the_names_that_they_have_in_checkpoints():
    weights = Segmenter(7, "tiny", channels=16, dilations=(1,), fusion=(2, 3)).state_dict()
    assert {".".join(name.split(".")[:2]) for name in weights} == {
        "backbone.stem", "backbone.stages", "query.project", "decoder.enter", "decoder.leave", "decoder.shrink",
        "decoder.last", *(f"lateral.{stage}" for stage in range(4)), "fusion.2", "fusion.3"}
    assert {name for name in weights if name.startswith(("lateral.0", "query", "decoder.leave.3"))} == {
        f"{name}.{kind}" for kind in ("weight", "bias") for name in (
            "lateral.0.branches.0", "query.project.1", "decoder.leave.3.convolutions.1",
            "decoder.leave.3.convolutions.3")}
    assert {name.split(".")[2] for name in weights if name.startswith("fusion")} == {
        "align", "theta", "phi", "g", "mu", "scale", "norm"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "pvt_v2_b5"])
def test_published_backbones_have_four_stages(name):
    if name == "pvt_v2_b5":
        pytest.importorskip("timm")
    backbone = BACKBONES[name]("none").eval()
    with torch.no_grad():
        shapes = [tuple(grid.shape) for grid in backbone(torch.rand(1, 3, 64, 64))]
    assert shapes == [(1, c, 16 >> i, 16 >> i) for i, c in enumerate(backbone.channels)]


def test_backbone_weights_are_read_from_a_file_or_refused_in_one_line(tmp_path):
    first = Tiny()
    torch.save(first.state_dict(), tmp_path / "tiny.pth")
    second = Tiny(str(tmp_path / "tiny.pth"))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    torch.save({"foreign": torch.zeros(1)}, tmp_path / "other.pth")
    for weights, reason in ((tmp_path / "none.pth", "no such file"), (tmp_path / "other.pth", "not weights of this")):
        with pytest.raises(UserError, match=reason) as caught:
            Tiny(str(weights))
        assert "\n" not in str(caught.value)


def test_what_is_compared_is_what_tpavi_multiplies():
    torch.manual_seed(0)
    net = Segmenter(7, "tiny", channels=16, dilations=(1,), fusion=(1, 3)).eval()
    maps, query = net.encode(torch.rand(2, 1, 3, 32, 32)), torch.randn(2, 1, 7)
    for stage, (seen, asked) in zip(("1", "3"), net.projections(maps, query)):
        block, x = net.fusion[stage], maps[int(stage)]
        affinity = torch.einsum("bthwc,btc->bthw", seen, asked)
        y = block.mu(affinity[..., None] * block.g(x.mean((3, 4)))[:, :, None, None])  # one frame: no other to ask
        torch.nn.init.ones_(block.scale.weight)
        y = block.scale(y.flatten(0, 3)).view_as(y)
        expected = block.norm(x.permute(0, 1, 3, 4, 2) + y).permute(0, 1, 4, 2, 3)
        torch.testing.assert_close(block(x, net.query(query))[0], expected)
