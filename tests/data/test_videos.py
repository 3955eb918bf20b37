"""Which video a clip is cut from: every form of name, and all names of the public lists."""

import csv
import doctest
from pathlib import Path

import pytest

from cmg.data import videos
from cmg.data.ave import read_ave
from cmg.data.videos import from_videos, video_of

# Whole; LLP's cuts, whole and decimal; AVSBench's; VGGSound's and AudioCaps'; any of them as a file or a caption's.
CUTS = ("", "_30_40", "_101.8_111.8", "_30.000_40.000", "_10000_15000", "_000030", "_30", "_30.0")
FORMS = [cut + more for cut in CUTS for more in ("", ".mp4", ".wav", ".MP4", "#0", "#12")]
IDS = ["-0_1_2_3_4_", "a_30_40xyzw", "a_30_40XYZW", "3sr974a_5_0", "aOEPCvd_0_0", "-BdPW1c_3_8", "abcdefgh_12",
       "abcdefghi_1", "___________", "-----------", "01234567890", "_00_00_0000", "RUhOCu3LNXM"]
LISTS = {  # dict name -> (delimiter, column of the ids, whether a header is there)
    "AVVP/AVVP_dataset_full.csv": ("\t", 0, True), "AVVP/AVVP_train.csv": ("\t", 0, True),
    "AVVP/AVVP_val_pd.csv": ("\t", 0, True), "AVVP/AVVP_test_pd.csv": ("\t", 0, True),
    "CMG_lists/AVVP_eval_audio_checked_combined.csv": ("\t", 0, True),
    "CMG_lists/AVVP_eval_visual_checked_combined.csv": ("\t", 0, True),
    "CMG_lists/AVE_AVVP_eval_audio_checked_combined.csv": ("\t", 0, True),
    "CMG_lists/AVE_AVVP_eval_visual_checked_combined.csv": ("\t", 0, True),
    "CMG_lists/vggsound-avel40k.csv": (",", 1, True), "CMG_lists/vggsound2ucf.csv": (",", 1, True),
    "VGGSound/test.csv": (",", 0, False), "VGGSound/AStest.csv": (",", 0, False),
    "AudioCaps/dataset/train.csv": (",", 1, True), "AudioCaps/dataset/val.csv": (",", 1, True),
    "AudioCaps/dataset/test.csv": (",", 1, True), "YouCook/validation_youcook.csv": (",", 4, True),
    # Without YouTube's ids: every name is one of its own. So are the misspelt ones of LLP's events.
    "CMG_lists/ucf2vggsound.csv": (",", 1, True), "HMDB/hmdb51.csv": (",", 0, True),
    "MSRVTT/msrvtt_test.csv": (",", 2, True), "Clotho/clotho_captions_evaluation_excerpt.csv": (",", 0, True),
}
OWN_NAMES = {"CMG_lists/ucf2vggsound.csv", "HMDB/hmdb51.csv", "MSRVTT/msrvtt_test.csv",
             "Clotho/clotho_captions_evaluation_excerpt.csv"}


def test_examples():
    assert doctest.testmod(videos).failed == 0


@pytest.mark.parametrize("video", IDS)
def test_every_form_names_its_video_and_no_other(video):
    assert {video_of(video + form) for form in FORMS} == {video}
    for form in FORMS:
        assert from_videos([video, video + "_000070"], [video + form]) == [True, True]
        assert not any(from_videos([other + cut for other in IDS if other != video for cut in CUTS], [video + form]))


@pytest.mark.parametrize("name", ["ave_test_000", "pre_0001", "clip_7", "a_30_40", "-0_1", "class_3_12", "Santa Motor",
                                  "Blade Big_03", "v_Piano_g01_c01", "video9770", "P7x4FV4lg_570_580", "été_à_paris_3"])
def test_other_names_are_their_own(name):
    assert video_of(name) == video_of(f"{name}.mp4") == video_of(f"{name}#1") == name


def names_of(path, delimiter, column, header):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(dict.fromkeys(row[column] for row in list(csv.reader(file, delimiter=delimiter))[header:]))


def test_all_names_of_the_public_lists(annotations):
    """No two videos become one, and every video is known again under every form of its name."""
    ave = read_ave(annotations / "AVE" / "DG-SCT_copy").splits
    found = {"AVE": {clip.id for split in ave.values() for clip in split}}
    for name, form in LISTS.items():
        names = names_of(annotations / name, *form)
        expected = [Path(own).stem if own.endswith((".avi", ".wav")) else own for own in names]
        if name not in OWN_NAMES:
            expected = [own[:11] for own in names]
            found[name] = set(expected)
        assert list(map(video_of, names)) == expected, name
    everything = set().union(*found.values())
    assert len(everything) > 100_000
    for cut in CUTS:
        assert all(video_of(video + cut) == video for video in everything)


def test_pretraining_on_one_list_is_seen_in_another(annotations):
    """AVE's 402 test videos, of which LLP's training list holds 36, under every form of its names."""
    test = [clip.id for clip in read_ave(annotations / "AVE" / "DG-SCT_copy").splits["test"]]
    train = names_of(annotations / "AVVP" / "AVVP_train.csv", "\t", 0, True)
    assert (len(test), len(train)) == (402, 10_000)
    for form in FORMS:
        assert sum(from_videos(test, [name[:11] + form for name in train])) == 36, form
    assert sum(from_videos(test, train)) == sum(from_videos([f"{name}_000030.mp4" for name in test], train)) == 36
    assert sum(from_videos(test, [name[:11].lower() for name in train])) == 0  # capitals tell videos apart
