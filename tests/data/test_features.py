"""Feature files: layout, round trip, sets of files, reading in workers, and one-line errors for what users hand in."""

import errno
import gc
import os
import pickle
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cmg.data.features import SCHEMA, FeatureFile, FeatureSet, FeatureWriter, cache_for
from cmg.data.pool import main as pool_grid
from cmg.errors import UserError
from cmg.training.batches import BLOCKS, ahead, epoch_order, on_device
from support import untrained

SHAPES = {"video": (4, 2, 2, 3), "audio": (4, 5), "text": (3, 6)}
ATTRS = {"backbone/video": "pixels", "sha256/video": "", "seconds_per_step": 1.0, "source": "test"}


def clips(n, seed=0, shapes=SHAPES):
    """n random clips, exactly representable in float16, and their valid marks."""
    rng = np.random.default_rng(seed)
    features = {m: rng.normal(size=(n, *shape)).astype(np.float16) for m, shape in shapes.items()}
    valid = {m: rng.random((n, shape[0])) < 0.7 for m, shape in shapes.items()}
    return features, valid


def write(path, ids, seed=0, shapes=SHAPES, attrs=ATTRS, dtype="float16"):
    features, valid = clips(len(ids), seed, shapes)
    with FeatureWriter(path, shapes, attrs, dtype) as writer:
        writer.append(ids, features, valid)
    return features, valid


def one_line(match):
    """Expect a UserError whose message is one line with `match` in it."""
    return pytest.raises(UserError, match=rf"\A[^\n]*{match}[^\n]*\Z")


def same(batch):
    """Collate for whole batches; a module's function, so that spawned workers can find it."""
    return batch


# --- one file ---------------------------------------------------------------------------------------------------


def test_layout_on_disk_is_the_documented_one(tmp_path):
    features, valid = write(tmp_path / "a.h5", ["eins", "zwei", "drüben"])
    with h5py.File(tmp_path / "a.h5") as h5:
        assert set(h5) == {"video", "audio", "text", "id", "valid"}
        assert h5["video"].shape == (3, 4, 2, 2, 3) and h5["video"].dtype == np.float16
        assert h5["valid/text"].shape == (3, 3) and h5["valid/text"].dtype == bool
        assert h5["id"].asstr()[2] == "drüben"
        assert h5.attrs["schema"] == SCHEMA == 1
        assert h5.attrs["backbone/video"] == b"pixels" and h5.attrs["seconds_per_step"] == 1.0
        np.testing.assert_array_equal(h5["audio"][:], features["audio"])
        np.testing.assert_array_equal(h5["valid/audio"][:], valid["audio"])


def test_blocks_of_rows_and_default_valid(tmp_path):
    features, _ = clips(5)
    with FeatureWriter(tmp_path / "a.h5", SHAPES, ATTRS, "float32") as writer:
        writer.append(["a", "b"], {m: x[:2] for m, x in features.items()}, None)
        writer.append(["c", "d", "e"], {m: x[2:] for m, x in features.items()}, None)
    file = FeatureFile(tmp_path / "a.h5")
    assert file.ids == ["a", "b", "c", "d", "e"]
    assert file.modalities == ("video", "audio", "text")
    assert file.shapes == SHAPES and file.attrs == {**ATTRS, "schema": 1}
    for m in SHAPES:
        x, valid = file.read(m, range(5))
        assert x.dtype == np.float32 and valid.all()
        np.testing.assert_array_equal(x, features[m].astype(np.float32))


@pytest.mark.parametrize("rows", [[0], [2, 3, 4], [4, 0, 4, 2, 2, 1], [5, 4, 3], []])
def test_rows_in_any_order_and_repeated(tmp_path, rows):
    features, valid = write(tmp_path / "a.h5", list("abcdef"))
    file = FeatureFile(tmp_path / "a.h5")
    for m in SHAPES:
        x, real = file.read(m, rows)
        np.testing.assert_array_equal(x, features[m][rows])
        np.testing.assert_array_equal(real, valid[m][rows])


def test_pooled_video(tmp_path):
    features, _ = write(tmp_path / "a.h5", ["a", "b"], shapes={"video": (10, 7)})
    batch = FeatureSet(tmp_path / "a.h5").__getitems__([1])
    np.testing.assert_array_equal(batch["video"], features["video"][1:].astype(np.float32))


def test_interrupted_writer_leaves_the_old_file(tmp_path):
    old, _ = write(tmp_path / "a.h5", ["a", "b"])
    with pytest.raises(RuntimeError, match="power cut"):
        with FeatureWriter(tmp_path / "a.h5", SHAPES, ATTRS) as writer:
            writer.append(["x"], clips(1)[0])
            raise RuntimeError("power cut")
    assert os.listdir(tmp_path) == ["a.h5"]
    np.testing.assert_array_equal(FeatureFile(tmp_path / "a.h5").read("audio", [0, 1])[0], old["audio"])


def test_writer_refuses_what_a_reader_would_refuse(tmp_path):
    features, _ = clips(2)
    wide = {**features, "audio": np.zeros((2, 4, 6))}
    nan = {**features, "audio": np.where(np.arange(2)[:, None, None] == 1, np.nan, features["audio"])}
    large = {**features, "video": np.full((2, 4, 2, 2, 3), 7e4)}  # above float16's 65504
    for ids, given, match in (
        (["a", "a"], features, "id 'a' occurs twice"),
        (["a", "b"], wide, r"audio features have shape \(2, 4, 6\), expected \(2, 4, 5\)"),
        (["a", "b"], nan, "audio features of 'b' are not finite"),
        (["a", "b"], large, "video features of 'a' are not finite in float16"),
    ):
        with one_line(match), FeatureWriter(tmp_path / "a.h5", SHAPES, ATTRS) as writer:
            writer.append(ids, given)
    with one_line("is a folder"):
        FeatureWriter(tmp_path, SHAPES, ATTRS)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_disk_that_takes_no_more_is_one_line_wherever_it_happens(tmp_path, monkeypatch, capfd, fault):
    """At the first write, at a later one, or half of one; HDF5 has nothing to say of it."""
    write(tmp_path / "a.h5", ["a"])
    whole, written = os.pwrite, []

    def pwrite(handle, content, offset):
        if sum(written) + len(content) > room:
            if sum(written) == room:
                raise OSError(fault, os.strerror(fault))
            content = content[: room - sum(written)]
        written.append(whole(handle, content, offset))
        return written[-1]

    monkeypatch.setattr(os, "pwrite", pwrite)
    room, ids = 1 << 40, [str(n) for n in range(100)]
    write(tmp_path / "whole.h5", ids)
    for left in (0, 100, sum(written) // 2, sum(written) - 1):
        room = left
        written.clear()
        for name in ("a.h5", "b.h5"):
            with one_line(rf"{name}: cannot write \({os.strerror(fault)}\)"):
                write(tmp_path / name, ids)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "whole.h5"] and FeatureFile(tmp_path / "a.h5").ids == ["a"]
    assert FeatureFile(tmp_path / "whole.h5").ids == ids
    gc.collect()
    assert capfd.readouterr().err == ""


# --- files that are not as they should be -------------------------------------------------------------------------


def _replace(h5, name, data):
    del h5[name]
    h5[name] = data


DAMAGE = {
    "schema": (lambda h5: h5.attrs.modify("schema", 9), "schema is 9, expected 1"),
    "no schema": (lambda h5: h5.attrs.pop("schema"), "schema is none, expected 1"),
    "schemas": (lambda h5: h5.attrs.create("schema", [1, 1]), r"schema is \[1, 1\], expected 1"),
    "no id": (lambda h5: h5.pop("id"), "data set 'id' is missing"),
    "a group": (lambda h5: (h5.pop("audio"), h5.create_group("audio")), "data set 'audio' is missing"),
    "a dead link": (lambda h5: _replace(h5, "audio", h5py.SoftLink("/gone")), "'audio' is a link; expected"),
    "valid shares": (lambda h5: _replace(h5, "valid/audio", h5["valid/audio"][:].astype("f4")),
                     "'valid/audio' is float32, expected bool"),
    "no valid": (lambda h5: h5.pop("valid/audio"), "data set 'valid/audio' is missing"),
    "nothing": (lambda h5: [h5.pop(m) for m in SHAPES], "none of the data sets video, audio, text"),
    "id count": (lambda h5: _replace(h5, "id", ["a", "b"]), "'video' has 3 rows but 'id' has 2"),
    "rows differ": (lambda h5: h5["audio"].resize(2, axis=0), "'audio' has 2 rows but 'id' has 3"),
    "valid steps": (lambda h5: _replace(h5, "valid/text", np.ones((3, 9), bool)), r"'valid/text' has shape \(3, 9\)"),
    "duplicate id": (lambda h5: _replace(h5, "id", ["a", "b", "a"]), "id 'a' occurs twice"),
    "numbers as id": (lambda h5: _replace(h5, "id", [1, 2, 3]), "'id' must be one column of strings"),
    "latin id": (lambda h5: _replace(h5, "id", np.array([b"a", b"b", b"\xfc"])), "'id' is not UTF-8"),
    "float64": (lambda h5: _replace(h5, "audio", np.zeros((3, 4, 5))), "'audio' is float64 .*expected float16"),
    "dimensions": (lambda h5: _replace(h5, "audio", np.zeros((3, 4), "f4")), r"expected .* \[N,T,C\]"),
    "no clips": (lambda h5: _replace(h5, "id", np.array([], "S3")), "holds no clips"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files(tmp_path, kind):
    write(tmp_path / "a.h5", ["a", "b", "c"])
    harm, match = DAMAGE[kind]
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        harm(h5)
    with one_line(f"a.h5: .*{match}"):
        FeatureFile(tmp_path / "a.h5")


def test_seconds_of_video_and_audio_differ(tmp_path):
    write(tmp_path / "a.h5", ["a"], shapes={"video": (4, 2, 2, 3), "audio": (5, 5)})
    with one_line("4 steps of video but 5 of audio"):
        FeatureFile(tmp_path / "a.h5")


@pytest.mark.parametrize("keep, says", [(0, "empty, not an HDF5 file"), (20, r"truncated or damaged \(.*\)"),
                                        (4000, "truncated: 4000 of {} bytes"), (-1, "truncated: .* of {} bytes")])
def test_truncated_file(tmp_path, keep, says):
    write(tmp_path / "a.h5", [str(i) for i in range(50)])
    raw = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "b.h5").write_bytes(raw[:keep])
    with one_line(f"b.h5: {says.format(len(raw))}; expected a feature file"):
        FeatureFile(tmp_path / "b.h5")


def test_not_hdf5_and_not_there(tmp_path):
    for text, says in (("id,caption\n", "not an HDF5 file"), (" \n<!doctype HTML><title>Sc", "an HTML page, not"),
                       ("<html>", "an HTML page, not an HDF5 file")):
        (tmp_path / "a.h5").write_text(text)
        with one_line(f"a.h5: {says}"):
            FeatureFile(tmp_path / "a.h5")
    with one_line("gone.h5: no such file; expected a feature file"):
        FeatureFile(tmp_path / "gone.h5")


@pytest.mark.parametrize("cache", ["host", "disk"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named(tmp_path, cache, value):
    write(tmp_path / "a.h5", ["a", "b"])
    write(tmp_path / "b.h5", ["c", "d", "e"])
    with h5py.File(tmp_path / "b.h5", "a") as h5:
        h5["audio"][1, 2, 3] = value
    features = FeatureSet([tmp_path / "a.h5", tmp_path / "b.h5"], cache=cache)
    assert features.__getitems__([0, 2, 4])["audio"].isfinite().all()  # a bad row matters only where it is used
    with one_line("b.h5: 'audio' features of 'd' are not finite"):
        features.__getitems__([0, 3])


def test_finite_features_whose_sum_overflows_are_taken_and_cancelling_ones_are_not(tmp_path):
    write(tmp_path / "a.h5", ["a", "b"])
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        h5["audio"][0] = 60_000
        h5["audio"][1, 0, :2] = np.inf, -np.inf
    features = FeatureSet(tmp_path / "a.h5", cache="disk")
    assert (features.stored([0])["audio"] == 60_000).all() and features.stored([0])["audio"].sum(-1).isinf().all()
    with one_line("'audio' features of 'b' are not finite"):
        features.stored([0, 1])


# --- sets of files --------------------------------------------------------------------------------------------------


@pytest.fixture
def two_files(tmp_path):
    """Paths of two files of 5 and 4 clips, one float16 and one float32, and the clips themselves."""
    first, first_valid = write(tmp_path / "a.h5", list("abcde"), seed=1)
    second, second_valid = write(tmp_path / "b.h5", list("fghi"), seed=2, dtype="float32")
    features = {m: np.concatenate([first[m], second[m]]).astype(np.float32) for m in SHAPES}
    valid = {m: np.concatenate([first_valid[m], second_valid[m]]) for m in SHAPES}
    return [tmp_path / "a.h5", tmp_path / "b.h5"], features, valid


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_batches_across_files(two_files, cache):
    paths, features, valid = two_files
    data = FeatureSet(paths, cache=cache)
    assert data.ids == list("abcdefghi") and len(data) == 9
    assert data.shapes == SHAPES and data.modalities == ("video", "audio", "text")
    rows = [8, 0, 5, 5, 2]
    batch = data.__getitems__(rows)
    assert set(batch) == {"index", *SHAPES, *(f"valid/{m}" for m in SHAPES)}
    assert batch["index"].dtype == torch.int64 and batch["index"].tolist() == rows
    for m in SHAPES:
        assert batch[m].dtype == torch.float32 and batch[f"valid/{m}"].dtype == torch.bool
        np.testing.assert_array_equal(batch[m], features[m][rows])
        np.testing.assert_array_equal(batch[f"valid/{m}"], valid[m][rows])


def test_some_modalities_only(two_files):
    paths, _, _ = two_files
    data = FeatureSet(paths, modalities=["text", "video"])
    assert data.modalities == ("video", "text") and set(data.shapes) == {"video", "text"}
    assert set(data.__getitems__([0])) == {"index", "video", "text", "valid/video", "valid/text"}


def test_rows_of(two_files):
    rows, missing = FeatureSet(two_files[0]).rows_of(["i", "nobody", "a", "a"])
    assert rows.dtype == torch.int64 and rows.tolist() == [8, 0, 0] and missing == ["nobody"]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_through_their_own_handles(two_files, start):
    paths, features, _ = two_files
    data = FeatureSet(paths, modalities=["audio"], cache="disk")
    data.__getitems__([0])  # opens the files here: the workers must not use these handles
    batches = [[0, 8], [3, 4, 5], [7], [6, 1]]
    loader = DataLoader(data, batch_sampler=batches, collate_fn=same, num_workers=2, multiprocessing_context=start)
    for rows, batch in zip(batches, loader, strict=True):
        assert batch["index"].tolist() == rows
        np.testing.assert_array_equal(batch["audio"], features["audio"][rows])


def test_pickle_and_close_do_not_carry_the_handle(two_files):
    paths, features, _ = two_files
    file = FeatureFile(paths[0])
    file.read("audio", [0])
    copy = pickle.loads(pickle.dumps(file))
    assert copy._h5 is None
    file.close()
    for each in (file, copy):
        np.testing.assert_array_equal(each.read("audio", [4])[0], features["audio"][[4]])


def test_files_that_do_not_fit_together(tmp_path):
    write(tmp_path / "a.h5", ["a", "b"])
    write(tmp_path / "again.h5", ["c", "b"])
    write(tmp_path / "wide.h5", ["c"], shapes={**SHAPES, "audio": (4, 6)})
    write(tmp_path / "av.h5", ["c"], shapes={m: SHAPES[m] for m in ("video", "audio")})
    write(tmp_path / "vgg.h5", ["c"], attrs={**ATTRS, "backbone/video": "vgg19"})
    a = tmp_path / "a.h5"
    with one_line("id 'b' occurs twice: in .*a.h5 and in .*again.h5"):
        FeatureSet([a, tmp_path / "again.h5"])
    with one_line("id 'a' occurs twice: in .*a.h5"):
        FeatureSet([a, a])
    with one_line(r"wide.h5: 'audio' clips have shape \(4, 6\), but \(4, 5\) in .*a.h5"):
        FeatureSet([a, tmp_path / "wide.h5"])
    with one_line("av.h5: has no 'text' features, only video, audio"):
        FeatureSet([tmp_path / "av.h5", a], modalities=["audio", "text"])
    write(tmp_path / "at.h5", ["c"], shapes={m: SHAPES[m] for m in ("audio", "text")})
    with one_line("at.h5: has no 'video' features, only audio, text"):
        FeatureSet([a, tmp_path / "at.h5"])
    with one_line("vgg.h5: backbone/video is 'vgg19', but 'pixels' in .*a.h5"):
        FeatureSet([a, tmp_path / "vgg.h5"])
    assert len(FeatureSet([a, tmp_path / "av.h5"], modalities=["audio"])) == 3
    with one_line("no feature file given"):
        FeatureSet([])
    with one_line("cache 'gpu' is unknown"):
        FeatureSet(a, cache="gpu")


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_a_later_file_may_lack_text(tmp_path, capsys, cache):
    """Clips without captions join captioned ones: zeros without a valid step, the other modalities as they are."""
    write(tmp_path / "a.h5", ["a", "b"])
    held, _ = write(tmp_path / "av.h5", ["c", "d", "e"], shapes={m: SHAPES[m] for m in ("video", "audio")})
    features = FeatureSet([tmp_path / "a.h5", tmp_path / "av.h5"], cache=cache)
    assert "av.h5 holds no text: 3 clips without words" in capsys.readouterr().err
    batch = features.__getitems__([3, 0, 2, 2])
    assert batch["text"].shape == (4, *SHAPES["text"])
    assert batch["valid/text"].any(1).tolist() == [False, True, False, False]
    assert not batch["text"][[0, 2, 3]].any() and batch["text"][1].any()
    np.testing.assert_array_equal(batch["audio"][0].numpy(), held["audio"][1].astype(np.float32))


# --- where features are kept, and reading ahead ---------------------------------------------------------------------


def test_auto_takes_the_first_place_that_has_room(two_files, monkeypatch):
    data = FeatureSet(two_files[0], cache="auto")
    assert data.cache == "host" and FeatureSet(two_files[0], cache="device").cache == "host"  # on a CPU
    assert data.nbytes == 9 * sum(4 * int(np.prod(shape)) for shape in SHAPES.values())  # float32 rules
    monkeypatch.setattr("cmg.data.features.available_memory", lambda: data.nbytes)
    assert FeatureSet(two_files[0], cache="auto").cache == "disk"
    card = SimpleNamespace(type="cuda")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (20, 100))
    monkeypatch.setattr("cmg.data.features.available_memory", lambda: 100)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for nbytes, expected in ((10, "device"), (11, "host"), (15, "host"), (16, "disk")):
        assert cache_for(nbytes, card) == expected


def test_stored_batches_keep_their_dtype(tmp_path):
    features, _ = write(tmp_path / "a.h5", list("abcdef"))
    for cache in ("host", "disk"):
        batch = FeatureSet(tmp_path / "a.h5", cache=cache).stored([4, 1, 4])
        assert batch["audio"].dtype == torch.float16
        np.testing.assert_array_equal(batch["audio"], features["audio"][[4, 1, 4]])


@pytest.mark.parametrize("workers", [0, 2])
def test_blocks_from_disk_are_each_row_once_and_read_in_sequence(tmp_path, monkeypatch, workers):
    """1000 clips at 8 a batch: 7 whole windows of 16 blocks; every batch holds its rows, wherever it was read from."""
    shapes = {"audio": (2, 3)}
    features, _ = write(tmp_path / "a.h5", [str(i) for i in range(1000)], shapes=shapes)
    data, asked, original = FeatureSet(tmp_path / "a.h5", cache="disk"), [], FeatureFile.read
    monkeypatch.setattr(FeatureFile, "read", lambda self, m, rows: asked.append(rows) or original(self, m, rows))
    batches = epoch_order(1000, 8, seed=3, epoch=1, blocks=True)
    assert sorted(row for rows in batches for row in rows) == list(range(1000))
    assert batches != epoch_order(1000, 8, 3, 2, blocks=True)
    shares = [epoch_order(1000, 8, 3, 1, rank, 2, blocks=True) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares)] == batches
    found = list(on_device(data, batches[5:], torch.device("cpu"), workers))  # a run resumed inside the epoch
    for rows, batch in zip(batches[5:], found, strict=True):
        assert set(batch) == {"audio", "valid/audio"} and batch["audio"].dtype == torch.float32
        np.testing.assert_array_equal(batch["audio"], features["audio"][rows])
    for rows in asked:  # by this process
        assert (np.diff(rows) > 0).all()
    window = epoch_order(1000, 8, 3, 1, blocks=True)[:BLOCKS]
    runs = np.diff(sorted(row for rows in window for row in rows)) != 1
    assert runs.sum() < BLOCKS  # whole blocks, read as slices


def test_reading_ahead_keeps_order_and_errors():
    assert list(ahead(iter(range(50)))) == list(range(50))

    def broken():
        yield 1
        raise UserError("row 2 is bad")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(UserError, match="row 2"):
        next(items)
    started = ahead(iter(range(10**9)))
    assert next(started) == 0
    started.close()  # and the thread ends


def test_pooled_video_is_all_that_official_reads(tmp_path, capsys):
    """A 49th of a 7×7 grid's bytes and, but for the rounding of the file, the same vectors; `paper` needs the grid."""
    shapes = {"video": (5, 7, 7, 6), "audio": (5, 8)}
    rng = np.random.default_rng(0)
    features = {m: rng.standard_normal((9, *shape)).astype(np.float16) for m, shape in shapes.items()}
    with FeatureWriter(tmp_path / "a.h5", shapes, {"backbone/video": "vgg19"}) as writer:
        writer.append([f"c{i}" for i in range(9)], features, {m: np.arange(5) < np.full((9, 1), 4) for m in shapes})
    command = ["--data", str(tmp_path / "a.h5"), "--out", str(tmp_path / "b.h5")]
    pool_grid(command)
    whole, pooled = FeatureSet(tmp_path / "a.h5"), FeatureSet(tmp_path / "b.h5")
    assert pooled.ids == whole.ids and pooled.files[0].attrs == whole.files[0].attrs
    assert pooled.nbytes == 2 * 9 * 5 * (6 + 8) and whole.nbytes == 2 * 9 * 5 * (49 * 6 + 8)
    grid, mean = (each.__getitems__([4, 2]) for each in (whole, pooled))
    for name in ("audio", "valid/video", "valid/audio"):
        assert torch.equal(grid[name], mean[name])
    for preset in ("official", "paper"):
        model = untrained(tmp_path / "model.pt", shapes, preset)
        if preset == "official":
            found, wanted = (model.encode(video=batch["video"]).semantic for batch in (mean, grid))
            torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)
            model.check(pooled)
        else:
            with pytest.raises(UserError, match="pretrained on"):
                model.encode(video=mean["video"])
            with pytest.raises(UserError, match="checkpoint expects"):
                model.check(pooled)
    again = ["--data", command[-1], "--out", "c.h5"]
    for argv, words in ((command, "exists already"), (again, "no video with a grid")):
        with pytest.raises(SystemExit) as stop:
            pool_grid(argv)
        assert stop.value.code == 2 and words in capsys.readouterr().err


def test_a_file_that_was_replaced_is_not_read_on(tmp_path):
    """By its name it is the same; a process that opens it anew would learn from other clips under the old ids."""
    path = tmp_path / "a.h5"
    for number in (1.0, 2.0):
        with FeatureWriter(tmp_path / f"{number}.h5", {"audio": (2, 3)}, {}) as writer:
            writer.append(["x"], {"audio": np.full((1, 2, 3), number)}, None)
    os.replace(tmp_path / "1.0.h5", path)
    features = FeatureSet(path, cache="disk")
    assert features.stored([0])["audio"].unique().tolist() == [1.0]
    features.files[0].close()
    assert features.stored([0])["audio"].unique().tolist() == [1.0]  # opened again
    features.files[0].close()
    os.replace(tmp_path / "2.0.h5", path)
    with pytest.raises(UserError, match="a.h5: was replaced or written to while it was read"):
        features.stored([0])
