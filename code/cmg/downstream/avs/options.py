"""The flags of the segmentation task: what a preset sets, what a trained network remembers, what goes together."""

import argparse
from pathlib import Path

from cmg.cli import Parser, number, require_folder, whole
from cmg.data.avs import SECONDS
from cmg.downstream.avs.backbones import BACKBONES
from cmg.downstream.avs.checkpoints import BEST, read
from cmg.downstream.registry import TASKS
from cmg.errors import UserError
from cmg.extract.backbones import BACKBONES as FEATURES
from cmg.methods import registry

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
FREE = {"stage", "annotations", "data", "checkpoint", "method", "out", "resume", "protocol", "device", "precision",
        "workers", "cache", "backbone_weights", "audio_weights", "text_weights"}


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="cmg.downstream.avs", description=TASKS["avs"].about)
    p.add_argument("--stage", choices=("train", "test", "both"), default="both", help="what to do; test takes the "
                   "flags that the network in --out was trained with")
    p.add_argument("--annotations", help="folder of AVSBench S4: s4_meta_data.csv and s4_data/")
    p.add_argument("--checkpoint", help="pretrained .pt file or run folder; not needed with --query raw or none")
    p.add_argument("--method", help="file of the checkpoint's method, where it is of one's own and has moved since")
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
        p.add_argument(f"--{m}-backbone", help="extraction backbone that the checkpoint "
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
    defaults = {"source": "audio", "query": "codes", "prompt": "{}", "seed": 0, "checkpoint": None, "method": None,
                "data": None, "annotations": None, "resume": None, "warmup_steps": 0, "target": None, "precision": None,
                **{f"{m}_backbone": next(iter(FEATURES[m])) for m in ("audio", "text")},
                "audio_weights": [], "text_weights": [], **PRESETS[args.preset]}
    if args.stage == "test":
        network = Path(args.out) / BEST[args.protocol]
        trained = read(network)["args"]
        for action in parser()._actions:
            if not may_be(action, trained.get(action.dest)):
                raise UserError(f"{network}: not a segmentation network, its {action.dest} is "
                                f"{trained[action.dest]!r}")
        defaults = {"w_contrast": 0.0, "method": None, **trained, "resume": None}  # a network may be older than a flag
        given.pop("preset")
        require_same(given, trained, "the network in --out was trained with")
    options = {**defaults, **given}
    other = {"audio": "text", "text": "audio"}[options["source"]]
    options["target"] = options["target"] or (other if options["query"] == "codes" else options["source"])
    _check(options)
    require_folder(options["out"])
    for name in ("annotations", "checkpoint"):  # a test may be started from another folder
        options[name] = options[name] and str(Path(options[name]).resolve())
    options["method"] = options["method"] and registry.absolute(options["method"])
    options["data"] = options["data"] and [str(Path(path).resolve()) for path in options["data"]]
    return options


def may_be(action, value):
    """Whether a value is one that a flag gives, where it is given."""
    def one(value):
        try:
            fine = isinstance(value, str) if action.type is None else action.type(value) == value
        except (argparse.ArgumentTypeError, TypeError, ValueError):
            return False
        return fine and (action.choices is None or value in action.choices)

    if value is None:
        return True
    return isinstance(value, list | tuple) and all(map(one, value)) if action.nargs else one(value)


def _check(options):
    if options["annotations"] is None:
        raise UserError("--annotations: missing; expected the folder of AVSBench S4")
    if options["query"] == "codes" and options["checkpoint"] is None:
        raise UserError("--checkpoint: missing; expected a pretrained .pt file or run folder (or --query raw)")
    if options["query"] == "codes" and options["source"] == options["target"]:
        raise UserError(f"--target {options['target']}: the same as --source, which source_value reports; expected "
                        "another")
    if options["query"] != "codes" and (options["source"], options["target"]) != ("audio", "audio"):
        raise UserError(f"--query {options['query']}: is from audio to audio only; leave --source and --target out")
    if options["prompt"].replace("{}", "", 1).count("{") or options["prompt"].count("{}") != 1:
        raise UserError(f"--prompt {options['prompt']!r}: expected a text with one {{}} for the class's name")
    if options["distort"] > 0.5:
        raise UserError(f"--distort {options['distort']}: expected 0 to 0.5")


def require_same(new, old, what):
    """`UserError` if options that belong to what was trained differ; `what` begins the clause on the old value."""
    for name in sorted(set(new) & set(old) - FREE):
        if new[name] != old[name]:
            raise UserError(f"--{name.replace('_', '-')} {new[name]}: {what} {old[name]}")
