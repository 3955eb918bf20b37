"""RandAugment on the device: each operation beside torchvision's, and draws that belong to the clips."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as V

from cmg.distributed import seed_shared
from cmg.methods.cmmixer.randaugment import FILL, OPERATIONS, changed, rand_augment

LEVEL = 0.7
N = 6


@pytest.fixture(scope="module")
def pictures():
    """uint8 [N, 3, 16, 16], of different ranges; one of them is a single colour."""
    x = torch.randint(0, 256, (N, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x[1] = 40 + x[1] // 3
    x[2] = 77
    return x


def by_torchvision(x, sign):
    """name -> uint8 pictures."""
    factor = 1 + 0.9 * LEVEL * sign
    return {
        "brightness": V.adjust_brightness(x, factor), "contrast": V.adjust_contrast(x, factor), "invert": V.invert(x),
        "posterize": V.posterize(x, 2), "solarize": V.solarize(x, 256 - math.floor(256 * LEVEL)),
        "solarize add": torch.where(x < 128, (x.int() + 77).clamp(max=255), x.int()),
        "autocontrast": V.autocontrast(x), "equalize": V.equalize(x), "colour": V.adjust_saturation(x, factor),
        "sharpness": V.adjust_sharpness(x, factor)}


@pytest.mark.parametrize("sign", (1, -1))
def test_operations_are_torchvisions(pictures, sign):
    """To two levels of 256: torchvision cuts fractions off where timm, and what is here, round."""
    wanted = by_torchvision(pictures, sign)
    level = torch.full((N,), LEVEL)
    for name, want in wanted.items():
        found = changed(pictures.float(), torch.full((N,), OPERATIONS.index(name)), level, sign * level)
        assert (found - want.float()).abs().max() <= 2, name
        assert torch.equal(found, found.round()) and (name == "equalize") <= torch.equal(found, want.float())


@pytest.mark.parametrize("sign", (1, -1))
def test_moves(pictures, sign):
    x, level = pictures.float(), torch.full((N,), LEVEL)
    rotated = V.rotate(x, 30 * LEVEL * sign, V.InterpolationMode.BILINEAR, fill=[FILL] * 3)
    found = {name: changed(x, torch.full((N,), OPERATIONS.index(name)), level, sign * level)
             for name in ("rotate", "shear x", "shear y", "translate x", "translate y")}
    inside = (slice(None), slice(None), slice(5, 11), slice(5, 11))
    assert (found["rotate"] - rotated)[inside].abs().max() < 1.01
    # by 0.45 * 0.7 of 16 pixels, 5.04: what is left comes from there, and from outside the fill
    shift = round(0.45 * LEVEL * 16)
    along = found["translate x"] if sign > 0 else found["translate x"].flip(3)
    source = x if sign > 0 else x.flip(3)
    assert (along[..., : 16 - shift - 1] - source[..., shift : -1]).abs().max() < 0.05 * 255
    assert (along[..., 16 - shift :] == FILL).all()
    # columns and rows are alike
    turned = changed(x.mT, torch.full((N,), OPERATIONS.index("translate x")), level, sign * level).mT
    assert torch.equal(turned, found["translate y"])
    turned = changed(x.mT, torch.full((N,), OPERATIONS.index("shear x")), level, sign * level).mT
    assert torch.equal(turned, found["shear y"])
    ramp = torch.arange(16.0).expand(N, 3, 16, 16) * 10
    sheared = changed(ramp, torch.full((N,), OPERATIONS.index("shear x")), level, sign * level)
    place = sign * 0.21 * (torch.arange(16) + 0.5) + torch.arange(16)[:, None]  # [column, row], in pixels
    known = ((place > 0) & (place < 15)).T
    assert (sheared[0, 0] - 10 * place.T)[known].abs().max() < 0.6  # rounded


def test_beyond_the_last_operation_nothing_changes(pictures):
    level = torch.full((N,), LEVEL)
    assert torch.equal(changed(pictures.float(), torch.full((N,), len(OPERATIONS)), level, level), pictures.float())


def test_clips_have_draws_of_their_own_and_positions_share_them(pictures):
    seed_shared(0, 0)
    clip = pictures[:1, None].double() / 255
    x = clip.expand(400, 3, -1, -1, -1, -1)[:, :, 0].contiguous()  # (400, 3, 3, 16, 16), all the same
    one = rand_augment(x, 1)
    assert one.dtype == x.dtype and (0 <= one).all() and (one <= 1).all()
    assert torch.equal(one[:, 0], one[:, 1]) and torch.equal(one[:, 0], one[:, 2])
    same = (one[:, 0] - x[:, 0]).abs().flatten(1).amax(1) < 1e-6
    assert 140 < same.sum() < 260  # a half
    assert len({part.numpy().tobytes() for part in one[:, 0]}) > 90  # of how much, too
    four = rand_augment(x, 4)
    same = (four[:, 0] - x[:, 0]).abs().flatten(1).amax(1) < 1e-6
    assert same.sum() < 60  # a sixteenth
    seed_shared(0, 0)
    assert torch.equal(rand_augment(x, 1), one)
