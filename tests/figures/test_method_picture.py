"""The picture of the method: every modality's way is drawn, and README's is up to date."""

import re

from cmg.figures import method
from cmg.modalities import TABLE
from support import ROOT


def test_every_modality_and_loss_is_drawn():
    above, below = method.draw()[0].axes
    names = [text.get_text() for text in above.texts]
    assert set(method.COLOURS) == set(TABLE) and names.count("Φ, semantic") == names.count("Ψ, specific") == len(TABLE)
    assert {name for _, name, _ in method.LOSSES} <= {*names}
    codes = [text.get_text() for text in below.texts if text.get_text().isdigit()]
    assert len(codes) == 10 and len({*codes}) < 5  # two clips of one vocabulary


def test_the_picture_of_the_readme_is_up_to_date(tmp_path):
    method.main(["--out", str(tmp_path / "method.svg")])
    texts = [re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))
             for path in (tmp_path / "method.svg", ROOT / "figs" / "method.svg")]
    assert texts[0] == texts[1] and len(texts[0]) > 30
