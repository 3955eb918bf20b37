"""AVE→AVVP: a probe of AVE's classes localises events on AVVP.  `python -m cmg.downstream.ave_avvp`

    python -m cmg.downstream.ave_avvp --checkpoint checkpoint/run --data ave.h5 --annotations AVE/ \\
        --avvp-data avvp.h5 --avvp-annotations AVVP/

The step of `cmg.downstream.avvp` plus a change of data set: the probe learns from AVE's clips of the classes that
both have, in one modality, and is tested on AVVP's videos in the other. Which class is which is data: `--classes`, a
CSV with the columns ave and avvp (by default the twelve that the public data sets share), or `same` where both use the
same names. Two AVE classes may map to one of AVVP.

Protocols
---------
strict : fit on AVE's train split, learning rate and epoch chosen on its val split in the source modality; test on those
    videos of AVVP's test split that hold a shared class, heard or seen. Left out of test and counted: videos that AVE
    was cut from as well, and clips that the checkpoint was pretrained on. The figures are those of AVVP.
paper : what the public script measures. Fit on all AVE clips of these classes, report on all AVVP videos that have one
    in the target modality. `f1`, the harmonic mean of batch-averaged precision and recall, background among the
    classes, at the epoch at which it is best; learning rate 4e-4, 50 epochs, gradient norm 0.5.

`source_value` is the same probe on AVVP in its own modality: the data set changes, the modality does not.
"""

import argparse
import csv
import sys
from pathlib import Path

from cmg.cli import Parser, command
from cmg.data.ave import AveAnnotations, read_ave
from cmg.data.avvp import AvvpAnnotations, Event, event_labels, locate, read_avvp, video_of
from cmg.data.features import FeatureSet
from cmg.downstream.avvp import check_seconds, draw, localisable_pairs, print_account, without_pretrained
from cmg.downstream.events import EventTask, Part
from cmg.downstream.task import Settings, add_probe_flags, open_run, output_folder, tell_missing, write_task
from cmg.errors import UserError

SHARED = Path(__file__).parents[1] / "data" / "ave_avvp_classes.csv"


def read_mapping(path, of_ave: list[str], of_avvp: list[str]) -> dict[str, str]:
    """AVE class -> AVVP class, from a CSV with the columns ave and avvp, or every class of both sets for `same`.

    Raises
    ------
    UserError : no such file, other columns, a class that the annotations do not know, or nothing in common.
    """
    if str(path) == "same":
        mapping = {name: name for name in of_ave if name in set(of_avvp)}
        if not mapping:
            raise UserError("--classes same: the two sets of annotations have no class name in common")
        return mapping
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except OSError:
        raise UserError(f"--classes {path}: no such file; expected a CSV with the columns ave and avvp") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--classes {path}: not a UTF-8 CSV file ({error})") from None
    if not rows or rows[0] != ["ave", "avvp"] or len(rows) < 2 or any(len(row) != 2 for row in rows):
        raise UserError(f"--classes {path}: expected a CSV with the columns ave and avvp")
    for number, row in enumerate(rows[1:], 2):
        for name, known, data_set in zip(row, (of_ave, of_avvp), ("AVE", "AVVP")):
            if name not in known:
                raise UserError(f"--classes {path}, line {number}: {data_set} has no class {name!r} in its annotations")
    return dict(rows[1:])


def make_task(ave: FeatureSet, ave_annotations: AveAnnotations, avvp: FeatureSet, avvp_annotations: AvvpAnnotations,
              mapping: dict[str, str], pairs, settings: Settings, pretrain_ids=(), device="cpu") -> EventTask:
    """Fit parts from AVE, test parts from AVVP, labels of both in the classes of `mapping`."""
    modalities = sorted({m for pair in pairs for m in pair})
    for features in (ave, avvp):
        check_seconds(features, modalities)
    classes = list(dict.fromkeys(mapping.values()))
    strict = settings.protocol == "strict"
    missing, parts, n_excluded, n_shared = {}, {}, 0, 0

    def clips_of(splits):
        clips = [clip for split in splits for clip in ave_annotations.splits[split] if clip.category in mapping]
        _, absent = ave.rows_of([clip.id for clip in clips])
        missing.update(dict.fromkeys(absent))
        clips = [clip for clip in clips if clip.id not in missing]
        rows, _ = ave.rows_of([clip.id for clip in clips])
        # By number, not by id: a video that AVE has under two classes is two clips with the same id.
        events = {n: [Event(mapping[clip.category], clip.onset, clip.offset)] for n, clip in enumerate(clips)}
        return rows, [clip.id for clip in clips], events

    for role, splits in {"fit": ("train",), "val": ("val",)}.items() if strict else [("fit", ("train", "val", "test"))]:
        rows, names, events = clips_of(splits)
        if not names:
            raise UserError(f"--data: none of AVE's {' and '.join(splits)} clips of the shared classes has features")
        for m in modalities:
            parts[role, m] = Part(ave, rows, names, event_labels(list(events), events, classes, ave.shapes[m][0]))

    def holds(name, modality):
        return any(event.category in classes for event in avvp_annotations.events[modality].get(name, ()))

    known = {clip.id for split in ave_annotations.splits.values() for clip in split if clip.category in mapping}
    if strict:
        if not avvp_annotations.splits.get("test"):
            raise UserError("--avvp-annotations: AVVP_test_pd.csv names no videos; strict needs them")
        names = [n for n in avvp_annotations.splits["test"] if holds(n, "audio") or holds(n, "video")]
        _, names, absent = locate(avvp, names)
        missing.update(dict.fromkeys(absent))
        fresh = [name for name in names if name not in known and video_of(name) not in known]
        n_shared = len(names) - len(fresh)
        names, n_excluded = without_pretrained(fresh, pretrain_ids)
    for m in modalities:
        rows, found, absent = locate(avvp, names if strict else [n for n in avvp_annotations.events[m] if holds(n, m)])
        missing.update(dict.fromkeys(absent))
        labels = event_labels(found, avvp_annotations.events[m], classes, avvp.shapes[m][0])
        parts["test", m] = Part(avvp, rows, found, labels)
    tell_missing(missing)
    if n_shared:
        print(f"warning: {n_shared} test clips are cut from videos of AVE and are left out", file=sys.stderr)
    extra = {"n_excluded": n_excluded, "n_in_ave": n_shared, "n_missing": len(missing), "n_classes": len(classes)}
    return EventTask("ave_avvp", classes, parts, pairs, settings, "f1", extra, device)


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="cmg.downstream.ave_avvp", description=__doc__.split("\n")[0])
    p.add_argument("--checkpoint", required=True, help="a .pt file, or a run folder: its best.pt")
    p.add_argument("--data", nargs="+", required=True, help="feature files of AVE's clips")
    p.add_argument("--annotations", required=True, help="folder of AVE's Annotations.txt and splits")
    p.add_argument("--avvp-data", nargs="+", required=True, help="feature files of AVVP's clips")
    p.add_argument("--avvp-annotations", required=True, help="folder of AVVP_eval_audio.csv and the others")
    p.add_argument("--classes", help="CSV with the columns ave and avvp, or: same; default: the 12 classes that AVE "
                   f"and AVVP share (cmg/data/{SHARED.name})")
    add_probe_flags(p, epochs=50)
    return p


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args)
    of_ave, of_avvp = read_ave(args.annotations), read_avvp(args.avvp_annotations)
    for line in of_ave.skipped + of_ave.notes:
        print(f"annotations: {line}", file=sys.stderr)
    print_account(of_avvp)
    mapping = read_mapping(args.classes or SHARED, of_ave.classes, of_avvp.classes)
    pairs = localisable_pairs(run.content, args.data[0], args)
    modalities = sorted({m for pair in pairs for m in pair})
    ave, avvp = run.features(args.data, modalities), run.features(args.avvp_data, modalities)
    task = make_task(ave, of_ave, avvp, of_avvp, mapping, pairs, run.settings, run.content["pretrain_ids"], run.device)
    rows = write_task("AVE→AVVP", args, task.run(run.model()), run)
    draw(task, output_folder(args, run.path))
    return rows


if __name__ == "__main__":
    main()
