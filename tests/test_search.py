"""`cmg search`: the exact nearest, an index that is kept, continued and refused, and who asks and answers."""

import os

import numpy as np
import pytest
import torch

import cmg
from cmg import search
from cmg.data.features import FeatureFile, FeatureSet
from cmg.extract.__main__ import main as extract
from cmg.search import main, nearest, read_index
from support import untrained
from support_media import levels, tone, write_video, write_wav


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two checkpoints of video, audio and text, pretrained on nothing."""
    folder = tmp_path_factory.mktemp("models")
    write_video(folder / "a.mkv", levels(8), 4, sound=30_000 * tone(400, 2, 16_000))
    (folder / "captions.csv").write_text("id,caption\na,a dog\n")
    extract(["--videos", str(folder / "captions.csv").replace("captions.csv", ""), "--captions",
             str(folder / "captions.csv"), "--modalities", "video", "audio", "text", "--seconds", "2", "--words", "2",
             "--workers", "0", "--out", str(folder / "a.h5")])
    features = FeatureSet(folder / "a.h5")
    untrained(folder / "one.pt", None, features=features)
    untrained(folder / "two.pt", None, features=features, codes=9)
    return folder


@pytest.fixture
def place(tmp_path):
    """A folder of four files: two videos with sound, one without, and a sound."""
    folder = tmp_path / "clips"
    (folder / "inner").mkdir(parents=True)
    for number, name in enumerate(("a.mkv", "inner/b.mkv", "mute.mkv")):
        sound = 30_000 * tone(200 * (number + 1), 2, 16_000) if name != "mute.mkv" else None
        write_video(folder / name, levels(8) * np.uint8(7 * number + 1), 4, sound=sound)
    write_wav(folder / "only.wav", tone(900, 1, 16_000), 16_000)
    (folder / "notes.txt").write_text("no clip")
    return folder


def answers(capsys, *argv):
    """(cosine, path) of what is told, in order, and the first line."""
    main([str(word) for word in argv] + ["--device", "cpu"])
    first, *lines = capsys.readouterr().out.splitlines()
    return [(float(line.split()[0]), line.split()[1]) for line in lines], first


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv] + ["--device", "cpu"])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_nearest_is_exact_in_any_blocks():
    torch.manual_seed(0)
    items, query = torch.randn(1000, 8), torch.randn(8)
    items[700] = items[30] = 3 * query  # equal ones: the earlier first
    cosines = torch.nn.functional.cosine_similarity(items.double(), query.double()[None])
    wanted = cosines.argsort(descending=True, stable=True)
    for top, block in ((1, 7), (10, 64), (1000, 999), (2000, 65536)):
        found, rows = nearest(query, items, top, block)
        torch.testing.assert_close(found, cosines[rows])
        assert rows[:2].tolist() == [30, 700][:top]
        assert rows[2:].tolist() == wanted[wanted != 30][:][1:top - 1].tolist() if top > 2 else True


def test_answers_are_the_cosines_of_items(models, place, capsys):
    """Against the model's own items, by hand: each modality's mean over steps, of length 1, and the mean of these."""
    model = cmg.load_pretrained(models / "one.pt")
    names = ["a.mkv", "inner/b.mkv", "mute.mkv", "only.wav"]
    tokens = model.encode_files(*(place / name for name in names), sentences=["a dog"])

    def unit(x):
        return x / np.linalg.norm(x)

    def vector(row, kind="semantic", of=("video", "audio", "text")):
        parts = [unit(getattr(x, kind)[row][x.valid[row]].double().numpy().mean(0))
                 for m, x in tokens.items() if m in of and x.valid[row].any()]
        return unit(np.mean(parts, 0)) if parts else None

    def wanted(query, rows, **more):
        found = [(round(float(query @ own), 3), str(place / names[row])) for row in rows
                 if (own := vector(row, **more)) is not None]
        return sorted(found, key=lambda pair: -pair[0])

    call = [place, "--checkpoint", models / "one.pt"]
    found, first = answers(capsys, "a dog", *call)
    assert first.startswith("4 of 4 files, semantic vectors, index ")
    assert [name for _, name in found] == [name for _, name in wanted(vector(4), range(4))]
    np.testing.assert_allclose([x for x, _ in found], [x for x, _ in wanted(vector(4), range(4))], atol=2e-3)
    for flags, query, more in (
        (["--kind", "codes"], vector(0, "quantized"), {"kind": "quantized"}),
        (["--source", "audio"], vector(0, of=["audio"]), {}),
        (["--target", "audio"], vector(0), {"of": ["audio"]}),
        (["--source", "video", "--target", "audio"], vector(0, of=["video"]), {"of": ["audio"]}),
    ):
        found, first = answers(capsys, place / "a.mkv", *call, *flags)
        expected = wanted(query, range(4), **more)
        assert first.startswith(f"{len(expected)} of 4 files") and len(found) == len(expected)
        np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=2e-3)
    assert answers(capsys, "a dog", *call, "--top", 1)[0] == answers(capsys, "a dog", *call)[0][:1]


def test_the_index_is_kept_continued_and_refused(models, place, tmp_path, capsys, monkeypatch):
    call = ["rain", place, "--checkpoint", models / "one.pt"]
    path, read = tmp_path / "clips.index.h5", []
    original = search.Encoders.files

    def counting(self, files, workers=0):
        files = list(files)
        read.append([os.path.basename(file) for file in files])
        return original(self, files, workers)

    monkeypatch.setattr(search.Encoders, "files", counting)
    first, _ = answers(capsys, *call)
    file = FeatureFile(path)
    assert [name.rpartition("#")[0] for name in file.ids] == ["a.mkv", "inner/b.mkv", "mute.mkv", "only.wav"]
    assert file.shapes == {"video": (2, 16), "audio": (2, 16)} and file.attrs["kinds"] == "semantic codes"
    assert [valid.all(1).tolist() for valid in (file.read(m, range(4))[1] for m in ("video", "audio"))] == [
        [True, True, True, False], [True, True, False, True]]
    assert read == [["a.mkv", "b.mkv", "mute.mkv", "only.wav"]]
    written = path.stat().st_mtime_ns
    assert answers(capsys, *call)[0] == first and read[1:] == [[]] and path.stat().st_mtime_ns == written

    # one is added, one changed, one gone
    write_wav(place / "new.wav", tone(700, 1, 16_000), 16_000)
    write_wav(place / "only.wav", tone(500, 2, 16_000), 16_000)
    (place / "mute.mkv").unlink()
    found, told = answers(capsys, *call)
    assert told.startswith("4 of 4 files") and sorted(read[2]) == ["new.wav", "only.wav"]
    kept = read_index(path, cmg.load_pretrained(models / "one.pt").sha256)
    assert answers(capsys, *call, "--index", tmp_path / "again.h5")[0] == found
    again = FeatureFile(tmp_path / "again.h5")
    assert kept.stamps == again.ids
    for m in again.modalities:  # as if it had been made at once
        np.testing.assert_allclose(kept.vectors[m], again.read(m, range(4))[0], atol=1e-5)

    other = ["rain", place, "--checkpoint", models / "two.pt"]
    line = refused(capsys, *other)
    assert f"{path}: is of a checkpoint with sha256 " in line
    assert line.endswith("expected --rebuild, or another --index")
    assert answers(capsys, *other, "--rebuild")[1].startswith("4 of 4 files") and len(read[-1]) == 4
    assert str(path) in refused(capsys, *call)


def test_what_cannot_be_read_is_told_once_and_left_out(models, place, tmp_path, capsys):
    (place / "bad.mp4").write_text("none")
    call = ["rain", place, "--checkpoint", models / "one.pt"]
    main([str(word) for word in (*call, "--device", "cpu")])
    told = capsys.readouterr()
    assert told.err == "note: bad.mp4 cannot be read: cannot be opened (Invalid data found when processing input)\n"
    assert told.out.startswith("4 of 5 files") and "bad.mp4" not in told.out
    assert answers(capsys, *call)[1].startswith("4 of 5 files")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.mp4").write_text("none")
    assert "none of its 1 files can be read; first: " in refused(capsys, "rain", tmp_path / "bad", *call[2:])
    assert not (tmp_path / "bad.index.h5").exists()
    for path in [*place.glob("*.mkv"), *place.glob("inner/*"), place / "only.wav"]:
        path.unlink()
    assert refused(capsys, *call).endswith(f"{place}: none of its 1 files has video or audio that can be read")


def test_what_is_written_in_between_is_not_read_again(models, place, tmp_path, capsys, monkeypatch):
    """A start that is interrupted after the first file: the next goes on behind it."""
    monkeypatch.setattr(search, "BATCH", 1)
    monkeypatch.setattr(search, "PATIENCE", -1)
    original = search.Encoders.files

    def interrupted(self, files, workers=0):
        for number, one in enumerate(original(self, files, workers)):
            if number == 2:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(search.Encoders, "files", interrupted)
    call = ["rain", str(place), "--checkpoint", str(models / "one.pt"), "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        main(call)
    assert stop.value.code == 130 and len(FeatureFile(tmp_path / "clips.index.h5").ids) == 2
    monkeypatch.setattr(search.Encoders, "files", original)
    assert answers(capsys, *call[:-2])[1].startswith("4 of 4 files")


def test_refusals(models, place, tmp_path, capsys):
    call = [place, "--checkpoint", models / "one.pt"]
    (tmp_path / "empty").mkdir()
    for argv, line in (
        (["rain", tmp_path / "absent", *call[1:]], f"{tmp_path}/absent: no such folder; expected one of videos, sounds "
         "and pictures"),
        (["rain", tmp_path / "empty", *call[1:]], f"{tmp_path}/empty: holds no videos, sounds or pictures"),
        (["rain.mp4", *call], "rain.mp4: cannot be opened (No such file or directory)"),
        (["rain", *call, "--source", "depth"], "--source depth: the checkpoint was pretrained on audio, video, text"),
        (["rain", *call, "--source", "audio"], "--source audio: 'rain' has text"),
        (["rain", *call, "--target", "text"], "--target text: files have video, audio"),
        (["rain", *call, "--kind", "joint"], "--kind joint: the model has semantic, codes"),
        (["rain", *call, "--index", models / "a.h5"], f"{models}/a.h5: not an index of cmg.search; expected another "
         "--index"),
    ):
        assert refused(capsys, *argv) == f"cmg.search: error: {line}"
