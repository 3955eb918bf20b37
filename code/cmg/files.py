"""Text files read with one-line errors; files of any kind that appear complete or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path

from cmg.errors import UserError


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path`: renamed to `path` if the block ends well, removed if it does not.

    Missing folders are made. Raises `UserError` where the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror or error})") from None


def write_atomically(path, text: str):
    """Write a UTF-8 text file of which no reader ever sees half."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


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
