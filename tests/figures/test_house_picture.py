"""The picture of the house: all rooms that there are, and a walk through modules that exist."""

import re

from matplotlib.patches import FancyBboxPatch

from cmg.figures import house
from support import CODE, ROOT


def test_every_room_and_station_is_drawn():
    assert house.missing() == []
    rooms = [name for line in house.layers() for name in line]
    folders = {path.parent.name for path in (CODE / "cmg").glob("*/__init__.py")}
    assert folders < set(rooms) and len(rooms) == len(set(rooms))
    (page,) = house.draw()
    above, below = page.axes
    drawn = [text.get_text() for text in above.texts]
    assert drawn[::2] == rooms and all(drawn[1::2])
    boxes = [axes.findobj(FancyBboxPatch) for axes in (above, below)]
    assert [len(found) for found in boxes] == [len(rooms), len(house.WALK)]
    # a layer is a line, the lowest one on top
    heights = dict(zip(rooms, (box.get_bbox().y0 for box in boxes[0])))
    assert [len({heights[name] for name in line}) for line in house.layers()] == len(house.layers()) * [1]
    assert heights["errors"] > heights["data"] > heights["methods"] > heights["training"] > heights["tables"]
    walk = [text.get_text() for text in below.texts if text.get_text()]
    assert walk[::2] == [station.what for station in house.WALK]
    for station in house.WALK:
        assert (CODE / "cmg" / station.module).is_file()


def test_the_picture_of_the_readme_is_up_to_date(tmp_path):
    """Matplotlib writes every text as a comment beside its shapes."""
    house.main(["--out", str(tmp_path / "house.svg")])
    texts = [re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))
             for path in (tmp_path / "house.svg", ROOT / "figs" / "house.svg")]
    assert texts[0] == texts[1] and len(texts[0]) > 50
