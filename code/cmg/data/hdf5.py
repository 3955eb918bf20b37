"""HDF5 files, opened for reading on every file system, what is wrong with one that cannot be, and a file to write one
to."""

import errno
import functools
import io
import os
import re
import struct
import sys
from pathlib import Path

import h5py

from cmg.errors import UserError
from cmg.files import damage_of

SIGNATURE = b"\x89HDF\r\n\x1a\n"
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


class Unmarked(io.FileIO):
    """A file for h5py to read, in which nothing says that somebody has it open for writing.

    From HDF5 1.10 on a file says so itself, in its first 48 bytes: also when a program that only looked at it with
    mode "a" has crashed. HDF5 then refuses to read it, locks or not. `marked` is whether it says so.

    Source: HDF5 file format specification 3.0, II.A, superblock of version 3.
    """

    def __init__(self, path):
        super().__init__(path, "rb")
        start = os.pread(self.fileno(), 48, 0)
        whole = len(start) == 48 and start[:10] == SIGNATURE + bytes([3, 8])  # version, bytes of an address
        self.marked = whole and bool(start[11] & 0b101) and lookup3(start[:44]) == int.from_bytes(start[44:], "little")
        if self.marked:
            start = start[:11] + bytes([start[11] & ~0b101]) + start[12:44]
            start += lookup3(start).to_bytes(4, "little")
        self.start = start

    def readinto(self, buffer):
        at, buffer = self.tell(), memoryview(buffer).cast("B")
        found = super().readinto(buffer)
        ours = self.start[at : at + found]
        buffer[: len(ours)] = ours
        return found


def lookup3(content):
    """The checksum of HDF5's metadata, a 32-bit number: Bob Jenkins's lookup3, `hashlittle` from 0.

    >>> hex(lookup3(b"Four score and seven years ago"))
    '0x17770551'
    """
    def turned(x, bits):
        return (x << bits | x >> 32 - bits) & 0xFFFFFFFF

    a = b = c = 0xDEADBEEF + len(content) & 0xFFFFFFFF
    content += bytes(-len(content) % 12)
    for at in range(0, len(content), 12):
        x, y, z = struct.unpack("<3I", content[at : at + 12])
        a, b, c = a + x & 0xFFFFFFFF, b + y & 0xFFFFFFFF, c + z & 0xFFFFFFFF
        if at + 12 < len(content):
            for bits in (4, 6, 8, 16, 19, 4):
                a, b, c = b, c + b & 0xFFFFFFFF, (a - c & 0xFFFFFFFF) ^ turned(c, bits)
    for bits in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, (c ^ b) - turned(b, bits) & 0xFFFFFFFF, a
    return b


def opened(path, expected, **options) -> h5py.File:
    """The file, open for reading.

    Reading needs no lock: where there are none (some network and read-only file systems) the file is read all the same.
    So is one that another program has open for writing, or left so when it crashed, with a note: feature files appear
    when they are complete.

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
    busy = marked = False
    try:
        try:
            file = h5py.File(path, "r", **options)
        except OSError as error:
            with Unmarked(path) as start:
                marked = start.marked
            if not marked and "lock" not in str(error):  # or opened in this process with other flags of locking
                raise
            busy = marked or error.errno in BUSY
            source, unlocked = (Unmarked(path), {}) if marked else (path, {"locking": False})
            file = h5py.File(source, "r", **unlocked, **options)
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
        ended = ", or ended without closing it" if marked else ""
        note(f"{path}: another program has it open for writing{ended}; what it changes from now on may not be seen")
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
    return damage_of(path, "an HDF5 file", SIGNATURE, f"truncated or damaged ({told[:120]})")
