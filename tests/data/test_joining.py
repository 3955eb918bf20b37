"""Feature files that hold different modalities of the same clips are one data set, joined by their ids."""

import re

import h5py
import numpy as np
import pytest
import torch

from cmg.data.features import FeatureSet, FeatureWriter
from cmg.data.joining import held
from cmg.downstream import retrieval
from cmg.errors import UserError
from support import interrupt_after, refused, run, same_weights

SHAPES = {"video": (4, 2, 2, 3), "audio": (4, 5), "text": (4, 6)}


def write(path, ids, *modalities, dtype="float32", **attrs):
    """A file of clips whose numbers all say which clip and modality they are, (modality, id) -> array."""
    numbers = {(m, name): np.random.default_rng([ord(c) for c in m + name]).standard_normal(SHAPES[m]).astype(dtype)
               for m in modalities for name in ids}
    with FeatureWriter(path, {m: SHAPES[m] for m in modalities}, attrs, dtype=dtype) as writer:
        valid = {m: np.arange(4)[None].repeat(len(ids), 0) < [[1 + len(name) % 4] for name in ids] for m in modalities}
        writer.append(list(ids), {m: np.stack([numbers[m, name] for name in ids]) for m in modalities}, valid)
    return numbers


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_pictures_and_sound_in_files_of_their_own(tmp_path, capsys, cache):
    """Two files of pictures and one of sound, in another order, of which both have clips that the other lacks."""
    paths = [tmp_path / name for name in ("v1.h5", "a.h5", "v2.h5")]
    known = write(paths[0], ["one", "two", "three"], "video", dtype="float16")
    known |= write(paths[1], ["five", "four", "one", "alone", "three"], "audio")
    known |= write(paths[2], ["four", "five", "lost", "away"], "video")
    data = FeatureSet(paths, cache=cache)
    told = capsys.readouterr().err
    assert told == ("note: 3 of 7 clips with video are left out, because another file lacks them\n"
                    "note: 1 of 5 clips with audio are left out, because another file lacks them\n")
    assert data.ids == ["one", "three", "four", "five"] and data.modalities == ("video", "audio") == held(paths)
    assert data.shapes == {m: SHAPES[m] for m in data.modalities}
    rows = [3, 0, 2, 1, 3]
    batch = data.__getitems__(rows)
    for m in data.modalities:
        np.testing.assert_array_equal(batch[m], np.stack([known[m, data.ids[row]] for row in rows]).astype("f4"))
        assert batch[f"valid/{m}"].sum(1).tolist() == [1 + len(data.ids[row]) % 4 for row in rows]
    rows, missing = data.rows_of(["five", "lost"])
    assert rows.tolist() == [3] and missing == ["lost"]


def test_what_is_not_asked_for_leaves_no_clip_out(tmp_path, capsys):
    write(tmp_path / "v.h5", ["a", "b"], "video")
    write(tmp_path / "a.h5", ["b"], "audio")
    assert FeatureSet([tmp_path / "v.h5", tmp_path / "a.h5"], ["video"]).ids == ["a", "b"]
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="v.h5, .*a.h5: has no 'text' features, only video, audio$"):
        FeatureSet([tmp_path / "v.h5", tmp_path / "a.h5"], ["text"])


def test_three_files_and_captions(tmp_path):
    """Words come last or first, their ids may be numbered; the clips are those of the files with seconds."""
    write(tmp_path / "v.h5", ["drone #3", "b", "c"], "video")
    write(tmp_path / "a.h5", ["c", "drone #3", "b"], "audio")
    known = write(tmp_path / "t.h5", ["b#0", "b#1", "c", "drone #3#0", "d#0"], "text")
    for order in ("vat", "tav", "tva"):
        data = FeatureSet([tmp_path / f"{name}.h5" for name in order])
        assert sorted(data.ids) == ["b", "c", "drone #3"]
        batch = data.__getitems__([data.ids.index(name) for name in ("b", "c", "drone #3")])
        for row, name in enumerate(("b#0", "c", "drone #3#0")):
            np.testing.assert_array_equal(batch["text"][row], known["text", name])


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_a_random_caption_an_epoch(tmp_path, capsys, cache):
    """Of four captions every one comes, by chance, the same at each call; of one always that one."""
    names = [f"clip{k}" for k in range(50)]
    write(tmp_path / "v.h5", [*names, "single"], "video")
    captions = [f"{name}#{k}" for k in range(4) for name in names]
    known = write(tmp_path / "t.h5", [*captions, "single"], "text")
    data = FeatureSet([tmp_path / "v.h5", tmp_path / "t.h5"], cache=cache)
    assert capsys.readouterr().err == ("note: 201 captions of 51 clips: pretraining takes a random one of each every "
                                       "epoch, everything else the first\n")

    def taken():
        text = data.__getitems__(range(51))["text"].numpy()
        assert np.array_equal(text[50], known["text", "single"])
        return [next(k for k in range(4) if np.array_equal(text[row], known["text", f"{name}#{k}"]))
                for row, name in enumerate(names)]

    assert set(taken()) == {0}
    drawn = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        data.draw(seed, epoch)
        drawn.append(taken())
    assert drawn[0] == drawn[3] and drawn[0] != drawn[1] != drawn[2] != drawn[0]
    counts = np.bincount(sum(drawn[:3], []), minlength=4)  # 150 draws: 37.5 each, give or take four deviations of 5.3
    assert counts.sum() == 150 and abs(counts - 37.5).max() < 21
    video = data.__getitems__(range(51))["video"]
    FeatureSet(tmp_path / "v.h5").draw(0, 3)  # nothing to draw
    assert torch.equal(video, FeatureSet(tmp_path / "v.h5").__getitems__(range(51))["video"])


def test_a_resumed_run_draws_the_same_captions(tmp_path):
    names = [f"clip{k}" for k in range(24)]
    write(tmp_path / "v.h5", names, "video")
    write(tmp_path / "t.h5", [f"{name}#{k}" for name in names for k in range(3)], "text")
    flags = ["--w-rec", "0", "--w-club", "0", "--save-every", "1e-6", "--data", str(tmp_path / "v.h5"),
             str(tmp_path / "t.h5")]
    run("x", tmp_path / "whole", *flags)
    interrupt_after("x", tmp_path / "part", 4, flags)
    run("x", tmp_path / "part", *flags, "--resume", "auto")
    same_weights(tmp_path / "whole", tmp_path / "part")


def test_what_cannot_be_joined_is_one_line(tmp_path):
    write(tmp_path / "v.h5", ["a.mp4", "b.mp4"], "video", **{"seconds_per_step": 1.0})
    write(tmp_path / "a.h5", ["a.wav"], "audio")
    write(tmp_path / "both.h5", ["c"], "video", "audio")
    line = (f"{tmp_path}/v.h5 and {tmp_path}/a.h5 hold different modalities, and no clip is in both: ids are 'a.mp4' "
            "and 'a.wav'; expected the same of a clip")
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        FeatureSet([tmp_path / "v.h5", tmp_path / "a.h5"])
    with pytest.raises(UserError, match="both.h5: holds video, audio together, .*v.h5 and .*a.h5 hold them apart"):
        FeatureSet([tmp_path / "v.h5", tmp_path / "a.h5", tmp_path / "both.h5"])
    write(tmp_path / "half.h5", ["a.mp4"], "audio", **{"seconds_per_step": 0.5})
    with pytest.raises(UserError, match="half.h5: 0.5 s a step of audio, but 1 of video in .*v.h5$"):
        FeatureSet([tmp_path / "v.h5", tmp_path / "half.h5"])
    with FeatureWriter(tmp_path / "long.h5", {"audio": (5, 5)}, {}) as writer:
        writer.append(["a.mp4"], {"audio": np.zeros((1, 5, 5))})
    with pytest.raises(UserError, match="long.h5: 5 steps of audio, but 4 of video in .*v.h5$"):
        FeatureSet([tmp_path / "v.h5", tmp_path / "long.h5"])


def test_a_number_that_is_not_finite_is_told_by_its_own_file(tmp_path):
    write(tmp_path / "v.h5", ["a", "b"], "video")
    write(tmp_path / "a.h5", ["b", "a"], "audio")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["audio"][0, 1, 1] = np.inf
    for cache in ("host", "disk"):
        data = FeatureSet([tmp_path / "v.h5", tmp_path / "a.h5"], cache=cache)
        data.__getitems__([0])
        with pytest.raises(UserError, match="a.h5: 'audio' features of 'b' are not finite"):
            data.__getitems__([0, 1])


def test_commands_take_them(tmp_path, capsys):
    """Pretraining and a task read the files apart as they read one file of both, to the same bits."""
    ids = [f"clip{k}" for k in range(16)]
    write(tmp_path / "v.h5", ids, "video")
    write(tmp_path / "a.h5", ids[::-1], "audio")
    write(tmp_path / "va.h5", ids, "video", "audio")
    parts = [str(tmp_path / "v.h5"), str(tmp_path / "a.h5")]
    flags = ["--w-rec", "0", "--w-club", "0", "--max-steps", "2"]
    whole = run(str(tmp_path / "va.h5"), tmp_path / "whole", *flags)
    apart = run(parts[0], tmp_path / "apart", *flags, "--data", *parts)
    same_weights(whole, apart)
    assert torch.load(apart / "latest.pt", weights_only=True)["pretrain_ids"] == ids
    found = [retrieval.main(["--checkpoint", str(apart), "--protocol", "paper", "--out", str(tmp_path / name),
                             "--device", "cpu", "--data", *paths])
             for name, paths in (("1", parts), ("2", [str(tmp_path / "va.h5")]))]
    assert [row["value"] for row in found[0]] == [row["value"] for row in found[1]] and len(found[0]) == 28
    write(tmp_path / "other.h5", ["x"], "audio")
    capsys.readouterr()
    assert "no clip is in both: ids are 'clip0' and 'x'" in refused(
        capsys, "--data", parts[0], str(tmp_path / "other.h5"), "--out", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
