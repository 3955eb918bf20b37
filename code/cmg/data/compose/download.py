"""A file from the network: continued where it broke off, checked before it appears under its name."""

import http.client
import os
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from tqdm import tqdm

from cmg.errors import UserError
from cmg.files import in_turn, sha256

BLOCK = 1 << 16
TIMEOUT = 60  # s without a byte
ATTEMPTS = 5  # in a row that bring nothing new


def fetch(url, path, wanted, instead):
    """`path`, fetched from `url` unless it is there.

    What has arrived lies in `<path>.part`, and a later call asks for the rest (a Range request; from a server that
    knows none everything comes again).

    wanted : sha256 of the file, "" where its home has none (an archive that is packed anew for everybody)
    instead : what a user without a network can do, for the message

    Raises
    ------
    UserError : no connection, a status other than success, a file that ended early, or another sha256.
    """
    path = Path(path)
    if path.exists():
        return path
    with in_turn(path):
        if not path.exists():  # nor did another process fetch it meanwhile
            part = path.with_name(f"{path.name}.part")
            _complete(url, part, instead)
            if wanted and (found := sha256(part)) != wanted:
                part.unlink()
                raise UserError(f"{url}: sha256 {found}; expected {wanted}")
            os.replace(part, path)
    return path


class _Broken(Exception):
    """The network's fault, not the disk's."""


def _complete(url, part, instead):
    """Ask until the file is whole; a connection that breaks is taken up again as long as something arrives."""
    in_vain = 0
    while True:
        before = _size(part)
        try:
            return _continue(url, part)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:  # another file, or whole already
                part.unlink()
                continue
            raise UserError(f"{url}: {error.code} {error.reason}; expected the file, or {instead}") from None
        except _Broken as error:
            in_vain = 0 if _size(part) > before else in_vain + 1
            if in_vain == ATTEMPTS or not _size(part):
                raise UserError(f"{url}: no connection ({error}); expected a network, or {instead}") from None


def _continue(url, part):
    """Append to `part` what it lacks; raises where the connection ends before the file does."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with _network(urllib.request.urlopen, request, timeout=TIMEOUT) as answer:
        goes_on = answer.status == HTTPStatus.PARTIAL_CONTENT
        length = answer.headers["Content-Length"]  # of what is to come; none where an archive is packed on the way
        total = int(length) + have * goes_on if length else None
        with open(part, "ab" if goes_on else "wb") as file, tqdm(
                total=total, initial=have * goes_on, unit="B", unit_scale=True, desc=part.stem, leave=False,
                disable=None) as bar:
            while block := _network(answer.read, BLOCK):
                file.write(block)
                bar.update(len(block))
        if total is not None and _size(part) < total:
            raise _Broken(f"it ended at {_size(part)} of {total} bytes")


def _network(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(getattr(error, "reason", None) or error) from None


def _size(path):
    return path.stat().st_size if path.exists() else 0
