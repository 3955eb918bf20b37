"""Table files: the rows of a table and how they are evaluated, declared in a few lines of text.

    # a comment
    @ave [accuracy segment_accuracy]: cmg.downstream.ave --data {ave} --annotations {annotations}
    @avvp paper [precision]: cmg.downstream.avvp --protocol paper --data {avvp} --annotations {annotations}
    *: --epochs 24 --lr 1e-3
    full: --preset paper
    without CPC: --preset paper --w-cpc 0

A row is `name: flags of cmg.pretrain`; the flags of `*` are put before those of every row below it. `@name [metrics]:
module flags` is an evaluation of every row; its metrics, as results.json calls them, are the columns, by default the
first that the task reports. `{name}` stands for what the command line gives by `--set name=value`, several values if
one --set gives several, and `{run}` for the run folder. An evaluation reads the checkpoint that was chosen in the run
folder unless it says otherwise (`--checkpoint {run}/latest.pt`).

AVE under `strict` chooses this checkpoint, so it comes before all others, whatever the order of the lines.

Rows may be tuned. The first trial of a row is the row as it stands; `? name: flags` is one more, with these flags after
the row's own. Flags that all trials have and rows do not, for example fewer epochs, stand in a line `?*: flags`:

    ? full: --w-cmcm 10
    ?*: --epochs 8

All rows get the same number of trials, or none gets any. The row is run with the flags of its best trial (see
cmg/tables/sweep.py).
"""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from cmg.errors import UserError
from cmg.files import read_text


class Evaluation(NamedTuple):
    """A downstream task as a column group: `arguments` with placeholders still in them."""

    name: str
    metrics: tuple[str, ...]
    module: str
    arguments: tuple[str, ...]

    @property
    def chooses(self) -> bool:
        """Does it mark the run's best.pt, which the others read?"""
        return self.module == "cmg.downstream.ave" and not {"paper", "--checkpoint"} & set(self.arguments)


class Table(NamedTuple):
    """rows : dict name -> list of flags; evaluations : list of Evaluation, the one that chooses first; trials : dict
    name -> what each trial adds to the row's flags, nothing for the first; trial_flags : what all trials share."""

    rows: dict[str, list[str]]
    evaluations: list[Evaluation]
    trials: dict[str, list[list[str]]]
    trial_flags: list[str]


def read_table(path) -> Table:
    """Parse a table file.

    Raises
    ------
    UserError
        No such file, a line that is neither row nor evaluation nor trial, a name that occurs twice, an evaluation that
        is no task of this package, a trial of no row above it or of fewer rows than others have, trials without AVE to
        judge them, or nothing to run or to evaluate. The line is named.
    """
    rows, evaluations, common, trials, shared = {}, {}, [], {}, None
    for number, line in enumerate(read_text(path, "a table file").splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, colon, flags = line.partition(":")
        name, place = name.strip(), f"{path}, line {number}"
        if not colon or not name:
            raise UserError(f"{place}: expected `name: flags` or `@name: module flags`")
        try:
            flags = shlex.split(flags)
        except ValueError as error:
            raise UserError(f"{place}: {str(error).lower()}; expected quotes in pairs") from None
        if name == "*":
            common = flags
        elif name.startswith("@"):
            found = _evaluation(name[1:], flags, place)
            if slug(found.name) in {slug(other) for other in evaluations}:
                raise UserError(f"{place}: a second evaluation {found.name!r}; expected every name once")
            evaluations[found.name] = found
        elif name.startswith("?"):
            name = name[1:].strip()
            if name == "*":
                if shared is not None:
                    raise UserError(f"{place}: a second line ?*; expected one")
                shared = flags
            elif name not in rows:
                raise UserError(f"{place}: a trial of {name!r}; expected a row above it, of the very same name")
            elif flags in trials.setdefault(name, [[]]):
                raise UserError(f"{place}: a trial that {name!r} has already; expected other flags")
            else:
                trials[name].append(flags)
        elif slug(name) in {slug(other) for other in rows}:
            raise UserError(f"{place}: a second row {name!r}; expected every name once")
        else:
            rows[name] = common + flags
    if not rows:
        raise UserError(f"{path}: no rows; expected lines `name: flags`")
    if not evaluations:
        raise UserError(f"{path}: no evaluations; expected lines `@ave: cmg.downstream.ave …`")
    table = Table(rows, sorted(evaluations.values(), key=lambda one: not one.chooses), trials, shared or [])
    _check_trials(table, path)
    return table


def _check_trials(table: Table, path: Path):
    """Tuning that is not alike for all rows makes a table unfair."""
    if not table.trials:
        if table.trial_flags:
            raise UserError(f"{path}: a line ?* and no trials; expected lines `? row: flags`")
        return
    counts = {name: len(table.trials.get(name, [[]])) for name in table.rows}
    most = max(counts, key=counts.get)
    for name, count in counts.items():
        if count < counts[most]:
            raise UserError(f"{path}: row {name!r} has {count} of {counts[most]} trials; expected as many as {most!r}")
    if not table.evaluations[0].chooses:
        raise UserError(f"{path}: trials and nothing to judge them by; expected cmg.downstream.ave, strict")


def _evaluation(head: str, words: list[str], place: str) -> Evaluation:
    match = re.fullmatch(r"\s*([^\[\]]*[^\[\]\s])\s*(?:\[([^\[\]]*)\])?", head)
    if not match or not words:
        raise UserError(f"{place}: expected `@name [metrics]: module flags`")
    module = words[0]
    if not module.startswith("cmg.downstream.") or importlib.util.find_spec(module) is None:
        raise UserError(f"{place}: {module} is no task; expected a module of cmg.downstream, cmg.downstream.ave say")
    return Evaluation(match[1], tuple((match[2] or "").split()), module, tuple(words[1:]))


def read_settings(groups) -> dict[str, list[str]]:
    """`--set name=value …`, a list for every time that it was given -> values of every name; a later --set wins."""
    settings = {}
    for group in groups:
        found = {}
        for pair in group:
            name, equals, value = pair.partition("=")
            if not equals or not re.fullmatch(r"\w+", name) or name == "run" or not value:
                raise UserError(f"--set {pair}: expected name=value; `run` is taken")
            found.setdefault(name, []).append(value)
        settings |= found
    return settings


def fill(arguments, settings: dict[str, list[str]], owner: str) -> list[str]:
    """Put settings in the place of `{name}`; a word that is nothing else becomes as many words as there are values.

    >>> fill(["--data", "{ave}", "{run}/best.pt"], {"ave": ["a.h5", "b.h5"], "run": ["r"]}, "ave")
    ['--data', 'a.h5', 'b.h5', 'r/best.pt']
    """
    filled = []
    for word in arguments:
        names = re.findall(r"\{(\w+)\}", word)
        for name in names:
            if name not in settings:
                raise UserError(f"--set {name}=…: missing; {owner} needs it")
            if word != f"{{{name}}}" and len(settings[name]) > 1:
                raise UserError(f"--set {name}=…: {len(settings[name])} values; {owner} has place for one in {word}")
        if names and word == f"{{{names[0]}}}":
            filled += settings[names[0]]
        else:
            filled.append(re.sub(r"\{(\w+)\}", lambda match: settings[match[1]][0], word))
    return filled


def slug(name: str) -> str:
    """A name as part of a file name.

    >>> slug("DCID + CMCM (AV)")
    'dcid-cmcm-av'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
