"""What the operating system is told before training on a CPU."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory():
    """Let the allocator keep what it has been given, instead of handing every large tensor back when it is freed.

    A step allocates the same tensors again and again; fresh pages for them cost 4 to 5 % of a small step's time.
    Only glibc has the switch, elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
