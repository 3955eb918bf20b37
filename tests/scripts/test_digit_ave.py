"""New test clips from the digit bank: nothing that they show or play was in the clips they replace."""

import json
import subprocess
import sys

import numpy as np
import pytest

from cmg.data.ave import read_ave
from cmg.downstream.clip_scores import read_clusters
from support import ROOT

SCRIPT = ROOT / "scripts" / "digit_ave.py"


def content(rows):
    images = {image for row in rows for event in row["visual"] for _, image, _ in event["frames"]}
    recordings = {clip for row in rows for event in row["audio"] for _, clip, _, _ in event["segments"]}
    return images, recordings


@pytest.fixture(scope="module")
def composed(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("new")
    subprocess.run([sys.executable, SCRIPT, digits, out, "--per-clip", "2"], check=True, capture_output=True)
    return out


def test_new_clips_hold_nothing_of_the_old_ones(digits, composed):
    old = [json.loads(line) for line in open(digits / "compositions.jsonl")]
    new = [json.loads(line) for line in open(composed / "compositions.jsonl")]
    fresh = [row for row in new if row["split"] == "test"]
    assert len(fresh) == 120 and len({row["id"] for row in new}) == len(new)
    images, recordings = content(fresh)
    for row in old:
        seen = content([row])
        if row["kind"] in ("ave", "pretrain"):
            assert not images & seen[0] and not recordings & seen[1], row["id"]
    bank = np.load(digits / "images_mnist.npz")
    for row in fresh:  # the digit, the split, and one speaker an event
        for event in row["visual"]:
            assert {int(bank["label"][i]) for _, i, _ in event["frames"]} == {event["label"]}
            assert {bank["split"][i] for _, i, _ in event["frames"]} == {"test"}
    sound = np.load(digits / "audio_fsdd_8k.npz")
    for row in fresh:
        for event in row["audio"]:
            clips = [clip for _, clip, _, _ in event["segments"]]
            assert {int(sound["label"][i]) for i in clips} == {event["label"]}
            assert {str(sound["speaker"][sound["speaker_id"][i]]) for i in clips} == {event["speaker"]}


def test_annotations_are_read_as_an_ave_folder(digits, composed):
    new, old = read_ave(composed / "ann"), read_ave(digits / "ann")
    assert new.classes == old.classes
    assert new.splits["train"] == old.splits["train"] and new.splits["val"] == old.splits["val"]
    pairs = list(zip(new.splits["test"], old.splits["test"] * 2))
    assert len(pairs) == 120
    assert all(a[1:] == b[1:] for a, b in pairs)  # category, onset, offset of the pattern


def test_clips_of_one_pattern_are_a_cluster(composed):
    """As the rows are: category, times and distractors alike."""
    rows = [json.loads(line) for line in open(composed / "compositions.jsonl")]
    clusters = read_clusters(composed / "ann" / "clusters.csv")
    assert set(clusters) == {row["id"] for row in rows if row["split"] == "test"}
    patterns = {}
    for row in rows:
        if row["split"] == "test":
            events = [[(event["label"], event["onset"], event["offset"]) for event in row[side]]
                      for side in ("audio", "visual")]
            patterns.setdefault(clusters[row["id"]], []).append((row["category"], events))
    assert len(patterns) == 60 and all(len(own) == 2 and own[0] == own[1] for own in patterns.values())


def test_an_image_is_shown_in_one_clip_only(composed):
    rows = [json.loads(line) for line in open(composed / "compositions.jsonl")]
    shown = [image for row in rows if row["split"] == "test" for image in content([row])[0]]
    assert len(shown) == len(set(shown))
