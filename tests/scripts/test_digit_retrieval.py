"""No split of a composed set shares material with another: by the content of every recording and image."""

import csv
import shutil
import subprocess
import sys

import pytest

from cmg.data.ucf_vggsound import read_pair_lists
from cmg.downstream.retrieval_head import TENTHS, tenth
from support import ROOT
from support_material import Bank, compositions


def disjoint(bank, **splits):
    material = {name: bank.material(rows) for name, rows in splits.items()}
    assert all(material.values())
    for name, own in material.items():
        for other in material:
            assert other == name or not own & material[other], (name, other)


def run(script, *arguments):
    call = [sys.executable, ROOT / "scripts" / script, *arguments]
    subprocess.run(call, check=True, capture_output=True, text=True)


def of_other_speakers(digits):
    return [row for row in compositions(digits) if row["kind"] == "pretrain"
            and not any(event["speaker"] in ("theo", "yweweler") for event in row["audio"])]


@pytest.fixture(params=["given", "tiny"])
def clips(request):
    """A folder of clips, and how many groups its takes and how many new AVE clips its images are enough for."""
    if request.param == "given":
        return request.getfixturevalue("digits"), 30, 600
    return request.getfixturevalue("composed")["digits"], 5, 10


def test_the_retrieval_set(clips, tmp_path):
    """Between groups, and so between the head's splits, and with the pretraining of Table 5."""
    digits, number, _ = clips
    run("digit_retrieval.py", digits, tmp_path / "out", "--groups", str(number))
    rows = {row["id"]: row for row in compositions(tmp_path / "out")}
    with open(tmp_path / "out" / "groups.csv", newline="") as file:
        group_of = {row["id"]: row["group"] for row in csv.DictReader(file)}
    assert set(rows) == set(group_of) and len(set(group_of.values())) == number
    with open(tmp_path / "out" / "captions.csv", newline="") as file:
        assert {row["id"]: row["caption"] for row in csv.DictReader(file)} == {
            name: row["caption"] for name, row in rows.items()}
    bank = Bank(digits)
    groups = {group: [rows[name] for name, own in group_of.items() if own == group] for group in group_of.values()}
    disjoint(bank, pretraining=of_other_speakers(digits), **groups)
    splits = {role: [rows[name] for name, group in group_of.items() if tenth(group) in tenths]
              for role, tenths in TENTHS.items()}
    assert sum(map(len, splits.values())) == len(rows)
    if number == 30:  # enough for some of each
        disjoint(bank, pretraining=of_other_speakers(digits), **splits)
        assert min(map(len, splits.values())) > 100 and len(rows) == 1426
    patterns = [row for row in compositions(digits) if row["kind"] == "pretrain" and row["audio"] and row["visual"]]
    for new, old in zip(rows.values(), patterns, strict=True):
        assert new["caption"] == old["caption"]
        for side in ("audio", "visual"):
            assert [(e["label"], e["onset"], e["offset"]) for e in new[side]] == [
                (e["label"], e["onset"], e["offset"]) for e in old[side]]
        assert {event["speaker"] for event in new["audio"]} <= {"theo", "yweweler"}


def test_the_new_ave_set(clips, tmp_path):
    digits, _, number = clips
    run("digit_ave.py", digits, tmp_path / "out", "--clips", str(number))
    rows, before = compositions(tmp_path / "out"), compositions(digits)
    splits = {split: [row for row in rows if row["split"] == split] for split in ("train", "val", "test")}
    kept = [sum((row["kind"], row["split"]) == ("ave", split) for row in before) for split in ("train", "val")]
    assert [len(own) for own in splits.values()] == [*kept, number]
    disjoint(Bank(digits), **splits)
    pretraining = [row for row in compositions(digits) if row["kind"] == "pretrain"]
    disjoint(Bank(digits), pretraining=pretraining, test=splits["test"])


def test_the_pair_of_composed_clips(composed, tmp_path):
    """What is rendered of it takes long and is left out."""
    clips = tmp_path / "clips"
    shutil.copytree(composed["digits"], clips)
    (clips / "render_media.py").write_text("")
    check_the_pair(clips, tmp_path)


def check_the_pair(digits, tmp_path):
    """Within each of the two sets, and with a pretraining on other speakers."""
    run("digit_pair.py", digits, tmp_path)
    source = tmp_path / "pair" / "source"
    rows = {row["id"]: row for row in compositions(source)}
    bank = Bank(source)
    for items in read_pair_lists(tmp_path / "pair").items.values():
        disjoint(bank, **{split: [rows[item.id] for item in items if item.split == split]
                          for split in ("train", "val", "test")})
    held = Bank(digits).material(of_other_speakers(digits))
    assert held and not held & bank.material(rows.values())


def test_the_former_split_is_found(digits):
    """By the clips' own ids 797 of 842 recordings and 121 of 254 images of the test were the fit's: 918 of 1096."""
    rows = [row for row in compositions(digits) if row["kind"] == "pretrain"]
    known = {row["id"] for row in of_other_speakers(digits)}
    bank = Bank(digits)
    fit = bank.material([row for row in rows if tenth(row["id"]) in TENTHS["fit"]])
    test = bank.material([row for row in rows if tenth(row["id"]) in TENTHS["test"] and row["id"] not in known])
    assert (len(test), len(test & fit)) == (1096, 918)
