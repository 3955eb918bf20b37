"""Pretrain a representation on unlabelled clips.

    python -m cmg.pretrain --data synthetic --preset small --out checkpoint/first
    python -m cmg.pretrain --data features.h5 more.h5 --modalities video audio --out checkpoint/av
    python -m cmg.pretrain --data pictures.h5 sound.h5 captions.h5 --out checkpoint/avt     # joined by id
    python -m cmg.pretrain --data features.h5 --method dcid+smit --out checkpoint/smit
    python -m cmg.pretrain --data features.h5 --method path/to/mine.py --out checkpoint/mine
    python -m cmg.pretrain --config checkpoint/av/args.json --seed 1 --out checkpoint/av1
    python -m cmg.pretrain --config checkpoint/av/args.json --init-from checkpoint/av --data new.h5 --out checkpoint/new
    python -m cmg.launch 4 cmg.pretrain --data features.h5 --out checkpoint/av4
    srun --ntasks 4 python -m cmg.pretrain --data features.h5 --out checkpoint/av4 --resume auto

Files that hold different modalities are joined by the ids of their clips. Of several captions of a clip, with the ids
<clip>#0, <clip>#1, … (`cmg.data.captions`), each epoch takes a random one.

Writes a run folder: args.json, metrics.csv, tb/, epoch_XXX.pt, latest.pt. `--resume auto` continues it. On SIGTERM or
SIGUSR1 a run that trains writes latest.pt at the end of a step and leaves with exit status 75: to be started again.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import cmg
from cmg import distributed, slurm
from cmg.cli import Parser, command, git_commit, require_folder, versions
from cmg.configs import Config, add_flags, flag_of, flat, nearest, with_values
from cmg.data.features import FeatureSet
from cmg.data.finite import refuse_not_finite
from cmg.data.synthetic import SyntheticConfig
from cmg.data.synthetic_raw import asked_for, files_for
from cmg.errors import LostProcess, UserError
from cmg.files import locked, parse_json, read_text, write_atomically
from cmg.methods import registry
from cmg.methods.contract import Method
from cmg.models.precision import CPU_HAS_BF16
from cmg.optimisation import OptimiserConfig
from cmg.processes import AGAIN
from cmg.training import checkpoint, state
from cmg.training.host import choose_convolutions, keep_freed_memory
from cmg.training.loop import Trainer
from cmg.training.recorder import TRACKERS, Recorder
from cmg.training.run_config import RunConfig

# Flags that a resumed run may change; all others must be as they were.
FREE_ON_RESUME = {"epochs", "max_steps", "workers", "cache", "device", "log_every", "checkpoint_epochs", "save_every",
                  "resume", "out", "data", "compile", "timeout_minutes", "report_to", "cuda_graph", "toom_cook",
                  "method"}


@dataclass(frozen=True)
class Settings:
    """All that a run is told.

    flags : dict of every setting by the name of its flag, as args.json and checkpoints hold it. kind : class of the
    method. run, optimiser, method : the same settings as typed components.
    """

    flags: dict
    kind: type[Method]
    run: RunConfig
    optimiser: OptimiserConfig
    method: Config


def parser(kind, preset, recipe):
    """The command line for a method, with a preset's values as defaults."""
    p = Parser(prog="cmg.pretrain", description=__doc__)
    run, *_ = add_flags(p, RunConfig(epochs=recipe.epochs), "run")
    add_recipe_flags(run, preset)
    add_flags(p, recipe.optimiser, "optimisation")
    try:
        add_flags(p, recipe.method)
        add_flags(p, SyntheticConfig())
    except argparse.ArgumentError as error:  # one of one's own that is called as another one is
        raise UserError(f"--method {kind.name or kind.__name__}: {error}; expected another name") from None
    return p


def add_recipe_flags(group, preset=None):
    """The flags that decide which others there are, and their defaults."""
    group.add_argument("--method", default="unicode", help=f"one of: {', '.join(registry.available())}; several joined "
                       "by +, as in dcid+smit; or a file of one's own, mine.py")
    group.add_argument("--preset", default=preset, help="sets the defaults of the other flags; those of the method "
                       "unicode are paper, official and small. --preset small --help shows the values of small")
    group.add_argument("--config", help="args.json of a run, whose values are the defaults of all flags")


def parse(argv=None) -> Settings:
    """Flags with the chosen preset's values as defaults, or those of --config; a flag that the user gives wins."""
    early = Parser(prog="cmg.pretrain", add_help=False)
    add_recipe_flags(early)  # read by themselves, so that --help knows the flags of a method and their defaults
    first = early.parse_known_args(argv)[0]
    given = read_config(first.config) if first.config else {}
    if first.preset not in (None, given.get("preset", first.preset)):
        raise UserError(f"--preset {first.preset}: --config {first.config} says what a preset says; expected one of "
                        "the two")
    for name in given.keys() & {"method", "preset"}:
        if not isinstance(given[name], str):
            raise UserError(f"--config {first.config}: {name!r} is {given[name]!r}; expected a name")
        early.set_defaults(**{name: given[name]})
    first = early.parse_known_args(argv)[0]
    kind = registry.find(first.method)
    recipe = registry.recipe_of(kind, first.preset)
    preset = first.preset or next(iter(kind.all_recipes()))
    p = parser(kind, preset, recipe)
    known = {action.dest: action.help for action in p._actions if action.dest != "help"}
    for name in given:
        if name not in known:
            raise UserError(f"--config {first.config}: {name!r} is no setting of --method {first.method}"
                            f"{nearest(name, known)}")
    for action in p._actions:
        action.required = action.required and given.get(action.dest) is None
    p.set_defaults(**given)
    flags = vars(p.parse_args(argv)) | {"method": registry.absolute(first.method), "preset": preset}
    flags.pop("config")
    run, optimiser, method, synthetic = (with_values(config, flags) for config in (
        RunConfig(), recipe.optimiser, recipe.method, SyntheticConfig()))
    kind.check(method, recipe)
    typed = flat(run) | flat(optimiser) | flat(method) | flat(synthetic)
    return Settings(flags | typed, kind, run, optimiser, method)


def read_config(path) -> dict:
    """The flags of an `args.json`, or of a JSON object that holds nothing else; whether that run was resumed says
    nothing of another."""
    try:
        content = parse_json(read_text(path, "args.json of a run"))
        return {name: value for name, value in content.get("flags", content).items() if name != "resume"}
    except (ValueError, AttributeError):
        raise UserError(f"--config {path}: not the args.json of a run; expected a JSON object of flags") from None


def open_data(settings, device):
    run, paths = settings.run, settings.run.data
    if asked_for(paths):
        paths = [files_for(settings.kind.kinds, settings.flags).pretrain]
    features = FeatureSet(paths, run.modalities, run.cache, device, run.hold_out)
    settings.kind.refuse(settings.method, features)
    if len(features) < settings.kind.least_clips:
        raise UserError(f"--data: {len(features)} clip; the method compares at least {settings.kind.least_clips} in a "
                        "batch")
    if len(features.modalities) == 1 and run.modalities is None:
        raise UserError(f"--data: holds only {features.modalities[0]}; cross-modal pretraining needs two modalities, "
                        f"or --modalities {features.modalities[0]}")
    return features


def prepare_folder(settings):
    """The content of the checkpoint to resume from and its path, or (None, None); refuses to overwrite a run."""
    out, resume = Path(settings.run.out), settings.run.resume
    require_folder(out)
    there = {path.name for path in out.iterdir() if ".tmp-" not in path.name} if out.is_dir() else set()
    latest = out / "latest.pt" if resume in (None, "auto") else Path(resume)
    if resume is not None and (resume != "auto" or "latest.pt" in there):
        if there and latest.resolve() != (out / "latest.pt").resolve():
            raise UserError(f"--out {out}: the folder is not empty; expected a new one for what continues {latest}, or "
                            "--resume auto")
        content = checkpoint.read(latest)
        refuse_other_flags(settings, content, latest)
        return content, latest
    # A run that ended before its first latest.pt has written args.json, and an epoch's file at the most.
    begun = "args.json" in there and "best.pt" not in there and sum(name.startswith("epoch_") for name in there) < 2
    if there and not (resume and begun):
        lacks = "--resume auto" if resume is None else "one that holds latest.pt"
        raise UserError(f"--out {out}: the folder is not empty; expected a new one, or {lacks}")
    return None, None


def refuse_other_flags(settings, content, latest):
    """A run goes on with the settings that it began with. A checkpoint may be older than a setting: it was trained with
    what is the default today."""
    method, origin = settings.flags["method"], checkpoint.origin_of(content)
    if not registry.same(registry.origin(method), origin):
        trained = "another text of this file" if origin["name"] == method else origin["name"]
        raise UserError(f"--method {method}: {latest} was trained with {trained}; expected the same, or another --out")
    kind, before = checkpoint.method_of(content, latest, method)
    recipe = registry.recipe_of(kind, settings.flags["preset"])
    before = content["args"] | flat(with_values(recipe.optimiser, content["args"])) | flat(before)
    for name, value in settings.flags.items():
        unset = name in ("modalities", *kind.follows_data) and value is None  # the data decided, and still does
        if name not in FREE_ON_RESUME and not unset and before.get(name, value) != value:
            raise UserError(f"{flag_of(name)} {value}: {latest} was trained with {before.get(name)}; expected the "
                            "same, or another --out")


def refuse_sizes(settings, features, size):
    """`UserError` for a batch that cannot be dealt out."""
    batch_size, number = settings.optimiser.batch_size, settings.optimiser.accumulate
    if batch_size % (size * number):
        raise UserError(f"--batch-size {batch_size}: expected a multiple of {size} processes × --accumulate {number}")
    if min(batch_size, len(features)) < settings.kind.least_clips * number:
        raise UserError(f"--accumulate {number}: leaves micro-batches of less than the {settings.kind.least_clips} "
                        "clips that the method compares")
    settings.kind.check_batch(settings.method, min(batch_size, len(features)))
    if len(features) < size * number:
        raise UserError(f"--data: {len(features)} clips; expected at least one for every process")


@command
def main(argv=None):
    settings = parse(argv)
    slurm.adopt()
    run, out = settings.run, Path(settings.run.out)
    device = distributed.choose_device(run.device)
    rank, size = distributed.start(device.type, run.timeout_minutes)
    if run.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    if run.cuda_graph and (device.type != "cuda" or size > 1):
        raise UserError(f"--cuda-graph: on {device.type}, {size} process{'es' * (size > 1)}; expected a card and one "
                        "process")
    for name in run.report_to:
        TRACKERS[name].package()
    content, source = prepare_folder(settings)
    features = open_data(settings, device)
    refuse_sizes(settings, features, size)
    refuse_not_finite(features)
    config = settings.kind.settled(settings.method, features)
    flags = settings.flags | flat(config) | {"modalities": list(features.modalities)}

    torch.manual_seed(run.seed)  # stage one: every process builds the same weights
    method = settings.kind(features.shapes, config).to(device)
    torch.manual_seed(run.seed + 1 + rank)  # stage two: dropout and negatives differ between processes
    if device.type == "cpu":
        keep_freed_memory()
        if run.precision == "bf16" and not CPU_HAS_BF16 and not rank:
            print("--precision bf16: this processor has no arithmetic for it; fp32 is many times faster",
                  file=sys.stderr)
        # to the same bits: as it was, where the run goes on
        wanted = content["args"].get("toom_cook", "on") if content and run.toom_cook == "auto" else run.toom_cook
        clips = settings.optimiser.batch_size // settings.optimiser.accumulate // size
        flags["toom_cook"], needed = choose_convolutions(wanted, method, features.shapes, clips)
        if needed:
            print(f"Toom-Cook convolutions are {flags['toom_cook']}: {needed / 2**30:.1f} GiB of memory for a third of "
                  "the products (--toom-cook)", file=sys.stderr)
    trainer = Trainer(method, features, run, settings.optimiser, out, device, flags)
    if content:
        state.restore(trainer, content, source)
        if trainer.step >= trainer.total:
            print(f"{source}: already at step {trainer.step} of {trainer.total}, nothing left to do")
            return
    elif run.init_from:
        source = checkpoint.file_of(run.init_from)
        state.start_from(trainer, checkpoint.read(source), source)
    distributed.require_same(trainer.step, f"{source}: the processes have read different steps of it; expected a file "
                             "system on which all see the same file")
    if rank:
        train(trainer, None)
        return
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        for stale in out.glob("[el]*.pt.tmp-*"):  # of a latest.pt or epoch's file that a killed run did not finish
            stale.unlink()
        record = {"flags": flags, "version": cmg.__version__, "numerics": trainer.numerics, "commit": git_commit(),
                  "versions": versions(), "processes": size, "clips": len(features),
                  "clips_before": len(trainer.earlier_ids), "cache": features.cache,
                  "shapes": {m: list(s) for m, s in features.shapes.items()},
                  "features": {m: known._asdict() for m, known in features.provenance.items()},
                  "parameters": sum(p.numel() for p in method.parameters()),
                  "parameters_kept": sum(p.numel() for p in method.kept().parameters())}
        # Which may refuse what is there, and then nothing has been changed.
        recorder = Recorder(out, trainer.step, run.report_to)
        write_atomically(out / "args.json", json.dumps(record, indent=1) + "\n")
        recorder.settings(flags)
        print(f"{flags['method']} ({flags['preset']}): {' '.join(features.modalities)}, {len(features)} clips, "
              f"{record['parameters'] / 1e6:.1f} M parameters ({record['parameters_kept'] / 1e6:.1f} M kept), "
              f"{trainer.total} steps on {device}" + (f", from step {trainer.step}" if content else "")
                  + (f", with the weights of {source}" if trainer.started else ""))
        train(trainer, recorder)
    print(f"checkpoints in {out}")


def train(trainer, recorder):
    """The run itself, which a lost process ends, or a signal."""
    try:
        stopped = trainer.run(recorder, progress=recorder is not None)
    except RuntimeError as error:
        if not distributed.lost_a_process(error):
            raise
        raise LostProcess(f"process {trainer.rank} of {trainer.size}: another one was lost at step {trainer.step}, the "
                        f"run ends; {trainer.last_good()}; continue with --resume auto, on any number of processes") \
            from None
    if recorder:
        recorder.close()
        if stopped:
            print(f"left on {stopped} at step {trainer.step} of {trainer.total}; {trainer.last_good()}; continue with "
                  "--resume auto", file=sys.stderr)
    distributed.finish()  # none leaves before the first one has done so: a launcher may end those that are left
    if stopped:
        raise SystemExit(AGAIN)


if __name__ == "__main__":
    main()
