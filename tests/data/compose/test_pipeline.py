"""From composed clips to a table: what scripts/nature.sh does, in small."""

import json

import pytest

from cmg.data.avs import read_s4
from cmg.data.compose.render import main as render
from cmg.extract.__main__ import main as extract
from cmg.tables.__main__ import main as fill
from support import CODE, TABLES

BACKBONES = ["--video-backbone", "pixels", "--audio-backbone", "logmel", "--text-backbone", "hash", "--workers", "0"]


@pytest.mark.slow
def test_a_tiny_row_from_clips_to_table(composed, tmp_path, monkeypatch):
    """The first row of nature.toml with fewer epochs and a smaller model, on AVE and AVVP."""
    monkeypatch.setenv("PYTHONPATH", str(CODE))
    media = tmp_path / "media"
    render([str(composed["nature"]), str(media), "--kinds", "pretrain", "ave", "avvp"])
    texts = ["--modalities", "video", "audio", "text", "--captions", str(media / "annotations/pretrain_captions.csv")]
    for file, chosen, flags in (("pretrain", ["pre_*"], texts), ("ave", ["ave_*"], []),
                                ("avvp", ["avvp_val_*", "avvp_test_*"], [])):
        extract([*BACKBONES, *flags, "--videos", str(media / "videos"), "--select", *chosen,
                 "--out", str(tmp_path / f"{file}.h5")])
    text, epochs = (TABLES / "nature.toml").read_text(), "--epochs 24"
    assert epochs in text
    (tmp_path / "tiny.toml").write_text(text.replace(epochs, "--epochs 2 --batch-size 8 --codes 16 --dim 16"))
    lists = media / "annotations"
    places = {"ave": tmp_path / "ave.h5", "avvp": tmp_path / "avvp.h5", "ave_lists": lists, "avvp_lists": lists}
    fill([str(tmp_path / "tiny.toml"), "--data", str(tmp_path / "pretrain.h5"), "--rows", "OneCode AVT", "--seeds", "0",
          "--tasks", "ave", "avvp", "--jobs", "1", "--out", str(tmp_path / "table"),
          "--set", *(f"{key}={value}" for key, value in places.items())])
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    cells = json.dumps(table)
    assert all(word in cells for word in ("OneCode AVT", "segment_accuracy", "segment_f1"))


@pytest.mark.slow
def test_s4_is_read_as_the_task_reads_it(composed, tmp_path):
    render([str(composed["digits"]), str(tmp_path), "--kinds", "s4"])
    assert {split: len(own) for split, own in read_s4(tmp_path / "s4").splits.items()} == {
        "train": 10, "val": 10, "test": 10}
