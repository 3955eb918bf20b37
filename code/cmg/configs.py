"""Settings with types: frozen dataclasses, one a component, from which flags, presets and checkpoints are made.

    @dataclass(frozen=True)
    class CodebookConfig(Config):
        '''The shared codebook.

        Attributes
        ----------
        codes : M, size of the codebook
        '''

        codes: int = setting(400, whole(1))

Components are nested, and a dict of components may stand in the place of one; the names of all settings are different,
so that a tree of them is also a flat dict, which is what flags, `args.json` and checkpoints hold. The flag of `codes`
is --codes, its help the line of the docstring. Values are checked wherever a component is made, by hand as well as by
flags. A preset is an instance.
"""

import argparse
import dataclasses
import difflib
import inspect
import re

from cmg.errors import UserError


def setting(default, check=None, *, choices=None, several=False, required=False, metavar=None):
    """A field of a `Config`.

    Parameters
    ----------
    check : function that makes a value of a text or of a value, or says what is wrong, as `cmg.cli.whole` does; without
        it a truth value is a switch and anything else a text.
    choices : what it may be. several : a list of values. required : as a flag.
    """
    details = {"check": check, "choices": choices, "several": several, "required": required, "metavar": metavar}
    return dataclasses.field(default=default, metadata=details)


class Config:
    """Base of all components: a frozen dataclass whose values are checked."""

    def __post_init__(self):
        for one in dataclasses.fields(self):
            object.__setattr__(self, one.name, _checked(one, getattr(self, one.name)))


def _checked(one, value):
    """The value of a field, brought to its type; `UserError` names the flag."""
    check, choices = one.metadata.get("check"), one.metadata.get("choices")
    if one.default is dataclasses.MISSING or isinstance(one.default, Config):  # a component
        return value
    if not one.metadata:
        raise UserError(f"{one.name} = {one.default!r}: expected {one.name} = setting({one.default!r}, …)")
    if value is None and (one.default is None or "None" in str(one.type)):
        return value
    try:
        if isinstance(one.default, bool):
            check = truth
        if one.metadata.get("several"):
            if not isinstance(value, list | tuple):
                raise argparse.ArgumentTypeError(f"'{value}' is not a list")
            value = [(check or text)(each) for each in value]
        else:
            value = (check or text)(value)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{flag_of(one.name)}: {error}") from None
    for each in value if one.metadata.get("several") else [value]:
        if choices and each not in choices:
            raise UserError(f"{flag_of(one.name)}: '{each}' is unknown; expected {', '.join(map(str, choices))}")
    return value


def truth(value):
    """A truth value and nothing that counts as one."""
    if not isinstance(value, bool):
        raise argparse.ArgumentTypeError(f"'{value}' is not true or false")
    return value


def text(value):
    """A text and nothing that can be written as one."""
    if not isinstance(value, str):
        raise argparse.ArgumentTypeError(f"'{value}' is not a text")
    return value


def flag_of(name) -> str:
    return f"--{name.replace('_', '-')}"


def components(config):
    """The instances of a tree that hold settings of their own, in order."""
    values = [getattr(config, one.name) for one in dataclasses.fields(config)]
    if any(not isinstance(value, Config | dict) for value in values):
        yield config
    for value in values:
        for inner in value.values() if isinstance(value, dict) else [value]:
            if isinstance(inner, Config):
                yield from components(inner)


def own_fields(component):
    """The fields of a component that are settings and no components."""
    return [one for one in dataclasses.fields(component) if not isinstance(getattr(component, one.name), Config | dict)]


def flat(config) -> dict:
    """All settings of a tree: name -> value."""
    return {one.name: getattr(part, one.name) for part in components(config) for one in own_fields(part)}


def with_values(config, values: dict, strict=False):
    """The tree with other values for some settings. Names that it does not have are left alone, or refused."""
    if strict:
        known = flat(config)
        for name in values:
            if name not in known:
                raise UserError(f"{name}: no setting of {type(config).__name__}{nearest(name, list(known))}")
    changed = {}
    for one in dataclasses.fields(config):
        now = getattr(config, one.name)
        if isinstance(now, Config):
            changed[one.name] = with_values(now, values)
        elif isinstance(now, dict):
            changed[one.name] = {name: with_values(inner, values) for name, inner in now.items()}
        elif one.name in values:
            changed[one.name] = values[one.name]
    return dataclasses.replace(config, **changed)


def helps(kind) -> dict:
    """What the section "Attributes" of a class's docstring says: name -> text."""
    _, _, section = inspect.getdoc(kind).partition("Attributes\n----------\n")
    found, name = {}, None
    for line in section.splitlines():
        match = re.match(r"(\w+) : (.*)", line)
        if match:
            name, found[match[1]] = match[1], match[2]
        elif line.startswith("    ") and name:
            found[name] += f" {line.strip()}"
        else:
            name = None
    return found


def add_flags(parser, config, title=None):
    """A group of flags for every component of a tree, with the tree's values as defaults; returns the groups."""
    groups = []
    for component in components(config):
        said = helps(type(component))
        for one in own_fields(component):
            if one.name not in said:
                raise UserError(f"{type(component).__name__}.{one.name}: expected a line `{one.name} : what it is` "
                                "under Attributes in the docstring of the class")
        group = parser.add_argument_group(title or inspect.getdoc(component).partition("\n")[0].rstrip("."))
        groups.append(group)
        for one in own_fields(component):
            _add_flag(group, one, getattr(component, one.name), said[one.name])
    return groups


def _add_flag(group, one, value, said):
    check, details = one.metadata.get("check"), one.metadata
    if isinstance(one.default, bool):
        switch = argparse.BooleanOptionalAction if one.default else "store_true"
        group.add_argument(flag_of(one.name), action=switch, default=value, help=said)
        return
    more = {"nargs": "+"} if details["several"] else {}
    if details["metavar"]:
        more["metavar"] = details["metavar"]
    group.add_argument(flag_of(one.name), type=check, choices=details["choices"], default=value, help=said,
                       required=details["required"], **more)


def nearest(name, known) -> str:
    """"; did you mean X?", or nothing where no known name is near.

    known : names, or dict name -> what is said of it, whose words count as well: a flag is found by what it does.

    >>> nearest("codebook_size", {"codes": "M, size of the codebook", "codebook_init": "where codes start"})
    '; did you mean codes?'
    """
    told = known if isinstance(known, dict) else dict.fromkeys(known, "")

    def words(text):
        return set(re.findall(r"[a-z]+", text.lower()))

    def score(other):  # a slip of the pen counts before words that say the same, and few words before many
        said = words(f"{other} {told[other] or ''}")
        shared = len(words(name) & said)
        near = difflib.SequenceMatcher(None, name.lstrip("-"), other.lstrip("-")).ratio()
        return max(0.9 * shared / max(1, len(words(name))), near), shared / max(1, len(said))

    best = max(told, key=score, default=None)
    return f"; did you mean {best}?" if best is not None and score(best)[0] >= 0.6 else ""
