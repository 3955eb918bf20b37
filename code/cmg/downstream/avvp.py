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
    gradient norm 0.5. Precision alone rewards predicting little: a warning says where this happened, and recall and F1
    stand beside it. `cmg.downstream.probing` says where the fit is not the script's: no dropout in the frozen encoder,
    a constant rate, no fewer epochs for a later checkpoint.

Other modalities than audio and video have no annotations. `source_value` is the same probe tested on its own modality,
`target_value` a probe trained and tested on the target, the upper bound of the transfer; `chance` the answer that
always gives the most frequent class. A picture of the first test clips is drawn for every direction
(`avvp_strict_video_audio.png` and `.pdf`).
"""

from cmg.cli import Parser, command
from cmg.data.avvp import AvvpAnnotations, event_labels, read_avvp
from cmg.data.features import FeatureSet
from cmg.downstream.events import EventTask, annotated_directions, print_account
from cmg.downstream.probe import EventProbes
from cmg.downstream.splits import require_seconds
from cmg.downstream.task import STRICT, add_probe_flags, open_run, task_parser
from cmg.errors import UserError

FIFTH = 5  # every fifth of the videos to fit on is kept for choosing


class AvvpTask(EventTask):
    """The benchmark on given features. See `ProbeTask` for the other parameters.

    Raises
    ------
    UserError : steps that are no seconds, splits that are missing, or a split without a single clip.
    """

    name, title = "avvp", "AVVP"

    def __init__(self, features: FeatureSet, annotations: AvvpAnnotations, pairs, settings=STRICT, pretrain_ids=(),
                 device="cpu"):
        super().__init__(annotations.classes, pairs, settings, pretrain_ids, device)
        require_seconds(features, "events are")
        self.n_dropped = len(annotations.skipped)
        for split in ("val", "test") if self.strict else ():
            if not annotations.splits.get(split):
                raise UserError(f"--annotations: AVVP_{split}_pd.csv names no videos; strict needs val and test")
        for m in self.modalities:
            def labels(names, seconds, events=annotations.events[m]):
                return {EventProbes: event_labels(names, events, self.classes, seconds)}

            for role, names in self.roles(annotations, m).items():
                self.splits.add(role, m, features, names, labels)
        self.settle()

    def roles(self, annotations: AvvpAnnotations, modality: str) -> dict[str, list[str]]:
        """The videos of every role."""
        if not self.strict:
            return {"fit": list(annotations.events[modality])}
        known = annotations.splits["val"]
        return {"fit": [name for n, name in enumerate(known, 1) if n % FIFTH], "val": known[FIFTH - 1::FIFTH],
                "test": annotations.splits["test"]}

    def about(self, kind, target):
        return super().about(kind, target) | {"n_dropped_rows": self.n_dropped}


def parser() -> Parser:
    p = task_parser("avvp")
    p.add_argument("--data", nargs="+", required=True, help="feature files of the annotated clips")
    p.add_argument("--annotations", required=True, help="folder of AVVP_eval_audio.csv and the others")
    return add_probe_flags(p, epochs=50)


@command
def main(argv=None):
    run = open_run(parser().parse_args(argv))
    annotations = read_avvp(run.args.annotations)
    print_account(annotations)
    pairs = annotated_directions(run, run.args.data, annotations)
    return run.finish(AvvpTask(run.features(run.args.data, pairs), annotations, pairs, **run.how))


if __name__ == "__main__":
    main()
