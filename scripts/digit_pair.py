#!/usr/bin/env python3
"""Two data sets that share only their classes, made of digits in the form of UCF101 (video) ↔ VGGSound (audio).

    python scripts/digit_pair.py FOLDER_OF_DIGIT_CLIPS OUT

The video is of a second visual domain, digits of 8×8 pixels in 16 grey levels, 25 groups of two clips a class; the
audio is of two speakers, theo and yweweler. Writes

    OUT/pair/videos/*.mp4            500 silent clips `v_<digit>_g<group>_c<clip>`, 400 dark ones `a_<digit>_<number>`
    OUT/pair/*.txt, *.csv            the four lists that `cmg.downstream.ucf_vggsound` reads
    OUT/pair/other_speakers.txt      the pretraining clips of OUT/videos in which neither of the two speaks: for a
                                     pretraining that has heard none of the voices and seen none of the images
    OUT/pair/heard_train.txt, heard_test.txt     three in four of these, and the fourth
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SPEAKERS = ("theo", "yweweler")
GROUPS, IMAGES, SECONDS = range(1, 26), 3, 10
CLIPS = {"train": 24, "val": 6, "test": 10}  # sounds a class; recordings go by the clips' own splits


def as_mnist(image):
    """8×8 pixels of 0..16 in MNIST's frame: the digit 20 pixels high in the middle of 28."""
    small = Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize((20, 20), Image.BILINEAR)
    frame = np.zeros((28, 28), np.uint8)
    frame[4:24, 4:24] = np.asarray(small)
    return frame


def span(rng):
    """When the digit is there: onset and offset in seconds, 5 to 10 s long."""
    length = int(rng.integers(5, SECONDS + 1))
    onset = int(rng.integers(0, SECONDS - length + 1))
    return onset, onset + length


def composition(name, label, span_, kind, events):
    onset, offset = span_
    row = {"id": name, "kind": "pretrain", "split": "train", "seconds": SECONDS, "audio": [], "visual": []}
    row["visual" if kind == "frames" else "audio"] = [{"label": label, "onset": onset, "offset": offset, kind: events}]
    return row


def video_clips(labels, classes, rng):
    """(class, composition): two clips of every group, which share the images of the group and nobody else's."""
    for k, name in enumerate(classes):
        of_class = rng.permutation(np.flatnonzero(labels == k))
        for number, group in enumerate(GROUPS):
            own = of_class[IMAGES * number : IMAGES * (number + 1)]
            for clip in (1, 2):
                when = span(rng)
                shown = rng.permutation(own)
                frames = [[t, int(shown[(t // 3) % IMAGES]), -1] for t in range(*when)]
                yield name, composition(f"v_{name}_g{group:02d}_c{clip:02d}", k, when, "frames", frames)


def audio_clips(bank, classes, rng):
    """(class, split, composition): a speaker says the digit once a second, recordings drawn from the clip's split."""
    speaker = np.asarray(bank["speaker"])[bank["speaker_id"]]
    for k, name in enumerate(classes):
        number = 0
        for split, count in CLIPS.items():
            for n in range(count):
                who = SPEAKERS[n % len(SPEAKERS)]
                pool = np.flatnonzero((bank["label"] == k) & (speaker == who) & (bank["split"] == split))
                when = span(rng)
                said = [[t, int(rng.choice(pool)), 0.0, 1.0] for t in range(*when)]
                yield name, split, composition(f"a_{name}_{number:02d}", k, when, "segments", said)
                number += 1


def link(target, path):
    path.unlink(missing_ok=True)
    path.symlink_to(target.resolve())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path, help="the folder that holds render_media.py")
    p.add_argument("out", type=Path, help="the folder that it was rendered to")
    args = p.parse_args()
    pair = args.out / "pair"
    folder = pair / "source"  # a folder of clips of its own: compositions, and links to the material
    (folder / "ann").mkdir(parents=True, exist_ok=True)
    meta = json.loads((args.source / "meta.json").read_text())
    classes, bank = meta["classes"], np.load(args.source / meta["audio_file"])
    small, rng = np.load(args.source / "images_optdigits8x8.npz"), np.random.default_rng(0)
    np.savez(folder / "images.npz", images=np.stack([as_mnist(image) for image in small["images"]]))
    (folder / "meta.json").write_text(json.dumps(meta | {"image_file": "images.npz"}))
    for name in (meta["audio_file"], "render_media.py"):
        link(args.source / name, folder / name)
    videos, sounds = list(video_clips(small["label"], classes, rng)), list(audio_clips(bank, classes, rng))
    rows = [row for *_, row in [*videos, *sounds]]
    (folder / "compositions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subprocess.run([sys.executable, str(folder / "render_media.py"), str(pair), "--kinds", "pretrain"], check=True)

    (pair / "UCF101sameVGGSound.txt").write_text("\n".join(classes) + "\n")
    (pair / "VGGSoundsameUCF101.txt").write_text("\n".join(f"saying {name}" for name in classes) + "\n")
    lines = [f"{name},{row['id']}\n" for name, row in videos]
    (pair / "ucf2vggsound.csv").write_text("category,video_id\n" + "".join(lines))
    lines = [f"saying {name},{row['id']},{split}\n" for name, split, row in sounds]
    (pair / "vggsound2ucf.csv").write_text("category,video_id,split\n" + "".join(lines))
    material = (json.loads(line) for line in (args.source / "compositions.jsonl").read_text().splitlines())
    names = [row["id"] for row in material if row["kind"] == "pretrain"
             and not any(event["speaker"] in SPEAKERS for event in row["audio"])]
    lists = {"other_speakers": names, "heard_train": [name for n, name in enumerate(names) if n % 4 != 3],
             "heard_test": names[3::4]}
    for title, own in lists.items():
        (pair / f"{title}.txt").write_text("".join(f"../videos/{name}.mp4\n" for name in own))
    print(f"{pair}: {len(videos)} videos, {len(sounds)} sounds; {len(names)} pretraining clips of other speakers")


if __name__ == "__main__":
    main()
