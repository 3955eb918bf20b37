"""Fig. 4: shares of counts that are known, curves of a metrics.csv, and the command on a small model."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cmg.data.features import FeatureSet, FeatureWriter
from cmg.downstream import codebook
from cmg.downstream.tokens import encode_set
from cmg.errors import UserError
from cmg.figures.lines import Panel
from cmg.models.unified import Tokens
from support import VectorModel, untrained

SHAPES = {"audio": (4, 6), "text": (4, 5)}


def test_shares_weigh_modalities_alike():
    """Audio has ten times the steps; that does not make a code its own."""
    counts = {"video": torch.tensor([1, 3, 0, 0]), "audio": torch.tensor([10, 10, 20, 0])}
    found = codebook.shares(counts)
    assert torch.allclose(found[0], torch.tensor([0.5, 0.75, 0.0, 0.0]).double())
    assert torch.allclose(found[1], torch.tensor([0.5, 0.25, 1.0, 0.0]).double())
    ((pair, first, second, both, shared, overlap, _),) = codebook.summary(counts)
    assert (pair, first, second, both, shared, overlap) == ("video, audio", "2", "3", "2", "2", "0.50")


def test_training_curves_have_a_panel_for_every_unit(tmp_path):
    (tmp_path / "m.csv").write_text("step,loss/total,codebook/match_av,codebook/overlap_av,codebook/perplexity_a,"
                                    "codebook/perplexity_depth\n0,3,40,0.5,32,9\n20,2,60,0.25,16,8\n40,1,7")  # torn
    assert codebook.over_training(tmp_path / "m.csv") == [
        Panel("", "match rate, %", {"A–V": [(0, 40.0, None), (20, 60.0, None)]}),
        Panel("", "code overlap, %", {"A–V": [(0, 50.0, None), (20, 25.0, None)]}),
        Panel("", "perplexity, codes", {"A": [(0, 32.0, None), (20, 16.0, None)],
                                        "depth": [(0, 9.0, None), (20, 8.0, None)]})]
    (tmp_path / "m.csv").write_text("step,loss/total\n0,3\n")
    assert codebook.over_training(tmp_path / "m.csv") == []
    (tmp_path / "m.csv").write_text("step,codebook/match_av\n0,much\n")
    with pytest.raises(UserError, match="m.csv: not the metrics of a run"):
        codebook.over_training(tmp_path / "m.csv")


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
    model = SimpleNamespace(tokens=lambda m, x, valid: Tokens(x[..., 0].long(), x, x))
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
        assert Image.open(tmp_path / "run" / name).format == "PNG"
        assert (tmp_path / "run" / name).with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(SystemExit):
        codebook.main(["--checkpoint", str(tmp_path / "run"), "--data", str(tmp_path / "f.h5"), "--modalities", "video",
                       "audio"])
    assert "--modalities video: --checkpoint has only audio, text" in capsys.readouterr().err


def test_a_model_without_a_codebook_is_refused(tmp_path, monkeypatch, capsys):
    untrained(tmp_path / "best.pt", SHAPES, dim=8, codes=7)
    monkeypatch.setattr("cmg.downstream.task.build_model", lambda content, device, *_: VectorModel())
    with pytest.raises(SystemExit) as stop:
        codebook.main(["--checkpoint", str(tmp_path / "best.pt"), "--data", "none.h5", "--device", "cpu"])
    assert stop.value.code == 2 and capsys.readouterr().err.splitlines() == [
        f"cmg.downstream.codebook: error: --checkpoint {tmp_path / 'best.pt'}: offers vectors; this task needs codes"]
