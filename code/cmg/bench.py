"""What a pretraining step costs here: FLOPs, time, clips per second, memory, and the share of this machine's ceiling.

    python -m cmg.bench                                   # Uni-Code AVT at the published sizes, batch 80
    python -m cmg.bench --modalities video audio --preset small --shapes digits

Random features of the published shapes; the step is the one that `cmg.pretrain` runs. The ceiling is the best matrix
product measured on the same device in the same precision just before. Prints a table and writes JSON with `--out`.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from cmg.cli import MODALITIES, Parser, command, git_commit, versions
from cmg.downstream.results import markdown_table, write_atomically
from cmg.methods.base import build, defaults
from cmg.presets import PRESETS
from cmg.training.distributed import choose_device
from cmg.training.host import keep_freed_memory
from cmg.training.loop import Trainer

SHAPES = {
    "paper": {"video": (10, 7, 7, 512), "audio": (10, 128), "text": (10, 768)},
    "digits": {"video": (10, 7, 7, 244), "audio": (10, 640), "text": (10, 300)},
}


class RandomFeatures:
    """Stands in for a `FeatureSet` of n clips: the same attributes, one random batch kept on the device."""

    cache = "host"

    def __init__(self, shapes, n, device):
        self.shapes, self.ids = shapes, [str(i) for i in range(n)]
        generator = torch.Generator().manual_seed(0)
        self.batch = {m: torch.randn(n, *shape, generator=generator).to(device) for m, shape in shapes.items()}
        self.batch |= {f"valid/{m}": torch.ones(n, shape[0], dtype=torch.bool, device=device)
                       for m, shape in shapes.items()}

    def __len__(self):
        return len(self.ids)


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


def matmul_ceiling(device, dtype):
    """Best FLOP/s of a square matrix product on this device: median of five after one for warm-up."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    a @ b
    times = []
    for _ in range(5):
        with timed(device, times):
            a @ b
    return 2 * n**3 / statistics.median(times)


def measure(args, device):
    """One record: what was run, and what it cost."""
    options = defaults(args.preset, args.method) | {
        "method": args.method, "epochs": 1, "max_steps": None, "batch_size": args.batch_size, "seed": 0,
        "accumulate": 1, "precision": args.precision, "compile": args.compile, "codebook_init": "uniform",
    }
    shapes = {m: SHAPES[args.shapes][m] for m in args.modalities}
    torch.manual_seed(0)
    method = build(shapes, options).to(device).train()
    features = RandomFeatures(shapes, args.batch_size, device)
    trainer = Trainer(method, features, options, ".", device)
    ceiling = matmul_ceiling(device, torch.bfloat16 if args.precision == "bf16" else torch.float32)
    with FlopCounterMode(display=False) as counter:
        trainer.train_step(features.batch)
    for _ in range(args.warmup):
        trainer.train_step(features.batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(args.steps):
        with timed(device, times):
            trainer.train_step(features.batch)
    step = statistics.median(times)
    if device.type == "cuda":
        peak, name = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_name(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        name = f"CPU, {torch.get_num_threads()} threads"
    flops = counter.get_total_flops()
    return {
        "preset": args.preset, "modalities": list(args.modalities), "shapes": args.shapes,
        "batch_size": args.batch_size, "precision": args.precision, "compile": args.compile, "device": name,
        "gflop_per_step": flops / 1e9,
        "step_ms": 1e3 * step, "step_ms_min": 1e3 * min(times), "step_ms_max": 1e3 * max(times), "steps": args.steps,
        "clips_per_second": args.batch_size / step, "gflop_per_second": flops / step / 1e9,
        "ceiling_gflop_per_second": ceiling / 1e9, "share_of_ceiling": flops / step / ceiling,
        "peak_memory_mib": peak / 2**20, "parameters": sum(p.numel() for p in method.parameters()),
        "commit": git_commit(), "versions": versions(),
    }


def table(record):
    rows = [
        ["FLOPs a step", f"{record['gflop_per_step']:.1f} G"],
        ["step, median (min to max)",
         f"{record['step_ms']:.1f} ms ({record['step_ms_min']:.1f} to {record['step_ms_max']:.1f})"],
        ["clips per second", f"{record['clips_per_second']:.1f}"],
        ["achieved", f"{record['gflop_per_second']:.1f} GFLOP/s"],
        ["matrix product ceiling", f"{record['ceiling_gflop_per_second']:.1f} GFLOP/s"],
        ["share of the ceiling", f"{100 * record['share_of_ceiling']:.1f} %"],
        ["peak memory", f"{record['peak_memory_mib']:.0f} MiB"],
        ["parameters", f"{record['parameters'] / 1e6:.1f} M"],
    ]
    head = f"{record['preset']}, {' '.join(record['modalities'])}, batch {record['batch_size']}, {record['precision']}"
    return markdown_table([head, record["device"]], rows)


@command
def main(argv=None):
    p = Parser(prog="cmg.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--method", default="unicode")
    p.add_argument("--preset", choices=sorted(PRESETS), default="paper")
    p.add_argument("--shapes", choices=sorted(SHAPES), default="paper", help="of the features")
    p.add_argument("--modalities", nargs="+", choices=MODALITIES, default=["video", "audio", "text"])
    p.add_argument("--batch-size", type=int, default=80)
    p.add_argument("--steps", type=int, default=5, help="timed steps")
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--out", help="JSON file")
    args = p.parse_args(argv)
    device = choose_device(args.device)
    if args.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    if device.type == "cpu":
        keep_freed_memory()
    record = measure(args, device)
    print(table(record))
    if args.out:
        write_atomically(args.out, json.dumps(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    main()
