"""AVS-S4: a network trained to segment by one modality's codes, asked with another's.  `python -m cmg.downstream.avs`

    python -m cmg.downstream.avs --annotations Single-source/ --checkpoint checkpoint/run --out checkpoint/avs_a2t
    python -m cmg.downstream.avs --stage test --out checkpoint/avs_a2t --protocol paper
    python -m cmg.downstream.avs --annotations Single-source/ --query raw --out checkpoint/avs_a2a     # the reference

Encoder and codebook are frozen; a second's code vector is the query of its frame (`downstream/avs_queries.py` says
how five seconds and words become queries). The network (`models/segmentation.py`) is trained with the source
modality's queries and the first frame's mask of each clip, then tested with the target's: A2T and T2A.

Protocols
---------
strict : the epoch is chosen by mean IoU on val *with the source's queries*; metrics are over all frames of the test
    split at once; test clips whose video the checkpoint was pretrained on are left out and counted.
paper : what the public scripts measure: the epoch chosen on val with the *target's* queries, metrics averaged over
    batches, so that F depends on the batch size.

One training run keeps both epochs (`best.pt`, `best_paper.pt`). In results.json `value` is with the target's queries,
`source_value` with the source's, `chance` with the target's query of a clip of another class: a network that ignores
its query loses nothing by that. `--query raw` is the benchmark's own audio-to-audio setting
without codes, `--query none` a network that is never told what to segment.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from cmg.cli import Parser, command, git_commit, number, require_folder, versions, whole
from cmg.data.avs import SECONDS, SPLITS, S4Set, read_s4, video_of
from cmg.data.features import FeatureSet
from cmg.distributed import choose_device
from cmg.downstream.avs_picture import COLOURS, draw, overlay
from cmg.downstream.avs_queries import QueryReader, mismatched
from cmg.downstream.avs_run import BEST, Training, batches, build, evaluate, read, to_frames
from cmg.downstream.results import markdown_table, write_results
from cmg.downstream.task import tell_pretrained
from cmg.errors import UserError
from cmg.extract.backbones import BACKBONES as FEATURES
from cmg.extract.backbones import Choice
from cmg.files import held, write_atomically
from cmg.metrics.segmentation import frame_iou
from cmg.models.visual import BACKBONES
from cmg.training import checkpoint

PRESETS = {
    # The benchmark's; the authors of Uni-Code train a single epoch by default.
    "paper": {"backbone": "pvt_v2_b5", "backbone_weights": "imagenet", "size": 224, "channels": 256,
              "dilations": [3, 6, 12, 18], "fusion": [0, 1, 2, 3], "epochs": 15, "batch_size": 4, "lr": 1e-4,
              "schedule": "constant", "train_frames": 5, "distort": 0.0, "w_matching": 0.0, "w_contrast": 0.0,
              "cache": "disk"},
    # For a few hundred clips and a CPU. Nothing here has seen a picture before, and the masks alone teach it to find
    # what is bright but not to tell classes apart; the contrast does.
    "small": {"backbone": "tiny", "backbone_weights": "none", "size": 56, "channels": 24,
              "dilations": [1], "fusion": [2, 3], "epochs": 36, "batch_size": 8, "lr": 3e-3, "warmup_steps": 20,
              "schedule": "cosine", "train_frames": 1, "distort": 0.25, "w_matching": 0.0, "w_contrast": 0.1,
              "cache": "host"},
}
# Flags that do not belong to what was trained; all others must be as they were.
FREE = {"stage", "annotations", "data", "checkpoint", "out", "resume", "protocol", "device", "precision", "workers",
        "cache", "backbone_weights", "audio_weights", "text_weights"}
PICTURED = 8  # test clips in the picture


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="cmg.downstream.avs", description=__doc__.split("\n")[0])
    p.add_argument("--stage", choices=("train", "test", "both"), default="both", help="what to do; test takes the "
                   "flags that the network in --out was trained with")
    p.add_argument("--annotations", help="folder of AVSBench S4: s4_meta_data.csv and s4_data/")
    p.add_argument("--checkpoint", help="pretrained .pt file or run folder; not needed with --query raw or none")
    p.add_argument("--data", nargs="+", help="feature files with every clip's audio; default: made from audio_wav")
    p.add_argument("--out", required=True, help="run folder of the segmentation network")
    p.add_argument("--resume", choices=("auto",), help="continue --out if it holds latest.pt")
    p.add_argument("--source", choices=("audio", "text"), help="modality of the training queries; default: audio")
    p.add_argument("--target", choices=("audio", "text"), help="of the test queries; default: the other one")
    p.add_argument("--query", choices=("codes", "raw", "none"), help="what the network is asked by: codes, raw "
                   "features of the sound, or nothing; default: codes")
    p.add_argument("--prompt", help="sentence around the class's name, with {} for it; default: {}")
    p.add_argument("--protocol", choices=tuple(BEST), default="strict",
                   help="strict: choose by the source's queries on val; paper: as the public scripts do")
    for m in ("audio", "text"):
        p.add_argument(f"--{m}-backbone", choices=sorted(FEATURES[m]), help="extraction backbone that the checkpoint "
                       f"was pretrained on; default: {next(iter(FEATURES[m]))}")
        p.add_argument(f"--{m}-weights", nargs="+", help="of that backbone, as cmg.extract takes them")
    p.add_argument("--preset", choices=tuple(PRESETS), default="paper", help="sets the defaults of what follows")

    def tuned(flag, help, **kwargs):
        values = {name: preset[flag[2:].replace("-", "_")] for name, preset in PRESETS.items()}
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        p.add_argument(flag, help=f"{help}; default: {shown}", **kwargs)

    tuned("--backbone", choices=tuple(BACKBONES), help="network that sees the frames")
    tuned("--backbone-weights", help="none, imagenet (downloaded once) or a file")
    tuned("--size", type=whole(32), help="side of the frames in pixels")
    tuned("--channels", type=whole(8), help="width of fusion and decoder")
    tuned("--dilations", type=whole(1), nargs="+", help="of the convolutions before fusion, summed")
    tuned("--fusion", type=int, nargs="+", choices=range(4), help="stages with a TPAVI block, 0 is the finest")
    tuned("--epochs", type=whole(1), help="passes over the training clips")
    tuned("--batch-size", type=whole(1), help="clips a step")
    tuned("--lr", type=number(above=0), help="learning rate, at its highest")
    tuned("--schedule", choices=("constant", "cosine"), help="of the learning rate")
    tuned("--train-frames", type=int, choices=range(1, SECONDS + 1), help="of a training clip; the first has "
                   "the mask, the others take part through TPAVI alone")
    tuned("--distort", type=number(least=0), help="move, scale and turn training clips by up to this share")
    tuned("--w-matching", type=number(least=0), help="weight of the matching regulariser")
    tuned("--w-contrast", type=number(least=0), help="weight of the contrast between what is masked and the queries "
                   "of clips of other classes")
    tuned("--cache", choices=("host", "disk"), help="frames in memory, or read for every batch")
    p.add_argument("--workers", type=whole(), default=0, help="loader processes; with --cache disk about the cores")
    p.add_argument("--precision", choices=("fp32", "tf32", "bf16"), help="default: bf16 on a GPU, else fp32")
    p.add_argument("--seed", type=whole(), help="of weights, order and distortions; default: 0")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    return p


def settle(args) -> dict:
    """All options: what is given, then what the run was trained with (--stage test), then the preset's."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    defaults = {"source": "audio", "query": "codes", "prompt": "{}", "seed": 0, "checkpoint": None, "data": None,
                "annotations": None, "resume": None, "warmup_steps": 0, "target": None, "precision": None,
                **{f"{m}_backbone": next(iter(FEATURES[m])) for m in ("audio", "text")},
                "audio_weights": [], "text_weights": [], **PRESETS[args.preset]}
    if args.stage == "test":
        trained = read(Path(args.out) / BEST[args.protocol])["args"]
        defaults = {"w_contrast": 0.0, **trained, "resume": None}  # a network of before this flag had none
        given.pop("preset")
        _unchanged(given, trained, "the network in --out was trained with")
    options = {**defaults, **given}
    other = {"audio": "text", "text": "audio"}[options["source"]]
    options["target"] = options["target"] or (other if options["query"] == "codes" else options["source"])
    _check(options)
    require_folder(options["out"])
    for name in ("annotations", "checkpoint"):  # a test may be started from another folder
        options[name] = options[name] and str(Path(options[name]).resolve())
    options["data"] = options["data"] and [str(Path(path).resolve()) for path in options["data"]]
    return options


def _check(o):
    if o["annotations"] is None:
        raise UserError("--annotations: missing; expected the folder of AVSBench S4")
    if o["query"] == "codes" and o["checkpoint"] is None:
        raise UserError("--checkpoint: missing; expected a pretrained .pt file or run folder (or --query raw)")
    if o["query"] == "codes" and o["source"] == o["target"]:
        raise UserError(f"--target {o['target']}: the same as --source, which source_value reports; expected another")
    if o["query"] != "codes" and (o["source"], o["target"]) != ("audio", "audio"):
        raise UserError(f"--query {o['query']}: is from audio to audio only; leave --source and --target out")
    if o["prompt"].replace("{}", "", 1).count("{") or o["prompt"].count("{}") != 1:
        raise UserError(f"--prompt {o['prompt']!r}: expected a text with one {{}} for the class's name")
    if o["distort"] > 0.5:
        raise UserError(f"--distort {o['distort']}: expected 0 to 0.5")


def _unchanged(new, old, what):
    for name in set(new) & set(old) - FREE:
        if new[name] != old[name]:
            raise UserError(f"--{name.replace('_', '-')} {new[name]}: {what} {old[name]}")


class Task:
    """What training and test share: the benchmark on disk, the queries, the device."""

    def __init__(self, options):
        self.options, self.out = options, Path(options["out"])
        self.device = choose_device(options["device"])
        options["precision"] = options["precision"] or ("bf16" if self.device.type == "cuda" else "fp32")
        if options["precision"] == "tf32":
            torch.set_float32_matmul_precision("high")
        self.folder = read_s4(options["annotations"])
        self.clips, self.n_excluded = dict(self.folder.splits), 0
        self.modalities = list(dict.fromkeys((options["source"], options["target"])))
        self.content = model = None
        if options["query"] == "codes":
            self.path = checkpoint.file_of(options["checkpoint"])
            self.content = checkpoint.read(self.path)
            model = checkpoint.build_model(self.content, self.device)
            for flag in ("source", "target"):
                if options[flag] not in model.modalities:
                    raise UserError(f"--{flag} {options[flag]}: --checkpoint has only {', '.join(model.modalities)}")
            self._exclude()
        features = FeatureSet(options["data"], ["audio"]) if options["data"] else None
        backbones = {m: Choice(m, options[f"{m}_backbone"], tuple(options[f"{m}_weights"])) for m in ("audio", "text")}
        self.reader = QueryReader(self.folder, options["query"], model, features, backbones, options["prompt"],
                                  self.device)

    def _exclude(self):
        """Strict: leave out test clips from videos that the checkpoint has seen."""
        if self.options["protocol"] != "strict":
            return
        seen = {video_of(name) for name in self.content["pretrain_ids"]}
        kept = [clip for clip in self.clips["test"] if video_of(clip.name) not in seen]
        self.n_excluded = len(self.clips["test"]) - len(kept)
        if not kept:
            raise UserError(f"--checkpoint: all {self.n_excluded} test clips were pretrained on; nothing to test")
        tell_pretrained(self.n_excluded)
        self.clips["test"] = kept

    def set(self, split):
        return S4Set(self.folder, self.clips[split], self.options["size"], self.options["cache"] == "host")

    def queries(self, split, modalities):
        return {m: self.reader(m, self.clips[split]) for m in modalities}

    def train(self):
        options, latest = self.options, self.out / "latest.pt"
        if self.out.is_dir() and any(self.out.iterdir()) and options["resume"] != "auto":
            raise UserError(f"--out {self.out}: is not empty; continue with --resume auto, test with --stage test, or "
                            "choose another")
        queries = {"train": self.queries("train", [options["source"]]), "val": self.queries("val", self.modalities)}
        run = Training(options, self.out, self.set("train"), self.set("val"), queries, self.reader.digest(),
                       self.device)
        if latest.exists():
            content = read(latest)
            _unchanged(options, content["args"], "the run in --out has")
            self.same_codes(content)
            run.restore(content)
        print(", ".join(f"{split}: {len(self.clips[split])} clips" for split in SPLITS), file=sys.stderr)
        record = {"task": "avs", **options, "versions": versions(), "commit": git_commit()}
        write_atomically(self.out / "args.json", json.dumps(record, indent=2) + "\n")
        run.run()

    def same_codes(self, content):
        if content["digest"] != self.reader.digest():
            raise UserError(f"--checkpoint {self.options['checkpoint']}: its codebook is not the one that the network "
                            f"in {self.out} was trained with")

    def test(self) -> list[dict]:
        options, protocol = self.options, self.options["protocol"]
        source, target = options["source"], options["target"]
        content = read(self.out / BEST[protocol])
        self.same_codes(content)
        dataset, own = self.set("test"), self.queries("test", self.modalities)
        if own[source].shape[-1] != content["query_width"]:
            raise UserError(f"queries of {own[source].shape[-1]} values; the network in {self.out} was trained with "
                            f"{content['query_width']}")
        net = build(content["args"], content["query_width"]).to(self.device)
        net.load_state_dict(content["net"])
        asked = {**own, "other": mismatched(self.clips["test"], own[target])}
        scores = evaluate(net, dataset, asked, options, self.device)
        figures = {name: getattr(score, protocol)() for name, score in scores.items()}
        names = ("none", "none") if options["query"] == "none" else (source, target)
        rows = []
        for metric in ("miou", "f_measure"):
            rows.append({
                "task": "avs", "source": names[0], "target": names[1], "protocol": protocol, "metric": metric,
                "value": getattr(figures[target], metric), "source_value": getattr(figures[source], metric),
                "chance": getattr(figures["other"], metric), "n_train": len(self.clips["train"]),
                "n_test": len(dataset), "seed": options["seed"], "split": "test", "query": options["query"],
                "backbone": options["backbone"], "size": options["size"], "n_frames": scores[target].n_frames,
                "n_empty": scores[target].n_empty, "n_excluded": self.n_excluded, "epoch": content["epoch"],
                "val": content["best"][protocol], "f_half": figures[target].f_half,
                "checkpoint": str(self.path) if self.content else None,
                "pretrain_seed": self.content["args"].get("seed") if self.content else None, "commit": git_commit(),
            })
        written = write_results(self.out, rows)
        picture = self.draw(net, dataset, own)
        print(f"AVS-S4, {self.out / BEST[protocol]}, {protocol}, epoch {content['epoch']}\n")
        print(_table(rows) + f"\n\n{written}\n{picture}")
        return rows

    @torch.no_grad()
    def draw(self, net, dataset, queries):
        """True masks, and what the source's and the target's queries give, over frames of clips across the split."""
        net.eval()
        chosen = torch.linspace(0, len(dataset) - 1, min(PICTURED, len(dataset))).round().long().unique().tolist()
        titles, pictures = [], []
        for frames, masks, index in batches(dataset, [[i] for i in chosen], 0):
            clip = dataset.clips[int(index)]
            rows, title = [overlay(frames[0], masks[0], COLOURS["truth"])], f"{clip.name} ({clip.category}): truth"
            maps = net.see(to_frames(frames, self.device))
            for name, m in zip(("own", "target"), self.modalities):
                logits = net.segment(maps, queries[m][index].to(self.device), frames.shape[2:4]).logits[0].float().cpu()
                rows.append(overlay(frames[0], logits > 0, COLOURS[name]))
                title += f"; {m} {100 * frame_iou(logits, masks[0]).mean():.0f} % IoU"
            titles.append(title)
            pictures.append(rows)
        return draw(self.out / f"masks_{self.options['protocol']}.png", titles, pictures)


def _table(rows):
    def cell(value):
        return "–" if value is None else f"{value:.1f}"

    header = ["query", "metric", "target's query", "source's query", "of another class", "clips", "frames"]
    return markdown_table(header, [[
        f"{row['source']} → {row['target']} ({row['query']})", row["metric"], cell(row["value"]),
        cell(row["source_value"]), cell(row["chance"]), str(row["n_test"]), str(row["n_frames"])] for row in rows])


@command
def main(argv=None):
    args = parser().parse_args(argv)
    task = Task(settle(args))
    if args.stage != "test":
        task.out.mkdir(parents=True, exist_ok=True)
        with held(task.out):
            task.train()
    return task.test() if args.stage != "train" else None


if __name__ == "__main__":
    main()
