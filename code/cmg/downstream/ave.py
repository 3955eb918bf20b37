"""AVE: does a classifier trained on one modality's tokens work on another's?  `python -m cmg.downstream.ave`

    python -m cmg.downstream.ave --checkpoint checkpoint/run --data ave.h5 --annotations AVE/        # sweep a run
    python -m cmg.downstream.ave --checkpoint checkpoint/run/best.pt --data synthetic --device cpu   # one checkpoint

Encoder and codebook are frozen; a linear probe sees nothing but the source modality's code vectors, and is then given
the target's. Two figures a direction: `accuracy`, clip top-1 over the K classes (the paper's), and
`segment_accuracy`, the benchmark's own K + 1 way accuracy over all seconds, background included.

Protocols
---------
strict : fit on train; learning rate and epoch chosen on val *of the source modality*, so that the probe never sees a
    label of the target; test once. Of a run folder's checkpoints the one that does best on the *target's* val split,
    averaged over directions and both figures, is taken and copied to `best.pt` (AVE is the paper's validation set);
    only this one is tested. Clips that the checkpoint was pretrained on are left out of test and counted.
paper : what the public script measures. Fit on train and report on the *train* split of the target, at the epoch at
    which that figure is best; learning rate 4e-4, batch 80, gradient norm 0.5. A fit, not a test. Kept comparable,
    marked in every output.

`source_value` is the same probe on its own modality, the upper bound of the transfer; `chance` the accuracy of
always answering the training split's most frequent class. Values are means over probe seeds, `std` goes with them.
A picture of them is drawn (`ave_strict.png` and `.pdf`).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from cmg.cli import Parser, command
from cmg.data.ave import SPLITS, AveAnnotations, clip_labels, read_ave, segment_labels, video_ids
from cmg.data.features import FeatureFile, FeatureSet
from cmg.data.synthetic import synthetic_files, synthetic_spec
from cmg.distributed import choose_device
from cmg.downstream.probe import (
    ClipProbes,
    ProbeData,
    SegmentProbes,
    Selected,
    best_of_epochs,
    constant_accuracy,
    data_of_present,
    fit,
    fit_selected,
)
from cmg.downstream.results import (
    find_checkpoints,
    mark_best,
    markdown_table,
    prepare_results,
    results_table,
    write_results,
)
from cmg.downstream.task import (
    CLIP_NORM,
    STRICT,
    Settings,
    add_probe_flags,
    mean,
    output_folder,
    probe_settings,
    std,
    tell_missing,
    tell_pretrained,
    with_origin,
)
from cmg.downstream.tokens import TokenSet, codebook_sharing, directions, encode_set
from cmg.errors import UserError
from cmg.figures import bars
from cmg.figures.names import arrow, axis_label, figure_name
from cmg.figures.style import save
from cmg.files import write_atomically
from cmg.modalities import ordered
from cmg.training.checkpoint import build_model, read

PROBES = {"clip": ClipProbes, "segment": SegmentProbes}
METRICS = {kind: probes.metric for kind, probes in PROBES.items()}


class Split(NamedTuple):
    """The clips of a split that have features: their rows in the feature set, [N]; labels, [N] and [N, T]."""

    rows: torch.Tensor
    labels: dict[str, torch.Tensor]


class Validation(NamedTuple):
    """One checkpoint before any test: what the choice among checkpoints rests on.

    values[kind][source] holds the figure per probe seed of every modality on the deciding split: val (strict), train
    (paper). `score` is their mean over directions: of both kinds in strict, because a val split of few clips tells
    little by clips alone; of clip top-1 in paper.
    """

    score: float
    values: dict[str, dict[str, dict[str, torch.Tensor]]]
    selected: dict[str, dict[str, Selected]]
    encoded: "Encoded"


class Encoded:
    """One model's tokens of the splits, each encoded when it is first asked for."""

    def __init__(self, model, task: "AveTask"):
        self.model, self.task, self._cache = model, task, {}

    def tokens(self, split: str, modality: str) -> TokenSet:
        key = split, modality
        if key not in self._cache:
            task = self.task
            self._cache[key] = encode_set(self.model, task.features, modality, rows=task.splits[split].rows,
                                          device=task.device)
        return self._cache[key]

    def data(self, split: str, modality: str, kind: str) -> ProbeData:
        """What a probe sees; clips without a single step of this modality are left out."""
        return data_of_present(self.tokens(split, modality), self.task.splits[split].labels[kind])


class AveTask:
    """The benchmark on given features: which clips, which directions, which protocol.

    Parameters
    ----------
    features : FeatureSet
    annotations : AveAnnotations
    pairs : list of (source, target)
    pretrain_ids : ids of the clips that the checkpoint was pretrained on

    Raises
    ------
    UserError : steps that are no seconds, a split without any features, or a test that was all pretrained on.
    """

    def __init__(self, features: FeatureSet, annotations: AveAnnotations, pairs, settings: Settings = STRICT,
                 pretrain_ids=(), device="cpu"):
        self.features, self.pairs, self.settings, self.device = features, list(pairs), settings, device
        self.sources = list(dict.fromkeys(source for source, _ in self.pairs))
        self.classes = annotations.classes
        self.splits, self.missing, self.n_excluded = {}, [], 0
        # Words are no seconds: text takes part in clip top-1 only.
        seconds = next((features.shapes[m][0] for m in ("video", "audio") if m in features.shapes), 1)
        if features.attrs.get("seconds_per_step", 1) != 1:
            raise UserError(f"--data: {features.attrs['seconds_per_step']} s a step; AVE is labelled second by second")
        for split in SPLITS if settings.protocol == "strict" else ("train",):
            clips = annotations.splits[split]
            _, missing = features.rows_of([clip.id for clip in clips])
            absent = set(missing)
            clips = [clip for clip in clips if clip.id not in absent]
            if split == "test" and settings.protocol == "strict":
                seen = video_ids(pretrain_ids)
                self.n_excluded = sum(clip.id in seen for clip in clips)
                if clips and self.n_excluded == len(clips):
                    raise UserError(f"--checkpoint: all {len(clips)} test clips were pretrained on; nothing to test")
                clips = [clip for clip in clips if clip.id not in seen]
            if not clips:
                raise UserError(f"--data: none of the {len(missing)} clips of the {split} split has features; "
                                f"expected ids such as {missing[0]}")
            self.missing += missing
            rows, _ = features.rows_of([clip.id for clip in clips])
            labels = {"clip": clip_labels(clips, self.classes), "segment": segment_labels(clips, self.classes, seconds)}
            self.splits[split] = Split(rows, labels)
        self.judged = "test" if settings.protocol == "strict" else "train"  # the split that is reported

    def outputs(self, kind: str) -> int:
        return len(self.classes) + PROBES[kind].background

    def targets(self, source: str, kind: str = "clip") -> list[str]:
        """Modalities that this source's probe is reported on."""
        own = [target for s, target in self.pairs if s == source]
        return own if kind == "clip" else [m for m in own if "text" not in (source, m)]

    def fit(self, kind: str, source: str, encoded: Encoded):
        """Train this source's probes -> (top-1 per seed of each modality on the deciding split, Selected or None)."""
        modalities = [source, *self.targets(source, kind)]
        train = encoded.data("train", source, kind)
        arguments = self.settings.fit_arguments()
        if self.settings.protocol == "strict":
            val = {m: encoded.data("val", m, kind) for m in modalities}
            selected = fit_selected(PROBES[kind], train, val[source], self.outputs(kind), **arguments)
            return {m: selected.probes.score(val[m]).accuracy for m in modalities}, selected
        judged = {m: encoded.data("train", m, kind) for m in modalities}
        curves = {m: [] for m in modalities}
        for _, probes in fit(PROBES[kind], train, self.outputs(kind), clip_norm=CLIP_NORM, **arguments):
            for m in modalities:
                curves[m].append(probes.score(judged[m]).accuracy)
        # There the best epoch is read off the log by hand, for each modality; here it is taken for every probe.
        return {m: best_of_epochs(curve, self.settings.probe_seeds) for m, curve in curves.items()}, None

    def validate(self, model) -> Validation:
        """Fit the probes of one checkpoint and score it on the deciding split."""
        encoded = Encoded(model, self)
        values, selected = {kind: {} for kind in METRICS}, {kind: {} for kind in METRICS}
        for kind, source in ((k, s) for k in METRICS for s in self.sources):
            if self.targets(source, kind):
                values[kind][source], selected[kind][source] = self.fit(kind, source, encoded)
        kinds = METRICS if self.settings.protocol == "strict" else ("clip",)
        means = [values[kind][source][target].mean().item() for kind in kinds for source in values[kind]
                 for target in self.targets(source, kind)]
        return Validation(sum(means) / len(means), values, selected, encoded)

    def report(self, validation: Validation) -> list[dict]:
        """Test the chosen checkpoint (paper: repeat its figures): a row for every direction and metric."""
        rows = []
        encoded = validation.encoded
        for source, kind in ((s, k) for s in self.sources for k in METRICS):
            targets = self.targets(source, kind)
            if not targets:
                continue
            deciding, selected = validation.values[kind][source], validation.selected[kind][source]
            judged = {m: encoded.data(self.judged, m, kind) for m in [source, *targets]}
            values, chosen = deciding, {}
            if selected is not None:
                values = {m: selected.probes.score(judged[m]).accuracy for m in judged}
                chosen = {"probe_lr": selected.lr, "probe_epoch": selected.epochs, "source_val": mean(deciding[source])}
            train = encoded.data("train", source, kind)
            for target in targets:
                extra = chosen | {"val": mean(deciding[target])} if chosen else {}
                sharing = codebook_sharing(encoded.tokens(self.judged, source), encoded.tokens(self.judged, target))
                rows.append({
                    "task": "ave", "source": source, "target": target, "protocol": self.settings.protocol,
                    "metric": METRICS[kind], "value": mean(values[target]), "source_value": mean(values[source]),
                    "chance": constant_accuracy(train, judged[target]), "n_train": len(train.labels),
                    "n_test": len(judged[target].labels), "seed": self.settings.seed, "split": self.judged,
                    "std": std(values[target]), "source_std": std(values[source]),
                    "chance_uniform": round(100 / self.outputs(kind), 4), "n_excluded": self.n_excluded,
                    "n_missing": len(self.missing), "probe_seeds": self.settings.probe_seeds, **extra,
                    **{name: value if value is None else round(value, 4) for name, value in sharing.items()},
                })
        return rows


def evaluate(model, features: FeatureSet, annotations: AveAnnotations, pairs=None, settings=STRICT,
             pretrain_ids=(), device="cpu") -> list[dict]:
    """Fit, choose and test probes on one frozen model -> rows of `results.json` less checkpoint and commit.

    Example
    -------
    >>> rows = evaluate(cmg.load_pretrained("best.pt"), FeatureSet("ave.h5"), read_ave("AVE"))   # doctest: +SKIP
    """
    model.check(features)
    pairs = pairs or directions(model.modalities, features.modalities)
    task = AveTask(features, annotations, pairs, settings, pretrain_ids, device)
    return task.report(task.validate(model))


def draw(rows: list[dict], path: Path) -> Path:
    """Bars of the transfer and its upper bound for every direction, with chance; a panel for every metric."""
    panels = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric]
        panels.append(bars.Panel(
            figure_name("ave", metric, protocol=own[0]["protocol"]), axis_label(metric),
            [arrow(row["source"], row["target"]) for row in own],
            {"transfer": [(row["value"], row["std"]) for row in own],
             "own modality": [(row["source_value"], row["source_std"]) for row in own]},
            [row["chance"] for row in own]))
    return save(bars.draw(panels), path)


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="cmg.downstream.ave", description=__doc__.split("\n")[0])
    p.add_argument("--checkpoint", required=True, help="a .pt file, or a run folder: its epoch_*.pt are swept")
    p.add_argument("--data", nargs="+", required=True, help="feature files, or: synthetic (as pretrained on)")
    p.add_argument("--annotations", help="folder of AVE's Annotations.txt and splits; not needed with synthetic")
    p.add_argument("--choose-only", action="store_true", help="strict: score the checkpoints on val, mark best.pt, and "
                   "leave the test split alone")
    add_probe_flags(p)
    return p


def open_task(args, content, device) -> AveTask:
    """The task that the flags ask for; `content` is the run's first checkpoint."""
    settings = probe_settings(args)
    paths, annotations = args.data, args.annotations
    if "synthetic" in paths and len(paths) > 1:
        raise UserError(f"--data {' '.join(paths)}: synthetic cannot be joined with feature files")
    if paths != ["synthetic"] and annotations is None:
        raise UserError("--annotations: missing; expected the folder of AVE's Annotations.txt")
    if paths == ["synthetic"]:
        files = synthetic_files(spec=synthetic_spec(argparse.Namespace(**content["args"])))
        paths, annotations = [files.ave], annotations or files.annotations
    annotations = read_ave(annotations)
    pairs = directions(list(content["shapes"]), FeatureFile(paths[0]).modalities, args.source, args.target)
    features = FeatureSet(paths, ordered(m for pair in pairs for m in pair))
    build_model(content, device).check(features)
    task = AveTask(features, annotations, pairs, settings, content["pretrain_ids"], device)
    for line in annotations.skipped + annotations.notes:
        print(f"warning: {line}", file=sys.stderr)
    tell_missing(task.missing)
    tell_pretrained(task.n_excluded)
    return task


@command
def main(argv=None):
    args = parser().parse_args(argv)
    if args.choose_only and args.protocol != "strict":
        raise UserError(f"--choose-only: {args.protocol} has no test split to leave alone; expected --protocol strict")
    device = choose_device(args.device)
    paths = find_checkpoints(args.checkpoint)
    out = output_folder(args, paths[0])
    task = open_task(args, read(paths[0]), device)
    prepare_results(out)
    best, sweep = None, []
    for path in tqdm(paths, desc="sweep", leave=False, disable=len(paths) == 1):
        content = read(path)
        validation = task.validate(build_model(content, device))
        entry = {"checkpoint": path.name, "epoch": content["epoch"], "score": round(validation.score, 4)}
        entry |= {f"{s} → {t}": round(validation.values["clip"][s][t].mean().item(), 4) for s, t in task.pairs}
        sweep.append(entry)
        if best is None or validation.score > best[0].score:  # the earlier one of equals
            best = validation, path, content
    validation, path, content = best
    split = "val" if args.protocol == "strict" else "train"
    if len(paths) > 1 or args.choose_only:
        write_atomically(out / f"ave_sweep_{args.protocol}.json", json.dumps(sweep, indent=2) + "\n")
        names = [f"{s} → {t}" for s, t in task.pairs]
        print(f"Score and clip top-1 on the {split} split of the target\n")
        print(markdown_table(["checkpoint", "score", *names], [
            [f"**{e['checkpoint']}**" if e["checkpoint"] == path.name else e["checkpoint"],
             *(f"{e[name]:.1f}" for name in ["score", *names])] for e in sweep]) + "\n")
    if args.protocol == "strict" and Path(args.checkpoint).is_dir():
        mark_best(path)
    if args.choose_only:
        return sweep
    rows = with_origin(task.report(validation), path, content)
    written = write_results(out, rows)
    print(f"AVE, {path}, " + ("strict (test split)" if args.protocol == "strict" else "paper (train split)") + "\n")
    print(results_table(rows) + f"\n\n{written}\n{draw(rows, out / f'ave_{args.protocol}.png')}")
    return rows


if __name__ == "__main__":
    main()
