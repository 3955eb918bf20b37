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
paper : what the public script measures. Fit on all clips of the source, report on all of the target, all classes that
    are listed, at the epoch at which accuracy on the target is best; learning rate 4e-4, batch 80, gradient norm 0.5.

`source_value` is the same probe on its own data set and modality, `chance` the most frequent class of the source's
training clips. A picture of the confusions is drawn for every direction (`ucf_vggsound_strict_video_audio.png` and
`.pdf`).
"""

import argparse
import sys

import torch
from sklearn.metrics import confusion_matrix

from cmg.cli import Parser, command
from cmg.data.ave import video_ids
from cmg.data.features import FeatureFile, FeatureSet
from cmg.data.ucf_vggsound import SPLITS, PairLists, locate, read_pair_lists
from cmg.downstream.probe import (
    ClipProbes,
    ProbeData,
    best_of_epochs,
    constant_accuracy,
    data_of_present,
    fit,
    fit_selected,
)
from cmg.downstream.task import (
    CLIP_NORM,
    Settings,
    add_probe_flags,
    mean,
    open_run,
    output_folder,
    std,
    tell_missing,
    tell_pretrained,
    write_task,
)
from cmg.downstream.tokens import codebook_sharing, directions, encode_set
from cmg.errors import UserError
from cmg.figures import confusion
from cmg.figures.names import TASKS, arrow
from cmg.figures.style import save

DATA_SET = {"video": "UCF101", "audio": "VGGSound"}


class PairTask:
    """The two sets on given features.

    Parameters
    ----------
    features : dict modality -> FeatureSet; the video of one set, the audio of the other
    lists : PairLists, all of them; strict keeps the overlapping classes
    pairs : list of (source, target)

    Attributes
    ----------
    parts : dict (split, modality) -> (rows, labels); the split is "all" in the paper protocol
    n_excluded : dict modality -> test clips that the checkpoint was pretrained on
    confusions : dict (source, target) -> ndarray [K, K] of shares, rows true, after `run`
    """

    def __init__(self, features: dict[str, FeatureSet], lists: PairLists, pairs, settings: Settings, pretrain_ids=(),
                 device="cpu"):
        strict = settings.protocol == "strict"
        self.lists = lists.overlapping() if strict else lists
        self.features, self.settings, self.device = features, settings, device
        self.classes = self.lists.classes["video"]
        self.parts, self.missing, self.n_excluded, self.confusions = {}, [], {}, {}
        self._tokens = {}
        seen = video_ids(pretrain_ids)
        for m, items in self.lists.items.items():
            for split in SPLITS if strict else ("all",):
                rows, found, absent = locate(features[m], [i for i in items if split in ("all", i.split)])
                self.missing += absent
                if not found:
                    raise UserError(f"--{m}-data: no {split} clip of the lists has features; expected ids such as "
                                    f"{absent[0] if absent else items[0].id}")
                if split == "test":
                    fresh = torch.tensor([item.id not in seen for item in found])
                    self.n_excluded[m] = int((~fresh).sum())
                    rows, found = rows[fresh], [item for item in found if item.id not in seen]
                self.parts[split, m] = rows, torch.tensor([item.label for item in found], dtype=torch.int64)
        self.pairs = [pair for pair in pairs if not strict or self._testable(*pair)]
        if not self.pairs:
            raise UserError("--checkpoint: every test clip was pretrained on; nothing to test")

    def _testable(self, source, target) -> bool:
        if len(self.parts["test", target][0]):
            return True
        print(f"warning: {source} → {target}: all {self.n_excluded[target]} test clips of {DATA_SET[target]} were "
              "pretrained on, this direction is left out", file=sys.stderr)
        return False

    def tokens(self, model, split, modality):
        key = split, modality
        if key not in self._tokens:
            self._tokens[key] = encode_set(model, self.features[modality], modality, rows=self.parts[key][0],
                                           device=self.device)
        return self._tokens[key]

    def data(self, model, split, modality) -> ProbeData | None:
        """What a probe sees of a part, None of an empty one; clips without a step of the modality are left out."""
        if not len(self.parts[split, modality][0]):
            return None
        return data_of_present(self.tokens(model, split, modality), self.parts[split, modality][1])

    def run(self, model) -> list[dict]:
        """Rows of `results.json` less checkpoint and commit, one a direction."""
        self._tokens.clear()
        return [self._direction(model, source, target) for source, target in self.pairs]

    def _direction(self, model, source, target):
        strict, arguments, K = self.settings.protocol == "strict", self.settings.fit_arguments(), len(self.classes)
        train = self.data(model, "train" if strict else "all", source)
        split = "test" if strict else "all"
        judged, own = self.data(model, split, target), self.data(model, split, source)
        if strict:
            selected = fit_selected(ClipProbes, train, self.data(model, "val", source), K, **arguments)
            value, probes = selected.probes.score(judged).accuracy, selected.probes
            own_value = None if own is None else probes.score(own).accuracy
            extra = {"probe_lr": selected.lr, "probe_epoch": selected.epochs, "source_val": mean(selected.val.accuracy)}
        else:
            curves = {"value": [], "own": []}
            for _, probes in fit(ClipProbes, train, K, clip_norm=CLIP_NORM, **arguments):
                curves["value"].append(probes.score(judged).accuracy)
                curves["own"].append(probes.score(own).accuracy)
            value, own_value = (best_of_epochs(curve, self.settings.probe_seeds) for curve in curves.values())
            extra = {}
        with torch.no_grad():
            answers = probes.logits(judged)[0].argmax(-1)
        self.confusions[source, target] = confusion_matrix(judged.labels.cpu(), answers.cpu(), labels=range(K),
                                                           normalize="true")
        sharing = codebook_sharing(self.tokens(model, "train" if strict else "all", source),
                                   self.tokens(model, split, target))
        sharing.pop("match_rate")  # the clips are not the same
        return {
            "task": "ucf_vggsound", "source": source, "target": target, "protocol": self.settings.protocol,
            "metric": "accuracy", "value": mean(value), "source_value": None if own_value is None else mean(own_value),
            "chance": constant_accuracy(train, judged), "n_train": len(train.labels), "n_test": len(judged.labels),
            "seed": self.settings.seed, "std": std(value), "source_std": None if own_value is None else std(own_value),
            "chance_uniform": round(100 / K, 4), "n_classes": K, "n_excluded": self.n_excluded.get(target, 0),
            "n_missing": len(self.missing), "probe_seeds": self.settings.probe_seeds, **extra,
            **{name: round(x, 4) for name, x in sharing.items()},
        }


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="cmg.downstream.ucf_vggsound", description=__doc__.split("\n")[0])
    p.add_argument("--checkpoint", required=True, help="a .pt file, or a run folder: its best.pt")
    p.add_argument("--video-data", nargs="+", required=True, help="feature files with the video of UCF101's clips")
    p.add_argument("--audio-data", nargs="+", required=True, help="feature files with the audio of VGGSound's clips")
    p.add_argument("--annotations", required=True, help="folder of ucf2vggsound.csv and the other three lists")
    add_probe_flags(p)
    return p


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args)
    lists = read_pair_lists(args.annotations)
    held = [m for m, paths in (("video", args.video_data), ("audio", args.audio_data))
            if m in FeatureFile(paths[0]).modalities]
    pairs = directions(list(run.content["shapes"]), held, args.source, args.target)
    features = {m: run.features(paths, [m]) for m, paths in (("video", args.video_data), ("audio", args.audio_data))}
    task = PairTask(features, lists, pairs, run.settings, run.content["pretrain_ids"], run.device)
    for line in task.lists.skipped + task.lists.notes:
        print(f"annotations: {line}", file=sys.stderr)
    for m, count in task.n_excluded.items():
        tell_pretrained(count, f"test clips of {DATA_SET[m]}")
    tell_missing(task.missing)
    rows = write_task("UCF101 ↔ VGGSound", args, task.run(run.model()), run)
    for (source, target), matrix in task.confusions.items():
        name = f"ucf_vggsound_{args.protocol}_{source}_{target}.png"
        title = f"{TASKS['ucf_vggsound']}, {arrow(source, target)}, {args.protocol}"
        print(save(confusion.draw(matrix, task.classes, title), output_folder(args, run.path) / name))
    return rows


if __name__ == "__main__":
    main()
