"""Kinds of arrays beside vectors and grids: frames, spectrogram maps, token ids; modalities that a file declares."""

import json

import h5py
import numpy as np
import pytest
import torch

from cmg import modalities
from cmg.data.feature_file import FeatureFile, FeatureWriter
from cmg.data.features import FeatureSet
from cmg.errors import UserError
from cmg.methods.registry import find
from cmg.modalities import Modality, declare, direction, kind_of, pair
from cmg.training.batches import on_device

SHAPES = {"video": (3, 8, 8, 3), "audio": (3, 6, 5), "text": (2, 4)}  # frames, maps, two captions of four tokens
DTYPES = {"video": "uint8", "audio": "float32", "text": "int64"}


@pytest.fixture
def raw(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"video": rng.integers(0, 256, (5, *SHAPES["video"])), "audio": rng.normal(size=(5, *SHAPES["audio"])),
              "text": rng.integers(0, 2**40, (5, *SHAPES["text"]))}
    with FeatureWriter(tmp_path / "raw.h5", SHAPES, {}, DTYPES) as writer:
        writer.append(list("abcde"), arrays, {"video": np.ones((5, 3)), "audio": np.ones((5, 3)),
                                              "text": np.arange(2) < np.array([2, 1, 2, 0, 1])[:, None]})
    return tmp_path / "raw.h5", arrays


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_integers_come_as_they_are_stored_to_the_batch(raw, cache):
    path, arrays = raw
    features = FeatureSet(path, cache=cache)
    assert features.kinds == {"video": "frames", "audio": "maps", "text": "tokens"}
    (batch,) = on_device(features, [[4, 0, 2]], torch.device("cpu"))
    assert {m: batch[m].dtype for m in SHAPES} == {"video": torch.uint8, "audio": torch.float32, "text": torch.int64}
    for m in ("video", "text"):
        np.testing.assert_array_equal(batch[m], arrays[m][[4, 0, 2]])
    assert batch["valid/text"].tolist() == [[True, False], [True, True], [True, True]]  # captions that exist


def test_a_method_refuses_what_it_does_not_read(raw):
    kind = find("unicode")
    with pytest.raises(UserError, match="--data: video holds frames; --method unicode reads vectors, grids"):
        kind.refuse(next(iter(kind.all_recipes().values())).method, FeatureSet(raw[0]))


def test_files_of_other_kinds_are_not_joined(raw, tmp_path):
    """The kind is told, not the shapes that follow from it."""
    with FeatureWriter(tmp_path / "words.h5", SHAPES | {"text": (2, 6)}, {}, DTYPES | {"text": "float16"}) as writer:
        writer.append(["f"], {m: np.zeros((1, *shape)) for m, shape in (SHAPES | {"text": (2, 6)}).items()})
    with pytest.raises(UserError, match=r"words.h5: 'text' holds vectors, but tokens in .*raw.h5"):
        FeatureSet([raw[0], tmp_path / "words.h5"])


@pytest.mark.parametrize("ndim, dtype, kind", [
    (3, "float16", "vectors"), (5, "float32", "grids"), (4, "float16", "maps"), (5, "uint8", "frames"),
    (3, "int64", "tokens"), (3, "uint8", None), (2, "float32", None), (3, "float64", None)])
def test_kinds_by_axes_and_dtypes(ndim, dtype, kind):
    assert kind_of(ndim, np.dtype(dtype)) == kind


def test_a_file_declares_its_modality(tmp_path):
    declare(Modality("imu", "motion sensor", ("vectors",)), "here")
    with FeatureWriter(tmp_path / "imu.h5", {"imu": (4, 6), "audio": (4, 3)}, {}) as writer:
        writer.append(["a"], {"imu": np.ones((1, 4, 6)), "audio": np.ones((1, 4, 3))})
    del modalities.TABLE["imu"]  # as in another process
    file = FeatureFile(tmp_path / "imu.h5")
    assert file.modalities == ("audio", "imu") and modalities.modality("imu").called == "motion sensor"
    assert FeatureSet(tmp_path / "imu.h5", ["imu"]).shapes == {"imu": (4, 6)}

    def broken(value):
        del modalities.TABLE["imu"]
        with h5py.File(tmp_path / "imu.h5", "a") as h5:
            h5.attrs["modality/imu"] = value
        with pytest.raises(UserError) as told:
            FeatureFile(tmp_path / "imu.h5")
        modalities.TABLE["imu"] = Modality("imu", "motion sensor", ("vectors",))
        assert "\n" not in str(told.value) and str(told.value).startswith(str(tmp_path / "imu.h5"))
        return str(told.value)

    row = {"name": "imu", "called": "imu", "kinds": ["vectors"], "step": "second", "source": "", "letter": ""}
    assert "does not declare a modality of this name" in broken("not json")
    assert "does not declare a modality of this name" in broken(json.dumps(row | {"name": "other"}))
    assert "kinds 'pictures' of modality imu" in broken(json.dumps(row | {"kinds": ["pictures"]}))
    assert "step 'minute' of modality imu" in broken(json.dumps(row | {"step": "minute"}))
    assert "not declared in full" in broken(json.dumps(row | {"more": 1}))


def test_what_is_asked_for_and_not_there_is_refused(tmp_path):
    with FeatureWriter(tmp_path / "a.h5", {"audio": (4, 3)}, {}) as writer:
        writer.append(["a"], {"audio": np.ones((1, 4, 3))})
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        h5["depth"] = np.ones((1, 4, 3), np.float32)  # there, but nobody says what it is
    with pytest.raises(UserError, match="has no 'depth' features, only audio"):
        FeatureSet(tmp_path / "a.h5", ["audio", "depth"])


def test_keys_never_collide():
    for name in ("imu", "image", "depth", "video"[::-1]):
        declare(Modality(name, name), "here")
    names = list(modalities.TABLE)
    ordered = {direction(a, b) for a in names for b in names}
    assert len(ordered) == len(names) ** 2 and {"a2v", "v2t", "t2a", "imu2image", "a2depth"} <= ordered
    unordered = [pair(a, b) for i, a in enumerate(names) for b in names[i + 1:]]
    assert len(set(unordered)) == len(unordered) and {"va", "vt", "at", "a_imu", "imu_image"} <= set(unordered)


@pytest.mark.parametrize("row, said", [
    (Modality("v", "x"), "two or more lower-case letters"), (Modality("Depth", "x"), "two or more lower-case letters"),
    (Modality("de2pth", "x"), "two or more lower-case letters"), (Modality("audio", "sound"), "elsewhere it is")])
def test_names_that_keys_could_not_tell_apart_are_refused(row, said):
    with pytest.raises(UserError, match=said):
        declare(row, "here")
