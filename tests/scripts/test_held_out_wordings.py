"""Captions in the wording that was held out: the fourth of each clip, word by word and number by number."""

import csv
import runpy

import numpy as np

from cmg.data.feature_file import FeatureFile
from cmg.data.synthetic import SyntheticSpec, synthetic_files
from support import ROOT

MAIN = runpy.run_path(str(ROOT / "scripts" / "held_out_wordings.py"))["main"]


def test_they_are_the_fourth_of_the_clips_that_are_asked_for(tmp_path):
    MAIN([str(tmp_path / "out"), "--classes", "3"])
    made = FeatureFile(tmp_path / "out" / "captions.h5")
    every = FeatureFile(synthetic_files(tmp_path, SyntheticSpec(clips=2, classes=3, captions=4)).ave)
    assert made.ids == every.ids and len(made.ids) == 500
    (ids, _), (wanted, _) = (file.read("text", range(500)) for file in (made, every))
    np.testing.assert_array_equal(ids[:, 0], wanted[:, 3])
    words = made.vocabularies["text"]
    assert words.sha256 == every.vocabularies["text"].sha256
    with open(tmp_path / "out" / "captions.csv", newline="") as file:
        said = {row["id"]: row["caption"] for row in csv.DictReader(file)}
    assert list(said.values()) == words.sentences(ids[:, 0].tolist())
    three = FeatureFile(synthetic_files(tmp_path, SyntheticSpec(clips=2, classes=3, captions=3)).ave)
    known = {tuple(row) for row in three.read("text", range(500))[0].reshape(-1, ids.shape[2]).tolist()}
    assert not known & {tuple(row) for row in ids[:, 0].tolist()}  # no training caption is worded so
