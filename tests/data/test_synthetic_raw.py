"""The synthetic set as raw clips: the same clips and events, and a class that both modalities show."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cmg.data.feature_file import FeatureFile
from cmg.data.synthetic import SyntheticSpec, sample_events, synthetic_files
from cmg.data.synthetic_raw import CAPTIONS, files_for, raw_files

SPEC = SyntheticSpec(clips=60, ave_clips=(200, 10, 80), classes=5)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    return raw_files(root, SPEC), synthetic_files(root, SPEC)


def test_clips_are_those_of_the_features(raw):
    files, features = raw
    assert files.annotations == features.annotations and files.pretrain.parent == features.pretrain.parent
    for mine, theirs in ((files.pretrain, features.pretrain), (files.ave, features.ave)):
        mine = FeatureFile(mine)
        assert mine.ids == FeatureFile(theirs).ids and mine.modalities == ("video", "audio")
        assert mine.kinds == {"video": "frames", "audio": "maps"}
        assert mine.shapes == {"video": (10, 16, 16, 3), "audio": (10, 16, 16)}
    assert files.ave.stat().st_size < 25_000 * 290
    before = files.ave.stat().st_mtime_ns
    assert raw_files(files.ave.parents[1], SPEC) == files and files.ave.stat().st_mtime_ns == before


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_the_class_is_in_the_pictures_of_both_modalities(raw, modality):
    """A linear reader of the pictures at the event's middle, fitted on the training split."""
    file = FeatureFile(raw[0].ave)
    x, _ = file.read(modality, np.arange(290))
    middle, label = [], []
    for split in ("train", "val", "test"):
        events = sample_events(SPEC, split)
        middle += [spans[0].sum() // 2 for spans in getattr(events, modality)]
        label += events.label[:, 0].tolist()
    seen = x[np.arange(290), middle].reshape(290, -1).astype(np.float32)
    seen = (seen - seen[:200].mean(0)) / seen.std()
    reader = LogisticRegression(max_iter=500, C=0.1).fit(seen[:200], label[:200])
    assert reader.score(seen[210:], label[210:]) > 0.8  # chance 0.2


def test_a_method_gets_the_set_that_it_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("cmg.data.synthetic._data_folder", lambda: tmp_path)
    flags = {"synthetic_clips": 8, "synthetic_classes": 2}
    assert files_for(("vectors", "grids"), flags).pretrain.name == "pretrain.h5"
    raw = files_for(("frames", "maps"), flags)
    assert raw.pretrain.name == "raw1_pretrain.h5" and len(FeatureFile(raw.pretrain).ids) == 8
    told = FeatureFile(files_for(("vectors", "grids", "tokens"), flags).pretrain)
    assert told.kinds["text"] == "tokens" and told.shapes["text"][0] == CAPTIONS
