"""All evidence that needs a card, in one go: parity, golden curves, speed, a large epoch, the other systems' steps, the
paper's encoders, resume, processes.

    python -m cmg.gpu_check --out checkpoint/gpu_check
    python -m cmg.gpu_check --device cpu --small --out somewhere      # a rehearsal

Every part is a process of its own with a time limit; one that fails does not stop the others. Writes gpu_check.json
and gpu_check.md with date, card and commit. Exit status: 0, 1 if a part failed, 2 where there is no card.
"""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cmg.bench import device_name, median_time
from cmg.bench_report import how
from cmg.cli import Parser, command, git_commit, require_folder, versions
from cmg.data.synthetic import SyntheticSpec, synthetic_files
from cmg.distributed import choose_device
from cmg.downstream.results import markdown_table
from cmg.errors import UserError
from cmg.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 200  # seconds a process, of which compiling takes the most


class Failed(Exception):
    """A part's process ended badly; the message is the end of what it said."""


def python(*argv, limit=LIMIT, **environment):
    """Run a module of ours to its end; returns its output."""
    try:
        run = subprocess.run([sys.executable, "-m", *argv], env=inherited(environment), cwd=ROOT, timeout=limit,
                             capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise Failed(f"{argv[0]} took longer than {limit} s") from None
    if run.returncode:
        raise Failed((run.stdout + run.stderr)[-600:])
    return run.stdout


def inherited(environment):
    return {**os.environ, "PYTHONPATH": str(ROOT / "code"), **environment}


def tests(args, folder):
    """Parity, and golden curves in float32 and bf16, on the device."""
    return run_tests(args, "released/test_parity.py", *([] if args.small else ["training/test_golden.py"]))


def compiled(args, folder):
    """`--compile` and `--cuda-graph` against eager mode, on the device."""
    return {"skipped": "small"} if args.small else run_tests(args, "training/test_compile.py", "training/test_graph.py")


def run_tests(args, *files):
    said = python("pytest", "-q", *(str(ROOT / "tests" / f) for f in files), CMG_TEST_DEVICE=args.device)
    return {"tests": said.strip().splitlines()[-1]}


def bench(args, folder):
    """AVT and AV at batch 80 in every precision, larger batches in bf16; AVT as a graph, and compiled."""
    small = ["--shapes", "tiny", "--dim", "16", "--specific-dim", "8", "--steps", "1", "--warmup", "0"]
    full = ["--shapes", "paper", "--steps", "20", "--warmup", "5"]
    runs = [["fp32", "80"], ["tf32", "80"], ["bf16", "80", "256"]]
    faster = [["bf16", "80", "256", "--cuda-graph"], ["bf16", "80", "256", "--compile", "--cuda-graph"]]
    records = []
    for modalities, more in ((["video", "audio", "text"], faster), (["video", "audio"], [])):
        for precision, *rest in [["fp32", "8"]] if args.small else runs + more:
            out = folder / "bench.json"
            python("cmg.bench", "--preset", "paper", "--device", args.device, "--precision", precision, "--modalities",
                   *modalities, *(small if args.small else full), "--out", str(out), "--batch-size", *rest)
            records += json.loads(out.read_text())
    out.unlink()
    return {"records": records}


def epoch(args, folder):
    """An epoch over 40 000 clips of the published shapes, resident on the card."""
    out, clips = folder / "epoch.json", 160 if args.small else 40_000
    size = (["--shapes", "tiny", "--dim", "16", "--specific-dim", "8", "--batch-size", "16"] if args.small
            else ["--shapes", "paper", "--batch-size", "80"])
    graph = [] if args.device == "cpu" else ["--cuda-graph"]
    python("cmg.bench", "--preset", "paper", "--device", args.device, "--precision", "bf16", "--epoch", str(clips),
           "--steps", "1", *size, *graph, "--out", str(out))
    (record,) = json.loads(out.read_text())
    out.unlink()
    return {name: record[name] for name in ("epoch_clips", "epoch_steps", "epoch_s", "peak_memory_mib")}


SYSTEMS = {  # preset of the published sizes, batch on a card, what else
    "multisk": ("released", 2160, ["--shapes", "howto100m"]),
    "cmmixer": ("base", 64, ["--shapes", "raw", "--modalities", "video", "audio"]),
    "uniq4cap": ("small", 64, ["--shapes", "captions", "--set", "encoders=none"]),
}


def systems(args, folder):
    """A step of each of the other systems; one that does not fit says so."""
    records, failures, out = [], {}, folder / "bench.json"
    for method, (preset, batch, flags) in SYSTEMS.items():
        how_often = ["--steps", "10", "--warmup", "3", "--precision", "bf16"]
        if args.small:
            preset, batch, how_often = "small", 2, ["--steps", "1", "--warmup", "0"]
        try:
            python("cmg.bench", "--method", method, "--preset", preset, "--batch-size", str(batch), *flags, *how_often,
                   "--device", args.device, "--out", str(out))
            records += json.loads(out.read_text())
        except Failed as failure:
            failures[method] = str(failure)
    return {"records": records} | failures


def encoders(args, folder):
    """Clips of ten seconds (one, if small), 16 frames and 16000 samples each, that VGG-19 and VGGish read a second."""
    from cmg.extract.vgg19 import VGG19  # late: their libraries are of an extra
    from cmg.extract.vggish import VGGish

    found, precision, seconds = {}, "fp32" if args.small else "bf16", 1 if args.small else 10
    frames = [np.zeros((16, 240, 320, 3), np.uint8)] * seconds
    for encoder, steps in ((VGG19, frames), (VGGish, torch.zeros(seconds, 16_000))):
        call = partial(encoder(("random:0",), args.device, precision), steps)
        found[f"{encoder.name}_clips_per_s"] = round(1 / median_time(call, choose_device(args.device)), 1)
    return found


def small_run(args, folder):
    """Flags of a short run on 160 synthetic clips."""
    data = synthetic_files(folder / "data", SyntheticSpec(clips=160, ave_clips=(4, 4, 4))).pretrain
    return ["--data", str(data), "--preset", "small", "--dim", "32", "--codes", "32", "--batch-size", "16", "--epochs",
            "6", "--save-every", "1e-6", "--log-every", "1", "--device", args.device]


def resume(args, folder):
    """A run killed with SIGKILL and resumed, beside one that was left alone."""
    flags = small_run(args, folder)
    whole, killed = folder / "whole", folder / "killed"
    python("cmg.pretrain", *flags, "--out", str(whole))
    process = subprocess.Popen([sys.executable, "-m", "cmg.pretrain", *flags, "--out", str(killed)], cwd=ROOT,
                               env=inherited({}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "latest.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = position(killed)
    python("cmg.pretrain", *flags, "--out", str(killed), "--resume", "auto")
    difference = furthest(whole, killed)
    if position(killed) != position(whole) or difference > 1e-3:
        raise Failed(f"killed at step {stopped}, ended at {position(killed)}: weights differ by {difference:g}")
    return {"killed_at": stopped, "steps": position(whole), "largest_difference": difference,
            "same_bits": difference == 0}


def processes(args, folder):
    """The same run on two processes: losses of the first steps against one process's."""
    if args.device != "cpu" and torch.cuda.device_count() < 2:
        return {"skipped": f"{torch.cuda.device_count()} card"}
    flags = [*small_run(args, folder), "--max-steps", "12"]
    python("cmg.pretrain", *flags, "--out", str(folder / "one"))
    python("cmg.launch", "2", "cmg.pretrain", *flags,
           "--out", str(folder / "two"))
    two, one = first_loss(folder / "two"), first_loss(folder / "one")
    if abs(two - one) > 0.05 * abs(one):  # dropout draws other numbers on every process
        raise Failed(f"first loss {two:g} on two processes, {one:g} on one")
    return {"first_loss_two": two, "first_loss_one": one}


def position(run):
    return torch.load(run / "latest.pt", map_location="cpu", weights_only=True)["position"]["step"]


def furthest(a, b):
    """The largest difference between two runs' weights, codes included."""
    a, b = (torch.load(run / "latest.pt", map_location="cpu", weights_only=True)["model"] for run in (a, b))
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def first_loss(run):
    header, row = (run / "metrics.csv").read_text().splitlines()[:2]
    return float(dict(zip(header.split(","), row.split(",")))["loss/total"])


PARTS = {part.__name__: part for part in (tests, compiled, bench, epoch, systems, encoders, resume, processes)}


def bench_row(r):
    """Cells of one bench record."""
    return [r["method"], " ".join(r["modalities"]), str(r["batch_size"]), how(r),
            f"{r['step_ms']:.1f}", f"{r['clips_per_second']:.0f}", f"{r['gflop_per_second'] / 1e3:.2f}",
            f"{100 * r['share_of_ceiling']:.0f}", f"{r['peak_memory_mib']:.0f}"]


def report(record):
    """The Markdown page: what passed, and the bench's table."""
    lines = [f"# Check on {record['device']}", "", f"{record['date']}, commit {record['commit']}, torch "
             f"{record['versions']['torch']}, {record['seconds']:.0f} s" + (", small" if record["small"] else ""), ""]
    rows = []
    for name, part in record["parts"].items():
        told = part.get("error") or ", ".join(f"{k} {v}" for k, v in part["found"].items() if k != "records")
        rows.append([name, "passed" if "found" in part else "FAILED", f"{part['seconds']:.0f}",
                     " ".join(told.split()).replace("|", "/")])
    lines.append(markdown_table(["part", "result", "seconds", "found"], rows))
    records = [r for part in record["parts"].values() for r in part.get("found", {}).get("records", [])]
    if records:
        rows = [bench_row(r) for r in records]
        header = ["method", "modalities", "batch", "step", "ms a step", "clips/s", "TFLOP/s", "% of ceiling", "MiB"]
        lines += ["", markdown_table(header, rows)]
    return "\n".join(lines) + "\n"


@command
def main(argv=None):
    p = Parser(prog="cmg.gpu_check", description=__doc__)
    p.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a rehearsal")
    p.add_argument("--small", action="store_true", help="tiny shapes and few steps")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    p.add_argument("--out", required=True, help="folder of gpu_check.json and gpu_check.md")
    args = p.parse_args(argv)
    if args.device != "cpu" and not torch.cuda.is_available():
        raise UserError("no CUDA device here: nothing to check (a rehearsal: --device cpu --small)")
    device, began = choose_device(args.device), time.monotonic()
    require_folder(args.out)
    folder = Path(args.out).resolve()  # the parts' processes run in the checkout
    folder.mkdir(parents=True, exist_ok=True)
    record = {"date": datetime.date.today().isoformat(), "device": device_name(device), "commit": git_commit(),
              "versions": versions(), "small": args.small, "parts": {}}
    for name in args.parts:
        print(f"{name} …", file=sys.stderr, flush=True)
        start, work = time.monotonic(), folder / f"work-{name}-{os.getpid()}"
        work.mkdir()
        try:
            part = {"found": PARTS[name](args, work)}
        except Exception as failure:  # whatever it is, out of memory for one: the other parts go on
            part = {"error": str(failure) or type(failure).__name__}
        record["parts"][name] = part | {"seconds": time.monotonic() - start}
        shutil.rmtree(work)
        record["seconds"] = time.monotonic() - began
        write_atomically(folder / "gpu_check.json", json.dumps(record, indent=1) + "\n")  # after every part:
        write_atomically(folder / "gpu_check.md", report(record))  # a lent card may be gone before the last one ends
    print(report(record))
    failed = [name for name, part in record["parts"].items() if "error" in part]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
