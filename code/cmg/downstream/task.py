"""The command around a task: its flags and settings, the checkpoint that is tested, and the files it leaves behind.

A task of one's own is a .py file with a subclass of `cmg.downstream.probing.ProbeTask` and a `main(argv)`, in which
`task_parser` and `add_probe_flags` make the flags, `open_run` opens the checkpoint, and `Run.finish` does the rest. It
runs by itself and as an evaluation of a table; `examples/own_task.py` is one of forty lines.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from cmg.cli import Parser, git_commit, number, require_folder, whole
from cmg.data.features import FeatureSet
from cmg.data.provenance import Provenance
from cmg.data.synthetic import SyntheticFiles
from cmg.data.synthetic_raw import asked_for, files_for
from cmg.distributed import choose_device
from cmg.downstream.clip_scores import clustered, read_clusters, write_clip_scores
from cmg.downstream.registry import TASKS
from cmg.downstream.results import chosen_by, prepare_results, printed, results_table, rounded, write_results
from cmg.downstream.toc import SCORES, Toc, mix, subsets
from cmg.downstream.tokens import directions
from cmg.errors import UserError
from cmg.modalities import ordered
from cmg.training.checkpoint import build_model, file_of, method_of, numerics_of, read
from cmg.training.recorder import tell_run

# Strict spans what codebooks need whose vectors have a scale between 0.02 and 1; the smaller, the larger the rate.
LRS = {"strict": (1e-3, 3e-3, 1e-2), "paper": (4e-4,)}
CLIP_NORM = 0.5  # of the paper protocol
DATA = "feature files, or synthetic: the labelled clips of the built-in set that was pretrained on"


class Settings(NamedTuple):
    """How probes are trained; `lrs` None stands for the protocol's own, `toc` None for whole tokens alone, `adapt` for
    moved features as well (`cmg.downstream.adapt`)."""

    protocol: str = "strict"
    epochs: int = 30
    lrs: tuple[float, ...] | None = None
    batch_size: int = 80
    probe_seeds: int = 3
    seed: int = 0
    toc: Toc | None = None
    adapt: bool = False

    def fit_arguments(self):
        return {"seeds": [self.seed + i for i in range(self.probe_seeds)], "lrs": self.lrs or LRS[self.protocol],
                "epochs": self.epochs, "batch_size": self.batch_size, "seed": self.seed}


STRICT = Settings()


def task_parser(name: str, about: str = "",
                checkpoint="a .pt file, a run folder (its best.pt), or an exported one") -> Parser:
    """A parser with --checkpoint. What a task of `cmg.downstream` is about stands in the registry."""
    known = TASKS.get(name)
    p = Parser(prog=f"cmg.downstream.{name}" if known else name, description=about or known.about)
    p.add_argument("--checkpoint", required=True, help=checkpoint)
    p.add_argument("--method", help="file of the checkpoint's method, where it is of one's own and has moved since")
    return p


def add_probe_flags(p: argparse.ArgumentParser, epochs: int = 30, probe_task=True) -> argparse.ArgumentParser:
    """The flags that mean the same in every task with a probe; `probe_task` : of a `ProbeTask`."""
    p.add_argument("--source", help="default: every modality that data and checkpoint share")
    p.add_argument("--target", help="default: every other modality")
    p.add_argument("--protocol", choices=("strict", "paper"), default="strict",
                   help="strict: choose on val, report test; paper: what the public scripts measure")
    p.add_argument("--probe-epochs", type=whole(1), default=epochs,
                   help="epochs of a probe; strict takes the best on val")
    grids = "; ".join(f"{protocol}: {' '.join(f'{lr:g}' for lr in lrs)}" for protocol, lrs in LRS.items())
    p.add_argument("--probe-lr", type=number(above=0, below=100), nargs="+",
                   help=f"strict takes the best on val; default for {grids}")
    p.add_argument("--batch-size", type=whole(1), default=80, help="clips in a step of the probe")
    p.add_argument("--probe-seeds", type=whole(1), default=3, help="probes per direction, for mean and std")
    p.add_argument("--seed", type=whole(), default=0, help="first probe's seed")
    if probe_task:
        p.add_argument("--toc-dims", type=whole(1), nargs="+", metavar="K", help="probe K dimensions of the tokens as "
                       "well, chosen by TOC; of several K strict takes the best on val of the source")
        p.add_argument("--toc-score", choices=tuple(SCORES), default="full", help="what TOC ranks dimensions by: "
                       "likeness and variance of the codes, or likeness alone")
        p.add_argument("--toc-mix", type=mix, default=(1, 0), metavar="BEST:WORST",
                       help="shares of the best and of the worst dimensions (default: 1:0)")
        p.add_argument("--adapt", action="store_true", help="probe as well with features whose channels have mean and "
                       "deviation that they had in pretraining, by the unlabelled clips that probes are fitted on")
        p.add_argument("--clusters", help="CSV with the columns id and cluster: which test clips share something, for "
                       "the error of the test set; default: clusters.csv beside their annotations, else their videos")
    return add_place_flags(p)


def add_place_flags(p: argparse.ArgumentParser, files="results.json") -> argparse.ArgumentParser:
    """Where to compute, and where to put the files."""
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    p.add_argument("--out", help=f"folder of {files}; default: the checkpoint's")
    return p


class Run(NamedTuple):
    """What a task's main works with: its flags, and the checkpoint that is tested, its model built once.

    chosen_by : whose labels chose the checkpoint, None where that is not known
    """

    args: argparse.Namespace
    settings: Settings
    device: torch.device
    path: Path
    content: dict
    model: torch.nn.Module
    clusters: dict[str, str] | None = None
    chosen_by: str | None = None

    @property
    def out(self) -> Path:
        """--out, by default the checkpoint's own folder."""
        return Path(self.args.out) if self.args.out else self.path.parent

    @property
    def pretrain_ids(self) -> list[str]:
        """Clips that the checkpoint was pretrained on."""
        return self.content["pretrain_ids"]

    @property
    def synthetic(self) -> SyntheticFiles | None:
        """The built-in set that the checkpoint was pretrained on, where --data asks for it."""
        return synthetic_of(self.args.data, self.content, self.path, self.args.method)

    @property
    def data(self) -> list:
        """The feature files that --data stands for."""
        files = self.synthetic
        return [files.ave] if files else self.args.data

    @property
    def how(self) -> dict:
        """The further arguments of a `ProbeTask`."""
        return {"settings": self.settings, "pretrain_ids": self.pretrain_ids, "device": self.device}

    def directions(self, of_data) -> list[tuple[str, str]]:
        """Directions that --source and --target leave of those between modalities of checkpoint and data."""
        return directions(list(self.content["shapes"]), list(of_data), self.args.source, self.args.target)

    def features(self, paths, pairs, flag="--data") -> FeatureSet:
        """Feature files of the modalities of some directions, such as the checkpoint was pretrained on."""
        features = FeatureSet(paths, ordered(m for pair in pairs for m in pair))
        self.model.check(features, flag)
        return features

    def at(self, path) -> "Run":
        """The same with another checkpoint."""
        content = read(path)
        return self._replace(path=Path(path), content=content,
                             model=build_model(content, self.device, path, self.args.method))

    def write(self, title: str, rows: list[dict], table=results_table) -> list[dict]:
        """Add the origin to the rows, write them into `results.json` and print them as a table."""
        origin = {"checkpoint": str(self.path), "epoch": self.content["epoch"],
                  "chosen_by": self.chosen_by,
                  "pretrain_seed": self.content["args"].get("seed"), "commit": git_commit(),
                  "numerics": numerics_of(self.content), "features": known_features(self.model, self.path)}
        rows = [row | origin for row in rows]
        written = write_results(self.out, rows)
        self.tell({f"test/{row['task']} {row['protocol']}/{row['source']} → {row['target']} {row['metric']}":
                   row["value"] for row in rows})
        split = f" ({rows[0]['split']} split)" if "split" in rows[0] else ""
        print(f"{title}, {self.path}, {self.settings.protocol}{split}\n\n{printed(table(rows))}\n\n{written}")
        return rows

    def tell(self, values, pictures=()):
        """Tell the trackers of the run that this is a checkpoint of; a task does not end because one cannot be told.

        values : dict name -> figure, or None. pictures : paths, which are printed as well.
        """
        for path in pictures:
            print(path)
        try:
            tell_run(self.path.parent, self.content["args"], self.content.get("step", 0), values, pictures)
        except (OSError, UserError) as error:
            print(f"note: no tracker of {self.path.parent} was told ({error})", file=sys.stderr)

    def finish(self, task, rows=None) -> list[dict]:
        """Run a `ProbeTask`, unless its rows are there, add the error of its test set and leave its files behind ->
        the rows of results.json."""
        rows = task.run(self.model) if rows is None else rows
        found = {key: clustered(*own, self.clusters) for key, own in task.clips.items()}
        for row in rows:
            own = found.get((row["source"], row["target"], row["metric"]))
            row |= {"test_error": rounded(own.error), "n_clusters": own.n_clusters} if own else {}
        rows = self.write(task.title, rows)
        if found:
            print(write_clip_scores(self.out, task.name, self.settings.protocol, found))
        self.tell({}, [*task.draw(rows, self.out)])
        return rows


def open_run(args, needs=("vectors",), path=None) -> Run:
    """What the flags ask for; the checkpoint is --checkpoint, of a run folder the one that AVE chose, or `path`.

    Raises
    ------
    UserError : a flag is wrong, or the checkpoint does not offer what the task needs.
    """
    if args.out:
        require_folder(args.out)
    settings = Settings()
    if "probe_epochs" in args:
        settings = Settings(args.protocol, args.probe_epochs, args.probe_lr and tuple(args.probe_lr), args.batch_size,
                            args.probe_seeds, args.seed, find_toc(args), vars(args).get("adapt", False))
    elif "protocol" in args:
        settings = Settings(args.protocol, seed=args.seed)
    clusters = find_clusters(args)
    device, path = choose_device(args.device), file_of(path or args.checkpoint)
    content = read(path)
    run = Run(args, settings, device, path, content, build_model(content, device, path, args.method), clusters,
              chosen_by(path))
    require(run.model, (*needs, "codes") if settings.toc else needs, path)
    if settings.toc:
        subsets(run.model, settings.toc)  # what is wrong with them is told before the work
    prepare_results(run.out)
    return run


def find_toc(args) -> Toc | None:
    """What --toc-dims and its companions ask for."""
    if not vars(args).get("toc_dims"):
        return None
    if args.protocol != "strict" and len(args.toc_dims) > 1:
        raise UserError(f"--toc-dims {' '.join(map(str, args.toc_dims))}: {args.protocol} has no split to choose on; "
                        "expected one")
    return Toc(tuple(args.toc_dims), args.toc_score, args.toc_mix)


def find_clusters(args) -> dict[str, str] | None:
    """Those of --clusters, else of clusters.csv in the folder of the test clips' annotations, if there are any."""
    flags = vars(args)
    if "clusters" in flags and (folder := flags.get("avvp_annotations") or flags.get("annotations")):
        beside = Path(folder) / "clusters.csv"
        flags |= {"clusters": flags["clusters"] or (beside if beside.is_file() else None)}
    return read_clusters(flags["clusters"]) if flags.get("clusters") else None


def synthetic_of(paths, content, path, method=None) -> SyntheticFiles | None:
    """The built-in set of a checkpoint's settings, as its method reads it, where `paths` ask for it; else None."""
    return files_for(method_of(content, path, method)[0].kinds, content["args"]) if asked_for(paths) else None


def require(model, needs, path):
    """`UserError` unless a model offers what a task needs."""
    lacking = [name for name in needs if name not in model.offers]
    if lacking:
        raise UserError(f"--checkpoint {path}: offers {', '.join(model.offers)}; this task needs {', '.join(lacking)}")
    if "codes" in needs and not hasattr(model, "codebook"):
        raise UserError(f"--checkpoint {path}: offers codes; expected a `codebook` with size and embedding in it")


def known_features(model, path) -> dict[str, str | None]:
    """What a checkpoint says of where its features come from, modality -> text; None where it does not know, which is
    told on stderr."""
    known = {m: None if origin == Provenance() else str(origin) for m, origin in model.features.items()}
    unknown = [m for m, text in known.items() if text is None]
    if unknown:
        print(f"note: {path} does not know where its features of {', '.join(unknown)} come from", file=sys.stderr)
    return known
