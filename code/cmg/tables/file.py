"""Table files: the rows of a table and how they are evaluated, declared in TOML.

    about = "What carries the transfer?"
    defaults = "--epochs 24 --lr 1e-3"   # flags of cmg.pretrain that every row begins with

    [evaluations.ave]                    # every row is evaluated like this
    task = "ave"
    metrics = ["accuracy", "segment_accuracy"]
    flags = "--data {ave} --annotations {annotations}"

    [evaluations.mine]
    task = "my_task.py"

    [[rows]]
    name = "full"
    flags = "--preset paper"

    [[rows]]
    name = "without CPC"
    flags = "--preset paper --w-cpc 0"

`task` is a module of cmg.downstream, or a .py file of one's own, whose path begins at the table file's folder. Such a
file is called as ours are (`--checkpoint RUN … --out FOLDER --device cpu`) and writes its rows with
`cmg.downstream.results.write_results`. `metrics`, as results.json calls them, are the columns, by default the first
that the task reports. In flags, `{name}` stands for what the command line gives by `--set name=value`, several values
if one --set gives several, and in those of an evaluation `{run}` for the run folder. An evaluation reads the checkpoint
that was chosen in the run folder unless it says otherwise (`--checkpoint {run}/latest.pt`). Where rows read different
features, their own flags say so (`--data {mine}`).

AVE under `strict` chooses this checkpoint, so it comes before all others, whatever the order in the file.

Rows that have more in common stand in `[[groups]]`, each with `defaults` and `rows` of its own: flags of the file come
first, then those of the group, then those of the row; the last of equal flags counts. Rows outside of groups lead.

Rows are compared with the first of all, or with the row that the file names by `reference = "full"`; those of a group
with the row that the group names.

A row may begin with the weights of another one, of the same seed, and be evaluated by some of the tasks, or none:

    rows = [
        {name = "aligned",  flags = "--method prealign", tasks = []},
        {name = "captions", flags = "--method uniq4cap", init_from = "aligned"},
    ]

The other one stands before it, and is run first. A row without tasks has no line in the table. A group may name the
`tasks` of its rows.

Rows may be tuned. The first trial of a row is the row as it stands; each entry of its `trials` is one more, with these
flags after the row's own. What all trials have and rows do not, for example fewer epochs, are the file's `trial_flags`:

    trial_flags = "--epochs 8"
    rows = [
        {name = "full",        flags = "--preset paper",           trials = ["--w-cmcm 10"]},
        {name = "without CPC", flags = "--preset paper --w-cpc 0", trials = ["--w-cmcm 10"]},
    ]

All rows get the same number of trials, or none gets any. The row is run with the flags of its best trial (see
cmg/tables/sweep.py).
"""

import ast
import re
import shlex
import tomllib
import unicodedata
from pathlib import Path
from typing import NamedTuple

from cmg.configs import nearest
from cmg.downstream.registry import TABLED
from cmg.errors import UserError
from cmg.files import read_text
from cmg.tables.keys import EVALUATION, FILE, GROUP, ROW, as_table, meant, read_entry

FILES = Path(__file__).parent / "files"  # of the package; in the checkout a link to scripts/tables


class Evaluation(NamedTuple):
    """A downstream task as a column group: `module` is what Python runs, a module's name or a .py file's path;
    `arguments` still have their placeholders."""

    name: str
    metrics: tuple[str, ...]
    module: str
    arguments: tuple[str, ...]

    @property
    def chooses(self) -> bool:
        """Does it mark the run's best.pt, which the others read?"""
        words = {part for word in self.arguments for part in word.split("=")}
        return self.module == "cmg.downstream.ave" and not {"paper", "--checkpoint", "--open-set"} & words


class Table(NamedTuple):
    """rows : dict name -> list of flags; evaluations : list of Evaluation, the one that chooses first; trials : dict
    name -> what each trial adds to the row's flags, nothing for the first; trial_flags : what all trials share;
    references : dict name -> the row that it is compared with; starts : dict name -> the row whose weights it begins
    with, of rows that have one; tasks : dict name -> names of its evaluations."""

    rows: dict[str, list[str]]
    evaluations: list[Evaluation]
    trials: dict[str, list[list[str]]]
    trial_flags: list[str]
    references: dict[str, str]
    starts: dict[str, str]
    tasks: dict[str, list[str]]

    def with_starts(self, names) -> list[str]:
        """These rows and those that they begin with, in the order of the file."""
        wanted = set(names)
        for name in reversed(self.rows):  # a row begins with one before it
            if name in wanted and name in self.starts:
                wanted.add(self.starts[name])
        return [name for name in self.rows if name in wanted]


def find_table(name) -> Path:
    """The table file of this name: a path, or one of those that the package brings along, without .toml."""
    known = {path.stem: path for path in sorted(FILES.glob("*.toml"))}
    if Path(name).suffix == ".toml" or Path(name).exists():
        return Path(name)
    if name not in known:
        raise UserError(f"{name}: no such table file; expected a path, or one of {', '.join(known)}"
                        f"{nearest(name, list(known))}")
    return known[name]


def read_table(path) -> Table:
    """Read a table file.

    Raises
    ------
    UserError
        No such file, no TOML, an unknown key or a value of another kind, flags with an open quotation, a name that
        occurs twice, a task or a reference that does not exist, a row to begin with that does not stand before, a trial
        that occurs twice or fewer trials than other rows have, trials without AVE to judge them or of rows that begin
        with others, or nothing to run or to evaluate. File and key are named.
    """
    try:
        content = tomllib.loads(read_text(path, "a table file"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}; expected TOML") from None
    file = read_entry(content, FILE, str(path))
    evaluations = _evaluations(file, path)
    entries = _rows(file, path)
    if not entries:
        raise UserError(f"{path}: no rows; expected [[rows]] with a name and flags")
    if not evaluations:
        raise UserError(f"{path}: no evaluations; expected [evaluations.ave] with a task and flags")
    tasks = {name: _tasks(entry["tasks"], evaluations, f"{path}: row {name!r}") for name, entry in entries.items()}
    trials = {name: entry["trials"] for name, entry in entries.items()}
    first = next((name for name in entries if tasks[name]), next(iter(entries)))
    table = Table(
        {name: entry["flags"] for name, entry in entries.items()},
        sorted(evaluations, key=lambda one: not one.chooses),
        trials if any(len(own) > 1 for own in trials.values()) else {},
        file["trial_flags"],
        {name: entry["reference"] or file["reference"] or first for name, entry in entries.items()},
        {name: entry["init_from"] for name, entry in entries.items() if entry["init_from"]},
        tasks)
    _check_others(table, path)
    _check_trials(table, path)
    return table


def _evaluations(file: dict, path) -> list[Evaluation]:
    found = {}
    for name, entry in file["evaluations"].items():
        place = f"{path}: evaluation {name!r}"
        entry = read_entry(as_table(entry, place), EVALUATION, place)
        _check_name(name, found, place)
        if slug(name) == "tb":
            raise UserError(f"{place}: is what a run calls its own folder; expected another name")
        module = _module(entry["task"], Path(path).parent, place)
        found[name] = Evaluation(name, tuple(entry["metrics"]), module, tuple(entry["flags"]))
    return list(found.values())


def _rows(file: dict, path) -> dict[str, dict]:
    """All rows by name: their keys, with all of their flags, the reference of their group and the first trial."""
    groups = [{"defaults": [], "rows": file["rows"], "reference": "", "tasks": None}]
    groups += [read_entry(group, GROUP, f"{path}: group {n}") for n, group in enumerate(file["groups"], 1)]
    rows = {}
    for group, entry in [(own, entry) for own in groups for entry in own["rows"]]:
        place = f"{path}: row {entry.get('name', len(rows) + 1)!r}"
        entry = read_entry(entry, ROW, place)
        _check_name(entry["name"], rows, place)
        trials = [[]]
        for flags in entry["trials"]:
            if flags in trials:
                raise UserError(f"{place}: trials: {shlex.join(flags)!r} is tried already; expected other flags")
            trials.append(flags)
        flags = file["defaults"] + group["defaults"] + entry["flags"]
        tasks = group["tasks"] if entry["tasks"] is None else entry["tasks"]
        rows[entry["name"]] = entry | {"flags": flags, "trials": trials, "reference": group["reference"],
                                       "tasks": tasks}
    return rows


def _tasks(wanted, evaluations: list[Evaluation], place: str) -> list[str]:
    """The evaluations of a row, all where it names none."""
    known = [one.name for one in evaluations]
    for name in wanted or ():
        if name not in known:
            raise UserError(f"{place}: tasks: there is no evaluation {name!r}; {meant(name, known)}")
    return known if wanted is None else wanted


def _check_others(table: Table, path: Path):
    """What rows say of other rows."""
    for reference in table.references.values():
        if reference not in table.rows:
            raise UserError(f"{path}: reference: there is no row {reference!r}; {meant(reference, table.rows)}")
    before = []
    for name in table.rows:
        start = table.starts.get(name)
        if start is not None and start not in before:
            raise UserError(f"{path}: row {name!r}: init_from: there is no row {start!r} before it; before it are: "
                            f"{', '.join(before) or 'none'}")
        before.append(name)


def _check_trials(table: Table, path: Path):
    """Tuning that is not alike for all rows makes a table unfair."""
    if not table.trials:
        if table.trial_flags:
            raise UserError(f"{path}: trial_flags and no trials; expected rows with trials")
        return
    if table.starts:
        raise UserError(f"{path}: row {next(iter(table.starts))!r}: init_from, and rows have trials; expected one or "
                        "the other")
    most = max(table.trials, key=lambda name: len(table.trials[name]))
    for name, own in table.trials.items():
        if len(own) < len(table.trials[most]):
            raise UserError(f"{path}: row {name!r}: {len(own)} of {len(table.trials[most])} trials; expected as many "
                            f"as {most!r} has")
    if not table.evaluations[0].chooses:
        raise UserError(f"{path}: trials and nothing to judge them by; expected an evaluation by ave, strict")


def _check_name(name: str, others, place: str):
    """Names make folders, so they differ as slugs."""
    if not slug(name):
        raise UserError(f"{place}: name is {name!r}; expected one with letters or digits")
    for other in others:
        if slug(other) == slug(name):
            raise UserError(f"{place}: a second {other!r}; expected names that differ in letters or digits")


def _module(task: str, folder: Path, place: str) -> str:
    """What Python runs for a task: a module of cmg.downstream, or the path of a file of one's own."""
    if task.endswith(".py"):
        path = (folder / task).resolve()
        if not path.is_file():
            raise UserError(f"{place}: task: {path}: no such file; expected a .py file, or a task of cmg.downstream")
        _check_task(path, f"{place}: task: {path}")
        return str(path)
    name = task.removeprefix("cmg.downstream.")
    if name not in TABLED:
        raise UserError(f"{place}: task: there is no {task!r}; {meant(name, sorted(TABLED))}")
    return f"cmg.downstream.{name}"


def _check_task(path: Path, place: str):
    """A file that is none would be told after a row's pretraining. It is read, not run."""
    try:
        body = ast.parse(read_text(path, "a .py file")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{place}: no Python ({str(error).splitlines()[0]})") from None
    for part in body:
        targets = getattr(part, "targets", [])
        names = [getattr(part, "name", None), *(getattr(one, "id", None) for one in targets),
                 *(one.asname or one.name for one in getattr(part, "names", []) if isinstance(one, ast.alias))]
        if "main" in names:
            return
    raise UserError(f"{place}: has no `main`; expected a task, as cmg/downstream/task.py says what that is")


# -- placeholders and names ------------------------------------------------------------------------------------------


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

    >>> slug("DCID + CMCM (AV)"), slug("Ψ, 音声")
    ('dcid-cmcm-av', 'ψ-音声')
    """
    return re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", name).lower()).strip("-")
