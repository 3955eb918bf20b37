"""What the operating system is told before training on a CPU."""

import ctypes

from cmg.data.features import available_memory
from cmg.models import toom_cook

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


def choose_convolutions(wanted, method, shapes, clips) -> tuple[str, float]:
    """Switch `cmg.models.toom_cook` on or off for a run: `wanted` "on" or "off", or "auto": where its memory is at most
    a quarter of what is available.

    Returns "on" or "off", and the memory in bytes that it would take for so many clips of these shapes.
    """
    grids = [shape for shape in shapes.values() if len(shape) == 4]
    convolutions = [module for module in method.modules() if hasattr(module, "products")] if grids else []
    side, steps = max((max(shape[1:3]) for shape in grids), default=0), max((shape[0] for shape in grids), default=0)
    steps = getattr(method, "specific_steps", 0) or steps
    needed = toom_cook.memory([one for module in convolutions for one in module.products(side)], clips * steps)
    if wanted == "auto":
        wanted = "on" if needed <= available_memory() / 4 else "off"
    toom_cook.use(wanted == "on")
    return wanted, needed
