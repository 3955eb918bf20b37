"""`things`: directions, contrast, colours, and what is where."""

import numpy as np
import pytest
import torch

from cmg.extract.things import BINS, GAP, Things, gradients, histograms, opponent, palette, pictures, things

OWN, FINE, COARSE, COLOUR = slice(0, 14), slice(14, 210), slice(210, 242), slice(242, 338)


def frames(picture):
    """A picture [H, W, 3] of 0 to 1 as one second of one frame."""
    return [np.round(255 * np.asarray(picture, float))[None].astype(np.uint8)]


@pytest.fixture(scope="module")
def picture():
    """A bright cross at the left of a dark frame, and a red square at the right."""
    found = np.full((112, 112, 3), 0.2)
    found[40:72, 20:28] = found[52:60, 8:40] = 0.6
    found[60:100, 70:100] = [0.6, 0.1, 0.1]
    return found


def test_a_gradient_counts_for_its_direction():
    ramp = torch.arange(28.0).expand(1, 28, 28) / 28
    inner = gradients(ramp, 8)[0, :, 5:-5, 5:-5].mean((1, 2))  # brighter to the right: direction 0
    assert inner.argmax() == 0 and inner[4] == 0
    torch.testing.assert_close(inner[1] / inner[0], torch.tensor(0.25))  # cos⁴ 45°
    down = gradients(ramp.transpose(1, 2), 8)[0, :, 5:-5, 5:-5].mean((1, 2))
    torch.testing.assert_close(down.roll(-2), inner)


@pytest.mark.parametrize("directions, places", [(4, 7), (8, 2)])
def test_histograms_against_a_loop(directions, places):
    grey = torch.from_numpy(np.random.default_rng(0).random((1, 28, 28))).float()
    energy, step = gradients(grey, directions)[0].double().numpy(), 28 // places
    plain = np.zeros((directions, places, places))
    for row in range(28):
        for column in range(28):
            for i in range(places):
                for j in range(places):
                    near = [1 - abs(x - (step * k + step / 2 - 0.5)) / step for x, k in ((row, i), (column, j))]
                    if min(near) > 0:
                        plain[:, i, j] += energy[:, row, column] * near[0] * near[1] / step**2
    square = np.pad((plain**2).sum(0), 1, mode="edge")
    local = np.array([[square[i : i + 3, j : j + 3].mean() for j in range(places)] for i in range(places)])
    np.testing.assert_allclose(histograms(grey, directions, places)[0], np.sqrt(plain / (np.sqrt(local) + 0.02)),
                               rtol=1e-4, atol=1e-5)


def test_contrast_does_not_matter_and_colour_does(picture):
    plain, faint = (Things()(frames(x))[0] for x in (picture, 0.5 + 0.5 * (picture - 0.5)))
    edges, there = plain[0, 0, FINE], plain[0, 0, FINE] > 0.3
    assert there.sum() > 20 and np.abs(faint[0, 0, FINE] - edges)[there].max() < 0.12
    grey = picture.copy()
    grey[60:100, 70:100] = 0.6
    grey = Things()(frames(grey))[0]
    assert np.abs(grey[4, 4, COLOUR] - plain[4, 4, COLOUR]).max() > 0.5
    np.testing.assert_allclose(grey[0, 0, COLOUR], plain[0, 0, COLOUR], atol=0.02)  # of the cross


def test_cells_tell_what_is_at_them_and_which_thing_is_near(picture):
    x = Things()(frames(picture))[0]
    assert x.shape == Things.shape
    red = x[..., 9]  # mean of red less green
    assert red.argmax() in (3 * 5 + 3, 3 * 5 + 4, 4 * 5 + 3, 4 * 5 + 4) and red.max() > 0.5
    assert np.abs(red[:, :3]).max() < 0.02
    assert x[..., OWN][2, 1, :8].max() > 0.5 > 0.01 > x[..., OWN][0, 2, :8].max()  # the cross, and nothing
    kinds = np.unique(x[..., 14:].reshape(25, -1), axis=0)
    assert len(kinds) == 2  # the cross and the square
    assert (x[2, 0, 14:] == x[0, 0, 14:]).all() and (x[4, 4, 14:] == x[3, 3, 14:]).all()
    assert np.abs(x[2, 0, 14:] - x[4, 4, 14:]).max() > 0.3


def cross(top, left, size, ground=None):
    """A cross on a frame, dark by default."""
    found = np.zeros((112, 112, 3)) if ground is None else ground.copy()
    arm = size // 4
    found[top : top + size, left + size // 2 - arm // 2 : left + size // 2 + arm // 2] = 1
    found[top + size // 2 - arm // 2 : top + size // 2 + arm // 2, left : left + size] = 1
    return found


def corner(top, left, size, ground=None):
    found = np.zeros((112, 112, 3)) if ground is None else ground.copy()
    found[top : top + size, left : left + size // 4] = found[top : top + size // 4, left : left + size] = 1
    return found


def told(picture, row=0, column=0):
    """What a cell says of its thing."""
    return Things()(frames(picture))[0, row, column, 14:]


def test_place_and_size_of_a_single_thing_do_not_matter():
    here, there, large = told(cross(8, 8, 40)), told(cross(60, 56, 40)), told(cross(16, 16, 80))
    for part in (slice(0, 196), slice(196, 228)):
        assert np.corrcoef(here[part], there[part])[0, 1] > 0.97 and np.corrcoef(here[part], large[part])[0, 1] > 0.9


def test_things_beside_each_other_are_told_as_each_would_be_alone():
    both = corner(64, 60, 40, cross(8, 8, 40))
    for alone, row, column in ((cross(8, 8, 40), 0, 0), (corner(64, 60, 40), 4, 4)):
        np.testing.assert_allclose(told(both, row, column), told(alone), atol=0.05)
    assert np.corrcoef(told(both), told(both, 4, 4))[0, 1] < 0.9


def test_a_thing_is_a_group_of_edges_without_a_wide_gap():
    def bars(gap):
        grey = torch.full((112, 112), -1.0)
        grey[20:90, 20:40] = grey[20:90, 40 + 2 * gap : 60 + 2 * gap] = 1.0
        return things(grey.expand(3, -1, -1))

    near, far = bars(GAP - 3), bars(GAP + 3)  # in pixels of the picture that they are found in
    assert len(near.alone) == 1 and len(far.alone) == 2
    assert set(np.unique(far.nearest)) == {0, 1} and (far.nearest[:, 0] != far.nearest[:, 4]).all()


def test_grain_and_an_empty_frame_are_one_thing():
    grain = torch.from_numpy(np.random.default_rng(0).integers(0, 12, (112, 112))) / 127.5 - 1
    for grey in (grain.float(), torch.zeros(112, 112)):
        found = things(grey.expand(3, -1, -1))
        assert len(found.alone) == 1 and (found.alone[0] == grey).all() and (found.nearest == 0).all()


def photo(seed, side):
    """Blocks of colours, bright ones at the rim."""
    found = np.random.default_rng(seed).random((7, 7, 3)) * 0.6 + 0.4
    found[2:5, 2:5] -= 0.4
    return found.repeat(side // 7, 0).repeat(side // 7, 1)


def test_photos_in_quarters_are_told_as_each_would_be_alone():
    """Though they touch each other and black, of the grain that a dark frame has."""
    quarters = np.random.default_rng(0).random((224, 224, 3)) * 11 / 255
    places = {0: (0, 0), 1: (0, 112), 3: (112, 112)}
    for seed, (top, left) in places.items():
        quarters[top : top + 112, left : left + 112] = photo(seed, 112)
    found = Things()(frames(quarters))[0]
    for seed, (top, left) in places.items():
        row, column = 3 * (top > 0), 3 * (left > 0)
        alone = Things()(frames(photo(seed, 224)))[0, 0, 0, 14:]
        np.testing.assert_allclose(found[row : row + 2, column : column + 2, 14:] - alone, 0, atol=0.01)
    assert len(np.unique(found[..., 14:].reshape(25, -1), axis=0)) == 3


@pytest.mark.parametrize("what", ["digits", "photo", "four photos", "letterbox"])
def test_what_is_no_photo_in_a_quarter_stays_as_it_is(what):
    frame = np.zeros((112, 112, 3))
    if what == "digits":
        frame[10:46, 20:26] = frame[60:100, 70:76] = frame[60:66, 62:100] = 1.0
    elif what == "letterbox":
        frame[20:92] = photo(0, 112)[20:92]
    else:
        frame[:] = photo(0, 112) if what == "photo" else np.tile(photo(0, 56), (2, 2, 1))
    assert pictures(torch.from_numpy(2 * frame - 1).float().permute(2, 0, 1)) is None


def test_palette_and_opponent_colours():
    x = torch.full((1, 3, 4, 4), -1.0)
    x[0, 0] = 1.0  # red
    x[0, :, 0] = 1.0  # a quarter is white
    shares = palette(x)[0] ** 2
    assert shares[(BINS - 1) * BINS**2].item() == pytest.approx(0.75) and shares[-1].item() == pytest.approx(0.25)
    torch.testing.assert_close(opponent(x)[0, :, 1, 1], torch.tensor([-1 / 3, 2.0, 1.0]))
    torch.testing.assert_close(opponent(x)[0, :, 0, 1], torch.tensor([1.0, 0.0, 0.0]))
