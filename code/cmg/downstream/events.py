"""Event localisation across modalities: `EventProbes`, strict and paper figures. For AVVP and AVE→AVVP.

A task says which clips play which role; everything from tokens to rows of `results.json` happens here.
"""

import sys
from typing import NamedTuple

import torch

from cmg.data.features import FeatureSet
from cmg.downstream.probe import EventProbes, ProbeData, fit, fit_selected, probe_data
from cmg.downstream.task import CLIP_NORM, Settings, mean, std
from cmg.downstream.tokens import TokenSet, codebook_sharing, encode_set
from cmg.errors import UserError
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
SHOWN = 6  # clips in a picture
COLLAPSE = 0.5  # warn if recall is below this share of what it is at the best F1


class Part(NamedTuple):
    """Annotated clips of one modality: rows of a feature set [N], the clips' names, labels bool [N, T, K + 1]."""

    features: FeatureSet
    rows: torch.Tensor
    names: list[str]
    labels: torch.Tensor


class EventTask:
    """Probes on one modality's tokens, tested on another's.

    Parameters
    ----------
    name : the task's name in results.json
    classes : the K classes
    parts : dict (role, modality) -> Part; roles "fit", "val" (strict only) and "test"
    pairs : list of (source, target)
    chosen_by : "precision" or "f1", what the paper protocol takes its epoch by
    extra : figures to add to every row, for example counts of clips left out

    Attributes
    ----------
    pictures : dict (source, target) -> (name, prediction [T, K], truth [T, K]) of the first test clips, after `run`.
    """

    def __init__(self, name: str, classes: list[str], parts: dict[tuple[str, str], Part], pairs, settings: Settings,
                 chosen_by="precision", extra=None, device="cpu"):
        self.name, self.classes, self.parts, self.pairs = name, classes, parts, list(pairs)
        self.settings, self.chosen_by, self.extra, self.device = settings, chosen_by, extra or {}, device
        self.pictures, self._tokens = {}, {}
        for (role, modality), part in parts.items():
            if not len(part.rows):
                raise UserError(f"--data: no clip of the {role} part has {modality} features and annotations")

    def tokens(self, model, role: str, modality: str) -> TokenSet:
        """Each part is encoded once, also where it plays two roles."""
        part = self.parts[role, modality]
        key = id(part)
        if key not in self._tokens:
            self._tokens[key] = encode_set(model, part.features, modality, rows=part.rows, device=self.device)
        return self._tokens[key]

    def data(self, model, role: str, modality: str) -> ProbeData:
        return probe_data(self.tokens(model, role, modality), self.parts[role, modality].labels)

    def run(self, model) -> list[dict]:
        """Fit and test all probes on one frozen model -> rows of `results.json` less checkpoint and commit."""
        self._tokens.clear()
        rows = []
        run = self._strict if self.settings.protocol == "strict" else self._paper
        for source in dict.fromkeys(source for source, _ in self.pairs):
            rows += run(model, source, [target for s, target in self.pairs if s == source])
        return rows

    def _strict(self, model, source, targets):
        train, val = self.data(model, "fit", source), self.data(model, "val", source)
        selected = fit_selected(EventProbes, train, val, len(self.classes) + 1, **self.settings.fit_arguments())
        fired = {m: fires(selected.probes, self.data(model, "test", m)) for m in (source, *targets)}
        truth = {m: self.parts["test", m].labels for m in fired}
        values = {m: localisation(fired[m], truth[m]) for m in fired}
        constant = constant_events(train)
        chosen = {"probe_lr": selected.lr, "probe_epoch": selected.epochs, "source_val": mean(selected.val.accuracy)}
        rows = []
        for target in targets:
            chance = localisation(constant.expand_as(truth[target])[None], truth[target])
            both = self._both_streams(fired, truth, source, target)
            for metric, value in values[target].items():
                if metric in ("precision", "recall"):
                    continue
                extra = chosen | both.get(metric, {})
                if metric == "micro_f1":
                    extra |= {name: mean(values[target][name]) for name in ("precision", "recall")}
                rows.append(self._row(model, source, target, metric, value, values[source][metric],
                                      mean(chance[metric]), len(train.labels), extra))
            self._keep_picture(source, target, fired[target])
        return rows

    def _keep_picture(self, source, target, fired):
        part = self.parts["test", target]
        self.pictures[source, target] = [
            (name, fired[0, n, :, :-1].cpu().numpy(), part.labels[n, :, :-1].numpy())
            for n, name in enumerate(part.names[:SHOWN])]

    def _both_streams(self, fired, truth, source, target):
        """The benchmark's five F-scores in %, where the same clips are tested in both modalities."""
        if self.parts["test", source].names != self.parts["test", target].names:
            return {}
        streams = [by_class(masks[m]) for masks in (fired, truth) for m in ("audio", "video")]
        found = {}
        for level in LEVELS:
            f = official_f(level, *streams)
            found[f"{level}_f1"] = {f"f_{column}": mean(100 * f[column].mean(-1)) for column in COLUMNS}
        return found

    def _paper(self, model, source, targets):
        """Test figures after every epoch; of every probe the epoch at which `chosen_by` is best, on the target."""
        train = self.data(model, "fit", source)
        judged = {m: self.data(model, "test", m) for m in (source, *targets)}
        # The own modality's figure is the fit itself: what the public script logs with equal modalities.
        truth = {m: self.parts["test", m].labels.to(train.labels.device) for m in judged}
        curves = {m: [] for m in judged}
        for _, probes in fit(EventProbes, train, len(self.classes) + 1, clip_norm=CLIP_NORM,
                             **self.settings.fit_arguments()):
            for m in judged:
                fired = fires(probes, judged[m])
                curves[m].append(torch.stack([*batched_precision_recall(fired, truth[m]),
                                              fired.sum((1, 2, 3)).double().cpu()]))
        values = {m: self._best_epochs(torch.stack(curve)) for m, curve in curves.items()}
        constant, rows = constant_events(train, background=True), []
        for target in targets:
            self._keep_picture(source, target, fires(probes, judged[target]))  # as after the last epoch
            best = values[target]
            chance = precision_recall(constant.expand_as(truth[target])[None], truth[target])
            chance = {"precision": chance[0], "f1": harmonic_mean(*chance)}[self.chosen_by]
            extra = {name: mean(best[name]) for name in ("precision", "recall", "f1", "recall_at_best_f1")}
            extra |= {"n_positive": int(best["positives"].mean()), "n_true": int(truth[target].sum())}
            if extra["recall"] < COLLAPSE * extra["recall_at_best_f1"]:
                extra["recall_vanished"] = True
                print(f"warning: {source} → {target}: precision rose to {extra['precision']:.1f} % only because recall "
                      f"sank to {extra['recall']:.1f} %, from {extra['recall_at_best_f1']:.1f} % at the best F1",
                      file=sys.stderr)
            rows.append(self._row(model, source, target, self.chosen_by, best[self.chosen_by],
                                  values[source][self.chosen_by], 100 * chance.item(), len(train.labels), extra))
        return rows

    def _best_epochs(self, curve):
        """curve [E, 3, P] of precision, recall and positives -> figures in % of each seed at its best epoch, [S]."""
        seeds = self.settings.probe_seeds
        precision, recall, positives = (x.reshape(-1, seeds) for x in curve.unbind(1))  # (E·learning rates, S)
        f1 = harmonic_mean(precision, recall)
        best = {"precision": precision, "f1": f1}[self.chosen_by].argmax(0, keepdim=True)
        percent = {"precision": precision, "recall": recall, "f1": f1}
        found = {name: 100 * x.gather(0, best)[0] for name, x in percent.items()}
        found["recall_at_best_f1"] = 100 * recall.gather(0, f1.argmax(0, keepdim=True))[0]
        return found | {"positives": positives.gather(0, best)[0]}

    def _row(self, model, source, target, metric, value, own, chance, n_train, extra):
        same = self.parts["test", source].names == self.parts["test", target].names
        sharing = {}
        if same:
            sharing = codebook_sharing(self.tokens(model, "test", source), self.tokens(model, "test", target))
        return {
            "task": self.name, "source": source, "target": target, "protocol": self.settings.protocol,
            "metric": metric, "value": mean(value), "source_value": mean(own), "chance": round(chance, 4),
            "n_train": n_train, "n_test": len(self.parts["test", target].names), "seed": self.settings.seed,
            "std": std(value), "source_std": std(own), "probe_seeds": self.settings.probe_seeds,
            **self.extra, **extra, **{k: v if v is None else round(v, 4) for k, v in sharing.items()},
        }


@torch.no_grad()
def fires(probes: EventProbes, data: ProbeData):
    """Which classes each probe holds for present (probability above 0.5), bool Tensor[P, N, T, K + 1]; seconds that
    the modality lacks hold nothing."""
    return (probes.row_logits(data) > 0).mT[:, data.index] & data.valid[..., None]


def by_class(masks):
    """[…, T, K + 1] -> […, K, T] without background, as the benchmark's metrics take it."""
    return masks[..., :-1].transpose(-1, -2).cpu()


def localisation(fired, truth) -> dict[str, torch.Tensor]:
    """Figures in % of P predictions [P, N, T, K + 1] over the K classes, dict of Tensor[P].

    micro_f1, precision and recall pool all cells of all clips; segment_f1 and event_f1 are the benchmark's, F-scores of
    each video averaged. Every annotated second counts, also one that the features lack.
    """
    precision, recall = precision_recall(fired[..., :-1].cpu(), truth[..., :-1])
    found = {"micro_f1": harmonic_mean(precision, recall), "precision": precision, "recall": recall}
    for level in LEVELS:
        found[f"{level}_f1"] = video_f(COUNT[level](by_class(fired), by_class(truth))).mean(-1)
    return {name: 100 * x for name, x in found.items()}


def constant_events(train: ProbeData, background=False):
    """The constant answer that `chance` stands for: the most frequent class of `train`, bool Tensor[K + 1]."""
    counts = train.labels[train.valid].sum(0).cpu()
    if not background:
        counts[-1] = -1
    return torch.arange(len(counts)) == counts.argmax()
