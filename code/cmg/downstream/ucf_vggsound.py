"""UCF101 (video) ↔ VGGSound (audio): one class, another modality *and* another data set.

    python -m cmg.downstream.ucf_vggsound --checkpoint checkpoint/run --video-data ucf.h5 --audio-data vggsound.h5 \\
        --annotations lists/

Encoder and codebook are frozen. A clip probe learns the classes from the codes of one set's modality, then it is given
the clips of the other set in the other modality. The clips share nothing but their classes.

Protocols
---------
strict : the classes with clips on both sides (14 of the public lists' 16). Fit on the source's train split, learning
    rate and epoch chosen on its val split, test once on the target's test split. Clips that the checkpoint was
    pretrained on are left out of test and counted. The public pretraining sets hold every VGGSound clip of these lists:
    for such a checkpoint a direction whose test is gone is left out, with a warning that says how many clips went.
paper : what the public script measures. Fit on all clips of the source, report on all of the target, all classes
    that are listed, at the epoch at which accuracy on the target is best; learning rate 4e-4, batch 80, gradient norm
    0.5. `cmg.downstream.probing` says where the fit is not the script's: no dropout in the frozen encoder, a constant
    rate, no fewer epochs for a later checkpoint.

`source_value` is the same probe on its own data set and modality, `target_value` a probe trained and tested on the
target's, the upper bound of the transfer; `chance` the most frequent class of the source's training clips. A picture of
the confusions is drawn for every direction (`ucf_vggsound_strict_video_audio.png` and `.pdf`).
"""

import sys

import torch
from sklearn.metrics import confusion_matrix

from cmg.cli import Parser, command
from cmg.data.features import FeatureSet
from cmg.data.joining import held
from cmg.data.ucf_vggsound import SPLITS, PairLists, read_pair_lists
from cmg.downstream.open_set import OpenSet, add_flag
from cmg.downstream.probe import ClipProbes
from cmg.downstream.probing import ProbeTask
from cmg.downstream.results import rounded
from cmg.downstream.task import STRICT, add_probe_flags, open_run, task_parser
from cmg.downstream.tokens import codebook_sharing
from cmg.figures import confusion

DATA_SET = {"video": "UCF101", "audio": "VGGSound"}


class PairTask(ProbeTask):
    """The two sets on given features. See `ProbeTask` for the other parameters.

    Parameters
    ----------
    features : dict modality -> FeatureSet; the video of one set, the audio of the other
    lists : PairLists, all of them; strict keeps the overlapping classes

    Attributes
    ----------
    kept : dict (source, target) -> ndarray [K, K] of shares, rows true, after `run`
    """

    name, title = "ucf_vggsound", "UCF101 ↔ VGGSound"

    def __init__(self, features: dict[str, FeatureSet], lists: PairLists, pairs, settings=STRICT, pretrain_ids=(),
                 device="cpu"):
        self.lists = lists.overlapping() if settings.protocol == "strict" else lists
        super().__init__(self.lists.classes["video"], pairs, settings, pretrain_ids, device)

        def labels(items, seconds):
            return {ClipProbes: torch.tensor([item.label for item in items], dtype=torch.int64)}

        for m, items in self.lists.items.items():
            for role, split in zip(("fit", "val", "test"), SPLITS) if self.strict else [("fit", "all")]:
                self.splits.add(role, m, features[m], [item for item in items if split in ("all", item.split)], labels,
                                called=split, of=DATA_SET[m], flag=f"--{m}-data")
        self.settle()

    def about(self, kind, target):
        about = super().about(kind, target)
        return {"chance_uniform": about.pop("chance_uniform"), "n_classes": len(self.classes), **about}

    def sharing(self, encoded, source, target):
        """Of what was learnt from and what was tested: no clip is in both modalities."""
        found = rounded(codebook_sharing(encoded.tokens("fit", source), encoded.tokens("test", target)))
        return {name: x for name, x in found.items() if not name.startswith("match_")}

    def tested(self, probing, target):
        data = probing.data("test", target)
        self.kept[probing.source, target] = confusion_matrix(
            data.labels.cpu(), probing.probes.logits(data)[0].argmax(-1).cpu(), labels=range(len(self.classes)),
            normalize="true")

    def picture(self, kept, title):
        return confusion.draw(kept, self.classes, title)


class PairOpenSet(OpenSet, PairTask):
    """The same where the first K classes are known."""

    name, title = "ucf_vggsound_open_set", "UCF101 ↔ VGGSound with unknown classes"


def parser() -> Parser:
    p = task_parser("ucf_vggsound")
    p.add_argument("--video-data", nargs="+", required=True, help="feature files with the video of UCF101's clips")
    p.add_argument("--audio-data", nargs="+", required=True, help="feature files with the audio of VGGSound's clips")
    p.add_argument("--annotations", required=True, help="folder of ucf2vggsound.csv and the other three lists")
    add_flag(p)
    return add_probe_flags(p)


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args)
    lists = read_pair_lists(args.annotations)
    paths = {"video": args.video_data, "audio": args.audio_data}
    pairs = run.directions([m for m, own in paths.items() if m in held(own)])
    features = {m: run.features(own, [(m,)], f"--{m}-data") for m, own in paths.items()}
    known = args.open_set
    task = (PairOpenSet(features, lists, pairs, known=known, **run.how) if known else
            PairTask(features, lists, pairs, **run.how))
    for line in task.lists.skipped + task.lists.notes:
        print(f"annotations: {line}", file=sys.stderr)
    return run.finish(task)


if __name__ == "__main__":
    main()
