"""Fig. 4: shares of counts that are known, the command on a small model, and charts by their pixels."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cmg.data.features import FeatureSet, FeatureWriter
from cmg.downstream import charts, codebook
from cmg.downstream.charts import COLOURS, LEFT, PLOT, TOP, Series
from cmg.downstream.tokens import encode_set
from cmg.errors import UserError
from cmg.models.unified import Tokens
from support import untrained

SHAPES = {"audio": (4, 6), "text": (4, 5)}


def test_shares_weigh_modalities_alike():
    """Audio has ten times the steps; that does not make a code its own."""
    counts = {"video": torch.tensor([1, 3, 0, 0]), "audio": torch.tensor([10, 10, 20, 0])}
    found = codebook.shares(counts)
    assert torch.allclose(found[0], torch.tensor([0.5, 0.75, 0.0, 0.0]).double())
    assert torch.allclose(found[1], torch.tensor([0.5, 0.25, 1.0, 0.0]).double())
    ((pair, first, second, both, shared, overlap, _),) = codebook.summary(counts)
    assert (pair, first, second, both, shared, overlap) == ("video, audio", "2", "3", "2", "2", "0.50")


def test_training_curves_are_percentages(tmp_path):
    (tmp_path / "m.csv").write_text("step,loss/total,codebook/match_av,codebook/overlap_av,codebook/perplexity_a\n"
                                    "0,3,40,0.5,32\n20,2,60,0.25,16\n40,1,7")  # torn: the run was killed
    assert codebook.over_training(tmp_path / "m.csv", codes=64) == [
        Series("match av", [(0, 40.0, 0), (20, 60.0, 0)]), Series("overlap av", [(0, 50.0, 0), (20, 25.0, 0)]),
        Series("perplexity a", [(0, 50.0, 0), (20, 25.0, 0)])]
    (tmp_path / "m.csv").write_text("step,codebook/match_av\n0,much\n")
    with pytest.raises(UserError, match="m.csv: not the metrics of a run"):
        codebook.over_training(tmp_path / "m.csv", codes=64)


class Silent:
    """Three clips; of audio not one step exists, of video one."""

    modalities = ("video", "audio")

    def __len__(self):
        return 3

    def __getitems__(self, rows):
        valid = torch.zeros(3, 2, dtype=torch.bool)
        there = valid.clone()
        there[1, 0] = True
        return {name: x[rows] for name, x in {"video": torch.ones(3, 2, 4), "audio": torch.ones(3, 2, 4),
                                              "valid/video": there, "valid/audio": valid}.items()}


def test_a_modality_that_no_clip_has_is_told():
    model = SimpleNamespace(encode_modality=lambda m, x, valid: Tokens(x[..., 0].long(), x, x))
    assert encode_set(model, Silent(), "video").valid.sum() == 1
    with pytest.raises(UserError, match="^--data: none of 3 clips has any audio$"):
        encode_set(model, Silent(), "audio")


def test_command(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    model = untrained(tmp_path / "run" / "best.pt", SHAPES, dim=8, codes=7)
    (tmp_path / "run" / "metrics.csv").write_text("step,codebook/match_at\n0,10\n20,30\n")
    rng = np.random.default_rng(0)
    features = {m: rng.normal(size=(9, *s)).astype("float32") for m, s in SHAPES.items()}
    valid = {m: rng.random((9, 4)) < 0.7 for m in SHAPES}
    with FeatureWriter(tmp_path / "f.h5", SHAPES, {}, "float32") as writer:
        writer.append([str(n) for n in range(9)], features, valid)
    codebook.main(["--checkpoint", str(tmp_path / "run"), "--data", str(tmp_path / "f.h5"), "--device", "cpu"])
    with open(tmp_path / "run" / "codebook.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    batch = FeatureSet(tmp_path / "f.h5").__getitems__(range(9))
    for m in SHAPES:
        with torch.no_grad():
            codes = model.encode_modality(m, batch[m], batch[f"valid/{m}"]).codes
        assert [int(r[f"count_{m}"]) for r in rows] == torch.bincount(codes[batch[f"valid/{m}"]], minlength=7).tolist()
    for name in ("codebook.png", "codebook_training.png"):
        assert Image.open(tmp_path / "run" / name).size[0] > 400
    with pytest.raises(SystemExit):
        codebook.main(["--checkpoint", str(tmp_path / "run"), "--data", str(tmp_path / "f.h5"), "--modalities", "video",
                       "audio"])
    assert "--modalities video: --checkpoint has only audio, text" in capsys.readouterr().err


def test_bars_and_columns_are_as_high_as_their_values(tmp_path):
    """Pixels of a colour, counted in one column of the picture, are the value in % of the plot's height."""

    def height(path, colour):
        x = np.asarray(Image.open(path))[2 * TOP: 2 * (TOP + PLOT)]
        return (x == colour).all(-1).sum(0).max() / (2 * PLOT)

    charts.draw_bars(tmp_path / "b.png", ["one"], [("a", [(75.0, 0.0)]), ("b", [(None, None)])], [10.0], "")
    assert height(tmp_path / "b.png", COLOURS[0]) == pytest.approx(0.75, abs=0.02)
    assert height(tmp_path / "b.png", COLOURS[1]) == 0
    rows = [(name, [(75.0 if name == "i" else 0.0, 0.0)]) for name in "abcdefghi"]  # the colours come again, striped
    charts.draw_bars(tmp_path / "i.png", ["one"], rows, [0.0], "")
    assert height(tmp_path / "i.png", COLOURS[0]) == pytest.approx(0.75 * 2 / 3, abs=0.02)
    charts.draw_shares(tmp_path / "s.png", ["a", "b"], [[0.25, 0.25], [0.75, 0.75]], "")
    assert height(tmp_path / "s.png", COLOURS[0]) == pytest.approx(0.25, abs=0.01)
    assert height(tmp_path / "s.png", COLOURS[1]) == pytest.approx(0.75, abs=0.01)


def test_lines_pass_through_their_points(tmp_path):
    charts.draw_lines(tmp_path / "l.png", [Series("a", [(8, 50.0, 0.0), (16, 100.0, 0.0)])], "", width=400)
    picture = Image.open(tmp_path / "l.png")
    for place, value in ((0.25, 50), (0.75, 100)):
        x, y = LEFT + place * (400 - LEFT - 20), TOP + PLOT * (1 - value / 100)
        assert picture.getpixel((round(2 * x), round(2 * y))) == COLOURS[0]
