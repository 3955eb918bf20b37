"""A task of one's own: is the event of a clip early or late?

    python examples/own_task.py --checkpoint RUN --data ave.h5 --annotations AVE/

It has the flags, protocols and results of all tasks, and a table file names it by its path (`task = "own_task.py"`).
"""

import torch

from cmg.cli import command
from cmg.data.ave import SPLITS, read_ave
from cmg.data.features import FeatureFile
from cmg.downstream.probe import ClipProbes
from cmg.downstream.probing import ProbeTask
from cmg.downstream.task import add_probe_flags, open_run, task_parser


class Lateness(ProbeTask):
    name, title = "lateness", "Lateness"

    def __init__(self, features, annotations, pairs, **how):
        super().__init__(["early", "late"], pairs, **how)
        for m in self.modalities:
            for role, split in zip(("fit", "val", "test"), SPLITS):
                self.splits.add(role, m, features, annotations.splits[split], self.labels)
        self.settle()

    def labels(self, clips, seconds):
        return {ClipProbes: torch.tensor([int(clip.onset + clip.offset >= seconds) for clip in clips])}


def parser():
    p = task_parser("lateness", "early or late?")
    p.add_argument("--data", nargs="+", required=True, help="feature files of AVE's clips")
    p.add_argument("--annotations", required=True, help="folder of AVE's Annotations.txt and splits")
    return add_probe_flags(p)


@command
def main(argv=None):
    run = open_run(parser().parse_args(argv))
    pairs = run.directions(FeatureFile(run.args.data[0]).modalities)
    features = run.features(run.args.data, pairs)
    return run.finish(Lateness(features, read_ave(run.args.annotations), pairs, **run.how))


if __name__ == "__main__":
    main()
