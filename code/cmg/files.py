"""Files that appear complete or not at all, text that is read with one-line errors, what is wrong with a download, and
what is no fault of a file, folders that one process holds."""

import contextlib
import csv
import errno
import glob
import hashlib
import io
import json
import mmap
import os
import shutil
from pathlib import Path

from cmg.errors import MACHINE, UserError

try:
    import fcntl
except ImportError:  # not on Windows, where folders are not held
    fcntl = None

PAGE = "<!doctype html", "<html"  # begins what a server sends in the place of a download: a warning, a login, an error
ROOM = 1 << 30  # bytes; where these can be had, it was not memory that was short
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


@contextlib.contextmanager
def replacing_folder(path):
    """Yield a new, empty folder beside `path`: it takes that name if the block ends well, in the place of a folder
    that has it, and is removed if not. What a killed process has left is removed by the next one.

    Raises `UserError` where the folder cannot be written, or another process is writing it.
    """
    path = Path(path).resolve()
    unfinished, old = (path.with_name(f"{path.name}.tmp-{kind}") for kind in ("new", "old"))
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        with locked(unfinished):
            try:
                for left in unfinished.iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield unfinished
                if path.exists():
                    shutil.rmtree(old, ignore_errors=True)
                    os.rename(path, old)
                os.rename(unfinished, path)
            finally:
                if old.exists() and not path.exists():  # interrupted between the two
                    os.rename(old, path)
                for rest in (unfinished, old):
                    shutil.rmtree(rest, ignore_errors=True)
    except OSError as error:
        if error.filename is not None:  # it says itself which file, perhaps one that was read
            raise
        raise UserError(f"{path}: cannot write ({error.strerror or error})") from None


def write_atomically(path, text: str):
    """Write a UTF-8 text file of which no reader ever sees half."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def parse_json(text):
    """What a JSON text says; ValueError for what is none, for brackets nested without end as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested without end") from None


def read_text(path, expected: str) -> str:
    """The content of a UTF-8 text file; `UserError` says that it is missing and what was `expected`, or not UTF-8."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {expected}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if text[:512].lstrip().lower().startswith(PAGE):
        raise UserError(f"{path}: an HTML page; expected {expected}")
    return text


def read_columns(path, *columns: str, optional=()) -> list[tuple[str | None, ...]]:
    """Some columns of a CSV file with a header, row by row, and after them `optional` ones, None where the file has no
    such column; `UserError` for what is no such file."""
    expected = f"a CSV with the column{'s' * (len(columns) > 1)} {' and '.join(columns)}"
    try:
        rows = csv.DictReader(io.StringIO(read_text(path, expected)))
        if not {*columns} <= {*(rows.fieldnames or ())}:
            raise UserError(f"{path}: the columns are {rows.fieldnames or []}; expected {expected}")
        return [tuple((row[name] or "") if name in row else None for name in (*columns, *optional)) for row in rows]
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error}); expected {expected}") from None


def sha256(*paths):
    """sha256 of a file; of several, of their concatenation in this order (the shards of one checkpoint)."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise UserError(f"weights {path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def damage_of(path, kind: str, signature, reason: str) -> str:
    """Why a download cannot be read as a `kind` of file, in words.

    signature : the bytes, or a tuple of them, that such a file begins with
    reason : what is said of a file that begins as it should
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return f"empty, not {kind}"
    if start.lstrip().lower().startswith(tuple(map(str.encode, PAGE))):
        return f"an HTML page, not {kind}"
    return reason if start.startswith(signature) else f"not {kind}"


def gone(path):
    """Why there is no file under this name, in words; "" if there is one, or nobody can say."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return "a link that leads nowhere" if os.path.islink(path) else f"cannot be opened ({error.strerror})"
    return ""


def own_fault(error, path):
    """Whether an OSError of reading a file that was there is the file's own, not that of a disk, a folder, a network:
    it is none, or may not be read though its folder may."""
    if error.errno in (errno.EACCES, errno.EPERM):
        try:
            os.stat(path)
        except OSError:
            return False
        return True
    return error.errno not in MACHINE | {errno.ENOENT, errno.ENOTDIR}


def short_of_memory(error):
    """Whether there is no memory, rather than a damaged file that asks for more than anybody has."""
    if not isinstance(error, MemoryError):
        return False
    try:
        mmap.mmap(-1, ROOM).close()
        return False
    except OSError:
        return True


@contextlib.contextmanager
def in_turn(path):
    """Wait until no other process is in such a block for the same file: for one that is read, changed and replaced.

    What a process that was killed in such a block has left of the file is removed. A file system without locks lets
    everybody in, and then nothing is.
    """
    path = Path(path)
    beside, handle, alone = path.with_name(f"{path.name}.tmp-lock"), None, False
    beside.parent.mkdir(parents=True, exist_ok=True)
    while fcntl and handle is None:
        handle = os.open(beside, os.O_RDWR | os.O_CREAT)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
            alone = True
        try:
            still_there = os.path.samestat(os.fstat(handle), os.stat(beside))
        except FileNotFoundError:
            still_there = False
        if not still_there:  # the one before has ended, and taken it away
            os.close(handle)
            handle = None
    for stale in path.parent.glob(f"{glob.escape(path.name)}.tmp-[0-9]*") if alone else ():
        stale.unlink(missing_ok=True)
    try:
        yield
    finally:
        if handle is not None:
            beside.unlink(missing_ok=True)
            os.close(handle)


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
