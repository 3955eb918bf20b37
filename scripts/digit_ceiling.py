#!/usr/bin/env python3
"""What perfect codes without context would read on AVE's digit clips: a reference for that task, not a ceiling.

    digit_ceiling.py FOLDER [--probe-seeds 3]

FOLDER is a folder of digit clips, the given one or one that digit_ave.py wrote. Every second gets a code of its own for
each set of digits that is heard (audio) or seen (video) in it, the same in both modalities; the probes and their strict
choice are those of `cmg.downstream.ave`. What is missing to 100 % is the clips' own: a distractor looks and sounds like
a category, and the clip probe, a maximum over time, cannot tell which of two digits lasted longer. A code that an
encoder gives a second may carry what was heard or seen around it, and so may read more than these.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))  # runs from any folder, without an installation

from cmg.data.ave import clip_labels, read_ave, segment_labels
from cmg.downstream.probe import ClipProbes, ProbeData, SegmentProbes, fit_selected
from cmg.downstream.results import markdown_table, mean, std
from cmg.downstream.task import STRICT

DIM = 256
SPLITS = ("train", "val", "test")
SIDE = {"audio": "audio", "video": "visual"}  # what compositions.jsonl calls the modalities


def codes(row, modality):
    """One number for each second: bit k is set where digit k is heard or seen."""
    return [sum({1 << event["label"] for event in row[SIDE[modality]] if event["onset"] <= second < event["offset"]})
            for second in range(row["seconds"])]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--probe-seeds", type=int, default=3)
    a = p.parse_args()
    compositions = (a.folder / "compositions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, compositions)}
    ave = read_ave(a.folder / "ann")
    vectors = torch.randn(1 << len(ave.classes), DIM, generator=torch.Generator().manual_seed(0))
    settings = STRICT._replace(probe_seeds=a.probe_seeds)

    def data(split, modality, kind):
        clips = ave.splits[split]
        index = torch.tensor([codes(rows[clip.id], modality) for clip in clips])  # (N, T)
        labels = clip_labels(clips, ave.classes) if kind == "clip" else segment_labels(clips, ave.classes, 10)
        return ProbeData(vectors, index, torch.ones_like(index, dtype=torch.bool), labels)

    lines = []
    for source, target in (("video", "audio"), ("audio", "video")):
        line = [f"{source} → {target}"]
        for kind, probes in (("clip", ClipProbes), ("segment", SegmentProbes)):
            train, val = (data(split, source, kind) for split in SPLITS[:2])
            outputs = len(ave.classes) + probes.background
            chosen = fit_selected(probes, train, val, outputs, **settings.fit_arguments())
            values = chosen.probes.score(data("test", target, kind)).accuracy
            line.append(f"{mean(values):.1f} ± {std(values):.1f}")
        lines.append(line)
    print(markdown_table([f"perfect codes, {len(ave.splits['test'])} test clips", "clip top-1", "segment"], lines))


if __name__ == "__main__":
    main()
