"""Lines: points, whiskers, chance, scales."""

import numpy as np

from cmg.figures import lines
from cmg.figures.lines import Panel


def test_lines_pass_through_their_points():
    panels = [Panel("AVE clip top-1", "accuracy, %", {"V→A": [(32, 60.0, 2.0), (800, 80.0, None)],
                                                      "A→V": [(32, 50.0, 0.0), (800, None, None)]}, [10.0, 24.0]),
              Panel("AVVP", "F1, %", {"A→V": [(32, 5.0, None)]})]
    (page,) = lines.draw(panels, "codes")
    first, second = page.axes
    data = {c.get_label(): c for c in first.containers}
    assert data["V→A"].lines[0].get_xydata().tolist() == [[32, 60], [800, 80]]
    whiskers = data["V→A"].lines[2][0].get_segments()
    assert [s[:, 1].tolist() for s in whiskers if len(s) and np.isfinite(s).all()] == [[58.0, 62.0]]
    assert np.isnan(data["A→V"].lines[0].get_ydata()[1])
    chance = [line.get_ydata()[0] for line in first.lines if line.get_label() == "chance"]
    assert chance == [10.0, 24.0] and not any(line.get_label() == "chance" for line in second.lines)
    assert [text.get_text() for text in page.legends[0].get_texts()] == ["V→A", "A→V", "chance"]
    assert (first.get_xlabel(), first.get_ylabel(), first.get_title()) == ("codes", "accuracy, %", "AVE clip top-1")
    assert first.get_xscale() == "log" and second.get_xscale() == "linear"
    assert [label.get_text() for label in first.get_xticklabels()] == ["32", "800"]
    assert second.containers[0].lines[0].get_color() == data["A→V"].lines[0].get_color()


def test_many_points_are_a_plain_line():
    course = [(20 * n, float(n), None) for n in range(50)]
    (page,) = lines.draw([Panel("", "match rate, %", {"A–V": course})], "step")
    (axes,) = page.axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[x, y] for x, y, _ in course] and line.get_marker() == "None"
    assert axes.get_xscale() == "linear" and axes.get_xlim()[0] == 0 and axes.get_ylim()[0] == 0
