"""Tables of the pages and of the records in figs/, read back."""

import re

from support import ROOT


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables_of(text):
    """All tables of a page, as [header, rows ...] of cells."""
    found = re.findall(r"((?:^\|.*\n)+)", text, re.M)
    return [[cells_of(line) for line in table.splitlines() if not re.fullmatch(r"[|: -]+", line)] for table in found]


class Record:
    """One of figs/*.md: `transfer` row -> column -> cell, `lines` (row, task, direction, metric) -> column -> cell, and
    `means` row -> "here / paper"."""

    def __init__(self, name):
        text = (ROOT / "figs" / f"{name}.md").read_text("utf-8")
        tables = {own[0][0]: own for own in reversed(tables_of(text))}
        head, *rows = tables["transfer"]
        self.transfer = {row[0]: dict(zip(head, row)) for row in rows}
        head, *rows = next(own for own in tables_of(text) if own[0][:2] == ["row", "task"])
        lines = [dict(zip(head, row)) for row in rows]
        self.lines = {(one["row"], one["task"], one["direction"], one["metric"]): one for one in lines}
        compared = [own for own in tables_of(text) if own[0][-1] == "mean"]
        self.means = {row[0]: row[-1] for own in compared for row in own[1:]}

    def get(self, row, task, metric, direction, column="transfer"):
        return self.lines[row, task, direction, metric][column]
