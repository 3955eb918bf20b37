"""Bars, whiskers and chance by what Matplotlib holds of them; panels that are too wide are split."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cmg.figures import bars
from cmg.figures.bars import Panel
from cmg.figures.style import COLOURS

PANEL = Panel("AVE clip top-1", "accuracy, %", ["V→A", "A→V"],
              {"transfer": [(50.0, 2.0), (60.0, None)], "own": [(75.0, 0.0), (None, None)]}, [10.0, None])


def rows_of(axes):
    return {container.get_label(): container for container in axes.containers if hasattr(container, "patches")}


def heights(axes):
    return {name: [bar.get_height() for bar in container] for name, container in rows_of(axes).items()}


def whiskers(container):
    """(low, high) of every bar that has one."""
    segments = container.errorbar.lines[2][0].get_segments()
    return [tuple(segment[:, 1]) for segment in segments if len(segment) and np.isfinite(segment).all()]


def test_bars_whiskers_and_chance():
    (page,) = bars.draw([PANEL], "strict")
    (axes,) = page.axes
    assert heights(axes)["transfer"] == [50.0, 60.0] and heights(axes)["own"][0] == 75.0
    assert np.isnan(heights(axes)["own"][1])  # not measured
    transfer, own = rows_of(axes).values()
    assert whiskers(transfer) == [(48.0, 52.0)] and whiskers(own) == []
    (chance,) = (artist for artist in axes.collections if artist.get_label() == "chance")
    left, right = transfer[0].get_x(), own[0].get_x() + own[0].get_width()
    (segment,) = chance.get_segments()  # the second group has none
    assert segment[:, 1].tolist() == [10.0, 10.0] and segment[0, 0] <= left and segment[1, 0] >= right
    assert axes.get_ylabel() == "accuracy, %" and axes.get_title() == "AVE clip top-1"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["V→A", "A→V"]
    assert [text.get_text() for text in page.legends[0].get_texts()] == ["transfer", "own", "chance"]
    assert page.get_suptitle() == "strict" and axes.get_ylim()[0] == 0


def test_no_legend_entry_for_a_chance_that_is_not_drawn():
    (page,) = bars.draw([PANEL._replace(chance=[None, None])])
    assert [text.get_text() for text in page.legends[0].get_texts()] == ["transfer", "own"]


def test_a_row_has_one_colour_in_all_panels_and_hatches_after_the_last_one():
    rows = {f"row {n}": [(float(n), 1.0)] for n in range(10)}
    some = {name: rows[name] for name in ("row 9", "row 2")}
    (page,) = bars.draw([Panel("a", "F1, %", ["V→A"], rows, [5.0]), Panel("b", "F1, %", ["V→A"], some, [5.0])])
    found = {axes.get_title(): {name: bars_[0] for name, bars_ in rows_of(axes).items()} for axes in page.axes}
    for name, bar in found["b"].items():
        assert bar.get_height() == rows[name][0][0] and bar.get_facecolor() == found["a"][name].get_facecolor()
    left, right = (found["b"][name] for name in ("row 2", "row 9"))  # side by side, though seven rows lie between them
    assert left.get_x() + left.get_width() < right.get_x() < left.get_x() + 1.2 * left.get_width()
    assert left.get_x() == pytest.approx(-right.get_x() - right.get_width())
    assert to_hex(found["a"]["row 1"].get_facecolor()).upper() == COLOURS[1] and not found["a"]["row 1"].get_hatch()
    assert to_hex(found["a"]["row 9"].get_facecolor()).upper() == COLOURS[1] and found["a"]["row 9"].get_hatch()
    looks = [tuple(map(str, bars.look(number).values())) for number in range(40)]
    assert len(set(looks)) == 40


def test_more_groups_than_a_page_is_wide_go_on_in_another_panel():
    """30 rows in 12 directions: 360 bars."""
    groups = [f"{a}→{b}" for a in "ABCD" for b in "ABCD" if a != b]
    rows = {f"row {n}": [(float(n + g), None) for g in range(12)] for n in range(30)}
    pages = bars.draw([Panel("wide", "F1, %", groups, rows, [float(g) for g in range(12)])])
    axes = [one for page in pages for one in page.axes]
    assert len(axes) > 1 and {one.get_title() for one in axes} == {"wide"}
    assert [label.get_text() for one in axes for label in one.get_xticklabels()] == groups
    assert sum((heights(one)["row 7"] for one in axes), []) == [7.0 + g for g in range(12)]
    chance = [segment[0, 1] for one in axes for c in one.collections if c.get_label() == "chance"
              for segment in c.get_segments()]
    assert chance == list(range(12))
    for page in pages:
        page.draw_without_rendering()
        for one in page.axes:
            bar = rows_of(one)["row 0"][0].get_window_extent()
            assert bar.width / page.dpi > 0.8 * bars.BAR[0] * 0.9  # inches, so that one can tell them apart


def test_names_of_groups_that_do_not_fit_are_turned():
    groups = [f"modality{n}→another" for n in range(8)]
    (page,) = bars.draw([Panel("a", "F1, %", groups, {"row": [(1.0, None)] * 8}, [None] * 8)])
    page.draw_without_rendering()
    labels = page.axes[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {30.0}
    (short,) = bars.draw([PANEL])
    assert {label.get_rotation() for label in short.axes[0].get_xticklabels()} == {0.0}


def test_bars_are_never_wider_than_a_finger():
    (page,) = bars.draw([Panel("a", "F1, %", ["V→A"], {"row": [(1.0, None)]}, [None])])
    page.draw_without_rendering()
    bar = rows_of(page.axes[0])["row"][0].get_window_extent()
    assert bar.width / page.dpi == pytest.approx(bars.BAR[1], abs=0.06)
