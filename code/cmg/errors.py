"""The one exception a user is meant to see, and one-line words for what the system refuses."""

import errno
import re

# Of a disk, a network or a machine, whatever file was asked for.
MACHINE = frozenset(getattr(errno, name) for name in (
    "EIO ENOSPC EDQUOT EFBIG EROFS EMFILE ENFILE ENOMEM EAGAIN ESTALE ENODEV ENXIO ENOLCK ENOBUFS ETIMEDOUT ENOTCONN "
    "ECONNRESET ECONNABORTED EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET ENOLINK EREMOTEIO ESHUTDOWN"
).split() if hasattr(errno, name))


class UserError(Exception):
    """Bad input, told in one line: what is wrong, where (flag or file), and what was expected.

    Commands print it to stderr and exit with status 2 (`cmg.cli.command`), as they do for what the system refuses: a
    file, a full disk, memory. Nothing else is caught, so a traceback always means a defect of ours.
    """


class LostProcess(UserError):
    """Another process of the same run has ended, or does not answer; that one's end is the reason."""


def refusal(error):
    """A line for what the system refused (a full disk, a file in the way, memory); None for a defect of ours."""
    told = str(error).splitlines()[0] if str(error) else ""
    by_hdf5 = re.search(r"errno = \d+, error message = '([^']+)'", str(error))  # has no number of its own
    if by_hdf5:
        return by_hdf5[1]
    if isinstance(error, OSError):
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        return error.strerror if error.errno in MACHINE else None
    # torch's errors where a process that loads has ended, or has no room for what it loaded
    if told.startswith("DataLoader worker") or "unable to allocate shared memory" in str(error):
        line = str(error).strip().splitlines()[-1].strip()
        return f"{line}; expected more memory, in /dev/shm as well, or --workers 0"
    if isinstance(error, RuntimeError) and "can't start new thread" in told:
        return "can't start new thread; expected a higher limit of processes (ulimit -u), or fewer of them"
    # torch's own error on a card is a RuntimeError by another name, on the host it has no name; Python's of a library
    # that finds no room is an ImportError
    if (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in told
            or isinstance(error, ImportError) and ("failed to map" in told or "cannot allocate memory" in told)):
        return f"out of memory ({told[:200]}); expected smaller sizes, such as --batch-size, or more memory"
    return None
