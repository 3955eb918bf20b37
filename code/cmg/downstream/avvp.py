"""AVVP: which events happen when, told from one modality by a probe of another?  `python -m cmg.downstream.avvp`

    python -m cmg.downstream.avvp --checkpoint checkpoint/run --data avvp.h5 --annotations AVVP/

Encoder and codebook are frozen. A probe sees the source modality's code vectors second by second and learns which of
the K classes are heard (audio) or seen (video), then it is given the other modality's. Several classes may hold at
once; a last output stands for background.

Protocols
---------
strict : video-disjoint. Fit on the videos of the val split, the only ones beside test with times, less every fifth,
    on which epoch and learning rate are chosen, in the source modality; test on the test split. Three figures a
    direction: `micro_f1` over all seconds and classes, and the benchmark's `segment_f1` and `event_f1` (F-scores of
    each video, averaged). With these come `f_audio`, `f_video`, `f_av`, `f_type_av` and `f_event_av`, the benchmark's
    own table for the probe, which here hears one of the streams with tokens it was never trained on.
paper : what the public script measures. Fit on every video annotated in the source modality, report on every one
    annotated in the target: the same videos but for a few. `precision` of all cells at probability 0.5, background
    among the classes, averaged over batches of 64, at the epoch at which it is best; learning rate 4e-4, 50 epochs,
    gradient norm 0.5. Precision alone rewards predicting little: a warning says where this happened, and recall and
    F1 stand beside it.

Other modalities than audio and video have no annotations. `source_value` is the same probe tested on its own modality,
`chance` the answer that always gives the most frequent class. A picture of the first test clips is drawn for every
direction (`avvp_strict_video_audio.png` and `.pdf`).
"""

import argparse
import sys

from cmg.cli import Parser, command
from cmg.data.ave import video_ids
from cmg.data.avvp import AvvpAnnotations, event_labels, locate, read_avvp, video_of
from cmg.data.features import FeatureFile, FeatureSet
from cmg.downstream.events import EventTask, Part
from cmg.downstream.task import (
    Settings,
    add_probe_flags,
    open_run,
    output_folder,
    tell_missing,
    tell_pretrained,
    write_task,
)
from cmg.downstream.tokens import directions
from cmg.errors import UserError
from cmg.figures import timeline
from cmg.figures.names import TASKS, arrow
from cmg.figures.style import save

HELD_OUT = 5  # every fifth of the videos to fit on is kept for choosing


def make_task(features: FeatureSet, annotations: AvvpAnnotations, pairs, settings: Settings, pretrain_ids=(),
              device="cpu") -> EventTask:
    """The benchmark on given features.

    Raises
    ------
    UserError : steps that are no seconds, splits that are missing, or a part without a single clip.
    """
    modalities = sorted({m for pair in pairs for m in pair})
    check_seconds(features, modalities)
    missing, parts, n_excluded = {}, {}, 0

    def add(role, names, modality):
        rows, found, absent = locate(features, names)
        missing.update(dict.fromkeys(absent))
        labels = event_labels(found, annotations.events[modality], annotations.classes, features.shapes[modality][0])
        parts[role, modality] = Part(features, rows, found, labels)

    if settings.protocol == "strict":
        for split in ("val", "test"):
            if not annotations.splits.get(split):
                raise UserError(f"--annotations: AVVP_{split}_pd.csv names no videos; strict needs val and test")
        known, test = annotations.splits["val"], annotations.splits["test"]
        _, test, absent = locate(features, test)
        missing.update(dict.fromkeys(absent))
        test, n_excluded = without_pretrained(test, pretrain_ids)
        for m in modalities:
            add("fit", [name for n, name in enumerate(known) if n % HELD_OUT != HELD_OUT - 1], m)
            add("val", known[HELD_OUT - 1::HELD_OUT], m)
            add("test", test, m)
    else:
        for m in modalities:
            add("fit", list(annotations.events[m]), m)
            parts["test", m] = parts["fit", m]
    tell_missing(missing)
    extra = {"n_excluded": n_excluded, "n_missing": len(missing), "n_dropped_rows": len(annotations.skipped)}
    return EventTask("avvp", annotations.classes, parts, pairs, settings, "precision", extra, device)


def without_pretrained(names: list[str], pretrain_ids) -> tuple[list[str], int]:
    """Test clips that the checkpoint has not been pretrained on, and how many it has."""
    seen = video_ids(pretrain_ids)
    seen |= {video_of(name) for name in seen}
    kept = [name for name in names if name not in seen and video_of(name) not in seen]
    if names and not kept:
        raise UserError(f"--checkpoint: all {len(names)} test clips were pretrained on; nothing to test")
    tell_pretrained(len(names) - len(kept))
    return kept, len(names) - len(kept)


def check_seconds(features: FeatureSet, modalities):
    """`UserError` unless a step of the features is a second of audio or video."""
    if "text" in modalities:
        raise UserError("--source/--target text: the events are annotated in audio and video only")
    if features.attrs.get("seconds_per_step", 1) != 1:
        raise UserError(f"--data: {features.attrs['seconds_per_step']} s a step; events are labelled second by second")


def localisable_pairs(content, path, args):
    """Directions between audio and video that checkpoint and data share."""
    held = [m for m in FeatureFile(path).modalities if m != "text"]
    return directions(list(content["shapes"]), held, args.source, args.target)


def print_account(annotations: AvvpAnnotations):
    """Every annotation row that is left out and why, then the sums."""
    for line in annotations.account():
        print(f"annotations: {line}", file=sys.stderr)
    videos = ", ".join(f"{len(own)} videos with {sum(map(len, own.values()))} events in {m}"
                       for m, own in annotations.events.items())
    print(f"annotations: {videos}; {len(annotations.skipped)} rows dropped, {len(annotations.unlisted)} names in no "
          f"split, {len(annotations.notes)} oddities kept", file=sys.stderr)


def draw(task: EventTask, folder):
    """One picture for every direction that was tested."""
    for (source, target), clips in task.pictures.items():
        name, protocol = task.name, task.settings.protocol
        pages = timeline.draw(clips, task.classes, f"{TASKS[name]}, {arrow(source, target)}, {protocol}")
        print(save(pages, folder / f"{name}_{protocol}_{source}_{target}.png"))


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="cmg.downstream.avvp", description=__doc__.split("\n")[0])
    p.add_argument("--checkpoint", required=True, help="a .pt file, or a run folder: its best.pt")
    p.add_argument("--data", nargs="+", required=True, help="feature files of the annotated clips")
    p.add_argument("--annotations", required=True, help="folder of AVVP_eval_audio.csv and the others")
    add_probe_flags(p, epochs=50)
    return p


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args)
    annotations = read_avvp(args.annotations)
    print_account(annotations)
    pairs = localisable_pairs(run.content, args.data[0], args)
    features = run.features(args.data, sorted({m for pair in pairs for m in pair}))
    task = make_task(features, annotations, pairs, run.settings, run.content["pretrain_ids"], run.device)
    rows = write_task("AVVP", args, task.run(run.model()), run)
    draw(task, output_folder(args, run.path))
    return rows


if __name__ == "__main__":
    main()
