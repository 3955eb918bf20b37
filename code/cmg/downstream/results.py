"""What every downstream task leaves behind: `results.json`, tables, and `best.pt` in the run folder."""

import itertools
import json
import os
import re
import shutil
from pathlib import Path

import torch

from cmg.cli import require_folder
from cmg.errors import UserError
from cmg.files import in_turn, parse_json, replacing, write_atomically
from cmg.training.checkpoint import file_of
from cmg.training.exported import CONFIG, on_hub

# Two rows with equal values here are the same measurement: the newer one replaces the older.
IDENTITY = ("task", "source", "target", "gallery", "protocol", "metric", "n_known", "seed")


def rounded(x):
    """A figure, or a dict of them, as it stands in results.json; JSON knows no infinity, so that is None."""
    if isinstance(x, dict):
        return {name: rounded(value) for name, value in x.items()}
    return x if x is None or isinstance(x, int) else round(x, 4) if x < float("inf") else None


def mean(x):
    """Mean over probe seeds, as it stands in results.json."""
    return rounded(x.mean().item())


def std(x):
    """Standard deviation over probe seeds, 0 for a single one."""
    return rounded(x.std(correction=1).item()) if len(x) > 1 else 0.0


def result(task: str, source: str, target: str, settings, metric: str, value, own, bound, chance: float, n_train: int,
           n_test: int, split: str | None = None, **more) -> dict:
    """A row of `results.json` less checkpoint and commit.

    Parameters
    ----------
    settings : has protocol and seed
    value, own, bound : Tensor[S] over probe seeds, or a number or None: the figure on the target and on the source
        itself of a probe of the source, and that on the target of a probe of the target, the upper bound
    split : the split that is reported, where a task has several to report
    more : what else there is to say, in this order
    """
    found = {"task": task, "source": source, "target": target, "protocol": settings.protocol, "metric": metric}
    figures = {"value": value, "source_value": own, "target_value": bound}
    found |= {name: mean(x) if isinstance(x, torch.Tensor) else rounded(x) for name, x in figures.items()}
    found |= {"chance": rounded(chance), "n_train": n_train, "n_test": n_test, "seed": settings.seed}
    if split:
        found["split"] = split
    if isinstance(value, torch.Tensor):
        found |= {name: None if x is None else std(x)
                  for name, x in (("std", value), ("source_std", own), ("target_std", bound))}
    return found | more


def find_checkpoints(path) -> list[Path]:
    """The checkpoint file itself, or every `epoch_*.pt` of a run folder in order; an exported model is one."""
    path = Path(path)
    if path.is_file():
        return [path]
    if (path / CONFIG).is_file() or on_hub(path):
        return [file_of(path)]
    if not path.is_dir():
        raise UserError(f"--checkpoint {path}: no such file or folder; expected a .pt file or a run folder")
    found = sorted(path.glob("epoch_*.pt"), key=lambda file: (len(file.stem), file.stem))
    if not found:
        raise UserError(f"--checkpoint {path}: no epoch_*.pt in this folder; expected a run folder of cmg.pretrain")
    return found


def prepare_results(folder):
    """Try to make the folder of `results.json` before the work begins: what cannot be written need not be measured.
    What was made is taken away again, so that a command that fails leaves nothing; writing makes it."""
    require_folder(folder)
    folder = Path(folder)
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot write here ({error.strerror})") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out {folder}: cannot write here; expected a folder of one's own")
    for one in new:
        one.rmdir()
    read_results(folder)


def read_results(folder) -> list[dict]:
    """The rows of `folder/results.json`, none where there is no such file."""
    path = Path(folder) / "results.json"
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TypeError
        for row in rows:
            hash(_identity(row))  # a TypeError where a name is a list
        return rows
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{path}: not a list of results; move it away or choose another --out") from None


def write_results(folder, rows: list[dict]) -> Path:
    """Merge rows into `folder/results.json`: equal measurements are replaced, other tasks' rows stay.

    Rows that differ in nothing but the checkpoint count as equal, because a run folder has one result a direction; to
    compare checkpoints, give each a folder of its own (`--out`).
    """
    path = Path(folder) / "results.json"
    new = {_identity(row) for row in rows}
    with in_turn(path):  # tasks may end together
        kept = [row for row in read_results(folder) if _identity(row) not in new]
        write_atomically(path, json.dumps(kept + rows, indent=2) + "\n")
    return path


def _identity(row: dict) -> tuple:
    return tuple(row.get(key) for key in IDENTITY)


def mark_best(checkpoint: Path, chosen_by: str) -> Path:
    """Copy a checkpoint to `best.pt` beside it, atomically, and write into `best.json` whose labels chose it."""
    best = checkpoint.with_name("best.pt")
    best.with_suffix(".json").unlink(missing_ok=True)
    with replacing(best) as unfinished:
        shutil.copyfile(checkpoint, unfinished)
    record = {"checkpoint": checkpoint.name, "chosen_by": chosen_by}
    write_atomically(best.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    return best


def chosen_by(checkpoint: Path) -> str | None:
    """Whose labels chose a checkpoint, as `mark_best` noted it of a run's `best.pt`, and an exported model's config
    knows it; none did of `latest.pt`. None of a file of which that is not known."""
    if checkpoint.name not in ("best.pt", CONFIG):
        return "no labels" if checkpoint.name == "latest.pt" else None
    try:
        return parse_json(checkpoint.with_suffix(".json").read_text(encoding="utf-8"))["chosen_by"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """An aligned Markdown table; the first column to the left, the others to the right.

    >>> print(markdown_table(["a", "b"], [["x", "10.0"]]))
    | a |    b |
    |:--|-----:|
    | x | 10.0 |
    """
    rows = [[_escaped(cell) for cell in row] for row in rows]
    width = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    align = [str.ljust] + [str.rjust] * (len(header) - 1)
    lines = ["| " + " | ".join(pad(cell, w) for pad, cell, w in zip(align, row, width)) + " |"
             for row in [header, *rows]]
    lines.insert(1, "|:" + "-" * (width[0] + 1) + "|" + "".join("-" * (w + 1) + ":|" for w in width[1:]))
    return "\n".join(lines)


def printed(text: str, width: int | None = None) -> str:
    """Markdown as a terminal of 80 to 100 columns shows it: a table that is wider is cut into several, each of which
    begins with what names a row, its first column or those up to `metric`.

    >>> print(printed(markdown_table(["a", "b", "c"], [["x", "1", "2"]]), 12))
    | a | b |
    |:--|--:|
    | x | 1 |
    <BLANKLINE>
    | a | c |
    |:--|--:|
    | x | 2 |
    """
    width = width or min(100, max(80, shutil.get_terminal_size((100, 24)).columns))
    lines = []
    for _, own in itertools.groupby(text.split("\n"), lambda line: line.startswith("|")):
        lines += _cut([*own], width)
    return "\n".join(lines)


def _cut(table, width):
    """The lines of a table, or of several of some of its columns with an empty line between them; other lines."""
    if len(table[0]) <= width or not table[0].startswith("|"):
        return table
    columns = list(zip(*(re.split(r"(?<!\\)\|", line)[1:-1] for line in table)))  # of padded cells
    names = [own[0].strip() for own in columns]
    keys = columns[: names.index("metric") + 1 if "metric" in names else 1]
    blocks, size = [], width
    for own in columns[len(keys):]:
        if size + len(own[0]) + 1 > width:
            blocks.append([*keys])
            size = 1 + sum(len(key[0]) + 1 for key in keys)
        blocks[-1].append(own)
        size += len(own[0]) + 1
    cut = [[f"|{'|'.join(cells)}|" for cells in zip(*block)] for block in blocks]
    return [line for block in cut for line in (*block, "")][:-1]


def _escaped(cell: str) -> str:
    """Names are anybody's: as text in Markdown, on one line, no cell of its own, no code, no HTML."""
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`")):
        cell = cell.replace(sign, written)
    return " ".join(cell.split())


def results_table(rows: list[dict]) -> str:
    """Rows of `results.json` as a Markdown table: the transfer, what it is held against and how codes are shared.

    ± is the standard deviation over probe seeds; `test error` the standard error over the test clips.
    """
    def cell(row, name, digits=1):
        return "–" if row.get(name) is None else f"{row[name]:.{digits}f}"

    def spread(row, name, std):
        return f"{cell(row, name)} ± {cell(row, std)}"

    header = ["direction", "metric", "transfer", "test error", "own modality", "upper bound", "chance", "match rate",
              "match chance", "codes", "code overlap", "clips"]
    return markdown_table(header, [[
        f"{row['source']} → {row['target']}", row["metric"], spread(row, "value", "std"), cell(row, "test_error"),
        spread(row, "source_value", "source_std"), spread(row, "target_value", "target_std"), cell(row, "chance"),
        cell(row, "match_rate"), cell(row, "match_chance"), cell(row, "used_codes", 0), cell(row, "code_overlap", 2),
        str(row["n_test"])] for row in rows])
