"""HowTo100M-style features: the arithmetic against released values, the readers on folders and lists made here."""

import doctest
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmg.data import howto
from cmg.data.convert import main
from cmg.data.features import FeatureFile, FeatureSet
from cmg.data.howto import Speech, snapped, windows
from cmg.data.readers.howto import of_pickle
from cmg.data.videos import video_of
from cmg.data.word_vectors import WordVectors
from cmg.errors import UserError
from cmg.extract.backbones import Choice, load_backbone
from cmg.extract.media import BadClip
from cmg.files import sha256
from support import FIXTURES, failures, killed_conversion
from support_howto import OTHER, SAID, VIDEO, entry, write_bin, write_howto, write_video

with np.load(FIXTURES / "multisk_features.npz") as file:
    RELEASED = dict(file)
VIDEOS = sorted({name.split("/")[0] for name in RELEASED if name.endswith("/n_tokens")})
AUDIOS = sorted({name.split("/")[0] for name in RELEASED if name.endswith("/crop_cols")})
STRATEGIES = {"clip": "cut", "nearest": "nearest", "max_pool": "max-pool"}


def group(name):
    return {key.removeprefix(f"{name}/"): value for key, value in RELEASED.items() if key.startswith(f"{name}/")}


def padded(x, n):
    """Rows of zeros behind, and which rows are none."""
    return np.pad(x, ((0, n - len(x)), (0, 0))), np.arange(n) < len(x)


# Parity with the released code


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("video", VIDEOS)
def test_video_tokens_are_the_released_ones(video, strategy):
    given = group(video)
    n = int(given["n_tokens"])
    tokens, mask = padded(howto.video_tokens(given["f2d"], given["f3d"], n, STRATEGIES[strategy]), n)
    np.testing.assert_allclose(tokens, given[f"{strategy}/tokens"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(mask, given[f"{strategy}/mask"])


def test_a_whole_video_is_its_largest_values():
    given = group(VIDEOS[-1])
    tokens = howto.video_tokens(given["f2d"], given["f3d"], 1, "max-pool")
    np.testing.assert_allclose(tokens[0], RELEASED["video_pooled/tokens"], rtol=1e-6)
    assert RELEASED["video_pooled/mask"].tolist() == [1.0]


@pytest.mark.parametrize("audio", AUDIOS)
def test_frames_of_a_window_are_the_released_ones(audio):
    given, mel = group(audio), RELEASED["audio_mel"]
    (start, end), n = given["start_end"], int(given["n_frames"])
    assert howto.frames_between(mel, start, end, mel.shape[1]).shape == (len(mel), int(given["crop_cols"][0]))
    x = howto.frames_between(mel, start, end, n)
    assert x.shape[1] == given["used"]
    np.testing.assert_array_equal(x[:, 0], given["first_col"])
    np.testing.assert_array_equal(np.arange(n) < x.shape[1], given["mask"])
    maps = howto.audio_steps(x, n // howto.FRAMES)
    assert maps.shape == (-(-x.shape[1] // howto.FRAMES), howto.FRAMES, len(mel))
    flat = maps.reshape(-1, len(mel))
    np.testing.assert_array_equal(flat[: x.shape[1]], x.T)
    assert not flat[x.shape[1] :].any()


def test_times_of_frames_are_the_released_ones():
    assert [howto.frame_of(t) for t in RELEASED["time/seconds"]] == RELEASED["time/frames"].tolist()
    np.testing.assert_allclose([howto.seconds_of(int(n)) for n in RELEASED["time/frames_in"]],
                               RELEASED["time/seconds_out"], rtol=1e-12)


@pytest.mark.parametrize(("released", "whole"), [("default", False), ("accurate", True)])
def test_windows_of_features_are_the_released_ones(released, whole):
    given = group("slice")
    for k, times in enumerate(zip(given["start"], given["end"])):
        parts = [howto.rows_between(given[name], *times, fps, whole)
                 for name, fps in (("f2d", howto.FPS_2D), ("f3d", howto.FPS_3D))]
        n = len(given[f"{released}/mask"][k])
        tokens, mask = padded(howto.video_tokens(*parts, n), n)
        np.testing.assert_allclose(tokens, given[f"{released}/tokens"][k], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(mask, given[f"{released}/mask"][k])


def test_examples():
    assert doctest.testmod(howto).failed == 0


def test_words_are_the_released_ones():
    assert [" ".join(howto.words_of(text)) for text in RELEASED["words/in"]] == RELEASED["words/out"].tolist()


def test_resampling_is_torch_s_nearest():
    """At every pair of lengths, also where the quotient in float32 falls to the other side of a whole number."""
    for t in range(1, 40):
        x = torch.arange(t, dtype=torch.float32)
        for n in range(1, 60):
            assert howto.resampled(x.numpy(), n).tolist() == F.interpolate(x[None, None], n)[0, 0].tolist()


# Windows


def speech(*times):
    start, end = np.array(times, float).T
    return Speech(start, end, [f"segment{k}" for k in range(len(times))])


def test_a_window_is_moved_to_speech_and_grows_to_the_nearer_side():
    said = speech((0, 3), (4, 6), (6.5, 9), (12, 20), (40, 41))
    assert snapped(5, 6, said, lambda n: n - 1, 8) == (0.0, 9.0, (1, 2, 0))  # 0.5 s after, then 1 s before, 3 s after
    assert snapped(5, 7, said, lambda n: n - 1, 3) == (4.0, 9.0, (2, 1))
    assert snapped(12, 20, said, lambda n: 0, 8) == (12.0, 20.0, (3,))
    assert snapped(40.5, 48, said, lambda n: 0, 8) == (12.0, 41.0, (4, 3))  # nothing comes after
    assert snapped(25, 33, said, lambda n: 0, 8) == (25, 33, ())  # nobody speaks
    assert snapped(3, 4, said, lambda n: 0, 8).segments == ()  # touching is no overlap
    assert snapped(0, 8, speech((1, 2)), lambda n: 0, 8) == (1.0, 2.0, (0,))  # there is no more


def test_windows_go_by_the_seed_and_lie_in_the_video():
    silent = Speech(np.zeros(0), np.zeros(0), [])
    found = windows(10, 100.0, silent, 8, (0, 7))
    assert len(found) == 10 and all(0 <= w.start <= 92 and w.end - w.start == pytest.approx(8) for w in found)
    assert found == sorted(found) == windows(10, 100.0, silent, 8, (0, 7)) != windows(10, 100.0, silent, 8, (1, 7))
    assert windows(10, 5.0, silent, 8, (0, 7)) == [(0, 5.0, ())]
    said = windows(50, 100.0, speech((10, 20), (70, 90)), 8, (0, 7))
    assert {w[:2] for w in said if w.segments} == {(10.0, 20.0), (70.0, 90.0)}  # each once


# Word vectors

WORDS = {"Don't": [1, 0, 0], "mix": [0, 1, 0], "naïve": [0, 0, 1], "Paris": [1, 1, 0], "2": [2, 0, 0]}


@pytest.fixture
def gensim(monkeypatch):
    """Classes under gensim's names, so that pickles name them as gensim's do."""
    module = types.ModuleType("gensim.models.keyedvectors")
    for name in ("KeyedVectors", "Word2VecKeyedVectors", "Vocab"):
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
    for name in ("gensim", "gensim.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def write_kv(path, module, beside=False, old=False, words=WORDS, more=None):
    """As gensim 4 and 3 save it, the vectors within or beside it."""
    kv, x = (module.Word2VecKeyedVectors if old else module.KeyedVectors)(), np.array(list(words.values()), np.float32)
    kv.__dict__ |= {"vector_size": 3, "vectors": None if beside else x, "more": more}
    if old:
        kv.index2word = list(words)
        kv.vocab = {word: module.Vocab() for word in words}
        for n, entry in enumerate(kv.vocab.values()):
            entry.__dict__ |= {"index": n, "count": 9}
    else:
        kv.index_to_key, kv.key_to_index = list(words), {word: n for n, word in enumerate(words)}
        kv.expandos = {"count": np.arange(len(words))}
    if beside:
        np.save(f"{path}.vectors.npy", x)
    path.write_bytes(pickle.dumps(kv, 2 if old else 4))
    return path


@pytest.mark.parametrize("kind", ["bin", "bin with lines", "kv", "kv beside", "kv of gensim 3"])
def test_words_have_the_vectors_of_the_file(tmp_path, gensim, kind):
    if kind.startswith("bin"):
        path = write_bin(tmp_path / "w.bin", WORDS, end=b"\n" if "lines" in kind else b"")
    else:
        path = write_kv(tmp_path / "w.kv", gensim, beside="beside" in kind, old="3" in kind)
    known = WordVectors(path)
    assert known.width == 3 and "mix" in known and "Mix" not in known
    said = howto.words_of("Don't mix 2 cups, naïve Paris!")
    assert known.of(said).tolist() == [WORDS[word] for word in ("Don't", "mix", "2", "naïve", "Paris")]
    assert known.of(said, 2).tolist() == [[1, 0, 0], [0, 1, 0]]  # the first known ones
    assert known.of(["cups"]).shape == (0, 3)
    beside = [tmp_path / "w.kv.vectors.npy"] if "beside" in kind else []
    assert known.sha256 == sha256(path, *beside)


class Attack:
    """A pickle that would create the file `mark` if it were run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_word_vectors_that_are_refused(tmp_path, gensim):
    mark = tmp_path / "mark"
    damaged = write_bin(tmp_path / "short.bin", WORDS).read_bytes()[:-5]
    (tmp_path / "short.bin").write_bytes(damaged)
    (tmp_path / "other.bin").write_bytes(b"no header")
    write_kv(tmp_path / "code.kv", gensim, more=Attack(mark))
    write_kv(tmp_path / "alone.kv", gensim, beside=True)
    (tmp_path / "alone.kv.vectors.npy").unlink()
    write_kv(tmp_path / "uneven.kv", gensim, beside=True)
    np.save(tmp_path / "uneven.kv.vectors.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "list.kv").write_bytes(pickle.dumps([1]))
    for name, words in {"short.bin": "damaged at word 4 of 5", "other.bin": "its first line is", "none.bin": "No such",
                        "code.kv": r"names (posix|nt)\.mkdir", "alone.kv": "vectors.npy: no such file",
                        "uneven.kv": "a vector of each", "list.kv": "expected word vectors", "none.kv": "no such file",
                        "w.txt": "expected word vectors"}.items():
        with pytest.raises(UserError, match=rf"\A[^\n]*{words}[^\n]*\Z"):
            WordVectors(tmp_path / name)
    assert not mark.exists()


def test_word_vectors_are_a_text_backbone(tmp_path):
    path = write_bin(tmp_path / "w.bin", WORDS)
    backbone = load_backbone(Choice("text", "word2vec", (str(path),)))
    assert (backbone.shape, backbone.sha256, backbone.modality) == ((3,), sha256(path), "text")
    assert backbone(["mix", "unheard", "paris"]).tolist() == [[0, 1, 0], [1, 1, 0]]  # as the file spells a name
    with pytest.raises(BadClip, match="none of its words"):
        backbone(["unheard"])


# HowTo100M's folders

def read(path, m, name):
    file = FeatureFile(path)
    x, valid = file.read(m, [file.ids.index(name)])
    return x[0].astype(np.float32), valid[0]


def test_a_folder_becomes_clips_of_speech(tmp_path, capsys):
    flags, (arrays, _) = write_howto(tmp_path, SAID)
    main([*flags, "--windows", "40"])
    out = tmp_path / "out.h5"
    file = FeatureFile(out)
    assert file.shapes == {"video": (12, 9), "audio": (12, 64, 40), "text": (20, 3)}
    assert file.attrs["backbone/text"] == "word2vec" and file.attrs["sha256/text"] == sha256(tmp_path / "w.bin")
    assert file.attrs["seconds_per_step/video"] == pytest.approx(2 / 3)
    assert {video_of(name) for name in file.ids} == {VIDEO, OTHER} and len(set(file.ids)) == len(file.ids)
    assert capsys.readouterr().err == "note: text: 65 of 65 clips have 0 to 4 rows, padded to 20\n"
    flat, deep, mel = arrays
    name = f"{VIDEO}_10.00_24.00"  # drawn on the second segment, of 4 s, it grows to the first one
    x, valid = read(out, "video", name)
    expected = howto.video_tokens(flat[10:25], deep[15:37], 12)
    np.testing.assert_allclose(x, expected, atol=1e-3)
    assert valid.all()
    x, valid = read(out, "audio", name)
    np.testing.assert_allclose(x.reshape(768, 40), mel[:, 998 : 998 + 768].T, atol=4e-3)
    x, valid = read(out, "text", name)
    assert x[:4, 0].tolist() == [1, 2, 3, 4] and valid.sum() == 4  # in the order of time, unknown words passed over
    assert f"{VIDEO}_10.00_19.00" in file.ids  # drawn on the first one, long enough
    silent = [n for n in file.ids if n.startswith(OTHER)]
    assert len(silent) == 40 and not read(out, "text", silent[0])[1].any()
    assert FeatureSet(out).ids == file.ids


def test_a_short_video_has_fewer_clips_and_none_of_them_is_bad(tmp_path, capsys):
    """Of the ten windows that it may have, all are the same one."""
    flags, _ = write_howto(tmp_path, SAID)
    for number, path in enumerate((f"food/{VIDEO}", f"cars/{OTHER}")):
        write_video(tmp_path / "in", path, seconds=8, seed=number, deep="_3d" if number else "")
    main(flags[: flags.index("--captions")] + ["--out", str(tmp_path / "short.h5"), "--workers", "0"])
    assert len(FeatureFile(tmp_path / "short.h5").ids) == 2
    assert ": 2 clips (video 12x9, audio 12x64x40), 0 bad" in capsys.readouterr().out


def test_what_the_release_does_is_an_option(tmp_path):
    flags, (arrays, _) = write_howto(tmp_path, SAID)
    main([*flags, "--audio-shift", "4", "--text-order", "added", "--seed", "3"])
    name, mel = f"{VIDEO}_10.00_24.00", arrays[2]
    x, valid = read(tmp_path / "out.h5", "audio", name)
    start = howto.frame_of(14)
    np.testing.assert_allclose(x.reshape(768, 40), mel[:, start : start + 768].T, atol=4e-3)
    assert read(tmp_path / "out.h5", "text", name)[0][:4, 0].tolist() == [3, 4, 1, 2]
    silent = next(n for n in FeatureFile(tmp_path / "out.h5").ids if n.startswith(VIDEO)
                  and not read(tmp_path / "out.h5", "text", n)[1].any())
    start = howto.frame_of(float(silent.split("_")[-2]))  # a window without speech is shifted by nothing
    x, valid = read(tmp_path / "out.h5", "audio", silent)
    rows = x.reshape(768, 40)
    np.testing.assert_allclose(rows, mel[:, start : start + 768].T, atol=4e-3)


def test_the_seed_draws_the_clips_in_any_number_of_processes(tmp_path):
    flags, _ = write_howto(tmp_path, SAID)
    drawn = {}
    for key, more in {"a": ["--seed", "1"], "again": ["--seed", "1", "--workers", "2"], "b": ["--seed", "2"],
                      "few": ["--windows", "2"]}.items():
        main([*flags, *more])
        drawn[key] = FeatureFile(tmp_path / "out.h5").ids
    assert drawn["a"] == drawn["again"] != drawn["b"]
    assert len([n for n in drawn["few"] if n.startswith(OTHER)]) == 2


def test_bad_videos_are_left_out_each_with_its_reason(tmp_path, capsys):
    paths = [f"a/{name}" for name in ("good", "uneven", "gone", "coded", "words", "short", "silent", "good")]
    said = {name: {"start": [1.0], "end": [9.5], "text": ["word1"]} for name in (
        "good", "uneven", "gone", "coded", "short")}
    said |= {"silent": {"start": [1.0], "end": [2.0], "text": [" "]},
             "words": {"start": [1.0, 2.0], "end": [9.0], "text": ["word1"]}}
    flags, _ = write_howto(tmp_path, said, paths)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "in/a/uneven_2d.npz", features=rng.normal(size=(30, 4)).astype(np.float32))
    (tmp_path / "in/a/gone_spec.npz").unlink()
    np.savez(tmp_path / "in/a/coded_2d.npz", features=np.array([Attack(tmp_path / "mark")], object))
    np.savez(tmp_path / "in/a/short_2d.npz", other=np.zeros((3, 4), np.float32))
    flags.remove("--keep-silent")
    with pytest.raises(SystemExit):  # more bad videos than clips of the good one; these are written
        main([*flags, "--windows", "3"])
    assert "more than half are bad; reasons in" in capsys.readouterr().err
    rows = failures(tmp_path / "out.h5")
    told = {name: reason for name, (path, reason) in rows.items()}
    assert set(told) == {"good", "uneven", "gone", "coded", "words", "short", "silent"}
    assert {path for path, _ in rows.values()} == {str(tmp_path / "in" / path) for path in paths}
    assert told["silent"] == "text: no speech; --keep-silent keeps it, without words"
    assert "the same video again" in told["good"]
    assert "unequal lengths: 2-D 30.0 s, 3-D 60.0 s" in told["uneven"]
    assert "gone_spec.npz: no such file" in told["gone"]
    assert "coded_2d.npz" in told["coded"] and not (tmp_path / "mark").exists()
    assert told["words"] == "speech: 2 starts, 1 ends and 1 texts; expected as many of each"
    assert "holds no array 'features'" in told["short"]
    assert {video_of(n).split("_")[0] for n in FeatureFile(tmp_path / "out.h5").ids} == {"good"}


def same_files(a, b):
    a, b = FeatureFile(a), FeatureFile(b)
    assert a.ids == b.ids and a.attrs == b.attrs
    for m in a.modalities:
        for x, y in zip(a.read(m, range(len(a.ids))), b.read(m, range(len(b.ids)))):
            np.testing.assert_array_equal(x, y)


def said(capsys):
    """What a conversion says, less its times."""
    printed = capsys.readouterr()
    told = [line for line in printed.err.splitlines() if not line.startswith("resuming")]
    return told, [line.rpartition(", ")[0] if " bad" in line else line for line in printed.out.splitlines()
                  if "/s, " not in line]


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_conversion_that_was_killed_goes_on_to_the_same_file(tmp_path, capsys, workers):
    """kill -9 while the third shard is written: of three videos, the first is there whole, the second in part; that one
    and a bad one are read again. The account is that of an undisturbed run."""
    paths = ["a/first", "a/second", "a/gone", "a/third"]
    speech = {name: SAID[VIDEO] for name in ("first", "second", "third")}
    flags, _ = write_howto(tmp_path, speech, paths)
    (tmp_path / "in/a/gone_spec.npz").unlink()
    flags.remove("--overwrite")
    flags += ["--windows", "3", "--seed", "1", "--workers", workers]
    main([*flags, "--out", str(tmp_path / "whole.h5")])
    whole = said(capsys)
    killed_conversion(flags, shard=2, before=2)
    parts = tmp_path / "out.h5.parts"
    assert [FeatureFile(path).ids for path in sorted(parts.glob("*.h5"))] == [
        FeatureFile(tmp_path / "whole.h5").ids[:2], FeatureFile(tmp_path / "whole.h5").ids[2:4]]
    assert not (tmp_path / "out.h5").exists() and not (tmp_path / "out.h5.failed.csv").exists()
    with pytest.raises(SystemExit):
        main([*flags, "--seed", "2"])
    assert "out.h5.parts: unfinished conversion with other settings" in capsys.readouterr().err
    (tmp_path / "in/a/first_2d.npz").unlink()  # what is done is not read again: this one could not be
    main(flags)
    printed = capsys.readouterr()
    assert "resuming: 1 of 4 videos are done" in printed.err
    same_files(tmp_path / "out.h5", tmp_path / "whole.h5")
    assert failures(tmp_path / "out.h5") == failures(tmp_path / "whole.h5") != {}
    assert {path.name for path in tmp_path.glob("out.h5*")} == {"out.h5", "out.h5.failed.csv"}
    noted = [line for line in whole[0] if line.startswith("note")]
    assert noted == [line for line in printed.err.splitlines() if line.startswith("note")] and noted
    assert [line.partition("; ")[2] for line in whole[1] if "MB after" in line] == [
        line.partition("; ")[2] for line in printed.out.splitlines() if "MB after" in line]


def refused(capsys, flags):
    with pytest.raises(SystemExit) as stop:
        main(flags)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def test_howto_s_wrong_calls_are_one_line(tmp_path, capsys):
    flags, _ = write_howto(tmp_path, {"unknown": SAID[VIDEO]})
    assert "none of its 1 ids is a video of --csv; it has 'unknown'" in refused(capsys, flags)
    (tmp_path / "caption.pickle").write_bytes(pickle.dumps({VIDEO: Attack(tmp_path / "mark")}))
    assert "which is no part of an array" in refused(capsys, flags) and not (tmp_path / "mark").exists()
    (tmp_path / "caption.pickle").write_bytes(pickle.dumps([1]))
    assert "holds list; expected a dict" in refused(capsys, flags)
    (tmp_path / "videos.csv").write_text("name\nx\n")
    assert "expected a CSV with the column path" in refused(capsys, flags)
    assert "--vectors: goes with --captions" in refused(
        capsys, [flag for flag in flags if "caption" not in flag])
    assert not (tmp_path / "out.h5").exists()


def test_speech_may_be_arrays_of_numpy_and_out_of_order():
    said = of_pickle({"start": np.array([5.0, 1.0, 3.0]), "end": np.array([6, 2, 4]), "text": np.array(
        ["b", "a", " "], object)})
    assert said.text == ["a", "b"] and said.start.tolist() == [1, 5] and said.end.tolist() == [2, 6]
    back = pickle.loads(pickle.dumps(np.array(["b", "a"], object)))
    assert of_pickle({"start": [0, 1], "end": [1, 2], "text": back}).text == ["b", "a"]


# The pickled lists


def convert_list(folder, entries, *more, vectors=True):
    (folder / "list.pkl").write_bytes(pickle.dumps(entries))
    words = str(write_bin(folder / "w.bin", {f"word{n}": [n, 1, 0] for n in range(9)}))
    main(["lists", "--list", str(folder / "list.pkl"), "--steps", "24", *(["--vectors", words] if vectors else []),
          "--out", str(folder / "list.h5"), "--overwrite", *more])
    return folder / "list.h5"


def test_a_pickled_list_becomes_clips(tmp_path, capsys):
    tested = entry("video9", 10, eval_caption="word5")
    whole = {f"{key}_full" if key in ("2d", "3d") else key: x for key, x in entry(7, 40, 1, caption="word6").items()}
    out = convert_list(tmp_path, [tested, entry("video8", 10, 2, audio=None), whole], "--longer", "nearest")
    file = FeatureFile(out)
    assert file.ids == ["video9", "video8", "7"]
    assert file.shapes == {"video": (24, 9), "audio": (24, 64, 40), "text": (20, 3)}
    x, valid = read(out, "video", "video9")
    np.testing.assert_allclose(x[:15], howto.video_tokens(tested["2d"], tested["3d"], 24), atol=1e-3)
    assert valid.tolist() == [True] * 15 + [False] * 9
    x, valid = read(out, "audio", "video9")
    np.testing.assert_allclose(x.reshape(-1, 40)[:1000], tested["audio"].T, atol=4e-3)
    assert valid.sum() == 16  # 1000 frames have begun the sixteenth step
    np.testing.assert_allclose(read(out, "video", "7")[0],
                               howto.video_tokens(whole["2d_full"], whole["3d_full"], 24, "nearest"), atol=1e-3)
    assert not read(out, "audio", "video8")[1].any()
    assert [read(out, "text", name)[0][0, 0] for name in file.ids] == [5, 1, 6]
    assert "1 of 3 clips have several captions, the first of each is taken; --modalities text makes a file of all" in \
        capsys.readouterr().err


def test_all_captions_of_a_list_make_a_file_of_their_own(tmp_path, capsys):
    """As `cmg.data.captions` numbers them; every one asks for its clip, and joins it in pretraining."""
    entries = [entry("video7", 10, caption=["word1", "word2 unknown", "word3"]),
               entry("drone #3", 10, 1, caption="word4"), entry("video8", 10, 2, caption=["word5", " "]),
               entry("tested", 10, 3, eval_caption="word6")]
    clips = convert_list(tmp_path, entries, vectors=False).rename(tmp_path / "clips.h5")
    texts = convert_list(tmp_path, entries, "--modalities", "text")
    assert failures(texts) == {"video8": (str(tmp_path / "list.pkl"), "an empty caption")}
    file = FeatureFile(texts)
    assert file.modalities == ("text",) and FeatureFile(clips).modalities == ("video", "audio")
    assert file.ids == ["video7#0", "video7#1", "video7#2", "drone #3#0", "video8", "tested"]
    assert file.read("text", range(6))[0][:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    features = FeatureSet([clips, texts])
    assert features.ids == ["video7", "drone #3", "video8", "tested"]
    drawn = set()
    for epoch in range(9):
        features.draw(0, epoch)
        drawn.add(features.__getitems__([0])["text"][0, 0, 0].item())
    assert drawn == {1, 2, 3}
    capsys.readouterr()
    line = refused(capsys, ["lists", "--list", str(tmp_path / "list.pkl"), "--modalities", "text", "--out", "x.h5"])
    assert "--vectors: goes with text in --modalities" in line


def test_bad_entries_and_lists(tmp_path, capsys):
    rows = [entry("a", 10), entry("a", 10), entry("b", 10, eval_caption=" "), entry("c", 10, caption=[]),
            entry("d", 10, audio=np.zeros((7, 9), np.float32)), {"id": "e"}, entry("f", 10, **{"2d": np.zeros(3)})]
    out = tmp_path / "list.h5"
    with pytest.raises(SystemExit):  # for more than half of them are bad; the good one is written
        convert_list(tmp_path, rows)
    told = {name: reason for name, (path, reason) in failures(out).items()}
    assert FeatureFile(out).ids == ["a"] and "more than half are bad; reasons in" in capsys.readouterr().err
    assert told == {"a": "the same id again, its first clip is kept", "b": "an empty caption", "c": "an empty caption",
                    "d": "audio: shape (7, 9), expected 40 bands and frames", "e": "no '2d'; expected rows of features",
                    "f": "2d: shape (3,), expected rows of features"}
    out.unlink()
    for value, words in ((Attack(tmp_path / "mark"), "which is no part of an array"), ([{"x": 1}], "each with an id"),
                         ([], "an empty list"), ({"a": 1}, "a list of dicts")):
        (tmp_path / "list.pkl").write_bytes(pickle.dumps(value))
        line = refused(capsys, ["lists", "--list", str(tmp_path / "list.pkl"), "--out", str(out)])
        assert words in line and not out.exists() and not (tmp_path / "mark").exists()
