"""Command-line conventions shared by every `python -m cmg.…`: numbers in bounds, one-line errors, exit status 2,
provenance."""

import argparse
import contextlib
import functools
import getpass
import importlib.metadata
import math
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

from cmg import slurm
from cmg.configs import nearest
from cmg.errors import LostProcess, UserError, refusal
from cmg.processes import launched, tell


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that shows every default, unless there is none or the text says itself what it is."""

    def _get_help_string(self, action):
        default = action.default
        if default in (None, argparse.SUPPRESS, "", [], ()) or default is False or "default:" in action.help:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line and whose help shows every default.

    --batch_size is understood as --batch-size; of a flag that does not exist the nearest one is named.
    """

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=Help, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        self.words = [dashed(str(word)) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(self.words, namespace)

    def parse_args(self, args=None, namespace=None):
        args, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self.nearest_flag(unknown[0])}")
        return args

    def nearest_flag(self, word):
        """What was probably meant by a flag that does not exist, as the end of a message."""
        said = {max(action.option_strings, key=len): action.help for action in self._actions if action.option_strings}
        return nearest(word.partition("=")[0], said) if word.startswith("--") else ""

    def error(self, message):
        if message.startswith("the following arguments are required"):  # of which one may just be mistyped
            known = {flag for action in self._actions for flag in action.option_strings}
            strange = [word for word in self.words if word.startswith("--") and word.partition("=")[0] not in known]
            message += f"; {strange[0]} is unknown{self.nearest_flag(strange[0])}" if strange else ""
        message += " (see --help)"
        if launched():
            tell("own", message)
            self.exit(2)
        self.exit(2, f"{self.prog}: error: {message}\n")


def dashed(word):
    """A flag as it is spelled here.

    >>> dashed("--batch_size=8"), dashed("a_b")
    ('--batch-size=8', 'a_b')
    """
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def require_folder(path, flag="--out"):
    """`UserError` if a folder cannot be made under this name because a file stands in the way.

    Called before the work, for a result that finds no place at its end is lost.
    """
    path = Path(path)
    nearest = next((one for one in (path, *path.parents) if one.exists()), path)
    if nearest.exists() and not nearest.is_dir():
        raise UserError(f"{flag} {path}: {nearest} is a file; expected a folder")


def most_are_good(out, good, number, reasons):
    """`UserError` if a file was written of less than half of the clips: that is no accident of some of them.

    reasons : where these are told.
    """
    if 2 * good < number:
        raise UserError(f"{out}: holds only {good} of {number} clips, for more than half are bad; {reasons}")


def whole(least=0, multiple_of=1):
    """An argparse type: whole numbers of at least `least` that fit into 31 bits, or the multiples among them."""
    kind = "a whole number" if multiple_of == 1 else f"a multiple of {multiple_of}"
    return _checked(int, lambda n: least <= n < 2**31 and n % multiple_of == 0,
                    f"{kind} of at least {least} and below 2^31")


def number(least=None, above=None, below=math.inf):
    """An argparse type: numbers of at least `least` or above `above`, and below `below`; never nan or infinite."""
    low = f"of at least {least:g}" if above is None else f"above {above:g}"
    return _checked(float, lambda x: (x >= least if above is None else x > above) and x < below,
                    f"a number {low}" + (f" and below {below:g}" if below < math.inf else ""))


def shard(text):
    """An argparse type: "2/8" -> (2, 8), the second of eight equal parts."""
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a part, such as 1/8 to 8/8")
    return int(number), int(of)


def of_shard(items, shard):
    """Those of a list that are a part's: every n-th. All without a part."""
    return list(items) if shard is None else items[shard[0] - 1 :: shard[1]]


def _checked(kind, fine, expected):
    def parse(text):  # or a value, where no command line was read
        try:
            value = kind(text)
        except (OverflowError, TypeError, ValueError):
            value = math.nan
        if not fine(value) or isinstance(text, bool) or isinstance(text, float) and value != text:
            raise argparse.ArgumentTypeError(f"'{text}' is not {expected}")
        return value

    return parse


class Terminated(KeyboardInterrupt):
    """SIGTERM, which batch systems send: ends a command as Ctrl-C does."""


def command(main):
    """Decorate `main(argv=None)`: a `UserError`, and what the system refuses, becomes one line on stderr and exit
    status 2."""

    @functools.wraps(main)
    def run(argv=None):
        _name_the_user()
        by_launcher = launched()
        # One of several may wait in a collective, deaf to Python.
        alone = int((slurm.told() or os.environ).get("WORLD_SIZE", 1)) == 1
        listens = alone and threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, _terminate) if listens else None
        threading.excepthook = _in_a_thread  # for good: some end after us
        sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # `>&-`
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # tables have arrows, which not every terminal can show
        try:
            result = main(argv)
            sys.stdout.flush()
            return result
        except UserError as error:
            kind = "lost" if isinstance(error, LostProcess) else "own"
            # One that a loader process raised arrives with that process's traceback before its own line.
            line = str(error).strip().splitlines()[-1].removeprefix("cmg.errors.UserError: ")
        except KeyboardInterrupt as stop:
            print("interrupted", file=sys.stderr)
            raise SystemExit(143 if isinstance(stop, Terminated) else 130) from None
        except BrokenPipeError:  # `… | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None
        except (OSError, MemoryError, RuntimeError, ImportError) as error:
            kind, line = "own", refusal(error)
            if line is None:
                raise
        finally:
            if listens:
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        if by_launcher:
            tell(kind, line)
        else:
            print(f"{_command_name(main)}: error: {line}", file=sys.stderr)
        if by_launcher or kind == "lost":
            _end_at_once(2)
        raise SystemExit(2) from None

    return run


def _end_at_once(status):
    """End one process of several without taking its process group apart: a thread of gloo may still wait for a lost
    process, and its destructor then ends everything in std::terminate."""
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def _name_the_user():
    """Containers may run under a number that belongs to nobody, and torch asks for a name to build an optimiser."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def _in_a_thread(told):
    """Threads of libraries hand what the system refused to whoever waits for them, and that one tells it."""
    if refusal(told.exc_value) is None:
        threading.__excepthook__(told)


def _terminate(*_):
    raise Terminated


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
