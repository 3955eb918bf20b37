"""Released features in their public formats, made here, and files that mean harm."""

import os
import pickle
import struct
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
import torch

from cmg.data import pickles
from cmg.data.convert import main
from cmg.data.features import FeatureFile
from cmg.data.pickles import BadPickle, array_in_npy, array_in_zip, array_of
from cmg.data.readers.contract import fit
from support import failures, install

RNG = np.random.default_rng(0)


def write_zip(path, value, name=None, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name or f"{path.stem}.pkl", content)
    return path


class Attack:
    """A pickle that would create the file `mark` if it were run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_and_tensors_of_every_protocol(protocol, dtype):
    x = RNG.standard_normal((10, 3)).astype(dtype)
    for value in (x, np.asfortranarray(x), torch.from_numpy(x)):
        back = array_of(pickle.dumps(value, protocol))
        assert back.dtype == dtype and np.array_equal(back, x)


def test_numpy_1_and_2_spell_their_module_differently():
    content = pickle.dumps(np.arange(3.0), 2)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new in content or old in content
    for ours, theirs in ((new, old), (old, new)):
        assert np.array_equal(array_of(content.replace(ours, theirs)), [0.0, 1.0, 2.0])


def test_malicious_pickle_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    for value in (Attack(mark), [np.zeros(3), Attack(mark)], np.array([Attack(mark)], dtype=object)):
        with pytest.raises(BadPickle, match="no part of an array"):
            array_of(pickle.dumps(value))
    storage = pickle.dumps(Attack(mark))  # torch's own loader would unpickle these bytes freely
    inner = b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(storage)) + storage + b"tR."
    with pytest.raises(BadPickle, match="damaged"):
        array_of(b"\x80\x04" + inner)
    assert not mark.exists()


class Call:
    """Pickled as the call of a function of another module."""

    def __init__(self, function, *given):
        self.function, self.given = function, given

    def __reduce__(self):
        return self.function, self.given


@pytest.mark.parametrize("content", [
    b"\x80\x04Nr" + struct.pack("<I", 1 << 24) + b".",  # a place in the memo: 8 bytes for each below it
    b"\x80\x05\x96" + struct.pack("<Q", 1 << 28) + b"a.",
    b"\x80\x04\x8e" + struct.pack("<Q", 1 << 28) + b"a.",
    b"\x80\x02ctorch.storage\n_load_from_bytes\n(C" + bytes([len(b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x10\x85R.")])
    + b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x10\x85R." + b"tR.",
], ids=["memo", "bytearray", "bytes", "storage"])
def test_a_few_bytes_take_no_memory(content):
    tracemalloc.start()
    with pytest.raises(BadPickle):
        array_of(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_no_memory_is_taken_on_a_pickle_s_word():
    storage = torch.zeros(4).storage()
    for size, stride in (((1 << 40,), (1,)), ((1 << 40,), (0,)), ((5,), (1,)), ((2, 2), (4, 1)), ((-1,), (1,))):
        call = Call(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, {})
        with pytest.raises(BadPickle, match="a tensor|counts to"):
            array_of(pickle.dumps(call))
    with pytest.raises(BadPickle, match="counts to 1.1e.12 in"):
        array_of(pickle.dumps(Call(np.ndarray, (1 << 40,))))


@pytest.mark.parametrize("value, message", [
    ({"a": 1}, "dict"), (np.arange(3), "int64"), ("text", "str"), (b"\x80\x04junk", "damaged"), (b"", "damaged"),
    (torch.arange(3), "int64"),
])
def test_anything_but_an_array_of_floats_is_refused(value, message):
    with pytest.raises(BadPickle, match=message):
        array_of(value if isinstance(value, bytes) else pickle.dumps(value))


@pytest.mark.parametrize("name", ["../x.pkl", "a/../../x.pkl", "/x.pkl", "..\\x.pkl", "C:/x.pkl"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "in" / "clip.zip", np.zeros((10, 3)), name)
    with pytest.raises(BadPickle, match="leads out"):
        array_in_zip(path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["clip.zip"]


def test_zip_bomb_is_stopped_whatever_its_header_says(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "LIMIT", 1 << 20)
    path = write_zip(tmp_path / "bomb.zip", b"\0" * (8 << 20))
    assert path.stat().st_size < 1 << 15
    with pytest.raises(BadPickle, match="more than 1 MiB"):
        array_in_zip(path)
    content = path.read_bytes().replace(struct.pack("<I", 8 << 20), struct.pack("<I", 10))
    path.write_bytes(content)
    with pytest.raises(BadPickle):
        array_in_zip(path)


def test_damaged_archives(tmp_path):
    path = write_zip(tmp_path / "clip.zip", np.zeros((10, 3)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("second.pkl", b"")
    with pytest.raises(BadPickle, match="2 pickles"):
        array_in_zip(path)
    whole = write_zip(path, np.zeros((10, 3))).read_bytes()
    for content, words in ((b"no zip", "not a zip file"), (b"<!doctype html>", "an HTML page, not a zip file"),
                           (whole[:-30], r"truncated or damaged \(BadZipFile"), (b"", "empty, not a zip file")):
        path.write_bytes(content)
        with pytest.raises(BadPickle, match=words):
            array_in_zip(path)


@pytest.mark.parametrize("note", ["__MACOSX/._clip.pkl", "__MACOSX/in/._clip.pkl", "in/._clip.pkl", "._clip.pkl"])
def test_what_a_mac_adds_to_an_archive_is_passed_over(tmp_path, note):
    x = RNG.standard_normal((10, 3))
    path = write_zip(tmp_path / "clip.zip", x)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(note, b"\x00\x05\x16\x07")
    assert np.array_equal(array_in_zip(path), x)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_arrays_of_npy_files(tmp_path, dtype):
    x = RNG.standard_normal((10, 3)).astype(dtype)
    for value in (x, np.asfortranarray(x)):
        np.save(tmp_path / "a.npy", value)
        assert np.array_equal(array_in_npy(tmp_path / "a.npy"), x)


def test_npy_files_that_are_refused(tmp_path, monkeypatch):
    path, mark = tmp_path / "a.npy", tmp_path / "mark"
    np.save(path, np.zeros((10, 128), np.float32))
    whole = path.read_bytes()
    np.save(path, np.array([Attack(mark)], dtype=object), allow_pickle=True)
    for content, words in ((path.read_bytes(), "Python objects"), (whole[:-1], "truncated or damaged"),
                           (whole[:20], "truncated or damaged"), (b"<html>", "an HTML page, not a .npy file"),
                           (pickle.dumps(Attack(mark)), "not a .npy file"), (b"", "empty, not a .npy file"),
                           (whole.replace(b"(10, 128), }", b"(1 << 40,),}"), "truncated or damaged"),
                           (whole.replace(b"(10, 128), }", b"(9999999,),}"), "truncated or damaged"),
                           (whole.replace(b"<f4", b"<i4"), "holds int32")):
        path.write_bytes(content)
        with pytest.raises(BadPickle, match=words):
            array_in_npy(path)
    assert not mark.exists()
    monkeypatch.setattr(pickles, "LIMIT", 1 << 10)
    path.write_bytes(whole)
    with pytest.raises(BadPickle, match="more than 0 MiB"):
        array_in_npy(path)


def test_folders_of_npy_and_of_both(tmp_path, capsys):
    x = {name: RNG.standard_normal((10, 4)).astype(np.float16) for name in "abc"}
    (tmp_path / "audio").mkdir()
    for name in "ab":
        np.save(tmp_path / "audio" / f"{name}.npy", x[name])
    write_zip(tmp_path / "audio" / "c.zip", x["c"])
    (tmp_path / "audio" / "._a.npy").write_bytes(b"\x00\x05\x16\x07")
    call = ["zips", "--audio", str(tmp_path / "audio"), "--workers", "0", "--out", str(tmp_path / "out.h5")]
    main(call)
    file = FeatureFile(tmp_path / "out.h5")
    assert file.ids == ["a", "b", "c"] and np.array_equal(file.read("audio", range(3))[0], np.stack(list(x.values())))
    assert "bad clip" not in capsys.readouterr().err
    write_zip(tmp_path / "audio" / "b.zip", x["b"])
    with pytest.raises(SystemExit):
        main([*call, "--overwrite"])
    assert "b.zip: beside b.npy; expected one of the two" in capsys.readouterr().err


def test_clips_that_are_cut_or_padded_are_counted(tmp_path, capsys):
    lengths = {"video": [80, 80, 80, 80], "audio": [10, 11, 9, 7]}
    for m, each in lengths.items():
        for i, rows in enumerate(each):
            write_zip(tmp_path / m / f"v{i}.zip", np.zeros((rows, 4)))
    folders = [word for m in lengths for word in (f"--{m}", str(tmp_path / m))]
    main(["zips", *folders, "--workers", "0", "--out", str(tmp_path / "a.h5")])
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")] == [
        "note: audio: 1 of 4 clips have 11 rows, cut to 10; a row is taken for 1 s",
        "note: audio: 2 of 4 clips have 7 to 9 rows, padded to 10; a row is taken for 1 s",
        "note: video: 4 of 4 clips have 80 rows, cut to 10; a row is taken for 1 s"]
    main(["zips", "--video", str(tmp_path / "video"), "--seconds", "80", "--workers", "0", "--out",
          str(tmp_path / "b.h5")])
    assert "note" not in capsys.readouterr().err


def test_short_clips_repeat_their_last_second():
    x, valid = fit(np.arange(3.0)[:, None], 5)
    assert x[:, 0].tolist() == [0, 1, 2, 2, 2] and valid.tolist() == [True, True, True, False, False]
    x, valid = fit(np.arange(12.0)[:, None], 10)
    assert x[:, 0].tolist() == list(range(10)) and valid.all()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_folders_of_zips(tmp_path, capsys, workers):
    video = {f"v{i}": RNG.standard_normal((7 + i, 7, 7, 6)) for i in range(5)}  # float64, 7 to 11 seconds
    audio = {name: torch.from_numpy(RNG.standard_normal((10, 4)).astype(np.float32)) for name in video}
    for name in video:
        write_zip(tmp_path / "video" / f"{name}.zip", video[name])
        write_zip(tmp_path / "audio" / f"{name}.zip", audio[name], protocol=2)
    mark = tmp_path / "mark"
    write_zip(tmp_path / "video" / "attack.zip", Attack(mark))
    write_zip(tmp_path / "audio" / "attack.zip", np.zeros((10, 4)))
    write_zip(tmp_path / "video" / "odd.zip", np.zeros((10, 7, 7, 5)))
    write_zip(tmp_path / "audio" / "odd.zip", np.zeros((10, 4)))
    write_zip(tmp_path / "audio" / "alone.zip", np.zeros((10, 4)))
    out = tmp_path / "out.h5"
    folders = ["--video", str(tmp_path / "video"), "--audio", str(tmp_path / "audio")]
    # 'odd' sorts before 'v0' and would set the shape
    os.rename(tmp_path / "video" / "odd.zip", tmp_path / "video" / "w.zip")
    os.rename(tmp_path / "audio" / "odd.zip", tmp_path / "audio" / "w.zip")
    main(["zips", *folders, "--workers", str(workers), "--out", str(out)])
    assert not mark.exists()
    file = FeatureFile(out)
    assert file.ids == sorted(video) and file.shapes == {"video": (10, 7, 7, 6), "audio": (10, 4)}
    assert file.attrs["backbone/video"] == "vgg19" and file.attrs["backbone/audio"] == "vggish"
    x, valid = file.read("video", range(5))
    y, _ = file.read("audio", range(5))
    for row, name in enumerate(file.ids):
        n = min(len(video[name]), 10)
        assert np.array_equal(x[row, :n], video[name][:n].astype(np.float16))
        assert (x[row, n:] == x[row, n - 1]).all() and valid[row].tolist() == [True] * n + [False] * (10 - n)
        assert np.array_equal(y[row], audio[name].numpy().astype(np.float16))
    printed = capsys.readouterr()
    assert "5 clips (video 10x7x7x6, audio 10x4), 3 bad (listed in" in printed.out and "MB before" in printed.out
    assert {line.split(":")[0] for line in printed.err.splitlines() if line.startswith("bad clip")} == {
        "bad clip attack", "bad clip w", "bad clip alone"}
    told = failures(out)
    assert told["alone"] == (str(tmp_path / "audio" / "alone.zip"), "no video file")
    assert told["w"][1] == "shapes differ from those of 'v0'" and "no part of an array" in told["attack"][1]
    full = np.concatenate([fit(v, 10)[0].ravel() for v in video.values()])
    error = np.abs(full - full.astype(np.float16))
    assert f"video: largest error {error.max():.2g}, mean {error.mean():.2g}" in printed.out


def test_nothing_is_written_when_no_clip_is_good(tmp_path, capsys):
    write_zip(tmp_path / "a" / "x.zip", Attack(tmp_path / "mark"))
    with pytest.raises(SystemExit) as stop:
        main(["zips", "--audio", str(tmp_path / "a"), "--workers", "0", "--out", str(tmp_path / "out.h5")])
    bad, line = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and bad.startswith("bad clip x: audio: ")
    assert line.endswith("none of the 1 clips could be read; reasons in " + str(tmp_path / "out.h5.failed.csv"))
    assert [path.name for path in tmp_path.glob("out.h5*")] == ["out.h5.failed.csv"]


def ave_release(folder, rows):
    """The AVE release in small: Annotations.txt, order files, features and labels, row by row."""
    folder.mkdir()
    lines = [f"{category}&{name}&good&{on}&{off}" for category, name, on, off in rows]
    (folder / "Annotations.txt").write_text("\n".join(["Category&VideoID&Quality&StartTime&EndTime", *lines]) + "\n")
    video, audio = RNG.standard_normal((len(rows), 10, 7, 7, 4)), RNG.standard_normal((len(rows), 10, 3))
    classes = list(dict.fromkeys(row[0] for row in rows))
    labels = np.zeros((len(rows), 10, len(classes) + 1))
    for i, (category, _, on, off) in enumerate(rows):
        labels[i, :, -1] = 1
        labels[i, on:off] = 0
        labels[i, on:off, classes.index(category)] = 1
    for name, x in (("visual_feature", video), ("audio_feature", audio), ("labels", labels)):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["avadataset"] = x
    return video, audio


def test_ave_release(tmp_path, capsys):
    rows = [("Bark", "-a", 0, 10), ("Cat", "b", 2, 5), ("Bell", "-a", 1, 3), ("Cat", "c", 0, 1)]
    video, audio = ave_release(tmp_path / "AVE", rows)
    out = tmp_path / "ave.h5"
    call = ["ave", "--features", str(tmp_path / "AVE"), "--annotations", str(tmp_path / "AVE"), "--out", str(out)]
    main(call)
    file = FeatureFile(out)
    assert file.ids == ["-a", "b", "c"]
    for m, x in (("video", video), ("audio", audio)):
        back, valid = file.read(m, range(3))
        assert np.array_equal(back, x[[0, 1, 3]].astype(np.float16)) and valid.all()
    printed = capsys.readouterr()
    assert "event seconds of 4 of 4 rows agree" in printed.out
    assert "3 clips (video 10x7x7x4, audio 10x3), 1 bad" in printed.out
    with pytest.raises(SystemExit):  # never over an old file unasked
        main(call)
    for wrong in (np.full((4, 10, 3), b"x"), None):
        with h5py.File(tmp_path / "AVE" / "audio_feature.h5", "w") as other:
            other.create_group("avadataset") if wrong is None else other.create_dataset("avadataset", data=wrong)
        with pytest.raises(SystemExit):
            main([*call, "--overwrite"])
        assert "expected an HDF5 file with a dataset `avadataset` of numbers" in capsys.readouterr().err
    for file in ("audio_feature", "labels"):
        path = tmp_path / "AVE" / f"{file}.h5"
        with h5py.File(path, "w") as other:
            other["avadataset"] = audio
        raw = path.read_bytes()
        for content, words in ((raw[:-500], f"truncated: {len(raw) - 500} of {len(raw)} bytes"),
                               (b"<!DOCTYPE html><title>Quota", "an HTML page, not an HDF5 file"),
                               (b"PK", "not an HDF5 file"), (None, "no such file")):
            path.unlink() if content is None else path.write_bytes(content)
            if file == "labels" and content is None:  # these may be absent
                continue
            with pytest.raises(SystemExit):
                main([*call, "--overwrite"])
            (line,) = capsys.readouterr().err.splitlines()
            assert f"{path}: {words}; expected an HDF5 file with a dataset `avadataset`" in line
        with h5py.File(path, "w") as other:
            other["avadataset"] = audio
    with h5py.File(tmp_path / "AVE" / "audio_feature.h5", "w") as other:
        other["avadataset"] = audio[:2]
    with pytest.raises(SystemExit):
        main([*call, "--overwrite"])
    assert "expected 4 rows" in capsys.readouterr().err and FeatureFile(out).ids == ["-a", "b", "c"]


# -- a reader of one's own -------------------------------------------------------------------------------------------

OWN = '''
import json
from pathlib import Path

import numpy as np

from cmg.data.readers import contract
from cmg.data.readers.contract import clip


class Reader(contract.Reader):
    """Rows of JSON, two a second."""

    backbones, seconds_per_step = {"audio": "scale", "text": "words"}, 0.5

    @staticmethod
    def add_flags(parser):
        parser.add_argument("--rows", required=True, help="file of JSON objects, one a line")

    def __init__(self, flags):
        rows = map(json.loads, Path(flags.rows).read_text().splitlines())
        self.source, self.jobs = flags.rows, {row["id"]: row for row in rows}

    def read(self, jobs):
        for name, row in jobs.items():
            yield [clip(name, {m: np.array(row[m], float) for m in self.backbones}, steps=3)]
'''


@pytest.mark.parametrize("installed", [False, True])
def test_a_layout_of_one_s_own(tmp_path, capsys, monkeypatch, installed):
    name = str(tmp_path / "mine.py")
    (tmp_path / "mine.py").write_text(OWN)
    if installed:
        install(tmp_path, monkeypatch, "cmg_rows", OWN, "cmg.readers", {"rows": "Reader"})
        name = "rows"
    clips = {"a": ([[0.1]] * 4, [[1.0]]), "b": ([[1e9]], [[1.0]]), "c": ([[1.0, 2.0]], [[1.0]]), "d": ([1.0], [[1.0]]),
             "e": ([[0.0]] * 3, [[1.0]] * 3), "f": ([[0.0]] * 3, [[1.0]] * 3)}
    lines = [f'{{"id": "{k}", "audio": {audio}, "text": {text}}}\n' for k, (audio, text) in clips.items()]
    (tmp_path / "rows.json").write_text("".join(lines))
    out = tmp_path / "a.h5"
    main([name, "--rows", str(tmp_path / "rows.json"), "--audio-sha256", "0" * 64, "--out", str(out)])
    printed = capsys.readouterr()
    assert f"{out}: 3 clips (audio 3x1, text 3x1), 3 bad" in printed.out
    assert f"audio: largest error {abs(0.1 - float(np.float16(0.1))):.2g}" in printed.out
    assert [line for line in printed.err.splitlines() if line.startswith("note")] == [
        "note: audio: 1 of 3 clips have 4 rows, cut to 3; a row is taken for 0.5 s",
        "note: text: 1 of 3 clips have 1 rows, padded to 3"]
    assert failures(out) == {name: (str(tmp_path / "rows.json"), reason) for name, reason in (
        ("b", "audio: not finite in float16"), ("c", "shapes differ from those of 'a'"),
        ("d", "audio: shape (1,), expected one row a second"))}
    file = FeatureFile(out)
    assert file.attrs == {"schema": 1, "source": str(tmp_path / "rows.json"), "backbone/audio": "scale",
                          "sha256/audio": "0" * 64, "seconds_per_step/audio": 0.5, "backbone/text": "words",
                          "sha256/text": ""}
    assert file.read("text", [0])[1].tolist() == [[True, False, False]]


@pytest.mark.parametrize("argv, message", [
    (["zip"], "layout zip: expected one of ave, zips, howto, lists, or a file of one's own (mine.py); did you mean "
              "zips?"),
    (["gone.py"], "gone.py: no such file"),
    ([], "the following arguments are required: {ave,zips,howto,lists,mine.py}"),
    (["zips", "--out", "x.h5"], "--video or --audio is needed: a folder of <id>.zip or <id>.npy files"),
    (["zips", "--audio", "x", "--out", "x.h5", "--audio-sha256", "A"], "--audio-sha256: expected 64 hexadecimal"),
])
def test_wrong_calls_are_one_line(capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and message in line
