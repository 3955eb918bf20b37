"""What may come from outside: methods, backbones, readers by a name of ours, of an installed package, or by a file.

    dcid                     a name of the table that the caller has
    path/to/mine.py          a Python file; path/to/mine.py:Name one of several in it
    another                  the name of an entry point that an installed package declares, in the group cmg.<kind>

A file is run: it is named by the user, never by data.
"""

import hashlib
import importlib
import importlib.metadata
import inspect
import sys
import types
from abc import ABC
from pathlib import Path

from cmg.configs import nearest
from cmg.errors import UserError


def is_file(name) -> bool:
    """Whether a name stands for a Python file."""
    return file_of(name).suffix == ".py"


def file_of(name) -> Path:
    """The path in `path/to/mine.py` or `path/to/mine.py:Name`."""
    head, mark, _ = str(name).rpartition(".py:")
    return Path(head + ".py" if mark else name)


def find(name, table, kind, flag, wanted):
    """What a name stands for.

    Parameters
    ----------
    table : dict name -> "module:attribute", what this package brings along
    kind : "methods", "backbones" or "readers", for the group of entry points
    flag : for messages
    wanted : function that says whether something of a file or package is what is looked for

    Raises
    ------
    UserError : no such name or file; a file that holds none, or several without saying which; a class that is not
        complete.
    """
    if is_file(name):
        return of_file(name, flag, wanted)
    if name in table:
        module, _, attribute = table[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in importlib.metadata.entry_points(group=f"cmg.{kind}"):
        if entry.name == name and wanted(thing := entry.load()):
            return complete(thing, f"{flag} {name}")
    ours = f"one of {', '.join(table)}, or " if table else ""
    raise UserError(f"{flag} {name}: expected {ours}a file of one's own (mine.py){nearest(name, list(table))}")


def of_file(name, flag, wanted):
    """The one thing of a Python file that is wanted; see `find`."""
    module = load_file(file_of(name), flag)
    found = {attribute: thing for attribute, thing in vars(module).items()  # a class is its own, not one it imports
             if wanted(thing) and not (isinstance(thing, type) and thing.__module__ != module.__name__)}
    _, mark, chosen = str(name).rpartition(".py:")
    if mark:
        found = {chosen: found[chosen]} if chosen in found else {}
    if len(found) != 1:
        several = f"several ({', '.join(found)}); expected {flag} {name}:NAME" if found else "none of its kind"
        raise UserError(f"{flag} {name}: holds {several}")
    return complete(next(iter(found.values())), f"{flag} {name}")


def complete(thing, where):
    """The same thing; `UserError` for a class without all that its contract asks for."""
    if inspect.isabstract(thing):
        contract = next(base for base in thing.__mro__ if ABC in base.__bases__)
        raise UserError(f"{where}: {thing.__name__} lacks {', '.join(sorted(thing.__abstractmethods__))}; expected all "
                        f"that {contract.__module__}.{contract.__name__} asks for")
    return thing


def load_file(path, flag):
    """A Python file as a module, loaded once; what goes wrong in it is the author's to see, with its traceback.

    What is run is what `digest` says of the file, not bytecode that Python kept of an earlier text of it.
    """
    path, text = Path(path).resolve(), read(path, flag)
    name = f"cmg_file_{hashlib.sha256(bytes(path) + text).hexdigest()[:12]}"  # importable by nobody else
    if name not in sys.modules:
        module = sys.modules[name] = types.ModuleType(name)
        module.__file__ = str(path)
        try:
            exec(compile(text, str(path), "exec"), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def read(path, flag) -> bytes:
    """What a file holds; `UserError` names the flag that asks for it."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{flag} {path}: no such file" if isinstance(error, FileNotFoundError) else
                        f"{flag} {path}: cannot be read ({error.strerror})") from None


def digest(path, flag) -> str:
    """sha256 of a file."""
    return hashlib.sha256(read(path, flag)).hexdigest()
