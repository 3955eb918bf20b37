"""From files and sentences to tokens: what pretraining read of them, by encoders that the checkpoint names."""

import numpy as np
import pytest
import torch
from PIL import Image

import cmg
from cmg.data.features import FeatureSet
from cmg.data.vocabulary import MARKS
from cmg.errors import UserError
from cmg.extract import alike
from cmg.extract.__main__ import main as extract
from cmg.extract.alike import Encoders, encode_files
from cmg.extract.media import BadClip, tracks
from support import untrained
from support_captions import ALIGNED
from support_media import levels, tone, write_video, write_wav

WEIGHED = """
import numpy as np


class Loudness:
    name, modality, expects, shape = "loudness", "audio", ("a factor",), (2,)

    def __init__(self, weights, device, precision):
        self.factor, self.sha256 = float(weights[0]), f"factor {weights[0]}"

    def __call__(self, steps):
        return self.factor * np.stack([steps.abs().amax(1), steps.pow(2).mean(1).sqrt()], 1)  # [n, 2]
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folder of three clips of 2, 3 and 1 seconds, of which the first two have sound, and of a wave file."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds, sounds in (("a", 2, True), ("b", 3, True), ("mute", 1, False)):
        sound = 30_000 * tone(200 * seconds, seconds, 16_000) if sounds else None
        write_video(folder / f"{name}.mkv", levels(4 * seconds) * np.uint8(5 * seconds), 4, sound=sound)
    write_wav(folder / "only.wav", tone(880, 2, 16_000), 16_000)
    return folder


@pytest.fixture(scope="module")
def known(clips, tmp_path_factory):
    """(model of the built-in backbones, the features of a and b, and of their captions)."""
    folder = tmp_path_factory.mktemp("known")
    (folder / "captions.csv").write_text("id,caption\na,A dog barks!\nb,rain\n")
    extract(["--videos", str(clips), "--captions", str(folder / "captions.csv"), "--modalities", "video", "audio",
             "text", "--select", "a", "b", "--seconds", "4", "--words", "5", "--workers", "0", "--out",
             str(folder / "ab.h5")])
    features = FeatureSet(folder / "ab.h5")
    untrained(folder / "best.pt", features.shapes, features=features)
    return cmg.load_pretrained(folder / "best.pt"), features


def same(found, wanted):
    assert torch.equal(found.codes, wanted.codes) and torch.equal(found.valid, wanted.valid)
    torch.testing.assert_close(found.semantic, wanted.semantic, rtol=0, atol=1e-5)  # other sizes of batches


def test_files_are_read_as_in_pretraining(clips, known):
    model, features = known
    found, wanted = model.encode_files(clips / "b.mkv", str(clips / "a.mkv")), model.encode(features)
    assert found.keys() == {"video", "audio"}
    for m in found:
        same(found[m], wanted[m]._replace(**{name: x[[1, 0]] for name, x in wanted[m]._asdict().items()}))
    assert found["video"].valid.tolist() == [[True, True, True, False], [True, True, False, False]]
    spoken = model.encode_files(sentences=["a dog barks", "Rain."])  # as words, like captions
    assert spoken.keys() == {"text"}
    same(spoken["text"], wanted["text"])


def test_features_are_those_of_the_feature_file_bit_for_bit(clips, known):
    model, features = known
    read = {one.name: one for one in Encoders(model, ["video", "audio"]).files([clips / "a.mkv", clips / "b.mkv"])}
    stored = features.stored([0, 1])
    for m in ("video", "audio"):
        x = np.stack([read[str(clips / name)].features[m] for name in ("a.mkv", "b.mkv")])
        assert x.dtype == np.float16 and np.array_equal(x, stored[m].numpy())


def test_a_file_gives_what_it_has(clips, known, tmp_path):
    """Sound alone, pictures alone, a still picture; rows keep their order, and no step exists of what is not there."""
    model, _ = known
    Image.fromarray(np.full((28, 28, 3), 90, np.uint8)).save(tmp_path / "still.png")
    found = model.encode_files(clips / "only.wav", clips / "mute.mkv", tmp_path / "still.png", sentences=["a dog"])
    assert {m: x.valid.sum(1).tolist() for m, x in found.items()} == {
        "video": [0, 1, 1, 0], "audio": [2, 0, 0, 0], "text": [0, 0, 0, 2]}
    write_video(tmp_path / "still.mkv", np.full((4, 28, 28, 3), 90, np.uint8), 4)  # a video of one second
    same(found["video"]._replace(**{name: x[2:3] for name, x in found["video"]._asdict().items()}),
         model.encode_files(tmp_path / "still.mkv")["video"])
    alone = model.encode_files(clips / "a.mkv", modalities=["audio"])
    assert alone.keys() == {"audio"}
    longer = model.encode_files(clips / "b.mkv", seconds=2)
    assert longer["video"].codes.shape == (1, 2) and longer["video"].valid.all()


def test_tracks(clips, tmp_path):
    assert [tracks(clips / name) for name in ("a.mkv", "mute.mkv", "only.wav")] == [
        {"frames", "sound"}, {"frames"}, {"sound"}]
    (tmp_path / "a.mp4").write_text("none")
    with pytest.raises(BadClip, match="cannot be opened"):
        tracks(tmp_path / "a.mp4")


@pytest.mark.slow
def test_several_processes_read_the_same(clips, known):
    files = [clips / name for name in ("only.wav", "a.mkv", "b.mkv")]
    for m, x in known[0].encode_files(*files, workers=2).items():
        assert all(torch.equal(a, b) for a, b in zip(x, known[0].encode_files(*files)[m]))


def test_the_vocabulary_is_the_checkpoints(clips, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*MARKS, "a", "dog", "##s", "bark"]) + "\n")
    (tmp_path / "captions.csv").write_text("id,caption\na,A dogs bark\nb,dog\n")
    extract(["--videos", str(clips), "--captions", str(tmp_path / "captions.csv"), "--modalities", "video", "text",
             "--select", "a", "b", "--text-backbone", "wordpiece", "--text-weights", str(tmp_path / "vocab.txt"),
             "--seconds", "2", "--words", "6", "--workers", "0", "--out", str(tmp_path / "ab.h5")])
    (tmp_path / "vocab.txt").unlink()
    features = FeatureSet(tmp_path / "ab.h5")
    untrained(tmp_path / "run.pt", None, "small", "prealign", features, **ALIGNED)
    (read,) = Encoders(cmg.load_pretrained(tmp_path / "run.pt"), ["text"]).sentences(["A dogs bark"])
    assert read.features["text"].tolist() == [[2, 5, 6, 7, 8, 3]] == features.tokens("text")[0][0].tolist()


@pytest.fixture(scope="module")
def weighed(clips, tmp_path_factory):
    """(model of an encoder of one's own with weights, its file)."""
    folder = tmp_path_factory.mktemp("weighed")
    (folder / "mine.py").write_text(WEIGHED)
    extract(["--videos", str(clips), "--modalities", "video", "audio", "--select", "a", "b", "--seconds", "3",
             "--audio-backbone", str(folder / "mine.py"), "--audio-weights", "2", "--workers", "0", "--out",
             str(folder / "ab.h5")])
    features = FeatureSet(folder / "ab.h5")
    untrained(folder / "best.pt", features.shapes, features=features)
    return cmg.load_pretrained(folder / "best.pt"), str(folder / "mine.py"), features


def test_weights_that_are_those_of_pretraining(clips, weighed):
    model, mine, features = weighed
    found = model.encode_files(clips / "a.mkv", weights={"audio": "2"}, backbones={"audio": mine})
    same(found["audio"], model.encode(features)["audio"]._replace(
        **{name: x[:1] for name, x in model.encode(features)["audio"]._asdict().items()}))
    assert model.encode_files(clips / "a.mkv", modalities=["video"]).keys() == {"video"}  # needs none


def test_refusals(clips, known, weighed, tmp_path):
    model, mine, _ = weighed
    own = {"backbones": {"audio": mine}}
    (tmp_path / "bad.mp4").write_text("none")
    (tmp_path / "words.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n\n")
    untrained(tmp_path / "blind.pt", {"video": (4, 7, 7, 244), "audio": (4, 640)})
    blind = cmg.load_pretrained(tmp_path / "blind.pt")
    def read(model, *files, **more):
        return lambda: model.encode_files(*(clips / name for name in files), **more)

    known = known[0]
    for call, line in (
        (read(model, "a.mkv"), "--audio-backbone: missing; the model's audio features are of loudness, which "
         "cmg.extract does not have; expected the encoder that made them"),
        (read(model, "a.mkv", **own), "--audio-weights: missing; the model's audio features are of loudness, sha256 "
         "factor 2…, 1 s a step, fp32; expected its weights: a factor"),
        (read(model, "a.mkv", weights={"audio": "3"}, **own), "--audio-weights: audio features have sha256 factor 3; "
         "the model was pretrained on factor 2"),
        (read(model, "a.mkv", weights={"depth": "3"}), "depth: the model was pretrained on audio, video"),
        (read(blind, "a.mkv"), "--audio-backbone: missing; the model's audio features are of an unknown encoder, which "
         "cmg.extract does not have; expected the encoder that made them"),
        (read(blind, sentences=["a"]), "sentences: the model was pretrained on audio, video; expected what these are "
         "read of"),
        (read(known, "c.mkv"), f"{clips}/c.mkv: cannot be opened (No such file or directory)"),
        (read(known, "a.mkv", tmp_path / "bad.mp4"), f"{tmp_path}/bad.mp4: cannot be opened (Invalid data found when "
         "processing input)"),
        (read(known, tmp_path / "words.srt"), f"{tmp_path}/words.srt: has nothing that is seen or heard; expected "
         "audio or video"),
        (read(known, "mute.mkv", modalities=["audio"]), f"{clips}/mute.mkv: has frames; expected audio"),
        (read(known, "a.mkv", modalities=["text"]), "files: text is read of sentences; expected those"),
        (read(known, modalities=["audio"], sentences=["a"]), "sentences: audio is read of files; expected those"),
        (read(known), "nothing: the model was pretrained on audio, video, text; expected what these are read of"),
    ):
        with pytest.raises(UserError) as told:
            call()
        assert str(told.value) == line


def test_backbones_are_loaded_once_for_many_files(clips, known, monkeypatch):
    loaded = []
    original = alike.load_backbone
    monkeypatch.setattr(alike, "load_backbone", lambda choice, **more: loaded.append(choice.modality)
                        or original(choice, **more))
    encode_files(known[0], [clips / "a.mkv", clips / "b.mkv"], modalities=["video"])
    assert loaded == ["video"]
