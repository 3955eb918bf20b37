"""Composed clips: splits share nothing, events are what their labels say, and the forms are those that tasks read."""

import csv
import json
from itertools import combinations

import numpy as np
import pytest

from cmg.data.ave import read_ave
from cmg.data.avvp import read_avvp
from cmg.data.compose import clips, nature
from cmg.data.compose.clips import compose
from support_clips import DIGIT_SIZES, NATURE_SIZES, SPEAKERS
from support_material import Bank, compositions

SETS = ("digits", "nature")


@pytest.mark.parametrize("name", SETS)
def test_no_split_shares_material_with_another(composed, name):
    """Of any kind, by the content of recordings and images."""
    folder = composed[name]
    bank, rows = Bank(folder), compositions(folder)
    material = {split: bank.material([row for row in rows if row["split"] == split]) for split in clips.SPLITS}
    assert all(material.values())
    assert not any(one & other for one, other in combinations(material.values(), 2))


def test_new_test_clips_find_recordings_that_the_first_left(composed):
    """AVE's test clips take three takes of each speaker: whatever they draw, two are left of every digit."""
    rows = [row for row in compositions(composed["digits"]) if row["kind"] == "ave" and row["split"] != "train"]
    with np.load(composed["digits"] / "audio_fsdd_8k.npz") as bank:
        take = bank["take"]
    used = {take[segment[1]] % 5 for row in rows for event in row["audio"] for segment in event["segments"]}
    assert used == {0, 1, 2}


@pytest.mark.parametrize("name, sizes", [("digits", DIGIT_SIZES), ("nature", NATURE_SIZES)])
def test_rows_have_the_form_of_their_kind(composed, name, sizes):
    folder = composed[name]
    meta, rows = json.loads((folder / "meta.json").read_text()), compositions(folder)
    sound, images = np.load(folder / meta["audio_file"]), np.load(folder / meta["image_file"])
    counts = {}
    for row in rows:
        counts.setdefault(row["kind"], {}).setdefault(row["split"], []).append(row)
        for side, pieces, bank in (("audio", "segments", sound), ("visual", "frames", images)):
            for event in row[side]:
                assert 0 <= event["onset"] < event["offset"] <= row["seconds"]
                indices = [piece[1] for piece in event[pieces]]
                assert {int(k) for k in bank["label"][indices]} == {event["label"]}
                assert {str(s) for s in bank["split"][indices]} == {row["split"]}
                assert all(event["onset"] <= piece[0] < event["offset"] for piece in event[pieces])
        for event in row["visual"]:
            assert [frame[0] for frame in event["frames"]] == list(range(event["onset"], event["offset"]))
        for event in row["audio"]:
            assert all(t + length <= event["offset"] for t, _, _, length in event["segments"])
    assert {kind: {split: len(own) for split, own in of.items()} for kind, of in counts.items()} == sizes
    quarters = {kind: {frame[2] for own in of.values() for row in own for event in row["visual"]
                       for frame in event["frames"]} for kind, of in counts.items()}
    assert quarters["ave"] == quarters["pretrain"] == {-1} and quarters["avvp"] == {0, 1, 2}
    for row in counts["ave"]["test"]:  # heard and seen together, and what is beside it at other seconds
        first = row["audio"][0], row["visual"][0]
        assert {(event["onset"], event["offset"]) for event in first} == {(row["start"], row["end"])}
        assert {meta["classes"][event["label"]] for event in first} == {row["category"]}
        for other in row["audio"][1:] + row["visual"][1:]:
            assert other["label"] != first[0]["label"]
            assert other["offset"] <= row["start"] or other["onset"] >= row["end"]
    for row in counts["avvp"]["val"]:
        labels = {event["label"] for event in row["audio"] + row["visual"]}
        assert row["weak"] == sorted(meta["classes"][label] for label in labels)


def test_shares_are_those_that_are_said(composed):
    """Of 4000 pretraining clips: one event in 60 %, as long as the clip in 40 % of these; 4 % of events one-sided."""
    class Few:
        classes, sizes = list(range(10)), {"pretrain": {"train": 4000}}
        def sound(self, kind, split, label, onset, offset, rng, like=None):
            return {"label": label, "onset": onset, "offset": offset}

        def sight(self, split, label, onset, offset, quarter, rng):
            return {"label": label, "onset": onset, "offset": offset}

        def caption(self, told, rng):
            return len(told)

    rows = compose(Few(), 0)
    one = [row for row in rows if row["caption"] == 1]
    assert abs(len(one) / 4000 - 0.6) < 0.03
    whole = [row for row in one if [(e["onset"], e["offset"]) for e in row["audio"] + row["visual"]][0] == (0, 10)]
    assert abs(len(whole) / len(one) - 0.4) < 0.04
    events = sum(row["caption"] for row in rows)
    for side in ("audio", "visual"):
        assert abs(1 - sum(len(row[side]) for row in rows) / events - 0.04) < 0.01
    assert rows == compose(Few(), 0) != compose(Few(), 1)


def test_annotations_are_read_by_the_tasks(composed):
    for name in SETS:
        folder = composed[name] / "ann"
        rows = {row["id"]: row for row in compositions(composed[name])}
        ave = read_ave(folder)
        for split, items in ave.splits.items():
            expected = [n for n, row in rows.items() if (row["kind"], row["split"]) == ("ave", split)]
            assert [item.id for item in items] == expected
            assert all((item.onset, item.offset) == (rows[item.id]["start"], rows[item.id]["end"]) for item in items)
        avvp = read_avvp(folder)
        assert {"val", "test"} <= set(avvp.splits)
        with open(folder / "pretrain_captions.csv", newline="") as file:
            told = {line["id"]: line["caption"] for line in csv.DictReader(file)}
        assert told == {n: row["caption"] for n, row in rows.items() if row["kind"] == "pretrain"}
        assert all(told.values())


def test_digits_have_one_speaker_an_event_and_captions_name_them(composed):
    bank = np.load(composed["digits"] / "audio_fsdd_8k.npz")
    assert bank["speaker"].tolist() == list(SPEAKERS)
    for row in compositions(composed["digits"]):
        for event in row["audio"]:
            assert {SPEAKERS[bank["speaker_id"][s[1]]] for s in event["segments"]} == {event["speaker"]}
        if row["kind"] == "pretrain" and len(row["audio"]) == len(row["visual"]):
            classes = json.loads((composed["digits"] / "meta.json").read_text())["classes"]
            assert row["caption"] == " then ".join(f"the digit {classes[e['label']]}" for e in row["audio"])


def test_short_sounds_begin_again_at_whole_seconds_and_photos_change(composed):
    spans = {}
    for row in compositions(composed["nature"]):
        for event in row["audio"]:
            first = event["segments"][0]
            period = int(np.ceil(first[3])) if len(event["segments"]) > 1 else None
            if period:
                assert [s[0] for s in event["segments"]] == list(range(event["onset"], event["offset"], period))
                spans[first[1]] = first[2:]
        for event in row["visual"]:
            photos = [frame[1] for frame in event["frames"]]
            assert len(set(photos)) == len(photos)
    names = np.load(composed["nature"] / "audio_esc10_16k.npz")["name"]
    short = [span for index, span in spans.items() if names[index].endswith("B.ogg")]
    assert short and all(span == pytest.approx([1.0, 0.5], abs=0.051) for span in short)


def test_every_recording_has_its_author(composed):
    with open(composed["nature"] / "credits.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    names = np.load(composed["nature"] / "audio_esc10_16k.npz")["name"]
    assert {line["source"] for line in lines} == {*names.tolist(), "cifar10"}
    assert lines[0] == {"source": "1-1000-A.ogg", "title": "My_Sound 0.wav", "author": "somebody 1", "licence": "CC-BY",
                        "url": "https://y/1-1000-A.ogg"}
    with open(composed["digits"] / "credits.csv", newline="") as file:
        licences = [line["licence"] for line in csv.DictReader(file)]
    assert licences == ["CC BY-SA 4.0", "CC BY-SA 3.0", "as in scikit-learn"]


@pytest.mark.parametrize("title, words", [
    ("My_Dog George.wav", "my dog george"), (r"Sea \u200b\u200bon the Road.mp3", "sea on the road"),
    ("Dogs barking. Road in the background.", "dogs barking road in the background")])
def test_titles_become_captions(title, words):
    assert nature.in_words(title) == words
