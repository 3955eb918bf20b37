"""The segmentation task from the benchmark's folder to results: what training and test read, the rows, the picture."""

import json
import sys
from pathlib import Path

import torch

import cmg
from cmg.cli import git_commit, versions
from cmg.data.avs import SPLITS, S4Set, read_s4
from cmg.data.features import FeatureSet
from cmg.data.videos import from_videos
from cmg.distributed import choose_device
from cmg.downstream.avs.checkpoints import BEST, read, trained
from cmg.downstream.avs.options import require_same
from cmg.downstream.avs.picture import MaskedClip, Masks, draw
from cmg.downstream.avs.queries import QueryReader, mismatched
from cmg.downstream.avs.training import Training, batches, evaluate, to_frames
from cmg.downstream.results import chosen_by, markdown_table, printed, write_results
from cmg.downstream.splits import WAY_OUT, tell_pretrained
from cmg.downstream.task import known_features, require
from cmg.errors import UserError
from cmg.extract.backbones import Choice
from cmg.figures.style import save
from cmg.files import locked, write_atomically
from cmg.metrics.segmentation import frame_iou
from cmg.training import checkpoint
from cmg.training.recorder import tell_run

PICTURED = 8  # test clips in the picture


class Task:
    """What training and test share: the benchmark on disk, the queries, the device.

    Parameters
    ----------
    options : dict of all options, of `options.settle`.

    Raises
    ------
    UserError
        A broken folder, checkpoint or feature file; a modality that the checkpoint lacks; nothing left to test.
    """

    def __init__(self, options):
        self.options, self.out = options, Path(options["out"])
        self.device = choose_device(options["device"])
        options["precision"] = options["precision"] or ("bf16" if self.device.type == "cuda" else "fp32")
        if options["precision"] == "tf32":
            torch.set_float32_matmul_precision("high")
        self.folder = read_s4(options["annotations"])
        self.clips, self.n_excluded = dict(self.folder.splits), 0
        self.modalities = list(dict.fromkeys((options["source"], options["target"])))
        self.pretrained = model = None
        if options["query"] == "codes":
            self.path = checkpoint.file_of(options["checkpoint"])
            self.pretrained = checkpoint.read(self.path)
            model = checkpoint.build_model(self.pretrained, self.device, self.path, options["method"])
            require(model, ("codes",), self.path)
            for flag in ("source", "target"):
                if options[flag] not in model.modalities:
                    raise UserError(f"--{flag} {options[flag]}: --checkpoint has only {', '.join(model.modalities)}")
            if options["protocol"] == "strict":
                self._exclude_pretrained()
        features = FeatureSet(options["data"], ["audio"]) if options["data"] else None
        if features and model:
            model.check(features)
        backbones = {m: Choice(m, options[f"{m}_backbone"], tuple(options[f"{m}_weights"])) for m in ("audio", "text")}
        self.reader = QueryReader(self.folder, options["query"], model, features, backbones, options["prompt"],
                                  self.device)
        for m in self.modalities if model else ():
            if m == "text" or not features:
                self.reader.check(m)

    def _exclude_pretrained(self):
        """Leave out test clips from videos that the checkpoint was pretrained on."""
        seen = from_videos([clip.name for clip in self.clips["test"]], self.pretrained["pretrain_ids"])
        kept = [clip for clip, known in zip(self.clips["test"], seen) if not known]
        self.n_excluded = len(self.clips["test"]) - len(kept)
        if not kept:
            raise UserError(f"--checkpoint: all {self.n_excluded} test clips were pretrained on; nothing to test; "
                            f"{WAY_OUT}")
        tell_pretrained(self.n_excluded)
        self.clips["test"] = kept

    def _dataset(self, split):
        return S4Set(self.folder, self.clips[split], self.options["size"], self.options["cache"] == "host")

    def _queries(self, split, modalities):
        return {m: self.reader(m, self.clips[split]) for m in modalities}

    def _require_same_codes(self, content):
        if content["digest"] != self.reader.digest():
            raise UserError(f"--checkpoint {self.options['checkpoint']}: its codebook is not the one that the network "
                            f"in {self.out} was trained with")

    def train(self):
        """Train the epochs that the run folder lacks; no other process may work there meanwhile."""
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out):
            options, latest = self.options, self.out / "latest.pt"
            if any(self.out.iterdir()) and options["resume"] != "auto":
                raise UserError(f"--out {self.out}: is not empty; continue with --resume auto, test with --stage test, "
                                "or choose another")
            queries = {"train": self._queries("train", [options["source"]]),
                       "val": self._queries("val", self.modalities)}
            training = Training(options, self.out, self._dataset("train"), self._dataset("val"), queries,
                                self.reader.digest(), self.device)
            if latest.exists():
                content = read(latest)
                require_same(options, content["args"], "the run in --out has")
                self._require_same_codes(content)
                training.restore(content)
            print(", ".join(f"{split}: {len(self.clips[split])} clips" for split in SPLITS), file=sys.stderr)
            record = {"task": "avs", **options, "versions": versions(), "numerics": cmg.NUMERICS,
                      "commit": git_commit()}
            write_atomically(self.out / "args.json", json.dumps(record, indent=2) + "\n")
            training.run()

    def test(self) -> list[dict]:
        """Score the epoch that the protocol chose and draw its masks -> the rows that results.json got."""
        options, protocol, target = self.options, self.options["protocol"], self.options["target"]
        content = read(self.out / BEST[protocol])
        self._require_same_codes(content)
        dataset, queries = self._dataset("test"), self._queries("test", self.modalities)
        width = queries[target].shape[-1]
        if width != content["query_width"]:
            raise UserError(f"queries of {width} values; the network in {self.out} was trained with "
                            f"{content['query_width']}")
        net = trained(content, self.device)
        if len({clip.category for clip in dataset.clips}) == 1:
            print(f"warning: all {len(dataset)} test clips are of one class: no query is wrong, `chance` is the value",
                  file=sys.stderr)
        scores = evaluate(net, dataset, {**queries, "mismatched": mismatched(dataset.clips, queries[target])}, options,
                          self.device)
        rows = self._rows(scores, content)
        written = write_results(self.out, rows)
        picture = self._draw(net, dataset, queries)
        tell_run(self.out, {}, content["epoch"], {f"test/avs {protocol}/{row['metric']}": row["value"] for row in rows},
                 [picture])
        print(f"AVS-S4, {self.out / BEST[protocol]}, {protocol}, epoch {content['epoch']}\n")
        print("\n".join([f"{printed(_table(rows))}\n", str(written), str(picture)]))
        return rows

    def _rows(self, scores, content):
        """The rows of results.json: one a metric. `scores` : dict modality or "mismatched" -> Scores."""
        options, protocol = self.options, self.options["protocol"]
        source, target = options["source"], options["target"]
        figures = {name: getattr(score, protocol)() for name, score in scores.items()}
        origin = known_features(self.reader.model, self.path) if self.pretrained else None
        names = ("none", "none") if options["query"] == "none" else (source, target)
        return [{
            "task": "avs", "source": names[0], "target": names[1], "protocol": protocol, "metric": metric,
            "value": getattr(figures[target], metric), "source_value": getattr(figures[source], metric),
            "chance": getattr(figures["mismatched"], metric), "n_train": len(self.clips["train"]),
            "n_test": len(self.clips["test"]), "seed": options["seed"], "split": "test", "query": options["query"],
            "backbone": options["backbone"], "size": options["size"], "n_frames": scores[target].n_frames,
            "n_empty": scores[target].n_empty, "n_excluded": self.n_excluded, "epoch": content["epoch"],
            "val": content["best"][protocol], "f_half": figures[target].f_half,
            "checkpoint": str(self.path) if self.pretrained else None,
            "chosen_by": chosen_by(self.path) if self.pretrained else None,
            "pretrain_seed": self.pretrained["args"].get("seed") if self.pretrained else None, "commit": git_commit(),
            "numerics": checkpoint.numerics_of(self.pretrained) if self.pretrained else cmg.NUMERICS,
            "features": origin,
        } for metric in ("miou", "f_measure")]

    @torch.no_grad()
    def _draw(self, net, dataset, queries):
        """True masks, and what the source's and the target's queries give, over frames of clips across the split."""
        chosen = torch.linspace(0, len(dataset) - 1, min(PICTURED, len(dataset))).round().long().unique().tolist()
        clips = []
        for pictures, masks, index in batches(dataset, [[i] for i in chosen], 0):
            clip, maps = dataset.clips[int(index)], net.encode(to_frames(pictures, self.device))
            predicted = {}
            for m in self.modalities:
                logits = net.segment(maps, queries[m][index].to(self.device), pictures.shape[2:4]).logits[0].float()
                name = "no query" if self.options["query"] == "none" else f"{m}'s query"
                predicted[name] = Masks(logits.cpu() > 0, frame_iou(logits.cpu(), masks[0]))
            clips.append(MaskedClip(f"{clip.name} ({clip.category})", pictures[0], masks[0], predicted))
        return save(draw(clips), self.out / f"masks_{self.options['protocol']}.png")


def _table(rows):
    def cell(value):
        return "–" if value is None else f"{value:.1f}"

    header = ["query", "metric", "target's query", "source's query", "of another class", "clips", "frames"]
    return markdown_table(header, [[
        f"{row['source']} → {row['target']} ({row['query']})", row["metric"], cell(row["value"]),
        cell(row["source_value"]), cell(row["chance"]), str(row["n_test"]), str(row["n_frames"])] for row in rows])
