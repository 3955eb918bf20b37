"""New test clips from the digit bank: nothing that they show or play was in the clips they replace."""

import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from cmg.data.ave import read_ave
from cmg.data.compose.clips import WHOLE
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
    subprocess.run([sys.executable, SCRIPT, digits, out, "--clips", "120"], check=True, capture_output=True)
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
    assert Counter(item[1] for item in new.splits["test"]) == dict.fromkeys(new.classes, 12)


def test_every_clip_is_drawn_by_itself(composed):
    """As `cmg.data.compose` draws them: six in ten last as long as the clip, the others differ in their seconds."""
    rows = [json.loads(line) for line in open(composed / "compositions.jsonl")]
    test = [row for row in rows if row["split"] == "test"]
    whole = [row for row in test if (row["start"], row["end"]) == (0, 10)]
    assert len(whole) / len(test) == pytest.approx(WHOLE, abs=3 * (WHOLE * (1 - WHOLE) / len(test)) ** 0.5)
    others = [json.dumps([[(event["label"], event["onset"], event["offset"]) for event in row[side]]
                          for side in ("audio", "visual")]) for row in test if row not in whole]
    assert len(set(others)) > 0.9 * len(others)
    for row in test:
        heard, seen = row["audio"][0], row["visual"][0]
        assert [heard["onset"], heard["offset"]] == [seen["onset"], seen["offset"]] == [row["start"], row["end"]]
        assert heard["label"] == seen["label"]


def test_clips_of_one_digit_and_voice_are_a_cluster(composed):
    """Clips of two clusters share no recording of the event that they are labelled by."""
    rows = [json.loads(line) for line in open(composed / "compositions.jsonl")]
    clusters = read_clusters(composed / "ann" / "clusters.csv")
    assert set(clusters) == {row["id"] for row in rows if row["split"] == "test"}
    held = {}
    for row in rows:
        if row["split"] == "test":
            held.setdefault(clusters[row["id"]], set()).update(clip for _, clip, _, _ in row["audio"][0]["segments"])
    assert len(held) > 30 and sum(map(len, held.values())) == len(set.union(*held.values()))


def test_an_image_is_shown_in_one_clip_only(composed):
    rows = [json.loads(line) for line in open(composed / "compositions.jsonl")]
    shown = [image for row in rows if row["split"] == "test" for image in content([row])[0]]
    assert len(shown) == len(set(shown))


def test_more_clips_than_images_end_in_one_line(digits, tmp_path):
    call = [sys.executable, SCRIPT, digits, tmp_path, "--clips", "9999"]
    ended = subprocess.run(call, capture_output=True, text=True)
    assert ended.returncode == 2
    assert re.fullmatch(r".*--clips: no test image of \w+ is left; expected fewer clips\n", ended.stderr)
