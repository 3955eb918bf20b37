"""UCF101 ↔ VGGSound: the lists with their oddities, and the task on codes that are known."""

import json
from collections import Counter

import pytest
from support_pair import FAST, PAIRS, UCF, VGG, OneHotModel, by_pair, write_lists

from cmg.data.ucf_vggsound import read_pair_lists
from cmg.downstream import ucf_vggsound
from cmg.downstream.ucf_vggsound import PairTask
from cmg.errors import UserError
from cmg.training import checkpoint


def test_oddities_are_accounted_for(tmp_path):
    lists = read_pair_lists(write_lists(tmp_path))
    assert lists.classes == {"video": ["Cello", "Bowling", "Frisbee", "Piano"], "audio": VGG}
    path = tmp_path / "UCF101sameVGGSound.txt"
    assert lists.notes == [f"{path}, line 2: 'Bowling\\tbowling' has a stray tab, read as 'Bowling'"]
    assert Counter(item.split for item in lists.items["video"] if item.label == 0) == {
        "train": 15, "val": 3, "test": 7}  # groups 8..22, 23..25, 1..7
    both = lists.overlapping()
    assert both.classes == {"video": ["Cello", "Piano"], "audio": ["playing cello", "playing piano"]}
    assert both.skipped == [
        "class Bowling / bowling: clips on one side only, its 10 clips are left out by strict",
        "class Frisbee / frisbee: clips on one side only, its 25 clips are left out by strict"]
    assert Counter(item.label for item in both.items["video"]) == {0: 25, 1: 25}
    assert Counter(item.label for item in both.items["audio"]) == {0: 10, 1: 10}


@pytest.mark.parametrize(("change", "said"), [
    ({"ucf": ["Tuba,v_Tuba_g01_c01"]}, "ucf2vggsound.csv, line 2: class 'Tuba' is not in the list of classes"),
    ({"ucf": ["Piano,clip_7"]}, "clip_7 has no split and no group such as _g01_c01"),
    ({"vgg": ["bowling,abc,holdout"]}, "split 'holdout'; expected train, val, test"),
    ({"vgg": ["bowling,abc"]}, "vggsound2ucf.csv, line 2: 2 fields; expected category, video_id, split"),
    ({"names": (UCF[:2], VGG), "ucf": []}, "2 classes in UCF101sameVGGSound.txt, 4 in VGGSoundsameUCF101.txt"),
])
def test_broken_lists_are_refused_in_one_line(tmp_path, change, said):
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        read_pair_lists(write_lists(tmp_path, **change))
    assert said in str(error.value)


def test_shared_codes_cross_modality_and_data_set(sets):
    task = PairTask(*sets, PAIRS, FAST)
    rows = by_pair(task.run(OneHotModel()))
    assert [(rows[p]["value"], rows[p]["source_value"], rows[p]["chance"]) for p in PAIRS] == [(100.0, 100.0, 50.0)] * 2
    assert [(rows[p]["n_train"], rows[p]["n_test"], rows[p]["n_classes"]) for p in PAIRS] == [(30, 4, 2), (12, 14, 2)]
    assert task.kept["video", "audio"].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    split = by_pair(PairTask(*sets, PAIRS, FAST).run(OneHotModel(audio=8)))
    assert split["video", "audio"]["source_value"] == 100.0 and split["video", "audio"]["value"] <= 50.0
    assert split["video", "audio"]["code_overlap"] == 0.0


def test_paper_takes_every_clip_of_every_class(sets):
    rows = by_pair(PairTask(*sets, PAIRS, FAST._replace(protocol="paper")).run(OneHotModel()))
    # The sounds of bowling, a third of them, have no pictures to learn from, nor the pictures of frisbee sounds.
    assert rows["video", "audio"]["value"] == pytest.approx(200 / 3, abs=1e-3)
    assert rows["audio", "video"]["value"] == pytest.approx(200 / 3, abs=1e-3)
    assert (rows["video", "audio"]["n_train"], rows["video", "audio"]["n_test"]) == (75, 30)
    assert rows["video", "audio"]["n_classes"] == 4


def test_pretrained_clips_are_left_out_of_test(sets, capsys):
    features, lists = sets
    sounds = [item.id for item in lists.items["audio"]]
    # As the public pretraining list has it: every sound, by video and start.
    task = PairTask(features, lists, PAIRS, FAST, pretrain_ids=[f"{name}_000010" for name in sounds])
    assert task.pairs == [("audio", "video")]
    assert [task.splits["test", m].n_excluded for m in ("video", "audio")] == [0, 4]
    assert "video → audio: all 4 test clips of VGGSound were pretrained on" in capsys.readouterr().err
    (row,) = task.run(OneHotModel())
    assert row["value"] == 100.0 and row["source_value"] is None
    some = PairTask(features, lists, PAIRS, FAST, pretrain_ids=[lists.overlapping().items["audio"][9].id])
    assert by_pair(some.run(OneHotModel()))["video", "audio"]["n_test"] == 3
    with pytest.raises(UserError, match="all 4 test clips were pretrained on"):
        PairTask(features, lists, PAIRS[:1], FAST, pretrain_ids=sounds)


def test_command(sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cmg.downstream.task.build_model", lambda content, device, *_: OneHotModel())
    shapes = {m: list(s) for m, s in OneHotModel.shapes.items()}
    checkpoint.save(tmp_path / "best.pt", {"format": 1, "args": {"seed": 5}, "shapes": shapes, "model": {}, "epoch": 3,
                                           "step": 9, "pretrain_ids": []})
    flags = ["--checkpoint", tmp_path / "best.pt", "--video-data", tmp_path / "video.h5", "--audio-data",
             tmp_path / "audio.h5", "--annotations", tmp_path / "lists", "--device", "cpu", "--probe-epochs", "12",
             "--probe-lr", "0.01", "--batch-size", "8", "--out", tmp_path / "out"]
    rows = ucf_vggsound.main([str(flag) for flag in flags])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows
    assert [row["value"] for row in rows] == [100.0, 100.0]
    for ending in ("png", "pdf"):
        assert (tmp_path / "out" / f"ucf_vggsound_strict_audio_video.{ending}").exists()
    assert "its 25 clips are left out by strict" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ucf_vggsound.main([*(str(flag) for flag in flags), "--audio-data", str(tmp_path / "video.h5")])
    assert "--data has video and --checkpoint video, audio" in capsys.readouterr().err
