"""Command-line conventions shared by every `python -m cmg.…`: one-line errors, exit status 2, provenance."""

import argparse
import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

from cmg.errors import UserError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line and whose help shows every default."""

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


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
