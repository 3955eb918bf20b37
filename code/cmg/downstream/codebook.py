"""How the codebook is shared: the paper's Fig. 4 from a checkpoint, and its course over training.

    python -m cmg.downstream.codebook --checkpoint checkpoint/run --data ave.h5

Counts, over all clips of the feature files, how often each modality picks each code. `codebook.png` shows every used
code as a column, parted by the modalities' shares of its use and sorted by the first one's: a codebook that is split
between the modalities is two blocks, a shared one a slope. A modality's counts are divided by its number of steps
first, so that no modality weighs more because it has more of them. `codebook.csv` holds counts and shares.

Of a run folder also `codebook_training.png`: the match rate, the overlap and the number of codes in effective use
(perplexity) at every logged step of its metrics.csv. Every picture is written as .pdf as well.
"""

import csv
import io
from itertools import combinations
from pathlib import Path

import torch

from cmg.cli import Parser, command
from cmg.data.joining import held
from cmg.downstream.results import markdown_table, printed
from cmg.downstream.task import DATA, add_place_flags, open_run, task_parser
from cmg.downstream.tokens import encode_set
from cmg.errors import UserError
from cmg.figures import codes, lines
from cmg.figures.names import letter, pair
from cmg.figures.style import save
from cmg.files import write_atomically
from cmg.metrics.codebook import overlap, perplexity
from cmg.modalities import ordered

CURVES = {  # column of metrics.csv -> label of the axis, its unit in those of the column, names of the lines
    "match": ("match rate, %", 1, pair),
    "overlap": ("code overlap, %", 100, pair),
    "perplexity": ("perplexity, codes", 1, letter),
}
SHARED = 0.2  # a code counts as shared if each of two modalities has more than this share of its use


def usage(model, features, device="cpu") -> dict[str, torch.Tensor]:
    """How often each modality picks each code, dict modality -> int64 Tensor[M]."""
    counts = {}
    for m in features.modalities:
        tokens = encode_set(model, features, m, device=device)
        counts[m] = torch.bincount(tokens.codes[tokens.valid].flatten(), minlength=model.codebook.size).cpu()
    return counts


def shares(counts) -> torch.Tensor:
    """Each modality's share in each code's use, Tensor[modalities, M]; 0 for a code that nobody uses."""
    frequency = torch.stack([c.double() / c.sum().clamp(min=1) for c in counts.values()])
    return frequency / frequency.sum(0).clamp(min=1e-12)


def summary(counts) -> list[list[str]]:
    """A line for every pair of modalities: codes of each, of both, shared ones, overlap of the histograms."""
    lines = []
    for a, b in combinations(counts, 2):
        pair = shares({a: counts[a], b: counts[b]})
        lines.append([f"{a}, {b}", str(int((counts[a] > 0).sum())), str(int((counts[b] > 0).sum())),
                      str(int(((counts[a] > 0) & (counts[b] > 0)).sum())), str(int((pair.amin(0) > SHARED).sum())),
                      f"{overlap(counts[a].double(), counts[b].double()).item():.2f}",
                      f"{perplexity(sum(counts.values()).double()).item():.1f}"])
    return lines


def over_training(path) -> list[lines.Panel]:
    """Curves of a metrics.csv: match rate and overlap of every pair in %, perplexity of every modality in codes."""
    try:
        with open(path, newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
                    if None not in row.values()]  # the last one may be torn, where the run was killed
    except (TypeError, ValueError, csv.Error):
        raise UserError(f"{path}: not the metrics of a run; expected a table of numbers") from None
    panels = []
    for kind, (label, scale, name_of) in CURVES.items():
        columns = sorted(name for name in (rows[0] if rows else ()) if name.startswith(f"codebook/{kind}_"))
        curves = {name_of(column.removeprefix(f"codebook/{kind}_")):
                  [(int(row["step"]), scale * row[column], None) for row in rows] for column in columns}
        if curves:
            panels.append(lines.Panel("", label, curves))
    return panels


def parser() -> Parser:
    p = task_parser("codebook")
    p.add_argument("--data", nargs="+", required=True, help=DATA)
    p.add_argument("--modalities", nargs="+", help="default: all that data and checkpoint share")
    return add_place_flags(p, "the pictures")


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args, needs=("codes",))
    model, data = run.model, run.data
    present = held(data)
    for m in args.modalities or ():
        if m not in model.modalities:
            raise UserError(f"--modalities {m}: --checkpoint has only {', '.join(model.modalities)}")
    wanted = ordered(args.modalities or {*present} & {*model.modalities})
    if args.modalities and len(wanted) < 2:
        raise UserError(f"--modalities {' '.join(wanted)}: expected two or more")
    if len(wanted) < 2:
        raise UserError(f"--data has {', '.join(present)} and --checkpoint {', '.join(model.modalities)}; expected "
                        "two modalities in common")
    counts = usage(model, run.features(data, [wanted]), run.device)
    share, out = shares(counts), run.out
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["code", *(f"count_{m}" for m in counts), *(f"share_{m}" for m in counts)])
    for k in range(model.codebook.size):
        writer.writerow([k, *(int(c[k]) for c in counts.values()), *(f"{s:.4f}" for s in share[:, k].tolist())])
    write_atomically(out / "codebook.csv", table.getvalue())
    header = ["modalities", "codes of the first", "of the second", "of both", f"both above {100 * SHARED:.0f} %",
              "overlap", "perplexity of all"]
    print(printed(markdown_table(header, summary(counts))) + "\n")
    used = share.sum(0) > 0
    order = share[0, used].argsort(descending=True)
    run.tell({}, [save(codes.draw(list(counts), share[:, used][:, order].numpy()), out / "codebook.png")])
    metrics = run.path.parent / "metrics.csv"
    if Path(args.checkpoint).is_dir() and metrics.is_file():
        panels = over_training(metrics)
        if panels:
            run.tell({}, [save(lines.draw(panels, "step"), out / "codebook_training.png")])


if __name__ == "__main__":
    main()
