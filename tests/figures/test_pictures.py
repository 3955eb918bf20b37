"""The other pictures: shares of codes, confusions, timelines, rooflines."""

import doctest

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cmg.figures import codes, confusion, roofline, timeline
from cmg.figures.timeline import COLOURS


def test_shares_stand_on_each_other():
    (page,) = codes.draw(["video", "audio"], [[1.0, 0.25, 0.0], [0.0, 0.75, 1.0]])
    (axes,) = page.axes
    video, audio = (patch.get_data() for patch in axes.patches)
    assert video.values.tolist() == [100, 25, 0] and video.baseline.tolist() == [0, 0, 0]
    assert audio.values.tolist() == [100, 100, 100] and audio.baseline.tolist() == [100, 25, 0]
    assert [text.get_text() for text in page.legends[0].get_texts()] == ["video", "audio"]
    assert axes.get_xlabel() == "3 codes in use, sorted by the share of video"
    assert axes.get_ylabel() == "share in the use of a code, %"


def test_confusion_has_names_numbers_and_a_scale():
    names = ["bowling", "playing the cello", "skiing"]
    (page,) = confusion.draw([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 0.0]], names, "V→A")
    axes, bar = page.axes
    assert axes.collections[0].get_array().tolist() == [[100, 0, 0], [25, 75, 0], [0, 0, 0]]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == names
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "100"), ((0, 1), "25"), ((1, 1), "75")}
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("answer", "true class", "V→A")
    assert bar.get_ylabel() == "share of the true class, %"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class on top


def test_confusion_of_many_classes_keeps_names_apart():
    names = [f"class number {n}" for n in range(40)]
    (page,) = confusion.draw(np.eye(40), names, "V→A")
    page.draw_without_rendering()
    axes = page.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))
        assert all(page.bbox.x0 <= box.x0 and page.bbox.y0 <= box.y0 for box in boxes)
    assert page.bbox.x0 <= axes.yaxis.label.get_window_extent().x0 and not axes.texts


def test_timeline_shows_what_was_hit_missed_and_made_up():
    truth, prediction = np.zeros((10, 3), bool), np.zeros((10, 3), bool)
    truth[2:6, 2], prediction[4:9, 2] = True, True
    none = np.zeros((10, 3), bool)
    (page,) = timeline.draw([("clip a", prediction, truth), ("clip b", none, none)], ["x", "y", "Dog"], "AVVP, V→A")
    first, second = page.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["Dog"]
    found = {c.get_label(): (to_hex(c.get_facecolor()[0]).upper(), [path.get_extents() for path in c.get_paths()])
             for c in first.collections if c.get_label() in COLOURS}
    assert {kind: colour for kind, (colour, _) in found.items()} == COLOURS
    spans = {kind: [(box.x0, box.x1) for box in boxes] for kind, (_, boxes) in found.items()}
    assert spans == {"hit": [(4, 6)], "missed": [(2, 4)], "made up": [(6, 9)]}
    assert second.texts[0].get_text() == "no event, and none predicted" and not second.collections
    assert second.get_xlabel() == "time, s" and second.get_xlim() == (0, 10)
    assert [text.get_text() for text in page.legends[0].get_texts()] == ["hit", "missed", "made up"]
    assert first.get_title(loc="left") == "clip a" and page.get_suptitle() == "AVVP, V→A"
    assert doctest.testmod(timeline).failed == 0


def test_timelines_go_on_on_another_page():
    full = np.ones((10, 25), bool)
    pages = timeline.draw([(f"clip {n}", full, full) for n in range(3)], [f"class {k}" for k in range(25)], "AVVP")
    assert [axes.get_title(loc="left") for page in pages for axes in page.axes] == ["clip 0", "clip 1", "clip 2"]
    assert len(pages) == 3 and all(page.get_suptitle() == "AVVP" for page in pages)


def test_roofline_has_its_corner_where_the_ceilings_meet():
    (page,) = roofline.draw("a card", 1000.0, 10.0, [("AVT 80 fp32", 10.0, 100.0), ("AV 8 bf16", 5.0, 2.0)])
    (axes,) = page.axes
    roof, first, second = axes.lines
    assert roof.get_xydata()[1].tolist() == [100.0, 1000.0]  # 10 GB/s × 100 FLOP/byte
    assert roof.get_ydata()[0] == 10 * roof.get_xdata()[0] and roof.get_ydata()[2] == 1000
    assert first.get_xydata().tolist() == [[10, 100]] and second.get_xydata().tolist() == [[5, 2]]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("intensity, FLOP per byte moved", "speed, GFLOP/s")
    assert [text.get_text() for text in page.legends[0].get_texts()] == ["ceiling", "AVT 80 fp32", "AV 8 bf16"]
    product, copy = axes.texts
    assert product.get_text() == "best matrix product: 1,000 GFLOP/s" and copy.get_text() == "best copy: 10 GB/s"
    page.draw_without_rendering()
    (x0, y0), (x1, y1) = axes.transData.transform(roof.get_xydata()[:2])
    assert copy.get_rotation() == pytest.approx(np.degrees(np.arctan2(y1 - y0, x1 - x0)), abs=0.1)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        shown = [t for t in axis.get_majorticklocs() if low <= t <= high]
        assert len(shown) >= 2
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert "1,000" in ticks and not any("$" in tick for tick in ticks)
