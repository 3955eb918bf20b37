"""Event localisation across modalities: probes that name any number of classes a second. For AVVP and AVE→AVVP."""

import sys

import torch

from cmg.data.avvp import AvvpAnnotations
from cmg.data.joining import held
from cmg.downstream.clip_scores import pooled
from cmg.downstream.probe import EventProbes, ProbeData, probe_data
from cmg.downstream.probing import ProbeTask, best_epochs
from cmg.downstream.results import mean
from cmg.downstream.task import Run
from cmg.errors import UserError
from cmg.figures import timeline
from cmg.metrics.localization import (
    COLUMNS,
    LEVELS,
    batched_precision_recall,
    event_counts,
    harmonic_mean,
    official_f,
    precision_recall,
    segment_counts,
    video_f,
)

COUNT = {"segment": segment_counts, "event": event_counts}
REPORTED = ("micro_f1", "segment_f1", "event_f1")  # in strict
SHOWN = 6  # clips in a picture
COLLAPSE = 0.5  # warn if recall is below this share of what it is at the best F1


class EventTask(ProbeTask):
    """Events told from one modality by a probe of another; see `ProbeTask`.

    Attributes
    ----------
    epoch_by : "precision" or "f1", what the paper protocol takes its epoch by
    kept : dict (source, target) -> (name, prediction [T, K], truth [T, K]) of the first test clips, after `run`
    """

    kinds = (EventProbes,)
    epoch_by = "precision"

    def data(self, encoded, role, modality, kind):
        """Every annotated second counts, also one that the features lack."""
        return probe_data(encoded.tokens(role, modality), self.splits[role, modality].labels[kind])

    def measure(self, probes, data):
        """Those of `localisation`; in paper all cells, background among them, averaged over batches of clips."""
        fired = fires(probes, data)
        if self.strict:
            return localisation(fired, data.labels)
        precision, recall = batched_precision_recall(fired, data.labels)
        found = {"precision": precision, "recall": recall, "f1": harmonic_mean(precision, recall)}
        found = {name: 100 * found[name] for name in (self.epoch_by, *found)}
        return found | {"positives": fired.sum((1, 2, 3)).double().cpu()}

    def names(self, encoded, role, modality):
        return self.splits[role, modality].names

    def clip_scores(self, probes, data):
        return clip_localisation(fires(probes, data), data.labels)

    def chance(self, kind, train, test):
        """The constant answer that names the most frequent class of `train`, in paper also if it is background."""
        counts = train.labels[train.valid].sum(0).cpu()  # (K + 1)
        if self.strict:
            counts[-1] = -1
        truth = test.labels.cpu()
        constant = (torch.arange(len(counts)) == counts.argmax()).expand_as(truth)[None]
        if self.strict:
            return {name: x.item() for name, x in localisation(constant, truth).items()}
        precision, recall = precision_recall(constant, truth)
        return {"precision": 100 * precision.item(), "f1": 100 * harmonic_mean(precision, recall).item()}

    def reported(self, figures):
        return REPORTED if self.strict else (self.epoch_by,)

    def about(self, kind, target):
        """As ever but for the share of a class among all, which says nothing where any number of classes holds."""
        return {name: x for name, x in super().about(kind, target).items() if name != "chance_uniform"}

    def extra(self, probing, target, metric, figures):
        if not self.strict:
            return self._vanishing(probing, target, figures)
        found = dict(probing.chosen)
        if metric == "micro_f1":
            found |= {name: mean(figures[name]) for name in ("precision", "recall")}
        elif self.splits["test", probing.source].names == self.splits["test", target].names:
            # The benchmark's own five F-scores of the probe, which here hears one of the streams with tokens that it
            # was never trained on.
            test = {m: probing.data("test", m) for m in (probing.source, target)}
            fired = [by_class(fires(probing.probes, test[m])) for m in ("audio", "video")]
            f = official_f(metric.removesuffix("_f1"), *fired, *(by_class(test[m].labels) for m in ("audio", "video")))
            found |= {f"f_{column}": mean(100 * f[column].mean(-1)) for column in COLUMNS}
        return found

    def _vanishing(self, probing, target, figures):
        """The other figures at the epoch that was chosen, and a warning where precision was bought with silence."""
        best_f1 = best_epochs(probing.curves[target], self.settings.probe_seeds, by="f1")
        found = {name: mean(figures[name]) for name in ("precision", "recall", "f1")}
        found |= {"recall_at_best_f1": mean(best_f1["recall"]), "n_positive": int(figures["positives"].mean()),
                  "n_true": int(probing.data("test", target).labels.sum())}
        if found["recall"] < COLLAPSE * found["recall_at_best_f1"]:
            found["recall_vanished"] = True
            print(f"warning: {probing.source} → {target}: precision rose to {found['precision']:.1f} % only because "
                  f"recall sank to {found['recall']:.1f} %, from {found['recall_at_best_f1']:.1f} % at the best F1",
                  file=sys.stderr)
        return found

    def tested(self, probing, target):
        data, names = probing.data("test", target), self.splits["test", target].names
        fired = fires(probing.probes, data)[0, :SHOWN, :, :-1].cpu().numpy()
        self.kept[probing.source, target] = list(zip(names, fired, data.labels[:SHOWN, :, :-1].cpu().numpy()))

    def picture(self, kept, title):
        return timeline.draw(kept, self.classes, title)


def annotated_directions(run: Run, paths, annotations: AvvpAnnotations) -> list[tuple[str, str]]:
    """Directions between the modalities that are annotated, audio and video, as far as checkpoint and data have them.
    """
    present = held(paths)
    for flag, m in (("--source", run.args.source), ("--target", run.args.target)):
        if m in present and m not in annotations.events:
            raise UserError(f"{flag} {m}: the events are annotated in {' and '.join(annotations.events)} only")
    return run.directions([m for m in present if m in annotations.events])


def print_account(annotations: AvvpAnnotations):
    """Every annotation row that is left out and why, then the sums."""
    for line in annotations.account():
        print(f"annotations: {line}", file=sys.stderr)
    videos = ", ".join(f"{len(own)} videos with {sum(map(len, own.values()))} events in {m}"
                       for m, own in annotations.events.items())
    print(f"annotations: {videos}; {len(annotations.skipped)} rows dropped, {len(annotations.unlisted)} names in no "
          f"split, {len(annotations.notes)} oddities kept", file=sys.stderr)


def fires(probes, data: ProbeData):
    """Which classes each probe holds for present (probability above 0.5), bool Tensor[P, N, T, K + 1]; seconds that
    the modality lacks hold nothing."""
    with torch.no_grad():
        return (probes.row_logits(data) > 0).mT[:, data.index] & data.valid[..., None]


def by_class(masks):
    """[…, T, K + 1] -> […, K, T] without background, as the benchmark's metrics take it."""
    return masks[..., :-1].transpose(-1, -2).cpu()


def localisation(fired, truth) -> dict[str, torch.Tensor]:
    """Figures in % of P predictions [P, N, T, K + 1] over the K classes, dict of Tensor[P].

    micro_f1, precision and recall pool all cells of all clips; segment_f1 and event_f1 are the benchmark's, F-scores of
    each video averaged. Every annotated second counts, also one that the features lack.
    """
    fired, truth = fired.cpu(), truth.cpu()
    precision, recall = precision_recall(fired[..., :-1], truth[..., :-1])
    found = {"micro_f1": harmonic_mean(precision, recall), "precision": precision, "recall": recall}
    for level in LEVELS:
        found[f"{level}_f1"] = video_f(COUNT[level](by_class(fired), by_class(truth))).mean(-1)
    return {name: 100 * x for name, x in found.items()}


def clip_localisation(fired, truth) -> dict[str, torch.Tensor]:
    """What each clip adds to the figures of `localisation` that get rows, dict of Tensor[P, N]."""
    fired, truth = fired[..., :-1].cpu(), truth[..., :-1].cpu()
    hits, predicted, true = (cells.sum((-1, -2)) for cells in (fired & truth, fired, truth))
    counts = {level: COUNT[level](fired.mT, truth.mT) for level in LEVELS}  # of [P, N, K, T]
    return {"micro_f1": pooled(2 * hits, predicted + true)} | {
        f"{level}_f1": 100 * video_f(own) for level, own in counts.items()}
