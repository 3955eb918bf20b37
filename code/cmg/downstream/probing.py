"""From tokens to rows of `results.json`: what every task that probes frozen tokens has in common.

A task is a subclass of `ProbeTask` that says which clips play which role; tokens, protocols, figures and rows are the
same for all. Protocols, for any kind of probe and any figures:

strict : fit on "fit", learning rate and epoch chosen on "val" of the source modality, so that the probe never sees a
    label of the target; test once.
paper : what the public scripts measure. Fit on "fit", figures on "test" after every epoch, and of each probe those of
    the epoch at which one of them is best; learning rate 4e-4, gradient norm 0.5. A fit, not a test.

Where paper is not what the scripts of AVE, AVVP, AVE→AVVP and UCF ↔ VGGSound do:

* Their frozen encoder is in training mode while a probe is fitted, so that its dropout of 0.1 gives a clip other codes
  in every epoch; they test without. Here a clip has its codes without dropout throughout.
* They halve the learning rate after 10, 20 and 30 epochs; here it is constant.
* They count epochs on from the checkpoint's own, so that a later checkpoint has a shorter fit (29 - e epochs of 30
  after epoch e, counted from 0); here every probe has all of them.
* They fit one probe, with one seed, in float64; here there are several seeds, in the precision of the tokens.
* They know no padding; here a step that does not exist is neither fitted nor tested.

On two checkpoints of the digit clips the scripts' loop for AVE, dropout and schedule included, read 92.9 / 90.7 and
94.1 / 90.1 (mean of three seeds, ± 0.5 / 1.0) where paper reads 93.9 / 91.1 and 94.1 / 90.6.
"""

import sys

import torch

from cmg.downstream.adapt import Adapted, require_fitted
from cmg.downstream.clip_scores import pooled
from cmg.downstream.probe import (
    ClipProbes,
    ProbeData,
    Probes,
    SegmentProbes,
    constant_accuracy,
    data_of_present,
    fit,
    fit_selected,
)
from cmg.downstream.results import mean, result, rounded
from cmg.downstream.splits import Splits
from cmg.downstream.task import CLIP_NORM, STRICT, Settings
from cmg.downstream.toc import Cut, subsets
from cmg.downstream.tokens import Encoded, codebook_sharing
from cmg.errors import UserError
from cmg.figures.names import TASKS, arrow
from cmg.figures.style import save
from cmg.modalities import modality


class ProbeTask:
    """A benchmark on given features: which clips, which directions, which protocol.

    A subclass sets `name` (the task's in results.json) and `title` (in print), fills `self.splits` for the modalities
    and calls `settle`. What it may override: the kinds of probes, how their answers are measured and what more a row
    says.

    Parameters
    ----------
    classes : the K classes
    pairs : list of (source, target)
    settings : how probes are trained
    pretrain_ids : ids of the clips that the checkpoint was pretrained on; strict leaves them out of "test"

    Attributes
    ----------
    modalities : those of the pairs
    splits : (role, modality) -> Split
    kept : (source, target) -> what `tested` keeps
    clips : (source, target, metric) -> (names, scores [N]) of the test clips, see `clip_scores`; in strict
    """

    name: str
    title: str
    kinds: tuple[type[Probes], ...] = (ClipProbes,)

    def __init__(self, classes, pairs, settings: Settings = STRICT, pretrain_ids=(), device="cpu"):
        self.classes, self.pairs, self.settings, self.device = list(classes), list(pairs), settings, device
        self.modalities = list(dict.fromkeys(m for pair in self.pairs for m in pair))
        self.strict = settings.protocol == "strict"
        self.splits, self.kept, self.clips = Splits(pretrain_ids if self.strict else None), {}, {}
        self.told = set()

    @property
    def sources(self):
        return list(dict.fromkeys(source for source, _ in self.pairs))

    def settle(self):
        """To be called when all splits are there: what cannot be tested is left out, and told. Where there is none to
        test on, paper reports on "fit"."""
        if self.settings.adapt:
            require_fitted(self.splits)
        for m in self.modalities if not self.strict else ():
            self.splits.setdefault(("test", m), self.splits["fit", m])
        self.pairs = self.splits.testable(self.pairs)

    def targets(self, source: str, kind: type[Probes] = ClipProbes) -> list[str]:
        """Modalities that this source's probe is tested on; only what has seconds has labels for each of them."""
        own = [target for s, target in self.pairs if s == source]
        if issubclass(kind, SegmentProbes):
            own = [m for m in own if modality(source).timed and modality(m).timed]
        return own

    def outputs(self, kind: type[Probes]) -> int:
        return len(self.classes) + kind.background

    def data(self, encoded: Encoded, role: str, modality: str, kind: type[Probes]) -> ProbeData | None:
        """What probes see of a split, None of an empty one; clips without a step of the modality are left out."""
        split = self.splits[role, modality]
        return data_of_present(encoded.tokens(role, modality), split.labels[kind]) if len(split) else None

    def names(self, encoded: Encoded, role: str, modality: str) -> list[str]:
        """The clips of `data`."""
        there = encoded.tokens(role, modality).valid.any(1).tolist()
        return [name for name, present in zip(self.splits[role, modality].names, there) if present]

    def measure(self, probes: Probes, data: ProbeData) -> dict[str, torch.Tensor]:
        """Figures of P probes, dict metric -> Tensor[P]; the paper protocol takes its epoch by the first."""
        return {probes.metric: probes.score(data).accuracy}

    def clip_scores(self, probes: Probes, data: ProbeData) -> dict[str, torch.Tensor]:
        """What each clip adds to the figures that get rows, dict metric -> Tensor[P, N] of which `measure` has the
        mean."""
        right, counts = probes.logits(data).argmax(-1) == data.labels, torch.ones_like(data.labels)
        if right.ndim == 3:  # (P, N, T)
            right, counts = (right & data.valid).sum(-1), data.valid.sum(-1)
        return {probes.metric: pooled(right, counts)}

    def chance(self, kind: type[Probes], train: ProbeData, test: ProbeData) -> dict[str, float]:
        """The same figures of an answer that knows `train`'s labels alone."""
        return {kind.metric: constant_accuracy(train, test)}

    def run(self, model) -> list[dict]:
        """Fit and test all probes on one frozen model -> rows of `results.json` less checkpoint and commit."""
        return self.report(Probings(self, model))

    def report(self, probings: "Probings") -> list[dict]:
        """Test all probes: a row for every direction and metric, of whole tokens and, where it is asked for, of TOC's.
        """
        ways = [probings]
        ways += [TocProbings(probings)] if self.settings.toc else []
        ways += [AdaptedProbings(probings)] if self.settings.adapt else []
        return [found for one in ways for source in self.sources for kind in self.kinds if self.targets(source, kind)
                for found in self.rows(one, kind, source)]

    def rows(self, probings: "Probings", kind: type[Probes], source: str) -> list[dict]:
        """A row for every target and metric of one source's probe."""
        probing, found = probings[kind, source], []
        own = probing.figures(source)
        for target in probing.targets:
            bound = probings[kind, target].figures(target)
            test, figures = probing.data("test", target), probing.figures(target)
            chance = self.chance(kind, probing.train, test)
            sharing = self.sharing(probing.encoded, source, target)
            unlearnt = self.tell_unfair(kind, source, target, probing.train, test)
            for metric in self.reported(figures):
                found.append(result(
                    self.name, source, target, self.settings, probings.prefix + metric, figures[metric],
                    own and own[metric], bound[metric], chance[metric], len(probing.train.labels), len(test.labels),
                    **self.about(kind, target), **self.extra(probing, target, metric, figures),
                    **probings.readout(probing), **sharing,
                    **({"unlearnt": unlearnt} if unlearnt else {})))
            if self.strict:
                names = self.names(probing.encoded, "test", target)
                self.clips |= {(probing.source, target, probings.prefix + metric): (names, scores.mean(0))
                               for metric, scores in self.clip_scores(probing.probes, test).items()}
            if not probings.prefix:
                self.tested(probing, target)
        return found

    def tell_unfair(self, kind, source: str, target: str, train: ProbeData, test: ProbeData) -> list[str]:
        """Tell on stderr, once, of a test that says nothing of a direction -> the classes of `test` that `train` never
        has, of which a probe can know nothing."""
        learnt, asked = (held_classes(data.labels) for data in (train, test))
        unlearnt = [self.classes[k] for k in sorted(asked - learnt - {len(self.classes)})]
        where, n = f"{source} → {target}", len(test.labels)
        lines = []
        if unlearnt:
            one = len(unlearnt) == 1
            lines.append(f"{len(unlearnt)} class{'' if one else 'es'} of the test {'is' if one else 'are'} in no clip "
                         f"that is learnt from and can be right by luck alone: {', '.join(unlearnt)}")
        if n == 1:
            lines.append("one clip is tested; its figures say nothing of others")
        elif len(asked) == 1:
            lines.append(f"all {n} test clips are {self.called(asked)}; an answer that never changes can read 100")
        for line in lines:
            if (where, line) not in self.told:
                print(f"warning: {where}: {line}", file=sys.stderr)
                self.told.add((where, line))
        return unlearnt

    def called(self, held: set[int]) -> str:
        """The name of the one class that is held."""
        return repr([*self.classes, "background"][min(held)])

    def fitted(self, probing: "Probing"):
        """Called in strict when probes are chosen, before any test."""

    def reported(self, figures) -> list[str]:
        """Which metrics get rows; the others are there for `extra`."""
        return list(figures)

    def about(self, kind: type[Probes], target: str) -> dict:
        """What a row says of the benchmark."""
        test = self.splits["test", target]
        return {"chance_uniform": round(100 / self.outputs(kind), 4), "n_excluded": test.n_excluded,
                "n_in_train": test.n_in_train, "n_missing": len(self.splits.missing),
                "n_ambiguous": len(self.splits.ambiguous), "probe_seeds": self.settings.probe_seeds}

    def extra(self, probing: "Probing", target: str, metric: str, figures) -> dict:
        """What a row says of the probes."""
        return probing.chosen

    def sharing(self, encoded: Encoded, source: str, target: str) -> dict:
        """What a row says of the codes, where the same clips are tested in both modalities."""
        if self.splits["test", source].names != self.splits["test", target].names:
            return {}
        return rounded(codebook_sharing(encoded.tokens("test", source), encoded.tokens("test", target)))

    def tested(self, probing: "Probing", target: str):
        """Called when a direction has its rows: to put into `kept` what is drawn of it, by a method of the task,
        `picture(kept, title)`, which gives the figures."""

    def draw(self, rows: list[dict], folder) -> list:
        """Draw the results into a folder, by default a picture for every direction of `kept` -> paths."""
        protocol = self.settings.protocol
        return [save(self.picture(kept, f"{TASKS.get(self.name, self.title)}, {arrow(source, target)}, {protocol}"),
                     folder / f"{self.name}_{protocol}_{source}_{target}.png")
                for (source, target), kept in self.kept.items()]


class Probing:
    """Probes of one kind that learn from one modality of a task, under its protocol.

    Attributes
    ----------
    probes : as they were chosen (strict) or after the last epoch (paper)
    chosen : what rows say of the choice; empty in paper
    """

    def __init__(self, task: ProbeTask, kind: type[Probes], source: str, encoded: Encoded):
        self.task, self.kind, self.source, self.encoded = task, kind, source, encoded
        self.targets, self.chosen, self._data = task.targets(source, kind), {}, {}
        self.train = self.data("fit", source)
        held = held_classes(self.train.labels)
        if len(held) == 1:
            raise UserError(f"{task.title}: all clips with {source} that are learnt from are {task.called(held)}, "
                            f"{len(self.train.labels)} in number; expected clips of two classes or more")
        outputs, arguments = task.outputs(kind), task.settings.fit_arguments()
        if task.strict:
            selected = fit_selected(kind, self.train, self.data("val", source), outputs, **arguments)
            self.probes = selected.probes
            self.chosen = {"probe_lr": selected.lr, "probe_epoch": selected.epochs,
                           "source_val": mean(selected.val.accuracy)}
            task.fitted(self)
            return
        judged = {m: self.data("test", m) for m in (source, *self.targets)}
        self.curves = {m: {} for m in judged}
        for _, probes in fit(kind, self.train, outputs, clip_norm=CLIP_NORM, **arguments):
            for m, data in judged.items():
                for metric, value in task.measure(probes, data).items():
                    self.curves[m].setdefault(metric, []).append(value)
        self.probes = probes

    def data(self, role: str, modality: str) -> ProbeData | None:
        if (role, modality) not in self._data:
            self._data[role, modality] = self.task.data(self.encoded, role, modality, self.kind)
        return self._data[role, modality]

    def figures(self, modality: str, role="test") -> dict[str, torch.Tensor] | None:
        """Figures by probe seed, dict metric -> Tensor[S]; None of an empty split. The paper protocol has only
        "test"."""
        if not self.task.strict:
            return best_epochs(self.curves[modality], self.task.settings.probe_seeds)
        data = self.data(role, modality)
        return None if data is None else self.task.measure(self.probes, data)


class Probings(dict):
    """(kind, modality) -> Probing of one model, each fitted when it is first asked for.

    Attributes
    ----------
    prefix : what the names of its figures begin with in results.json
    """

    prefix = ""

    def __init__(self, task: ProbeTask, model):
        super().__init__()
        self.task, self.encoded = task, Encoded(model, task.splits, task.device)

    def __missing__(self, key):
        self[key] = Probing(self.task, *key, self.encoded)
        return self[key]

    def readout(self, probing: Probing) -> dict:
        """What a row says of how tokens were read."""
        return {}


class TocProbings(Probings):
    """The same on TOC's dimensions of the tokens; where several numbers of them are given, strict takes for each probe
    the one that does best on val of the probe's own modality, the smaller of equals."""

    prefix = "toc_"

    def __init__(self, whole: Probings):
        super().__init__(whole.task, whole.encoded.model)
        self.encoded, self.subsets = whole.encoded, subsets(whole.encoded.model, self.task.settings.toc)

    def __missing__(self, key):
        tried = [Probing(self.task, *key, Cut(self.encoded, dims)) for _, dims in sorted(self.subsets.items())]
        self[key] = max(tried, key=lambda probing: probing.chosen.get("source_val", 0))
        return self[key]

    def readout(self, probing):
        score, (best, worst) = self.task.settings.toc[1:]
        return {"toc_dims": len(probing.encoded.dims), "toc_score": score, "toc_mix": f"{best}:{worst}"}


class AdaptedProbings(Probings):
    """The same on features that are moved to where those of pretraining lie."""

    prefix = "adapted_"

    def __init__(self, plain: Probings):
        super().__init__(plain.task, plain.encoded.model)
        self.encoded = Adapted(plain.encoded.model, self.task.splits, self.task.device)


def held_classes(labels: torch.Tensor) -> set[int]:
    """The classes that labels hold, by number, background among them: whole numbers [N, …], or bool [N, …, K]."""
    if labels.dtype == torch.bool:
        return {*labels.flatten(0, -2).any(0).nonzero()[:, 0].tolist()}
    return {*labels.unique().tolist()}


def best_epochs(curves: dict[str, list], seeds: int, by=None) -> dict[str, torch.Tensor]:
    """All figures of each seed at the epoch and learning rate at which one of them, by default the first, is best.

    curves : dict metric -> list over epochs of Tensor[P], P = learning rates × seeds -> dict metric -> Tensor[S]
    """
    runs = {metric: torch.stack(curve).view(-1, seeds) for metric, curve in curves.items()}  # (E·learning rates, S)
    best = runs[by or next(iter(runs))].argmax(0, keepdim=True)
    return {metric: x.gather(0, best)[0] for metric, x in runs.items()}
