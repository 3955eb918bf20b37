"""Files that appear complete or not at all, text that is read with one-line errors, folders that one process holds."""

import contextlib
import os
from pathlib import Path

from cmg.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows, where folders are not held
    fcntl = None

_locks = set()  # open folders that this process has locked


def _let_go():
    while _locks:
        os.close(_locks.pop())


if fcntl:  # a child that outlives a killed parent, as loaders do for seconds, would keep its folder locked
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path`: renamed to `path` if the block ends well, removed if it does not.

    Missing folders are made. Raises `UserError` where the file cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def write_atomically(path, text: str):
    """Write a UTF-8 text file of which no reader ever sees half."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_text(path, expected: str) -> str:
    """The content of a UTF-8 text file; `UserError` says that it is missing and what was `expected`, or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {expected}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def locked(folder):
    """Keep other processes out of a folder that exists, as far as they ask: to the end of the block, or of us.

    Raises `UserError` where another process is at work.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if handle is not None:
            _locks.add(handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _locks.remove(handle)
        os.close(handle)
        raise UserError(f"{folder}: another process is at work there; expected its end, or another folder") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        if handle in _locks:
            _locks.remove(handle)
            os.close(handle)
