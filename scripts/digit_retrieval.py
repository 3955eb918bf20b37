#!/usr/bin/env python3
"""Clips for Table 5, in groups that share no recording and no image, with each other or with its pretraining.

    python scripts/digit_retrieval.py FOLDER_OF_DIGIT_CLIPS OUT [--groups 30] [--seed 0]

Every pretraining clip that is both heard and seen is a pattern (digits, their seconds, caption). The clips take turns
among the groups; the recordings are of the two speakers whom `digit_pair.py` keeps from pretraining, each take in one
group; the images are those that no pretraining clip shows, each in one clip. Writes OUT with compositions.jsonl,
captions.csv (id, caption), groups.csv (id, group) for `cmg.downstream.retrieval --groups`, and links to everything
else, so that OUT/render_media.py renders it like FOLDER itself.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from digit_ave import unused
from digit_pair import SPEAKERS, link


def takes_of(recordings, group, groups):
    """The recordings of a group, by digit and speaker: each take is in one group."""
    return {label: {who: takes[group::groups] for who, takes in speakers.items()}
            for label, speakers in recordings.items()}


def redraw(row, name, images, recordings, rng):
    """The pattern `row` as a new clip. An image is drawn once and then gone; recordings repeat, as in the patterns."""
    new = {**row, "id": name, "split": "train", "audio": [], "visual": []}
    for event in row["visual"]:
        choice = images[event["label"]]
        image = choice.pop(int(rng.integers(len(choice))))
        new["visual"].append({**event, "frames": [[t, image, quad] for t, _, quad in event["frames"]]})
    for event in row["audio"]:
        speakers = recordings[event["label"]]
        speaker = sorted(speakers)[int(rng.integers(len(speakers)))]
        takes = speakers[speaker]
        segments = [[t, takes[int(rng.integers(len(takes)))], start, length]
                    for t, _, start, length in event["segments"]]
        new["audio"].append({**event, "speaker": speaker, "segments": segments})
    return new


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--groups", type=int, default=30)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    rng = np.random.default_rng(a.seed)
    rows = [json.loads(line) for line in (a.folder / "compositions.jsonl").read_text(encoding="utf-8").splitlines()]
    seen = [row for row in rows if row["kind"] == "pretrain"]
    images, _ = unused(a.folder, "train", seen)
    _, recordings = unused(a.folder, "train", [])
    recordings = {label: {who: takes for who, takes in speakers.items() if who in SPEAKERS}
                  for label, speakers in recordings.items()}
    pools = [takes_of(recordings, group, a.groups) for group in range(a.groups)]
    patterns = [row for row in seen if row["audio"] and row["visual"]]
    clips = [redraw(row, f"ret_{n:04d}", images, pools[n % a.groups], rng) for n, row in enumerate(patterns)]

    a.out.mkdir(parents=True, exist_ok=True)
    for path in a.folder.iterdir():
        if path.name != "compositions.jsonl":
            link(path, a.out / path.name)
    for name, values in (("group", [f"group_{n % a.groups:02d}" for n in range(len(clips))]),
                         ("caption", [row["caption"] for row in clips])):
        with open(a.out / f"{name}s.csv", "w", encoding="utf-8", newline="") as file:
            ids = [row["id"] for row in clips]
            csv.writer(file, lineterminator="\n").writerows([("id", name), *zip(ids, values)])
    (a.out / "compositions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in clips), encoding="utf-8")
    used = defaultdict(set)
    for row in clips:
        used["images"] |= {frame[1] for event in row["visual"] for frame in event["frames"]}
        used["recordings"] |= {segment[1] for event in row["audio"] for segment in event["segments"]}
    print(f"{a.out}: {len(clips)} clips in {a.groups} groups, {len(used['images'])} images, "
          f"{len(used['recordings'])} recordings")


if __name__ == "__main__":
    main()
