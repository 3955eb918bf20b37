#!/usr/bin/env python3
"""New AVE-style test clips from digit images and recordings that no clip of the given split holds yet.

    digit_ave.py FOLDER OUT [--split test] [--clips 600] [--seed 0]

FOLDER is the folder of digit clips. Every clip is drawn by itself, as `cmg.data.compose` draws AVE's (category, onset,
offset, perhaps a distractor), of images and recordings of the same split that the split's AVE clips do not use. Writes
OUT with compositions.jsonl, the annotation files (train and val as they are, test replaced, and in clusters.csv the
digit and the voice of every test clip: clips of one voice share recordings, and are no independent ones) and links to
everything else, so that OUT/render_media.py renders it like FOLDER itself.
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from cmg.cli import command
from cmg.data.compose.clips import MAKERS, SECONDS
from cmg.errors import UserError


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


class Unused:
    """The `sound` and `sight` of a `cmg.data.compose.clips.Material`. An image is drawn once and then gone, recordings
    repeat."""

    def __init__(self, folder, split, rows):
        self.classes = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["classes"]
        self.images, self.recordings = unused(folder, split, rows)

    def sound(self, kind, split, label, onset, offset, rng, like=None):
        speakers = self.recordings[label]
        known = like and like["speaker"] in speakers
        who = like["speaker"] if known else sorted(speakers)[int(rng.integers(len(speakers)))]
        segments = [[second, speakers[who][int(rng.integers(len(speakers[who])))], 0.0, 1.0]
                    for second in range(onset, offset)]
        return {"label": label, "onset": onset, "offset": offset, "speaker": who, "segments": segments}

    def sight(self, split, label, onset, offset, quarter, rng):
        choice = self.images[label]
        if not choice:
            raise UserError(f"--clips: no {split} image of {self.classes[label]} is left; expected fewer clips")
        image = choice.pop(int(rng.integers(len(choice))))
        frames = [[second, image, quarter] for second in range(onset, offset)]
        return {"label": label, "onset": onset, "offset": offset, "frames": frames}


@command
def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--split", default="test", choices=("val", "test"))
    p.add_argument("--clips", type=int, default=600)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(argv)
    folder, out, rng = a.folder.resolve(), a.out, np.random.default_rng(a.seed)

    rows = [json.loads(line) for line in (folder / "compositions.jsonl").read_text(encoding="utf-8").splitlines()]
    ave = [row for row in rows if row["kind"] == "ave"]
    material = Unused(folder, a.split, [row for row in ave if row["split"] == a.split])
    clips = [{"id": f"ave_new_{a.split}_{i:04d}", "kind": "ave", "split": "test", "seconds": SECONDS}
             | MAKERS["ave"](material, a.split, i % len(material.classes), rng) for i in range(a.clips)]

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
    voices = [f"{clip['id']},{clip['category']} by {clip['audio'][0]['speaker']}\n" for clip in clips]
    (out / "ann/clusters.csv").write_text("".join(["id,cluster\n", *voices]))
    print(f"{out}: {len(clips)} new clips, {len({f[1] for r in clips for e in r['visual'] for f in e['frames']})} "
          f"images, {len({s[1] for r in clips for e in r['audio'] for s in e['segments']})} recordings; "
          f"{dict(Counter(r['category'] for r in clips))}")


if __name__ == "__main__":
    main()
