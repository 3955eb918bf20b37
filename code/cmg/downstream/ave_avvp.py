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
paper : what the public script measures. Fit on all AVE clips of these classes, report on all AVVP videos that have
    one in the target modality. `f1`, the harmonic mean of batch-averaged precision and recall, background among the
    classes, at the epoch at which it is best; learning rate 4e-4, 50 epochs, gradient norm 0.5.
    `cmg.downstream.probing` says where the fit is not the script's: no dropout in the frozen encoder, a constant rate,
    no fewer epochs for a later checkpoint.

`source_value` is the same probe on AVVP in its own modality: the data set changes, the modality does not. So it
does for `target_value`, a probe of AVE in the target's modality, the upper bound of the transfer.
"""

import csv
import sys
from pathlib import Path

from cmg.cli import Parser, command
from cmg.data.ave import AveAnnotations, read_ave
from cmg.data.avvp import AvvpAnnotations, Event, event_labels, read_avvp
from cmg.data.features import FeatureSet
from cmg.data.videos import from_videos
from cmg.downstream.events import EventTask, annotated_directions, print_account
from cmg.downstream.probe import EventProbes
from cmg.downstream.splits import match, require_seconds
from cmg.downstream.task import STRICT, add_probe_flags, open_run, task_parser
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


class AveAvvpTask(EventTask):
    """AVE's clips to fit and choose on, AVVP's to test, labels of both in the classes of `mapping`. See `ProbeTask`
    for the other parameters.

    Parameters
    ----------
    ave, avvp : features and annotations of each
    mapping : AVE class -> AVVP class

    Attributes
    ----------
    n_in_ave : test clips that are left out because they are cut from videos of AVE
    """

    name, title, epoch_by = "ave_avvp", "AVE→AVVP", "f1"

    def __init__(self, ave: tuple[FeatureSet, AveAnnotations], avvp: tuple[FeatureSet, AvvpAnnotations],
                 mapping: dict[str, str], pairs, settings=STRICT, pretrain_ids=(), device="cpu"):
        super().__init__(dict.fromkeys(mapping.values()), pairs, settings, pretrain_ids, device)
        (ave, of_ave), (avvp, of_avvp) = ave, avvp
        require_seconds(ave, "events are")
        require_seconds(avvp, "events are", "--avvp-data")
        clips = {split: [clip for clip in own if clip.category in mapping] for split, own in of_ave.splits.items()}
        roles = {"fit": ("train",), "val": ("val",)} if self.strict else {"fit": ("train", "val", "test")}
        self.n_in_ave = 0
        fresh = self.tested_videos(clips, avvp, of_avvp) if self.strict else None

        def labels_of_ave(clips, seconds):
            # By number, not by id: a video that AVE has under two classes is two clips with the same id.
            events = {n: [Event(mapping[clip.category], clip.onset, clip.offset)] for n, clip in enumerate(clips)}
            return {EventProbes: event_labels(list(events), events, self.classes, seconds)}

        for m in self.modalities:
            def labels(names, seconds, events=of_avvp.events[m]):
                return {EventProbes: event_labels(names, events, self.classes, seconds)}

            for role, splits in roles.items():
                self.splits.add(role, m, ave, [clip for split in splits for clip in clips[split]], labels_of_ave,
                                called=" and ".join(splits))
            names = fresh if self.strict else [name for name in of_avvp.events[m] if self.holds(of_avvp, name, m)]
            self.splits.add("test", m, avvp, names, labels, flag="--avvp-data")
        self.settle()

    def holds(self, annotations: AvvpAnnotations, name: str, modality: str) -> bool:
        """Whether a video has an event of the shared classes in a modality."""
        return any(event.category in self.classes for event in annotations.events[modality].get(name, ()))

    def tested_videos(self, clips, avvp: FeatureSet, of_avvp: AvvpAnnotations) -> list[str]:
        """Those of AVVP's test split that hold a shared class, heard or seen, and that AVE was not cut from."""
        if not of_avvp.splits.get("test"):
            raise UserError("--avvp-annotations: AVVP_test_pd.csv names no videos; strict needs them")
        names = [name for name in of_avvp.splits["test"] if any(self.holds(of_avvp, name, m) for m in of_avvp.events)]
        names_of_ave = [clip.id for own in clips.values() for clip in own]
        found = [names[n] for n in match(avvp, names).found]
        shared = {name for name, known in zip(found, from_videos(found, names_of_ave)) if known}
        self.n_in_ave = len(shared)
        if shared:
            print(f"warning: {len(shared)} test clips are cut from videos of AVE and are left out", file=sys.stderr)
        return [name for name in names if name not in shared]

    def about(self, kind, target):
        return super().about(kind, target) | {"n_in_ave": self.n_in_ave, "n_classes": len(self.classes)}


def parser() -> Parser:
    p = task_parser("ave_avvp")
    p.add_argument("--data", nargs="+", required=True, help="feature files of AVE's clips")
    p.add_argument("--annotations", required=True, help="folder of AVE's Annotations.txt and splits")
    p.add_argument("--avvp-data", nargs="+", required=True, help="feature files of AVVP's clips")
    p.add_argument("--avvp-annotations", required=True, help="folder of AVVP_eval_audio.csv and the others")
    p.add_argument("--classes", help="CSV with the columns ave and avvp, or: same; default: the 12 classes that AVE "
                   f"and AVVP share (cmg/data/{SHARED.name})")
    return add_probe_flags(p, epochs=50)


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args)
    of_ave, of_avvp = read_ave(args.annotations), read_avvp(args.avvp_annotations)
    for line in of_ave.skipped + of_ave.notes:
        print(f"annotations: {line}", file=sys.stderr)
    print_account(of_avvp)
    mapping = read_mapping(args.classes or SHARED, of_ave.classes, of_avvp.classes)
    pairs = annotated_directions(run, args.data, of_avvp)
    ave, avvp = run.features(args.data, pairs), run.features(args.avvp_data, pairs, flag="--avvp-data")
    return run.finish(AveAvvpTask((ave, of_ave), (avvp, of_avvp), mapping, pairs, **run.how))


if __name__ == "__main__":
    main()
