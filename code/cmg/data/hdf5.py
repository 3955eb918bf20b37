"""HDF5 files, opened for reading on every file system, what is wrong with one that cannot be, and a file to write one
to."""

import errno
import functools
import io
import os
import re
import sys
from pathlib import Path

import h5py

from cmg.errors import UserError
from cmg.files import damage_of

BUSY = (errno.EAGAIN, errno.EACCES)  # of a lock: another process has it; any other means that there are no locks


class Sink(io.RawIOBase):
    """A file that h5py writes to, which takes whatever comes once the disk has refused a write.

    HDF5 cannot close a file that it cannot write: it tells so in hundreds of lines, again and again until the process
    ends, and may crash it. So it is never told; whoever writes looks at `error`, and throws the file away.

    Attributes
    ----------
    error : the first OSError of writing, or None
    """

    def __init__(self, path):
        self.file, self.error, self.end = open(path, "w+b", buffering=0), None, 0
        self.at = 0

    def _tried(self, function, *args):
        if self.error is None:
            try:
                return function(*args)
            except OSError as error:
                self.error = error
        return None

    def seek(self, offset, whence=os.SEEK_SET):
        self.at = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.end}[whence] + offset
        return self.at

    def tell(self):
        return self.at

    def write(self, content):
        content = memoryview(content).cast("B")
        done = 0
        while done < len(content) and self.error is None:  # a write may take a part, before the next one is refused
            done += self._tried(os.pwrite, self.file.fileno(), content[done:], self.at + done) or 0
        self.at += len(content)
        self.end = max(self.end, self.at)
        return len(content)

    def readinto(self, buffer):
        found = self._tried(os.preadv, self.file.fileno(), [buffer], self.at) or 0
        self.at += found
        return found

    def truncate(self, size):
        self._tried(os.ftruncate, self.file.fileno(), size)
        self.end = size
        return size

    def close(self):
        self._tried(self.file.close)
        super().close()


def opened(path, expected, **options) -> h5py.File:
    """The file, open for reading.

    Reading needs no lock: where there are none (some network and read-only file systems) the file is read all the same.
    So is one that another program has open for writing, with a note, for feature files appear when they are complete.

    Parameters
    ----------
    expected : what the file should be, for messages
    options : of `h5py.File`

    Raises
    ------
    UserError : no such file, truncated, damaged, or not HDF5 at all, each in words of its own; content that lies
        outside the file: links, data in external files, virtual data sets.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; expected {expected}")
    busy = False
    try:
        try:
            file = h5py.File(path, "r", **options)
        except OSError as error:
            if "lock" not in str(error):  # "unable to lock file", or opened in this process with other flags of locking
                raise
            busy = error.errno in BUSY
            file = h5py.File(path, "r", locking=False, **options)
    except (OSError, RuntimeError) as error:
        writes = ", or another program is still writing it" if busy else ""
        raise UserError(f"{path}: {_reason(path, str(error))}{writes}; expected {expected}") from None
    try:
        elsewhere = _elsewhere(file)
    except (KeyError, OSError, RuntimeError) as error:  # what h5py raises where it meets damage
        file.close()
        told = str(error).strip("'\"").splitlines()[0][:120]
        raise UserError(f"{path}: truncated or damaged ({told}); expected {expected}") from None
    if elsewhere:
        file.close()
        raise UserError(f"{path}: {elsewhere}; expected {expected} that holds its data itself")
    if busy:
        note(f"{path}: another program has it open for writing; what it changes from now on may not be seen")
    return file


def _elsewhere(file):
    """What in a file is not in it, in words; None if all is. Data from outside may be anybody's, or missing, and then
    HDF5 gives fill values without a word."""
    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        where = h5py.h5o.get_info(group.id)
        if where.addr in seen:
            continue
        seen.add(where.addr)
        for name in group:
            link = group.get(name, getlink=True)
            place = f"'{group.name.rstrip('/')}/{name}'".replace("'/", "'", 1)
            if not isinstance(link, h5py.HardLink):
                target = f" to {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
                return f"{place} is a link{target}"
            one = group[name]
            if isinstance(one, h5py.Group):
                groups.append(one)
            elif isinstance(one, h5py.Dataset) and one.external:
                return f"{place} lies in another file, {one.external[0][0]}"
            elif isinstance(one, h5py.Dataset) and one.is_virtual:
                return f"{place} is put together from other data sets"
    return None


@functools.cache
def note(text):
    """Said once by a process and those that it forks."""
    print(f"note: {text}", file=sys.stderr)


def _reason(path, told):
    sizes = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", told)
    if sizes:
        return f"truncated: {sizes[1]} of {sizes[2]} bytes"
    return damage_of(path, "an HDF5 file", b"\x89HDF\r\n\x1a\n", f"truncated or damaged ({told[:120]})")
