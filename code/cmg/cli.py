"""Command-line conventions shared by every `python -m cmg.…`: one-line errors, exit status 2, provenance."""

import argparse
import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

from cmg.errors import UserError

SEEDS = 2**32  # torch and numpy both take seeds below this


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that shows every default, unless there is none or the text says itself what it is."""

    def _get_help_string(self, action):
        default = action.default
        if default is None or default is False or default in (argparse.SUPPRESS, "", ()) or "default:" in action.help:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line and whose help shows every default."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=Help, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def require(args, names, fine, expected):
    """`UserError` for the first of these flags that is given and not fine, as "--lr -1.0: expected above 0".

    Parameters
    ----------
    args : Namespace
    names : attributes of `args`; of one that holds several values every one is looked at
    fine : function of a value; NaN should fail it, so compare from both sides
    expected : what the message says
    """
    for name in names:
        given = getattr(args, name)
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if value is not None and not fine(value):
                raise UserError(f"--{name.replace('_', '-')} {value}: expected {expected}")


def require_seed(args):
    """`UserError` for a --seed (or several) that generators do not take."""
    names = [name for name in ("seed", "seeds") if hasattr(args, name)]
    require(args, names, lambda seed: 0 <= seed < SEEDS, f"0 to {SEEDS - 1}")


def require_folder(path, flag="--out"):
    """`UserError` if a folder cannot be made under this name because a file stands in the way.

    Called before the work, for a result that finds no place at its end is lost.
    """
    path = Path(path)
    nearest = next((one for one in (path, *path.parents) if one.exists()), path)
    if nearest.exists() and not nearest.is_dir():
        raise UserError(f"{flag} {path}: {nearest} is a file; expected a folder")


def command(main):
    """Decorate `main(argv=None)`: a `UserError` becomes its one line on stderr and exit status 2."""

    @functools.wraps(main)
    def run(argv=None):
        try:
            return main(argv)
        except UserError as error:
            # One that a loader process raised arrives with that process's traceback before its own line.
            line = str(error).strip().splitlines()[-1].removeprefix("cmg.errors.UserError: ")
            print(f"{_command_name(main)}: error: {line}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    return run


def _command_name(main):
    """`cmg.pretrain` also where Python calls the module `__main__` or the package's `__main__.py`."""
    spec = getattr(sys.modules.get(main.__module__), "__spec__", None)
    return (spec.name if spec else main.__module__).removesuffix(".__main__")


def git_commit():
    """The commit this code was run from, with `-dirty` if the tree had changes; `unknown` outside git."""
    here = Path(__file__).resolve().parent
    call = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions():
    """Versions of the interpreter and of the packages that decide the numbers."""
    names = ("torch", "torchvision", "torchaudio", "numpy", "h5py", "scikit-learn")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
