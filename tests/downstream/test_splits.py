"""Clips of a split: how names meet features, what is left out, and what is told."""

import numpy as np
import pytest

from cmg.data.features import FeatureSet, FeatureWriter
from cmg.downstream.splits import Splits, match, require_seconds
from cmg.errors import UserError

VGG = "-abc_def123"  # the eleven characters of a video


@pytest.fixture
def features_of(tmp_path):
    def features_of(*ids, **attrs):
        with FeatureWriter(tmp_path / "f.h5", {"audio": (2, 3), "text": (2, 3)}, attrs) as writer:
            x = np.zeros((len(ids), 2, 3), "float32")
            writer.append(list(ids), {"audio": x, "text": x}, None)
        return FeatureSet(tmp_path / "f.h5")

    return features_of


def test_clips_are_found_by_their_name_their_video_or_a_cut_from_it(features_of):
    features = features_of(f"{VGG}_10_20", "abcdefgh_12", "AP0061o0Nvk_1.5_11.5", "glLQEri_300_000300",
                           "v_Piano_g01_c01")
    names = ["abcdefgh_12_20_30", f"{VGG}_10_20", "xyzxyzxyzxy_0_10", "AP0061o0Nvk_1.5_11.5", "glLQEri_300",
             "v_Piano_g01_c01", f"{VGG}_30_40"]
    rows, found, missing, ambiguous = match(features, names)
    assert rows.tolist() == [1, 0, 2, 3, 4] and not ambiguous
    assert [names[n] for n in missing] == ["xyzxyzxyzxy_0_10", f"{VGG}_30_40"]  # another cut of a video is another clip
    assert found == [0, 1, 3, 4, 5]


def test_two_cuts_of_a_video_are_ambiguous_where_the_list_says_of_no_times(features_of, capsys):
    features = features_of(f"{VGG}_000010", f"{VGG}_000050", "abcdefgh_12_10_20", "abcdefgh_12", "b")
    rows, found, missing, ambiguous = match(features, [VGG, "abcdefgh_12", f"{VGG}_000050", "z"])
    assert (rows.tolist(), found, missing, ambiguous) == ([3, 1], [1, 2], [3], [0])
    splits = Splits()
    splits.add("test", "audio", features, [VGG, "b", "z"], lambda clips, steps: {})
    assert splits["test", "audio"].names == ["b"]
    assert (list(splits.ambiguous), list(splits.missing)) == ([VGG], ["z"])
    splits.testable([("text", "audio")])
    assert capsys.readouterr().err.splitlines() == [
        "warning: 1 annotated clips have no features and are left out, the first is z",
        f"warning: 1 annotated clips could be any of several cuts and are left out, the first is {VGG}"]


def test_what_is_left_out_is_counted_and_told(features_of, capsys):
    features = features_of("a", "b", f"{VGG}_000030", "d", "e")
    splits = Splits([f"{VGG}_000070", "d", "a"])
    seen = []
    for role, names in (("fit", ["a", "z", "e"]), ("test", ["b", VGG, "d", "y", "z"])):
        splits.add(role, "audio", features, names, lambda clips, steps: seen.append((clips, steps)) or {})
    assert seen == [(["a", "e"], 2), (["b"], 2)]  # what was pretrained on may be learnt from
    assert splits["fit", "audio"].rows.tolist() == [0, 4] and splits["test", "audio"].rows.tolist() == [1]
    assert [splits[role, "audio"].n_excluded for role in ("fit", "test")] == [0, 2]
    assert splits.testable([("audio", "audio")]) == [("audio", "audio")]
    assert capsys.readouterr().err.splitlines() == [
        "warning: 2 test clips were pretrained on and are left out",
        "warning: 2 annotated clips have no features and are left out, the first is z"]


def test_videos_that_are_learnt_from_leave_the_test(features_of, capsys):
    features = features_of("a", "b", "c", f"{VGG}_000030", f"{VGG}_000070", "d")

    def splits(pretrain_ids):
        found = Splits(pretrain_ids)
        for role, names in (("fit", ["a", f"{VGG}_000030"]), ("val", ["b"]),
                            ("test", ["a", "b", "c", f"{VGG}_000070", "d"])):
            found.add(role, "audio", features, names, lambda clips, steps: {})
        return found

    test = splits(["d", "a"])["test", "audio"]
    assert (test.names, test.n_excluded, test.n_in_train) == (["c"], 2, 2)  # one that is both was pretrained on
    everything = splits(None)["test", "audio"]
    assert (len(everything), everything.n_excluded, everything.n_in_train) == (5, 0, 0)
    splits(["d", "a"]).testable([("text", "audio")])
    assert capsys.readouterr().err.splitlines() == [
        "warning: 2 test clips were pretrained on and are left out",
        "warning: 2 test clips are from videos that are learnt from and are left out"]
    with pytest.raises(UserError, match="all 5 test clips were pretrained on or learnt from; nothing to test"):
        splits(["d", "c"]).testable([("text", "audio")])


def test_a_direction_without_test_clips_is_left_out(features_of, capsys):
    features, splits = features_of("a", "b"), Splits(["a"])
    for m, names, of in (("audio", ["a"], "One"), ("text", ["b"], "Two")):
        splits.add("test", m, features, names, lambda clips, steps: {}, of=of)
    assert splits.testable([("text", "audio"), ("audio", "text")]) == [("audio", "text")]
    assert capsys.readouterr().err.splitlines() == [
        "warning: text → audio: all 1 test clips of One were pretrained on, this direction is left out",
        "warning: 1 test clips of One were pretrained on and are left out"]
    with pytest.raises(UserError, match="--checkpoint: all 1 test clips were pretrained on; nothing to test"):
        splits.testable([("text", "audio")])


def test_no_features_at_all_is_one_line(features_of):
    with pytest.raises(UserError, match="^--x: none of the 2 clips of the val split has features; expected ids such as "
                                        "z$"):
        Splits().add("val", "audio", features_of("a"), ["z", "y"], None, flag="--x")
    with pytest.raises(UserError, match="^--data: none of the 0 clips of the train split has features$"):
        Splits().add("fit", "audio", features_of("a"), [], None, called="train")


def test_steps_of_what_has_seconds_are_seconds(features_of):
    require_seconds(features_of("a", **{"seconds_per_step/text": 0.3, "seconds_per_step/audio": 1.0}), "AVE is")
    require_seconds(features_of("a"), "AVE is")
    with pytest.raises(UserError, match="^--data: 0.5 s a step; AVE is labelled second by second$"):
        require_seconds(features_of("a", **{"seconds_per_step/audio": 0.5}), "AVE is")
