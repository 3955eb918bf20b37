"""Pretrain a unified representation on unlabelled clips.

    python -m cmg.pretrain --data synthetic --preset small --out checkpoint/first
    python -m cmg.pretrain --data features.h5 more.h5 --modalities video audio --out checkpoint/av
    python -m cmg.pretrain --data features.h5 --method dcid+smit --out checkpoint/smit
    torchrun --standalone --nproc_per_node 4 -m cmg.pretrain --data features.h5 --out checkpoint/av4

Writes a run folder: args.json, metrics.csv, tb/, epoch_XXX.pt, latest.pt. `--resume auto` continues it.
"""

import json
from pathlib import Path

import torch

import cmg
from cmg import distributed
from cmg.cli import Parser, command, git_commit, number, require_folder, versions, whole
from cmg.data.features import CACHES, FeatureSet
from cmg.data.synthetic import add_synthetic_flags, synthetic_files, synthetic_spec
from cmg.errors import UserError
from cmg.files import held, write_atomically
from cmg.methods.registry import available, build, defaults, flags, refuse_foreign
from cmg.modalities import MODALITIES
from cmg.presets import PRESETS
from cmg.training import checkpoint
from cmg.training.host import keep_freed_memory
from cmg.training.loop import Trainer
from cmg.training.recorder import Recorder

# Flags that a resumed run may change; all others must be as they were.
FREE_ON_RESUME = {"epochs", "max_steps", "workers", "cache", "device", "log_every", "checkpoint_epochs", "save_every",
                  "resume", "out", "data", "compile", "cuda_graph"}


def parser():
    p = Parser(prog="cmg.pretrain", description=__doc__)
    run = p.add_argument_group("run")
    run.add_argument("--data", nargs="+", required=True, help="feature files, or: synthetic")
    run.add_argument("--out", required=True, help="run folder; must be empty or absent unless --resume is given")
    run.add_argument("--modalities", nargs="+", choices=MODALITIES, help="default: all that the data holds")
    add_recipe_flags(run)
    run.add_argument("--epochs", type=whole(1), help="passes over the data")
    run.add_argument("--max-steps", type=whole(1), help="stop after this many steps")
    run.add_argument("--seed", type=whole(), default=0, help="of weights, order, dropout and negatives")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    run.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"),
                     help="arithmetic of the networks; the codebook stays in fp32")
    run.add_argument("--compile", action="store_true", help="torch.compile the step")
    run.add_argument("--cuda-graph", action="store_true", help="record the step once and replay it, on one card")
    run.add_argument("--resume", help="auto: continue --out if it holds latest.pt; or the path of a latest.pt")
    run.add_argument("--workers", type=whole(), default=2, help="loader processes with --cache disk")
    run.add_argument("--cache", default="auto", choices=CACHES,
                     help="features on the card, in memory, or read in blocks; auto: the first that has room")
    run.add_argument("--log-every", type=whole(1), default=20, help="steps between rows of metrics.csv")
    run.add_argument("--checkpoint-epochs", type=whole(1), default=1, help="epochs between epoch_XXX.pt files")
    run.add_argument("--save-every", type=whole(), default=0, help="also write latest.pt every N steps; 0 = epoch ends")
    optim = p.add_argument_group("optimisation")
    optim.add_argument("--batch-size", type=whole(2), help="clips a step, over all processes")
    optim.add_argument("--accumulate", type=whole(1), default=1, metavar="N",
                       help="split every batch into N parts, for less memory; clips are compared within their part")
    optim.add_argument("--optimizer", choices=("adam", "adamw"), help="of all but vCLUB's estimators")
    optim.add_argument("--lr", type=number(above=0), help="learning rate, at its highest")
    optim.add_argument("--weight-decay", type=number(least=0), help="of that optimiser")
    optim.add_argument("--schedule", choices=("constant", "cosine"), help="of the learning rate after its warm-up")
    optim.add_argument("--warmup-steps", type=whole(), help="steps in which the learning rate rises from 0")
    optim.add_argument("--clip-grad", type=number(least=0), help="gradient norm; 0 = off")
    model = p.add_argument_group("model and codebook")
    model.add_argument("--equations", choices=("paper", "released"), help="the paper's, or the released code's")
    model.add_argument("--dim", type=whole(4, multiple_of=4), help="D, width of the semantic vectors and codes")
    model.add_argument("--layers", type=whole(1), help="transformer layers of every Φ")
    model.add_argument("--input-dropout", type=number(least=0, below=1),
                       help="share of feature channels hidden from Φ in training")
    model.add_argument("--specific-dim", type=whole(), help="channels of video's Ψ; 0 = 4 C, as published")
    model.add_argument("--specific-steps", type=whole(),
                       help="run Ψ and its terms at N random steps of a batch; 0 = all")
    model.add_argument("--codes", type=whole(1), help="M, size of the codebook")
    model.add_argument("--decay", type=number(above=0, below=1), help="γ of the EMA")
    model.add_argument("--codebook-init", choices=("uniform", "data", "kmeans"), help="where codes start")
    model.add_argument("--reset", choices=("both", "any", "off"), help="codes unused by which modalities are reset")
    model.add_argument("--reset-after", type=whole(), help="batches a code may stay unused (N_re)")
    model.add_argument("--text-alignment", choices=("step", "clip"),
                       help="word t belongs to second t (paper), or words belong to the clip as a whole")
    model.add_argument("--text-padding", choices=("masked", "read"),
                       help="whether text's biLSTM reads the zeros behind a short caption (released code)")
    for name, own in flags().items():
        group = p.add_argument_group(f"method {name} (weight 0 removes a term and its cost)")
        for flag, spec in own.items():
            group.add_argument(f"--{flag.replace('_', '-')}", type=spec.type, choices=spec.choices, help=spec.help)
    add_synthetic_flags(p)
    return p


def add_recipe_flags(group):
    """The flags that decide the defaults of others."""
    group.add_argument("--method", default="unicode",
                       help=f"one of: {', '.join(available())}; or several at once: dcid+smit")
    group.add_argument("--preset", default="paper", choices=sorted(PRESETS),
                       help="sets the defaults of what follows, as far as the method has the flag; --preset small "
                       "--help shows those of small")


def parse(argv=None):
    """Flags with the chosen preset's and method's values as defaults; a flag that the user gives wins."""
    early, p = Parser(prog="cmg.pretrain", add_help=False), parser()
    add_recipe_flags(early)  # read by themselves, so that --help knows the defaults too
    first = early.parse_known_args(argv)[0]
    p.set_defaults(**defaults(first.preset, first.method))
    args = p.parse_args(argv)
    refuse_foreign(vars(args))
    if args.text_alignment == "clip" and args.mm_ema == "aligned":
        raise UserError("--mm-ema aligned: pairs word t with second t; expected attention or off with "
                        "--text-alignment clip")
    if not any(value for name, value in vars(args).items() if name.startswith("w_") and name != "w_club"):
        raise UserError("--w-*: all weights are 0, there is nothing to learn")
    return args


def open_data(args, device):
    paths = args.data
    if "synthetic" in paths:
        if len(paths) > 1:
            raise UserError(f"--data {' '.join(paths)}: synthetic cannot be joined with feature files")
        paths = [synthetic_files(spec=synthetic_spec(args)).pretrain]
    features = FeatureSet(paths, args.modalities, args.cache, device)
    steps = {m: shape[0] for m, shape in features.shapes.items()}
    if len(set(steps.values())) > 1:
        raise UserError(f"--data: clips have {steps} steps; all modalities need the same number (extract text with "
                        f"--words equal to --seconds)")
    needed = args.cpc_steps + 1 + (args.equations == "released")  # which draws its t from 1 on
    if min(steps.values()) < needed and args.w_cpc:
        raise UserError(f"--cpc-steps {args.cpc_steps}: needs clips of at least {needed} steps, these have "
                        f"{min(steps.values())}; expected a smaller one, longer clips or --w-cpc 0")
    grid = features.shapes.get("video", ())[1:-1]
    if grid and min(grid) < 5 and (args.w_rec or args.w_club):
        raise UserError(f"--data: video has a {grid[0]}×{grid[1]} grid; Ψ's two 3×3 convolutions need at least 5×5 "
                        f"(or give --w-rec 0 --w-club 0)")
    if len(features) < 2:
        raise UserError(f"--data: {len(features)} clip; the contrastive terms need at least 2 in a batch")
    if len(features.modalities) == 1 and args.modalities is None:
        raise UserError(f"--data: holds only {features.modalities[0]}; cross-modal pretraining needs two modalities")
    return features


def prepare_folder(args):
    """The content of the checkpoint to resume from and its path, or (None, None); refuses to overwrite a run."""
    out = Path(args.out)
    require_folder(out)
    there = {path.name for path in out.iterdir() if ".tmp-" not in path.name} if out.is_dir() else set()
    latest = out / "latest.pt" if args.resume in (None, "auto") else Path(args.resume)
    if args.resume is not None and (args.resume != "auto" or "latest.pt" in there):
        if there and latest.resolve() != (out / "latest.pt").resolve():
            raise UserError(f"--out {out}: the folder is not empty; expected a new one for what continues {latest}, or "
                            "--resume auto")
        content = checkpoint.read(latest)
        # A checkpoint may be older than a flag: it was trained with what is the default today, but for words.
        words = {"text_padding": "read"} if "text" in content["shapes"] else {}
        before = defaults(args.preset, args.method) | words | content["args"]
        for name, value in vars(args).items():
            unset = name == "modalities" and value is None  # the data decided, and still does
            if name not in FREE_ON_RESUME and not unset and before.get(name, value) != value:
                raise UserError(f"--{name.replace('_', '-')} {value}: {latest} was trained with "
                                f"{before.get(name)}; expected the same, or another --out")
        return content, latest
    # A run that ended before its first latest.pt has written args.json, and an epoch's file at the most.
    begun = "args.json" in there and "best.pt" not in there and sum(name.startswith("epoch_") for name in there) < 2
    if there and not (args.resume and begun):
        lacks = "--resume auto" if args.resume is None else "one that holds latest.pt"
        raise UserError(f"--out {out}: the folder is not empty; expected a new one, or {lacks}")
    return None, None


@command
def main(argv=None):
    args = parse(argv)
    device = distributed.choose_device(args.device)
    rank, size = distributed.start(device.type)
    if args.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    if device.type == "cpu":
        keep_freed_memory()
    if args.cuda_graph and (device.type != "cuda" or size > 1):
        raise UserError(f"--cuda-graph: on {device.type}, {size} process{'es' * (size > 1)}; expected a card and one "
                        "process")
    content, source = prepare_folder(args)
    features = open_data(args, device)
    if args.batch_size % (size * args.accumulate):
        raise UserError(f"--batch-size {args.batch_size}: expected a multiple of {size} processes × --accumulate "
                        f"{args.accumulate}")
    if min(args.batch_size, len(features)) < 2 * args.accumulate:
        raise UserError(f"--accumulate {args.accumulate}: leaves parts of one clip; the contrastive terms need two")
    if len(features) < size * args.accumulate:
        raise UserError(f"--data: {len(features)} clips; expected at least one for every process")
    out = Path(args.out)
    options = vars(args) | {"modalities": list(features.modalities)}

    torch.manual_seed(args.seed)  # stage one: every process builds the same weights
    method = build(features.shapes, options).to(device)
    torch.manual_seed(args.seed + 1 + rank)  # stage two: dropout and negatives differ between processes
    trainer = Trainer(method, features, options, out, device)
    if content:
        trainer.restore(content, source)
        if trainer.step >= trainer.total:
            print(f"{source}: already at step {trainer.step} of {trainer.total}, nothing left to do")
            return
    if rank:
        train(trainer, None)
        return
    out.mkdir(parents=True, exist_ok=True)
    with held(out):
        for stale in out.glob("[el]*.pt.tmp-*"):  # of a latest.pt or epoch's file that a killed run did not finish
            stale.unlink()
        record = {"flags": options, "version": cmg.__version__, "commit": git_commit(), "versions": versions(),
                  "processes": size, "clips": len(features), "cache": features.cache,
                  "shapes": {m: list(s) for m, s in features.shapes.items()},
                  "parameters": sum(p.numel() for p in method.parameters()),
                  "parameters_kept": sum(p.numel() for p in method.model.parameters())}
        write_atomically(out / "args.json", json.dumps(record, indent=1) + "\n")
        recorder = Recorder(out, trainer.step)
        print(f"{args.method} ({args.preset}): {' '.join(features.modalities)}, {len(features)} clips, "
              f"{record['parameters'] / 1e6:.1f} M parameters ({record['parameters_kept'] / 1e6:.1f} M kept), "
              f"{trainer.total} steps on {device}" + (f", from step {trainer.step}" if content else ""))
        train(trainer, recorder)
        recorder.close()
    print(f"checkpoints in {out}")


def train(trainer, recorder):
    """The run itself, which a lost process ends."""
    try:
        trainer.run(recorder, progress=recorder is not None)
    except RuntimeError as error:
        if not distributed.lost_a_process(error):
            raise
        raise UserError(f"process {trainer.rank} of {trainer.size}: another one was lost at step {trainer.step}, the "
                        f"run ends; {trainer.last_good()}; continue with --resume auto, on any number of processes") \
            from None
    distributed.finish()


if __name__ == "__main__":
    main()
