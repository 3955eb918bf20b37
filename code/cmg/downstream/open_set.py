"""Open-set CMG (MICU, ICCV 2025, arXiv 2507.14935): a probe knows the first K classes, in one modality; tested in
another, it is to tell these apart and to say of clips of all other classes that it does not know them.

    python -m cmg.downstream.ave --open-set 14 …
    python -m cmg.downstream.ucf_vggsound --open-set 8 …

Which classes are known, the order of classes decides. Clips of the others take no part in fitting and choosing.
Figures, in % (`cmg.metrics.open_set`): `auroc`, known against unknown clips by confidence; `h_score`, the harmonic mean
of a_in (known clips that are kept and classified right) and a_out (unknown clips that are declared unknown).

strict : as in the closed task, on its test split. The threshold is the 5 % quantile of the confidences on the
    *source's* validation clips of known classes: no unknown clip, no label and no clip of the target takes part. a_in
    is a mean over classes. Ours: the public script has no such threshold, and no AUROC.
paper : what the public script measures. Ten thresholds from the smallest to the largest confidence of the test clips,
    and the best H over thresholds and epochs with its own a_in and a_out, shares of clips. AVE is fitted on train and
    tested on test; of the pair all clips of known classes are fitted on, and all clips are tested, these among them.
    Where H would be 0 / 0 it is 0.
"""

from dataclasses import replace

from cmg.cli import Parser, whole
from cmg.downstream.probe import ClipProbes
from cmg.downstream.probing import ProbeTask
from cmg.downstream.results import mean
from cmg.errors import UserError
from cmg.metrics.open_set import answers, confidence, pair_wins, rates, sweep, weights

QUANTILE = 0.05  # of the known validation clips, which strict declares unknown


class OpenClipProbes(ClipProbes):
    """One of K known classes a clip, or none of them.

    Attributes
    ----------
    threshold : Tensor[P], the confidence below which a clip is declared unknown; in strict, once they are chosen
    """


class OpenSet(ProbeTask):
    """What a task of clips becomes when only its first `known` classes are; before that task among the bases.

    Raises
    ------
    UserError : as many classes as there are, or a split that has no clip of the known or, in test, of unknown ones.
    """

    kinds = (OpenClipProbes,)

    def __init__(self, *args, known: int, **kwargs):
        self.known = known
        super().__init__(*args, **kwargs)

    def settle(self):
        if self.known >= len(self.classes):
            raise UserError(f"--open-set {self.known}: there are {len(self.classes)} classes; expected 2 to "
                            f"{len(self.classes) - 1}")
        for m in self.modalities if not self.strict else ():
            self.splits.setdefault(("test", m), self.splits["fit", m])
        self.splits |= {key: self.opened(split, *key) for key, split in self.splits.items()}
        super().settle()

    def opened(self, split, role, modality):
        """The split with the labels of an open set: in "test" K stands for all unknown classes, from the others these
        are left out."""
        labels = split.labels[ClipProbes].clamp(max=self.known)
        kept = (labels <= self.known - (role != "test")).nonzero()[:, 0]
        sides = (labels < self.known).unique().tolist()
        if len(labels) and (len(sides) < 2 if role == "test" else not any(sides)):
            raise UserError(f"--open-set {self.known}: all {len(labels)} {modality} clips of {role} are of "
                            f"{'known' if any(sides) else 'unknown'} classes; expected both in test, known ones to "
                            "learn from")
        return replace(split, rows=split.rows[kept], names=[split.names[n] for n in kept.tolist()],
                       labels={OpenClipProbes: labels[kept]})

    def outputs(self, kind):
        return self.known

    def fitted(self, probing):
        """strict: the threshold, from known clips of the source alone."""
        sure = confidence(probing.probes.logits(probing.data("val", probing.source)))  # (P, N)
        probing.probes.threshold = sure.quantile(QUANTILE, -1, interpolation="lower")

    def measure(self, probes, data):
        logits, target = probes.logits(data), data.labels  # (P, N, K), (N,)
        if self.strict:
            found = rates(answers(logits, probes.threshold), target, self.known, by_class=True)
            auroc = pair_wins(confidence(logits), target, self.known)[:, target < self.known].mean(-1)
            figures = {"auroc": auroc, "h_score": found.h, "known": found.known, "unknown": found.unknown}
        else:
            _, found = sweep(logits, target)  # (P, thresholds)
            best = found.h.argmax(-1, keepdim=True)
            figures = {"h_score": found.h, "known": found.known, "unknown": found.unknown}
            figures = {name: x.gather(-1, best)[:, 0] for name, x in figures.items()}
        return {name: 100 * x.cpu() for name, x in figures.items()}

    def clip_scores(self, probes, data):
        """Both figures are functions of means over clips; a score is the figure plus what the clip adds to it, to first
        order."""
        logits, target = probes.logits(data), data.labels
        n, known = len(target), target < self.known
        sides = weights(target, self.known), (~known).double() / (~known).sum()  # (N,) each, of sum 1
        wins = pair_wins(confidence(logits), target, self.known)  # (P, N)
        auroc = wins[:, known].mean(-1, keepdim=True)
        auroc = auroc + n * (sides[0] + sides[1]) * (wins - auroc)

        right = (answers(logits, probes.threshold) == target).double()
        of_known = weights(target, self.known, by_class=True)
        a, b = (right @ side for side in (of_known, sides[1]))  # (P,) each
        slope_a, slope_b = (2 * x.square() / (a + b).square().clamp(min=1e-12) for x in (b, a))
        h = rates(answers(logits, probes.threshold), target, self.known, by_class=True).h
        h = h[:, None] + n * (slope_a[:, None] * of_known * (right - a[:, None])
                              + slope_b[:, None] * sides[1] * (right - b[:, None]))
        return {"auroc": 100 * auroc, "h_score": 100 * h}

    def chance(self, kind, train, test):
        """Of one answer for all: no clip is more unknown than another, and either a_in or a_out is 0."""
        return {"auroc": 50.0, "h_score": 0.0}

    def reported(self, figures):
        return ["auroc", "h_score"] if self.strict else ["h_score"]

    def about(self, kind, target):
        about = {name: x for name, x in super().about(kind, target).items() if name != "chance_uniform"}
        return about | {"n_known": self.known}

    def extra(self, probing, target, metric, figures):
        found = dict(probing.chosen)
        if metric == "h_score":
            found |= {"known_accuracy": mean(figures["known"]), "unknown_accuracy": mean(figures["unknown"])}
        return found

    def tell_unfair(self, kind, source, target, train, test):
        """Of the known classes, as ever."""
        known = test.labels < self.known
        return super().tell_unfair(kind, source, target, train, test._replace(labels=test.labels[known]))

    def tested(self, probing, target):
        """No picture."""


def add_flag(p: Parser):
    p.add_argument("--open-set", type=whole(2), metavar="K", help="only the first K classes are known, clips of the "
                   "others are to be told apart from them")
