"""How a run goes on from what a checkpoint holds: its own `latest.pt`, or the weights of another run.

`trainer` is a `cmg.training.loop.Trainer`.
"""

from pathlib import Path

import torch

from cmg.errors import UserError
from cmg.training import checkpoint
from cmg.training.graph import load_optimizer
from cmg.training.held import Bounded


def restore(trainer, content, path):
    """Continue from the content of a `latest.pt`: to the same bits on as many processes as wrote it.

    On another number the batches, the weights and the draws that processes share are the same; only dropout
    starts on fresh streams.
    """
    if "optimizer" not in content:
        raise UserError(f"{path}: holds no training state to resume from (expected a latest.pt)")
    if {m: tuple(s) for m, s in content["shapes"].items()} != trainer.features.shapes:
        raise UserError(f"{path}: was trained on features of shapes {content['shapes']}, --data has "
                        f"{ {m: list(s) for m, s in trainer.features.shapes.items()} }")
    trainer.earlier_ids = content.get("earlier_ids", [])
    trained = content["pretrain_ids"][len(trainer.earlier_ids) :]
    if trained != trainer.features.ids:  # else the later checkpoints would deny the earlier clips
        raise UserError(f"--data: {len(trainer.features)} clips, not the {len(trained)} that {path} was trained on; "
                        "expected the same in the same order, or another --out")
    checkpoint.check_features(content, trainer.features, path)
    try:
        load(trainer, content, path)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a complete training state of these flags ({checkpoint.brief(error)})") \
            from None


def start_from(trainer, content, path):
    """Begin with the weights of a checkpoint, and with everything else anew; its clips count as learnt from.

    The kept module's tensors must all be there. Of the rest of the method, which only a `latest.pt` holds, those
    are taken that have the same name and shape.

    Raises
    ------
    UserError : features of other shapes (but for the number of steps) or encoders, a kept module of other tensors,
        weights that are not finite.
    """
    where = f"--init-from {path}"
    given = {m: list(shape[1:]) for m, shape in trainer.features.shapes.items()}
    method = checkpoint.origin_of(content)["name"]
    trained = {m: list(shape[1:]) for m, shape in content["shapes"].items()  # another stage may know more
               if m in given or method == trainer.origin["name"]}
    if trained != given:
        raise UserError(f"{where}: was trained on features of {trained} a step, --data has {given}")
    checkpoint.check_features(content, trainer.features, where)
    own, prefix = trainer.method.state_dict(), kept_prefix(trainer.method)
    kept = trainer.method.taken_over(content["model"], method)
    kept = {prefix + name: x for name, x in kept.items()}
    sizes = [{name: list(x.shape) for name, x in state.items() if name.startswith(prefix)} for state in (own, kept)]
    for name in {**sizes[0], **sizes[1]}:
        here, there = (size.get(name, "none") for size in sizes)
        if here != there:
            raise UserError(f"{where}: its model has {there} for '{name}', this one {here}; expected the same "
                            "settings of the model, as --config with its args.json gives")
    rest = {name: x for name, x in content.get("method", {}).items() if name in own and x.shape == own[name].shape}
    if not all(x.isfinite().all() for x in (kept | rest).values()):
        raise UserError(f"{where}: its weights are not finite; expected an earlier checkpoint")
    trainer.method.load_state_dict(own | rest | kept)
    trainer.method.kept().feature_scale.load(content.get("scale", {}))
    trainer.earlier_ids, trainer.numerics = content["pretrain_ids"], checkpoint.numerics_of(content)
    trainer.started = True


def load(trainer, content, path):
    """Take over a training state, whatever is in it."""
    trainer.numerics = checkpoint.numerics_of(content)
    prefix = kept_prefix(trainer.method)
    state = {prefix + k: v for k, v in content["model"].items()} | content["method"]
    trainer.method.load_state_dict(state, strict=True)
    scale = trainer.method.kept().feature_scale
    scale.load(content.get("scale", {}))
    scale.to(trainer.device)
    load_optimizer(trainer.optimizer, content["optimizer"])
    for name, optimizer in trainer.method.inner_optimizers().items():
        load_optimizer(optimizer, content["inner"][name])
    position = content["position"]
    if not (0 <= position["batch"] < trainer.per_epoch and min(position["epoch"], position["step"]) >= 0):
        raise ValueError(f"position {position}, an epoch has {trainer.per_epoch} batches")  # would never end
    if position["batch"] and position.get("blocks", False) != trainer.blocks:
        raise UserError(f"{path}: stopped inside an epoch that {'was' if not trainer.blocks else 'was not'} shuffled "
                        f"in blocks for --cache disk; expected --cache {'host' if trainer.blocks else 'disk'}")
    trainer.epoch, trainer.batch, trainer.step = position["epoch"], position["batch"], position["step"]
    streams = content.get("streams", {"cpu": ()})
    if len(streams["cpu"]) == trainer.size:
        torch.set_rng_state(streams["cpu"][trainer.rank].clone())
        if "cuda" in streams and trainer.device.type == "cuda":
            torch.cuda.set_rng_state(streams["cuda"][trainer.rank].clone(), trainer.device)
    else:
        torch.manual_seed(trainer.config.seed + 1_000_003 * trainer.step + trainer.rank)


def load_whole(path, kind, device="cpu", named=None):
    """A method with all that it has learnt, not what is kept of it alone, in eval mode, and the checkpoint's content.

    path : a latest.pt, or a run folder. kind : the class that it must be of. named : as --method of a task.
    """
    path = Path(path) / "latest.pt" if Path(path).is_dir() else Path(path)
    content = checkpoint.read(path)
    cls, config = checkpoint.method_of(content, path, named)
    if not issubclass(cls, kind):
        raise UserError(f"--checkpoint {path}: trained with --method {checkpoint.origin_of(content)['name']}; expected "
                        f"{kind.name}")
    if "method" not in content:
        raise UserError(f"--checkpoint {path}: holds what tasks need alone; expected a run folder, or its latest.pt")
    try:
        with Bounded(content["model"] | content["method"]):
            method = cls({m: tuple(shape) for m, shape in content["shapes"].items()}, config)
        prefix = kept_prefix(method)
        method.load_state_dict({prefix + k: v for k, v in content["model"].items()} | content["method"])
    except checkpoint.UNBUILT as error:
        raise UserError(f"--checkpoint {path}: its weights do not fit its flags ({checkpoint.brief(error)})") from None
    method.kept().features = checkpoint.provenance.of_checkpoint(content)
    return method.to(device).eval(), content


def kept_prefix(method):
    """What the names of the kept module's tensors begin with among the method's."""
    kept = method.kept()
    name = next(name for name, module in method.named_modules() if module is kept)
    return f"{name}." if name else ""
