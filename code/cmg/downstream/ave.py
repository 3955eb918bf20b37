"""AVE: does a classifier trained on one modality's tokens work on another's?  `python -m cmg.downstream.ave`

    python -m cmg.downstream.ave --checkpoint checkpoint/run --data ave.h5 --annotations AVE/        # sweep a run
    python -m cmg.downstream.ave --checkpoint checkpoint/run/best.pt --data synthetic --device cpu   # one checkpoint
    python -m cmg.downstream.ave --checkpoint checkpoint/run --data mine.h5 --labels labels.csv      # of one's own

Encoder and codebook are frozen; a linear probe sees nothing but the source modality's code vectors, and is then given
the target's. Two figures a direction: `accuracy`, clip top-1 over the K classes (the paper's), and
`segment_accuracy`, the benchmark's own K + 1 way accuracy over all seconds, background included.

Protocols
---------
strict : fit on train; learning rate and epoch chosen on val *of the source modality*, so that the probe never sees a
    label of the target; test once. Of a run folder's checkpoints one is taken, copied to `best.pt`, and tested alone:
    by default the one that does best on the *target's* val split, averaged over directions and both figures (AVE is the
    paper's validation set). So the target's val labels choose the checkpoint, though no probe. `--choose-by source`
    takes the one whose probes do best on their own modality's val split, `--choose-by none` the last one, without any
    label; rows have the choice as `chosen_by`. Clips whose videos the checkpoint was pretrained on are left out of test
    and counted (`n_excluded`), as are those of videos that the probes learn from or are chosen by (`n_in_train`: 8 of
    AVE's 402, there under another class).
paper : what the public script measures. Fit on train and report on the *train* split of the target, at the epoch at
    which that figure is best; learning rate 4e-4, batch 80, gradient norm 0.5. A fit, not a test. Kept comparable,
    marked in every output. The script takes the best epoch by hand, from a log of both modalities.
    `cmg.downstream.probing` says where the fit is not the script's: no dropout in the frozen encoder, a constant rate,
    no fewer epochs for a later checkpoint.

`source_value` is the same probe on its own modality; `target_value` a probe trained and tested on the target (the
paper's "labeled modality"), the upper bound of the transfer; `chance` the accuracy of always answering the training
split's most frequent class. Values are means over probe seeds, `std` goes with them; `test_error` is the standard
error of the value over the test clips, by clusters of `n_clusters` (strict). Scores of the clips lie beside the results
(`ave_strict_clips.npz`).
A picture of them is drawn (`ave_strict.png` and `.pdf`). With `--labels` (`cmg.data.labels`) all of this is of one's
own clips and is called `labels`; where events have no seconds, there is no `segment_accuracy`.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from cmg.cli import Parser, command
from cmg.data.ave import SPLITS, AveAnnotations, clip_labels, read_ave, segment_labels
from cmg.data.features import FeatureSet
from cmg.data.joining import held
from cmg.data.labels import has_seconds, read_labels
from cmg.downstream.open_set import OpenSet, add_flag
from cmg.downstream.probe import ClipProbes, SegmentProbes
from cmg.downstream.probing import ProbeTask, Probings
from cmg.downstream.results import find_checkpoints, mark_best, markdown_table, mean, printed, rounded
from cmg.downstream.splits import require_seconds
from cmg.downstream.task import DATA, STRICT, Run, add_probe_flags, open_run, task_parser
from cmg.downstream.tokens import directions
from cmg.errors import UserError
from cmg.figures import bars
from cmg.figures.names import arrow, axis_label, figure_name
from cmg.figures.style import save
from cmg.files import write_atomically
from cmg.progress import Progress

CHOSEN_BY = {"target": "target validation", "source": "source validation", "none": "no labels"}


class Validation(NamedTuple):
    """One checkpoint before any test.

    score : what the choice among checkpoints rests on, the mean over directions on the deciding split, val (strict) or
        train (paper): of both figures in strict, because a val split of few clips tells little by clips alone; of
        clip top-1 in paper.
    clips : clip top-1 on that split of the target, by direction
    """

    score: float
    clips: dict[tuple[str, str], float]
    probings: Probings


class AveTask(ProbeTask):
    """The benchmark on given features. See `ProbeTask` for the other parameters.

    Parameters
    ----------
    features : FeatureSet
    annotations : AveAnnotations

    Raises
    ------
    UserError : steps that are no seconds, a split without any features, or a test that was all pretrained on.
    """

    name, title, kinds = "ave", "AVE", (ClipProbes, SegmentProbes)
    published = [("fit", "train")]  # role and split, of paper

    def __init__(self, features: FeatureSet, annotations: AveAnnotations, pairs, settings=STRICT, pretrain_ids=(),
                 device="cpu"):
        super().__init__(annotations.classes, pairs, settings, pretrain_ids, device)
        if SegmentProbes in self.kinds:
            require_seconds(features, f"{self.title} is")

        def labels(clips, seconds):
            return {ClipProbes: clip_labels(clips, self.classes),
                    SegmentProbes: segment_labels(clips, self.classes, seconds)}

        for m in self.modalities:
            for role, split in zip(("fit", "val", "test"), SPLITS) if self.strict else self.published:
                self.splits.add(role, m, features, annotations.splits[split], labels, called=split)
        self.settle()

    def validate(self, model, judge="target") -> Validation:
        """Fit the probes of one checkpoint and score it on the deciding split of a direction's target, or of its
        source."""
        probings = Probings(self, model)

        def score(kind, source, judged):
            return probings[kind, source].figures(judged, "val")[kind.metric].mean().item()

        clips = {pair: score(ClipProbes, *pair) for pair in self.pairs}
        deciding = [score(kind, source, {"source": source, "target": target}[judge])
                    for kind in (self.kinds if self.strict else self.kinds[:1]) for source in self.sources
                    for target in self.targets(source, kind)]
        return Validation(sum(deciding) / len(deciding), clips, probings)

    def about(self, kind, target):
        return {"split": "test" if self.strict else "train", **super().about(kind, target)}

    def extra(self, probing, target, metric, figures):
        val = {name: mean(probing.figures(m, "val")[metric])
               for name, m in (("source_val", probing.source), ("val", target))}
        return probing.chosen | val if self.strict else {}

    def draw(self, rows, folder):
        """Bars of transfer, own modality and upper bound for every direction, with chance; a panel for every metric;
        whiskers are the standard deviation over probe seeds."""
        panels = []
        for metric in dict.fromkeys(row["metric"] for row in rows):
            own = [row for row in rows if row["metric"] == metric]
            panels.append(bars.Panel(
                figure_name(self.name, metric, protocol=self.settings.protocol), axis_label(metric),
                [arrow(row["source"], row["target"]) for row in own],
                {"transfer": [(row["value"], row["std"]) for row in own],
                 "own modality": [(row["source_value"], row["source_std"]) for row in own],
                 "upper bound": [(row["target_value"], row["target_std"]) for row in own]},
                [row["chance"] for row in own]))
        return [save(bars.draw(panels), folder / f"{self.name}_{self.settings.protocol}.png")]


class OwnLabels(AveTask):
    """The same of clips and labels of one's own."""

    name, title = "labels", "own labels"


class OwnClipLabels(OwnLabels):
    """The same where no event has seconds."""

    kinds = (ClipProbes,)


class AveOpenSet(OpenSet, AveTask):
    """The same where the first K classes are known."""

    name, title = "ave_open_set", "AVE with unknown classes"
    published = [("fit", "train"), ("test", "test")]

    def about(self, kind, target):
        return super().about(kind, target) | {"split": "test"}


def evaluate(model, features: FeatureSet, annotations: AveAnnotations, pairs=None, settings=STRICT,
             pretrain_ids=(), device="cpu") -> list[dict]:
    """Fit, choose and test probes on one frozen model -> rows of `results.json` less checkpoint and commit.

    Example
    -------
    >>> rows = evaluate(cmg.load_pretrained("best.pt"), FeatureSet("ave.h5"), read_ave("AVE"))   # doctest: +SKIP
    """
    model.check(features)
    pairs = pairs or directions(model.modalities, features.modalities)
    return AveTask(features, annotations, pairs, settings, pretrain_ids, device).run(model)


def parser() -> Parser:
    p = task_parser("ave", checkpoint="a .pt file, a run folder (its epoch_*.pt are swept), or an exported one")
    p.add_argument("--data", nargs="+", required=True, help=DATA)
    of_what = p.add_mutually_exclusive_group()
    of_what.add_argument("--annotations", help="folder of AVE's Annotations.txt and splits; not needed with synthetic")
    of_what.add_argument("--labels", help="CSV of one's own: id, label, and if there are any start, end, split")
    p.add_argument("--choose-by", choices=tuple(CHOSEN_BY), default="target", help="strict: whose val labels choose "
                   "among a run's checkpoints; none takes the last one (default: target)")
    p.add_argument("--choose-only", action="store_true", help="strict: score the checkpoints on val, mark best.pt, and "
                   "leave the test split alone")
    add_flag(p)
    return add_probe_flags(p)


def open_task(run: Run) -> AveTask:
    """The task that the flags ask for."""
    paths, annotations, known = run.data, run.args.annotations, run.args.open_set
    if run.synthetic:
        annotations = annotations or run.synthetic.annotations
    elif annotations is None and run.args.labels is None:
        raise UserError("--annotations: missing; expected the folder of AVE's Annotations.txt, or --labels FILE.csv")
    task, annotations = AveTask, read_ave(annotations) if run.args.labels is None else read_labels(run.args.labels)
    if run.args.labels is not None:
        task = OwnLabels if has_seconds(annotations) else OwnClipLabels
    pairs = run.directions(held(paths))
    given = run.features(paths, pairs), annotations, pairs
    task = AveOpenSet(*given, known=known, **run.how) if known else task(*given, **run.how)
    for line in annotations.skipped + annotations.notes:
        print(f"warning: {line}", file=sys.stderr)
    return task


@command
def main(argv=None):
    args = parser().parse_args(argv)
    strict = args.protocol == "strict"
    if args.choose_only and not strict:
        raise UserError(f"--choose-only: {args.protocol} has no test split to leave alone; expected --protocol strict")
    if args.choose_by != "target" and not strict:
        raise UserError(f"--choose-by {args.choose_by}: {args.protocol} chooses by the target's training labels; "
                        "expected --protocol strict")
    if args.open_set:
        if args.choose_only or args.choose_by != "target":
            raise UserError(f"--open-set {args.open_set}: reads the checkpoint that AVE chose and chooses none; "
                            "expected neither --choose-by nor --choose-only")
        if args.labels is not None:
            raise UserError(f"--open-set {args.open_set}: is about the classes of AVE; expected --annotations and not "
                            "--labels")
        run = open_run(args)
        return run.finish(open_task(run))
    paths = find_checkpoints(args.checkpoint)[-1 if args.choose_by == "none" else 0:]
    judge = args.choose_by if len(paths) > 1 else "none"  # a single one needs no choice
    run = open_run(args, path=paths[0])
    task = open_task(run)
    best, sweep = None, []
    sweeping = Progress(len(paths), "checkpoint", title="sweep", quiet=len(paths) == 1, leave=False)
    for path in sweeping.over(paths):
        run = run if path == run.path else run.at(path)
        validation = task.validate(run.model, "source" if judge == "source" else "target")
        sweep.append({"checkpoint": path.name, "epoch": run.content["epoch"], "score": rounded(validation.score),
                      **{f"{s} → {t}": rounded(validation.clips[s, t]) for s, t in task.pairs}})
        run.tell({f"val/ave {args.protocol}/{name}": value for name, value in sweep[-1].items()
                  if name not in ("checkpoint", "epoch")})
        if best is None or validation.score > best[0].score:  # the earlier one of equals
            best = validation, run
    validation, run = best
    if len(paths) > 1 or args.choose_only:
        write_atomically(run.out / f"{task.name}_sweep_{args.protocol}.json", json.dumps(sweep, indent=2) + "\n")
        names = ["score", *(f"{s} → {t}" for s, t in task.pairs)]
        split = "val" if strict else "train"
        of_source = f" on the {split} split of the source" if judge == "source" else ""
        print(f"Score{of_source} and clip top-1 on the {split} split of the target\n")
        print(printed(markdown_table(["checkpoint", *names], [
            [f"**{e['checkpoint']}**" if e["checkpoint"] == run.path.name else e["checkpoint"],
             *(f"{e[name]:.1f}" for name in names)] for e in sweep])) + "\n")
    if Path(args.checkpoint).is_dir() and run.path.suffix == ".pt":  # a run folder, no exported model
        run = run._replace(chosen_by="target training" if judge == "target" and not strict else CHOSEN_BY[judge])
        if strict:
            mark_best(run.path, run.chosen_by)
    return sweep if args.choose_only else run.finish(task, task.report(validation.probings))


if __name__ == "__main__":
    main()
