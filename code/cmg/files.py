"""Files that are either complete or not there: written under a temporary name, then renamed."""

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
