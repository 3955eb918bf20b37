"""The figure of masks over frames: every pixel, name and percentage in it."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from cmg.downstream.avs.picture import MaskedClip, Masks, draw, tinted

GREEN, BLUE, ORANGE = (0, 158, 115), (86, 180, 233), (230, 159, 0)


def clip(title, iou=(1.0, 0.5)):
    """Two seconds of 4×4 pixels; the true mask is the upper half, the target's query finds nothing."""
    frames = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[:, :2] = True
    return MaskedClip(title, frames, truth, {"audio's query": Masks(truth.flip(1), torch.tensor(iou)),
                                             "text's query": Masks(truth & False, torch.zeros(2))})


def test_half_of_the_colour_goes_over_masked_pixels_alone():
    frames = torch.tensor([[[[10, 20, 30], [11, 21, 31]]]], dtype=torch.uint8)  # (1, 1, 2, 3)
    found = tinted(frames, torch.tensor([[[True, False]]]), (110, 0, 255))
    assert found.dtype == torch.uint8 and found.tolist() == [[[[60, 10, 142], [11, 21, 31]]]]  # 142.5 goes to even


def test_rows_are_truth_and_queries_and_columns_are_seconds():
    (figure,) = draw([clip("a (cat)"), clip("b (dog)", (0.25, 0.333)), clip("c (cat)")])
    assert [panel.get_title() for panel in figure.axes] == ["a (cat)", "b (dog)", "c (cat)"]
    panel = figure.axes[1]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["second 1", "second 2"]
    assert [tick.get_text() for tick in panel.get_yticklabels()] == [
        "true mask", "audio's query\nIoU 29 %", "text's query\nIoU 0 %"]
    assert [(text.get_text(), int(text.get_position()[0]), int(text.get_position()[1])) for text in panel.texts] == [
        ("25 %", 0, 1), ("33 %", 1, 1), ("0 %", 0, 2), ("0 %", 1, 2)]

    drawn = {(int(image.get_extent()[3]), int(image.get_extent()[0])): image.get_array() for image in panel.images}
    assert set(drawn) == {(row, second) for row in range(3) for second in range(2)}
    for row, (colour, lines) in enumerate([(GREEN, [0, 1]), (BLUE, [2, 3]), (ORANGE, [])]):
        expected = np.full((4, 4, 3), 100.0)
        expected[lines] = [(100 + value) / 2 for value in colour]
        assert np.abs(drawn[row, 1] - expected).max() <= 0.5


def test_outlines_run_along_the_masks_in_the_colours_of_the_legend():
    (figure,) = draw([clip("a (cat)")])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["true mask", "audio's query", "text's query"]
    named = [to_hex(patch.get_facecolor()) for patch in legend.get_patches()]
    assert named == [to_hex(np.divide(colour, 255)) for colour in (GREEN, BLUE, ORANGE)]
    outlines = figure.axes[0].collections  # of two seconds, true masks and the source's; an empty mask has none
    assert sorted(to_hex(one.get_edgecolor()[0]) for one in outlines) == sorted(2 * named[:2])
    for one in outlines:
        (path,) = one.get_paths()
        (left, top), (right, bottom) = path.vertices.min(0), path.vertices.max(0)
        upper = to_hex(one.get_edgecolor()[0]) == named[0]  # the upper half of row 0, or the lower one of row 1
        expected = (0, 0.48) if upper else (1.48, 1.96)
        assert (top, bottom) == pytest.approx(expected) and right - left == pytest.approx(0.96)


def test_one_query_alone_has_one_row():
    alone = clip("a (cat)")._replace(predicted={"no query": clip("").predicted["audio's query"]})
    (figure,) = draw([alone])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["true mask", "no query"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["true mask", "no query\nIoU 75 %"]
