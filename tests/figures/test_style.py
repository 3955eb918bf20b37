"""Pages: what is written, all of it or nothing; panels that do not fit go on; what shall stay light stays light."""

import subprocess
import sys
from typing import NamedTuple

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from cmg.errors import UserError
from cmg.figures.style import HEIGHT, WIDTH, panel_pages, save, styled, width_of
from support import CODE


def page(title="a page"):
    figure = Figure((2, 1))
    figure.suptitle(title)
    return figure


def test_a_picture_is_a_png_and_a_pdf_of_the_printed_size(tmp_path):
    assert save([page()], tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png"
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"a.png", "a.pdf"}
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.format == "PNG" and picture.size == (2 * 200, 1 * 200)
    pdf = (tmp_path / "new" / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/MediaBox [ 0 0 144 72 ]" in pdf and b"/Subtype /Image" not in pdf


def test_pages_are_numbered_and_those_of_an_earlier_picture_go(tmp_path):
    save([page(), page(), page()], tmp_path / "a.png")
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "a_2.png", "a_3.png", "a.pdf"}
    assert b"/Count 3" in (tmp_path / "a.pdf").read_bytes()
    save([page()], tmp_path / "a.png")
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "a.pdf"}


def test_equal_pictures_are_equal_files(tmp_path):
    for name in ("a", "b"):
        save([page()], tmp_path / f"{name}.svg")
    for kind in ("svg", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    save([page()], tmp_path / "a.png")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(self, part, **options):
        with open(part, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(UserError, match=r"cannot write \(No space left on device\)"):
        save([page("another")], tmp_path / "a.png")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


class Empty(NamedTuple):
    title: str = "a panel"
    ylabel: str = "time, s"


@pytest.mark.parametrize(("panels", "needed", "shapes"), [
    (1, 2.0, [(1, 1)]),
    (4, 2.0, [(2, 2)]),  # two and two, not three and one
    (5, 2.0, [(2, 3)]),
    (13, 2.0, [(4, 3), (1, 3)]),  # the next page
    (2, 4.0, [(2, 1)]),
])
def test_panels_stand_side_by_side_as_far_as_they_fit(panels, needed, shapes):
    pages = list(panel_pages([Empty()] * panels, needed, {"key": Patch()}))
    assert [found[0][0].get_gridspec().get_geometry() for _, found in pages] == shapes
    assert sum(len(found) for _, found in pages) == panels
    for figure, _ in pages:
        assert figure.get_figwidth() <= WIDTH and figure.get_figheight() <= HEIGHT + 0.3


def test_panels_of_one_label_share_a_scale_that_holds_all():
    shown = [Empty(ylabel=label) for label in ("accuracy, %", "rank", "accuracy, %")]
    for _, found in panel_pages(shown, 2.0, {"key": Patch()}):
        for (axes, _), height in zip(found, (10, 500, 90)):
            axes.bar([0], [height])
    tops = [axes.get_ylim() for axes, _ in found]
    assert tops[0] == tops[2] == pytest.approx((0, 94.5)) and tops[1] == pytest.approx((0, 525))


@styled
def legend_of(names):
    (figure, _), = panel_pages([Empty()] * 3, 2.0, {name: Patch() for name in names})
    figure.draw_without_rendering()
    return figure, figure.legends[0]


def test_long_names_in_the_legend_do_not_overlap():
    names = [f"a row whose name says at length what was changed in it, and why, and by whom, number {n}" for n in "123"]
    figure, legend = legend_of([*names, "$1, $2"])
    texts = legend.get_texts()
    assert [text.get_text().replace("\n", " ") for text in texts] == [*names, "$1, $2"]
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    page_box = figure.bbox
    assert all(page_box.x0 <= box.x0 and box.x1 <= page_box.x1 for box in boxes)
    assert all(box.y1 < figure.axes[0].get_window_extent().y0 for box in boxes)


def test_width_of_a_text():
    assert width_of("MM") == pytest.approx(2 * width_of("M"), rel=0.15) and width_of(" ") == 0
    assert width_of("short\na longer line") == width_of("a longer line")


@pytest.mark.filterwarnings("error")
def test_no_glyph_is_missing(tmp_path):
    save([page("→ ± ρ ↔ – Φ Ψ")], tmp_path / "a.png")


def test_nothing_is_drawn_where_nothing_was_asked_for():
    """The package and the help of pretraining load no Matplotlib; a picture loads no pyplot."""
    def loaded(call):
        code = f"import sys\nsys.path.insert(0, {str(CODE)!r})\n{call}\nprint([m for m in sys.modules if 'plot' in m])"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    help_ = "import cmg\nfrom cmg.pretrain import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert loaded(help_).splitlines()[-1] == "[]"
    found = loaded("from cmg.figures import bars, codes, confusion, lines, roofline, timeline")
    assert "'matplotlib.figure'" in found and "pyplot" not in found
