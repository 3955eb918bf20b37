#!/usr/bin/env python3
"""New AVE-style test clips from digit images and recordings that no clip of the given split holds yet.

    digit_ave.py FOLDER OUT [--split test] [--per-clip 10] [--seed 0]

FOLDER is the folder of digit clips. Every AVE clip of the split is taken as a pattern (category, onset, offset,
distractors) `--per-clip` times; its images and recordings are drawn anew among those of the same split and digit that
the split's clips do not use. A recording is drawn with its speaker: one event, one speaker. Writes OUT with
compositions.jsonl, the annotation files (train and val as they are, test replaced, and in clusters.csv the pattern of
every test clip: clips of one pattern are no independent ones) and links to everything else, so that OUT/render_media.py
renders it like FOLDER itself.
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np


def unused(folder, split, rows):
    """What the split holds and its AVE clips do not: images by digit, recordings by digit and speaker."""
    seen_images = {image for row in rows for event in row["visual"] for _, image, _ in event["frames"]}
    seen_audio = {clip for row in rows for event in row["audio"] for _, clip, _, _ in event["segments"]}
    images, recordings = defaultdict(list), defaultdict(lambda: defaultdict(list))
    bank = np.load(folder / "images_mnist.npz")
    for i in np.flatnonzero(bank["split"] == split).tolist():
        if i not in seen_images:
            images[int(bank["label"][i])].append(i)
    bank = np.load(folder / "audio_fsdd_8k.npz")
    names = bank["speaker"].tolist()
    for i in np.flatnonzero(bank["split"] == split).tolist():
        if i not in seen_audio:
            recordings[int(bank["label"][i])][names[bank["speaker_id"][i]]].append(i)
    return images, recordings


def redraw(row, name, images, recordings, rng):
    """The pattern `row` as a new clip. An image is drawn once and then gone; recordings repeat, as in the patterns."""
    new = {**row, "id": name, "split": "test", "audio": [], "visual": []}
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
    p.add_argument("--split", default="test", choices=("val", "test"))
    p.add_argument("--per-clip", type=int, default=10)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    folder, out, rng = a.folder.resolve(), a.out, np.random.default_rng(a.seed)

    rows = [json.loads(line) for line in (folder / "compositions.jsonl").read_text(encoding="utf-8").splitlines()]
    ave = [row for row in rows if row["kind"] == "ave"]
    patterns = [row for row in ave if row["split"] == a.split]
    images, recordings = unused(folder, a.split, patterns)
    clips = [redraw(row, f"ave_new_{a.split}_{i:04d}", images, recordings, rng)
             for i, row in enumerate(patterns * a.per_clip)]

    (out / "ann").mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in ("compositions.jsonl", "ann") and not (out / path.name).exists():
            (out / path.name).symlink_to(path)
    with open(out / "compositions.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in [r for r in ave if r["split"] != "test"] + clips)
    lines = [f"{r['category']}&{r['id']}&good&{r['start']}&{r['end']}\n" for r in clips]
    before = (folder / "ann/Annotations.txt").read_text().splitlines(keepends=True)
    kept = [line for line in before if "&ave_test_" not in line]
    (out / "ann/Annotations.txt").write_text("".join(kept + lines))
    (out / "ann/testSet.txt").write_text("".join(lines))
    for name in ("trainSet.txt", "valSet.txt"):
        (out / "ann" / name).write_bytes((folder / "ann" / name).read_bytes())
    shared = [f"{clip['id']},{pattern['id']}\n" for clip, pattern in zip(clips, patterns * a.per_clip)]
    (out / "ann/clusters.csv").write_text("".join(["id,cluster\n", *shared]))
    print(f"{out}: {len(clips)} new clips, {len({f[1] for r in clips for e in r['visual'] for f in e['frames']})} "
          f"images, {len({s[1] for r in clips for e in r['audio'] for s in e['segments']})} recordings; "
          f"{dict(Counter(r['category'] for r in clips))}")


if __name__ == "__main__":
    main()
