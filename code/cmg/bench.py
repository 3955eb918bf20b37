"""What a pretraining step costs here: FLOPs, bytes, time, clips per second, memory, and the share of the ceilings.

    python -m cmg.bench                                              # Uni-Code AVT at the published sizes, batch 80
    python -m cmg.bench --modalities video audio --batch-size 80 256 --precision bf16 --compile
    python -m cmg.bench --method multisk --preset released --shapes howto100m --batch-size 2160 --against assignment=off
    python -m cmg.bench --method cmmixer --preset base --shapes raw --modalities video audio --batch-size 8
    python -m cmg.bench --method uniq4cap --preset small --shapes captions --batch-size 64 --set encoders=none
    python -m cmg.bench --epoch 40000 --device cuda                  # and a whole epoch over that many clips

Random features of the published shapes, resident on the device in float16; the step and the feed are those of
`cmg.pretrain`. The ceilings are the best matrix product in the same precision and the best copy, measured on the same
device just before. torch's counter has no formula for LSTMs: their FLOPs are missing. Prints a table; `--out` adds
JSON, and a roofline picture beside it, as .svg and .pdf. What a method names as a part of its step (`Method.parts`) is
timed by itself. `--against` measures the same step with other settings, each in a process of its own, so that their
memory can be compared.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from cmg.bench_features import PIECES, SHAPES, RandomFeatures
from cmg.bench_report import comparison, draw, table
from cmg.cli import Parser, command, git_commit, versions, whole
from cmg.configs import with_values
from cmg.distributed import choose_device
from cmg.errors import UserError
from cmg.files import write_atomically
from cmg.methods import registry
from cmg.modalities import BUILT_IN
from cmg.training.graph import WARM_UP
from cmg.training.host import choose_convolutions, keep_freed_memory
from cmg.training.loop import Trainer
from cmg.training.run_config import RunConfig

ATTENTION = {  # on a CPU; torch's counter knows a card's
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda gradient, query, key, value, *_, **__: sdpa_backward_flop_count(gradient, query, key, value),
}


class OperatorCounter(TorchDispatchMode):
    """Operators of a step, views aside, and the bytes that they read and write: its traffic if nothing is fused."""

    operators = bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operators += 1
            self.bytes += sum(x.numel() * x.element_size() for x in tree_leaves((args, kwargs, out))
                              if isinstance(x, torch.Tensor))
        return out


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def timed(device, into):
    synchronise(device)
    began = time.perf_counter()
    yield
    synchronise(device)
    into.append(time.perf_counter() - began)


def median_time(call, device, n=5):
    call()
    times = []
    for _ in range(n):
        with timed(device, times):
            call()
    return statistics.median(times)


def matmul_ceiling(device, dtype):
    """Best FLOP/s of a square matrix product on this device: median of five after one for warm-up."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / median_time(lambda: a @ b, device)


def copy_ceiling(device):
    """Best bytes/s of a copy within the device's memory, reading and writing counted."""
    x = torch.zeros(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return 2 * len(x) / median_time(lambda: y.copy_(x), device)


def make_trainer(args, device, batch_size, clips):
    if args.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    if device.type == "cpu":
        keep_freed_memory()
    kind = registry.find(args.method)
    recipe = registry.recipe_of(kind, args.preset)
    asked = {name: getattr(args, name) for name in ("dim", "specific_dim", "specific_steps")}
    asked = {name: value for name, value in asked.items() if value is not None} | {"codebook_init": "uniform"}
    pieces = PIECES.get(args.shapes, 0)
    asked |= {"vocabulary": pieces} if pieces else {}
    settings = with_values(with_values(recipe.method, asked), dict(args.set), strict=True)
    shapes = {m: SHAPES[args.shapes][m] for m in args.modalities}
    torch.manual_seed(0)
    method = kind(shapes, settings).to(device).train()
    run = RunConfig(epochs=1, precision=args.precision, compile=args.compile, cuda_graph=args.cuda_graph, workers=0)
    optimiser = with_values(recipe.optimiser, {"batch_size": batch_size})
    if device.type == "cpu":
        choose_convolutions(args.toom_cook, method, shapes, batch_size)
    return Trainer(method, RandomFeatures(shapes, clips, device, pieces), run, optimiser, ".", device)


def by_phase(trainer, batch, device, steps):
    """Median milliseconds of each phase of a step, and of the parts that the method names, which lie within them. Each
    is waited for, so their sum exceeds the time of a step."""
    spent, recorded = {}, trainer.optimise
    trainer.optimise = partial(Trainer.optimise, trainer)  # not as a graph, in which nothing can be timed

    def watched(name, call):
        def run(*args, **kwargs):
            with timed(device, spent.setdefault(name, [])):
                return call(*args, **kwargs)
        return run

    phases = {"encode (Φ, Ψ, codes)": (trainer, "encode"), "fit (the method's own steps)": (trainer.method, "fit"),
              "losses": (trainer, "losses"), "optimiser": (trainer.optimizer, "step"),
              "update (codebook)": (trainer, "update"), "step": (trainer, "train_step")}
    parts = {} if trainer.config.compile else trainer.method.parts()  # a compiled phase has none
    phases |= parts
    kept = {name: getattr(owner, call) for name, (owner, call) in phases.items()}
    for name, (owner, call) in phases.items():
        setattr(owner, call, watched(name, kept[name]))
    for _ in range(steps):
        trainer.train_step(batch)
    for name, (owner, call) in phases.items():
        setattr(owner, call, kept[name])
    trainer.optimise = recorded
    found = {name: 1e3 * statistics.median(times) for name, times in spent.items()}
    whole, within = found.pop("step"), {name: found.pop(name) for name in parts if name in found}
    return found | {"backward and the rest": max(0.0, whole - sum(found.values()))}, within


@contextmanager
def eager(trainer):
    """Within: the step operator by operator, to be counted, neither compiled nor a graph."""
    method, kept = trainer.method, (trainer.encode, trainer.losses, trainer.update, trainer.optimise)
    compiled = [(owner, name, owner.__dict__.pop(name)) for owner, name in method.compiled_functions()
                if name in owner.__dict__]
    trainer.encode, trainer.losses, trainer.update = method.encode, method.losses, method.update
    trainer.optimise = partial(Trainer.optimise, trainer)
    yield
    trainer.encode, trainer.losses, trainer.update, trainer.optimise = kept
    for owner, name, function in compiled:
        setattr(owner, name, function)


@contextmanager
def forward_flops(method, counter, into):
    """Fill a dict with the GFLOP of the forward pass by module: every Φ, Ψ and term of the codebook family, or the
    children of any other method."""
    spoken = {"model.semantic": "Φ", "specific": "Ψ", "terms": "term"}
    dicts = {name: module for name, module in method.named_modules() if isinstance(module, nn.ModuleDict)}
    outer = {name: found for name, found in dicts.items() if not any(name.startswith(f"{one}.") for one in dicts)}
    counted = {f"{spoken.get(name, name)} {key}": module for name, found in outer.items()
               for key, module in found.items()} or dict(method.named_children())
    handles, began = [], {}
    for name, module in counted.items():
        def before(module, args, name=name):
            began[name] = counter.get_total_flops()

        def after(module, args, output, name=name):
            into[name] = into.get(name, 0.0) + (counter.get_total_flops() - began[name]) / 1e9

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    yield
    for handle in handles:
        handle.remove()


def measure(args, device, batch_size, ceilings):
    """One record: what was run, and what it cost."""
    trainer = make_trainer(args, device, batch_size, batch_size)
    batch = next(iter(trainer.loader()))
    trainer.train_step(batch)  # compiles; makes the optimiser's state
    trainer.started = True  # what begins with the first batch has begun
    parts = {}
    with (eager(trainer), FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter,
          OperatorCounter() as counted, forward_flops(trainer.method, counter, parts)):
        trainer.train_step(batch)
    for _ in range(max(args.warmup, WARM_UP if args.cuda_graph else 0)):
        trainer.train_step(batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(args.steps):
        with timed(device, times):
            trainer.train_step(batch)
    step = statistics.median(times)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    flops, (matmul, copy) = counter.get_total_flops(), ceilings
    phases, own = by_phase(trainer, batch, device, max(1, args.steps // 2))
    floor = max(flops / matmul, counted.bytes / copy) if not args.compile else flops / matmul
    return {
        "method": args.method, "preset": args.preset, "modalities": list(args.modalities), "shapes": args.shapes,
        "batch_size": batch_size, "precision": args.precision, "compile": args.compile,
        "cuda_graph": args.cuda_graph, "device": device_name(device),
        "gflop_per_step": flops / 1e9, "gbyte_per_step": counted.bytes / 1e9,
        "operators_per_step": counted.operators,
        "step_ms": 1e3 * step, "step_ms_min": 1e3 * min(times), "step_ms_max": 1e3 * max(times), "steps": args.steps,
        "clips_per_second": batch_size / step, "gflop_per_second": flops / step / 1e9,
        "ceiling_gflop_per_second": matmul / 1e9, "ceiling_gbyte_per_second": copy / 1e9,
        "share_of_ceiling": flops / step / matmul, "floor_ms": 1e3 * floor,
        "peak_memory_mib": peak / 2**20, "parameters": sum(p.numel() for p in trainer.method.parameters()),
        "phase_ms": phases, "part_ms": own, "set": [f"{name}={value}" for name, value in args.set],
        "forward_gflop": dict(sorted(parts.items(), key=lambda part: -part[1])),
        "commit": git_commit(), "versions": versions(),
    }


def apart(args, *given):
    """`measure` in a process of its own, whose memory nothing has used before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (args, *given))


def whole_epoch(args, device, batch_size):
    """Seconds of one epoch over `--epoch` clips as `cmg.pretrain` runs it, after some steps to warm up."""
    trainer = make_trainer(args, device, batch_size, args.epoch)
    batches = iter(trainer.loader())
    first = next(batches)
    for _ in range(WARM_UP + 1 if args.cuda_graph else 2):
        trainer.train_step(first)
    batches.close()
    with timed(device, took := []):
        for batch in trainer.loader():
            trainer.train_step(batch)
            trainer.step += 1
    return {"epoch_clips": args.epoch, "epoch_steps": trainer.step, "epoch_s": took[0]}


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def name_and_value(text):
    """An argparse type: NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not a pair NAME=VALUE")
    return name.replace("-", "_"), value


@command
def main(argv=None):
    p = Parser(prog="cmg.bench", description=__doc__)
    p.add_argument("--method", default="unicode", help="as in cmg.pretrain")
    p.add_argument("--preset", default="paper", help="as in cmg.pretrain")
    p.add_argument("--shapes", choices=sorted(SHAPES), default="paper", help="of the features")
    p.add_argument("--modalities", nargs="+", choices=BUILT_IN, default=["video", "audio", "text"],
                   help="as in cmg.pretrain")
    p.add_argument("--batch-size", type=whole(2), nargs="+", default=[80], help="clips a step, one record for each")
    p.add_argument("--dim", type=whole(4, multiple_of=4), help="as in cmg.pretrain")
    p.add_argument("--specific-dim", type=whole(), help="as in cmg.pretrain")
    p.add_argument("--specific-steps", type=whole(), help="as in cmg.pretrain")
    p.add_argument("--set", nargs="+", type=name_and_value, default=[], metavar="NAME=VALUE",
                   help="other settings of the method, as assignment=off of multisk")
    p.add_argument("--against", nargs="+", type=name_and_value, default=[], metavar="NAME=VALUE",
                   help="settings of another step that is measured beside this one")
    p.add_argument("--steps", type=whole(1), default=5, help="timed steps")
    p.add_argument("--warmup", type=whole(), default=1, help="steps before those")
    p.add_argument("--epoch", type=whole(1), metavar="CLIPS", help="also time an epoch over that many clips")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    p.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="as in cmg.pretrain")
    p.add_argument("--compile", action="store_true", help="torch.compile the step")
    p.add_argument("--cuda-graph", action="store_true", help="as in cmg.pretrain")
    p.add_argument("--toom-cook", choices=("auto", "on", "off"), default="auto", help="as in cmg.pretrain")
    p.add_argument("--out", help="JSON file, a list of records; the picture goes beside it as .svg and .pdf")
    args = p.parse_args(argv)
    if args.epoch is not None and args.epoch < 2 * max(args.batch_size):
        raise UserError(f"--epoch {args.epoch}: expected at least two batches")
    device = choose_device(args.device)
    if args.cuda_graph and device.type != "cuda":
        raise UserError(f"--cuda-graph: on {device.type}; expected a card")
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    ceilings = matmul_ceiling(device, dtype), copy_ceiling(device)
    records = []
    for batch_size in args.batch_size:
        if args.against:
            other = argparse.Namespace(**vars(args) | {"set": [*args.set, *args.against]})
            record, plain = (apart(one, device, batch_size, ceilings) for one in (args, other))
            record["against"] = plain | {"set": [f"{name}={value}" for name, value in args.against]}
        else:
            record = measure(args, device, batch_size, ceilings)
        if args.epoch:
            record |= whole_epoch(args, device, batch_size)
        records.append(record)
        print(table(record), end="\n\n", flush=True)
        if args.against:
            print(comparison(record), end="\n\n", flush=True)
    if args.out:
        write_atomically(args.out, json.dumps(records, indent=1) + "\n")
        draw(records, Path(args.out).with_suffix(".svg"))
    return records


if __name__ == "__main__":
    main()
