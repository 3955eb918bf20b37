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
        assert mine.shapes == {"video": (10, 32, 32, 3), "audio": (10, 32, 32)}
    assert files.ave.stat().st_size < 55_000 * 290
    before = files.ave.stat().st_mtime_ns
    assert raw_files(files.ave.parents[1], SPEC) == files and files.ave.stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def middles(raw):
    """The labelled clips' classes, and their pictures in the middle of the event where both are on."""
    events = [sample_events(SPEC, split) for split in ("train", "val", "test")]
    spans = np.concatenate([[one.video[:, 0], one.audio[:, 0]] for one in events], axis=1)  # [2, 290, 2]
    middle = (spans[..., 0].max(0) + spans[..., 1].min(0)) // 2
    file = FeatureFile(raw[0].ave)
    pictures = {m: file.read(m, np.arange(290))[0][np.arange(290), middle].astype(np.float32) for m in file.shapes}
    return np.concatenate([one.label[:, 0] for one in events]).tolist(), pictures


def spectrum_and_pitch(maps):
    """Mean over time of every band [n, 32], and the lowest band of a tone."""
    spectrum = maps.mean(1)
    return spectrum, (spectrum > -42).argmax(1)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_the_class_is_in_the_pictures_of_both_modalities(middles, modality):
    """A linear reader, fitted on the training split: of pixels, and of the bands above the pitch."""
    label, pictures = middles
    seen = pictures[modality]
    if modality == "audio":
        spectrum, pitch = spectrum_and_pitch(seen)
        seen = np.take_along_axis(spectrum, (pitch[:, None] + np.arange(16)).clip(max=31), 1)
    seen = seen.reshape(290, -1)
    seen = (seen - seen[:200].mean(0)) / seen.std()
    reader = LogisticRegression(max_iter=500, C=0.1).fit(seen[:200], label[:200])
    assert reader.score(seen[210:], label[210:]) > 0.8  # chance 0.2


def test_what_is_seen_of_an_event_is_heard_and_the_rest_is_not(middles):
    """Height as pitch, size as loudness; not where the disc is from left to right, nor what is behind it."""
    _, pictures = middles
    frames, maps = pictures["video"] / 255, pictures["audio"]
    disc = (frames.max(-1) - frames.min(-1)) > 0.6
    assert (disc.sum((1, 2)) > 8).mean() > 0.95
    row, column = (np.array([place.mean() for place in map(lambda one: one.nonzero()[axis], disc)]) for axis in (0, 1))
    spectrum, pitch = spectrum_and_pitch(maps)
    loudness = spectrum[np.arange(290), pitch]
    shared = {"pitch": np.corrcoef(-row, pitch), "loudness": np.corrcoef(np.sqrt(disc.sum((1, 2))), spectrum.max(1))}
    assert all(rho[0, 1] > 0.85 for rho in shared.values()), shared
    behind = frames[:, 0].mean((1, 2))
    for own in (column, behind):
        for heard in (pitch, loudness):
            assert abs(np.corrcoef(own, heard)[0, 1]) < 0.2


def test_a_method_gets_the_set_that_it_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("cmg.data.synthetic._data_folder", lambda: tmp_path)
    flags = {"synthetic_clips": 8, "synthetic_classes": 2}
    assert files_for(("vectors", "grids"), flags).pretrain.name == "pretrain.h5"
    raw = files_for(("frames", "maps"), flags)
    assert raw.pretrain.name == "raw2_pretrain.h5" and len(FeatureFile(raw.pretrain).ids) == 8
    told = FeatureFile(files_for(("vectors", "grids", "tokens"), flags).pretrain)
    assert told.kinds["text"] == "tokens" and told.shapes["text"][0] == CAPTIONS
