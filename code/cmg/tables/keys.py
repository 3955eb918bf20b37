"""The keys of table files: how the value of each is read, in one line where it is of another kind."""

import difflib
import shlex

from cmg.errors import UserError


def _text(value, place) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place} is {value!r}; expected text in quotes")
    return value


def _flags(value, place) -> list[str]:
    """Flags as a shell splits them, over several lines if need be."""
    try:
        return shlex.split(_text(value, place))
    except ValueError as error:
        raise UserError(f"{place}: {str(error).lower()}; expected quotes in pairs") from None


def as_table(value, place) -> dict:
    if not isinstance(value, dict):
        raise UserError(f"{place} is {value!r}; expected a table of keys")
    return value


def _list(read):
    def read_all(values, place) -> list:
        if isinstance(values, dict):  # [rows] for [[rows]]
            raise UserError(f"{place} is one table; expected a list of them, each with [[ ]] around its name")
        if not isinstance(values, list):
            raise UserError(f"{place} is {values!r}; expected a list")
        return [read(value, place) for value in values]

    return read_all


def _unless_absent(read):
    return lambda value, place: None if value is None else read(value, place)


# Of every table of the file: key -> how its value is read, and the value of a key that is not there.
FILE = {"about": (_text, ""), "defaults": (_flags, ""), "trial_flags": (_flags, ""), "evaluations": (as_table, {}),
        "rows": (_list(as_table), []), "groups": (_list(as_table), []), "reference": (_text, "")}
EVALUATION = {"task": (_text, ""), "metrics": (_list(_text), []), "flags": (_flags, "")}
GROUP = {"defaults": (_flags, ""), "rows": (_list(as_table), []), "reference": (_text, ""),
         "tasks": (_unless_absent(_list(_text)), None)}
ROW = {"name": (_text, ""), "flags": (_flags, ""), "trials": (_list(_flags), []), "init_from": (_text, ""),
       "tasks": (_unless_absent(_list(_text)), None)}


def read_entry(entry: dict, known: dict, place: str) -> dict:
    """All keys of a table of the file, read; what is unknown is refused."""
    for key in entry:
        if key not in known:
            raise UserError(f"{place}: unknown key {key!r}; {meant(key, known)}")
    return {key: read(entry.get(key, absent), f"{place}: {key}") for key, (read, absent) in known.items()}


def meant(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
