"""What the probing tasks have in common: their flags and settings, the checkpoint they read, the rows they write."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from cmg.cli import git_commit, number, require_folder, whole
from cmg.data.features import FeatureSet
from cmg.distributed import choose_device
from cmg.downstream.results import prepare_results, results_table, write_results
from cmg.training.checkpoint import build_model, file_of, read

# Strict spans what codebooks need whose vectors have a scale between 0.02 and 1; the smaller, the larger the rate.
LRS = {"strict": (1e-3, 3e-3, 1e-2), "paper": (4e-4,)}
CLIP_NORM = 0.5  # of the paper protocol


class Settings(NamedTuple):
    """How probes are trained; `lrs` None stands for the protocol's own."""

    protocol: str = "strict"
    epochs: int = 30
    lrs: tuple[float, ...] | None = None
    batch_size: int = 80
    probe_seeds: int = 3
    seed: int = 0

    def fit_arguments(self):
        return {"seeds": [self.seed + i for i in range(self.probe_seeds)], "lrs": self.lrs or LRS[self.protocol],
                "epochs": self.epochs, "batch_size": self.batch_size, "seed": self.seed}


STRICT = Settings()


def mean(x):
    """Mean over probe seeds, as it stands in results.json."""
    return round(x.mean().item(), 4)


def std(x):
    """Standard deviation over probe seeds, 0 for a single one."""
    return round(x.std(correction=1).item(), 4) if len(x) > 1 else 0.0


def add_probe_flags(p: argparse.ArgumentParser, epochs: int = 30):
    """The flags that mean the same in every task with a probe."""
    p.add_argument("--source", help="default: every modality that data and checkpoint share")
    p.add_argument("--target", help="default: every other modality")
    p.add_argument("--protocol", choices=("strict", "paper"), default="strict",
                   help="strict: choose on val, report test; paper: what the public scripts measure")
    p.add_argument("--probe-epochs", type=whole(1), default=epochs,
                   help="epochs of a probe; strict takes the best on val")
    grids = "; ".join(f"{protocol}: {' '.join(f'{lr:g}' for lr in lrs)}" for protocol, lrs in LRS.items())
    p.add_argument("--probe-lr", type=number(above=0), nargs="+",
                   help=f"strict takes the best on val; default for {grids}")
    p.add_argument("--batch-size", type=whole(1), default=80, help="clips in a step of the probe")
    p.add_argument("--probe-seeds", type=whole(1), default=3, help="probes per direction, for mean and std")
    p.add_argument("--seed", type=whole(), default=0, help="first probe's seed")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    p.add_argument("--out", help="folder of results.json; default: the checkpoint's")


def probe_settings(args) -> Settings:
    """The flags of `add_probe_flags` as settings; `UserError` if a file is in the place of --out."""
    if args.out:
        require_folder(args.out)
    return Settings(args.protocol, args.probe_epochs, args.probe_lr and tuple(args.probe_lr), args.batch_size,
                    args.probe_seeds, args.seed)


def open_checkpoint(path) -> tuple[Path, dict]:
    """A checkpoint, of a run folder the one that AVE chose -> (path, content). The tasks after AVE choose none."""
    path = file_of(path)
    return path, read(path)


class Run(NamedTuple):
    """What a task's main works with: how to probe, and the checkpoint that is probed."""

    settings: Settings
    device: torch.device
    path: Path
    content: dict

    def features(self, paths, modalities) -> FeatureSet:
        """Feature files of some modalities, such as the checkpoint was pretrained on."""
        features = FeatureSet(paths, modalities)
        self.model().check(features)
        return features

    def model(self):
        """The frozen model on its device."""
        return build_model(self.content, self.device)


def open_run(args) -> Run:
    """What `add_probe_flags` and --checkpoint ask for; `UserError` names the flag that is wrong."""
    run = Run(probe_settings(args), choose_device(args.device), *open_checkpoint(args.checkpoint))
    prepare_results(output_folder(args, run.path))
    return run


def with_origin(rows: list[dict], path: Path, content: dict) -> list[dict]:
    """Rows with the checkpoint that they were measured on, and the commit."""
    origin = {"checkpoint": str(path), "epoch": content["epoch"], "pretrain_seed": content["args"].get("seed"),
              "commit": git_commit()}
    return [row | origin for row in rows]


def write_task(title: str, args, rows: list[dict], run: Run, table=results_table) -> list[dict]:
    """Write the rows of a task into `results.json` and print them as a table, which `table` makes of the rows."""
    rows = with_origin(rows, run.path, run.content)
    written = write_results(output_folder(args, run.path), rows)
    print(f"{title}, {run.path}, {args.protocol}\n\n{table(rows)}\n\n{written}")
    return rows


def tell_missing(names):
    """Warn of annotated clips without features; `names` may be empty."""
    if names:
        print(f"warning: {len(names)} annotated clips have no features and are left out, the first is "
              f"{next(iter(names))}", file=sys.stderr)


def tell_pretrained(count: int, what="test clips"):
    """Warn of test clips that the checkpoint was pretrained on; `count` may be 0."""
    if count:
        print(f"warning: {count} {what} were pretrained on and are left out", file=sys.stderr)


def output_folder(args, path: Path) -> Path:
    """--out, by default the checkpoint's own folder."""
    return Path(args.out) if args.out else path.parent
