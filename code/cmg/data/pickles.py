"""Arrays and plain values out of downloaded pickles, .npy and .npz files, without running what is in them.

A pickle is a program. The unpickler here knows the few names that numpy arrays and torch tensors are made of, and
refuses every other one before it is called. `array_of` takes nothing but an array as the result, `value_in` also lists,
dicts, texts and numbers. Of .npy and .npz files nothing is unpickled. Nothing is unpacked to disk.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import torch

from cmg.files import damage_of

LIMIT = 64 << 20  # bytes of an unpacked clip; ten seconds of VGG-19 maps in float64 are 2 MB
VIDEO_LIMIT = 1 << 30  # of an unpacked array of a whole video; an hour of 1.5 rows a second, 2048 wide, is 44 MB


class BadPickle(Exception):
    """This file does not hold one array; the text says why."""


KIND = object()  # stands for numpy.ndarray, which may be named but not called: it would allocate whatever it is told


def _bytes(text, encoding="latin1"):
    if encoding != "latin1":
        raise BadPickle(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _empty(kind, shape, code):
    """numpy's `_reconstruct`: what the array's state is put into next."""
    if kind is not KIND or shape != (0,):
        raise BadPickle("an array of another kind")
    return np.ndarray((0,), code.decode() if isinstance(code, bytes) else code)


def _from_buffer(buffer, dtype, shape, order, axes=None):
    """numpy's `_frombuffer`, how protocol 5 spells an array."""
    x = np.frombuffer(buffer, dtype=dtype)
    return x.reshape(shape).transpose(axes) if order == "K" and axes is not None else x.reshape(shape, order=order)


def _scalar(dtype, content):
    """numpy's `scalar`, a single number."""
    if dtype.kind not in "biuf" or len(content) != dtype.itemsize:
        raise BadPickle("a number of another kind")
    return np.frombuffer(content, dtype)[0]


def _storage(content):
    """torch's `_load_from_bytes`, which would unpickle them freely."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage, offset, size, stride, *_):
    """torch's `_rebuild_tensor_v2`, which would enlarge a storage that is too small."""
    item = storage.dtype.itemsize
    held = storage._untyped_storage.nbytes() // item
    if min(offset, *size, *stride, 0) < 0 or math.prod(size) * item > LIMIT:
        raise BadPickle("a tensor of impossible size")
    if math.prod(size) and offset + sum((n - 1) * step for n, step in zip(size, stride)) >= held:
        raise BadPickle("a tensor larger than its storage")
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


# What `pickle.dump` of an array names, under numpy's old and new module paths; `_codecs.encode` is how protocol 2 and
# below spell bytes.
NAMES = {
    ("numpy", "ndarray"): KIND,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): OrderedDict,  # a tensor's hooks: always empty
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
for _core in ("numpy.core", "numpy._core"):
    NAMES |= {(f"{_core}.multiarray", "_reconstruct"): _empty, (f"{_core}.numeric", "_frombuffer"): _from_buffer,
              (f"{_core}.multiarray", "scalar"): _scalar}


class ArrayUnpickler(pickle.Unpickler):
    """`pickle.Unpickler` that knows `NAMES`, what is given besides, and nothing else."""

    def __init__(self, file, besides=None):
        super().__init__(file)
        self.names = NAMES | (besides or {})

    def find_class(self, module, name):
        if (module, name) not in self.names:
            raise BadPickle(f"names {module}.{name}, which is no part of an array")
        return self.names[module, name]


def _unpickled(file, besides=None):
    try:
        return ArrayUnpickler(file, besides).load()
    except BadPickle:
        raise
    except Exception as error:  # a damaged stream fails in many ways
        raise BadPickle(f"damaged pickle ({type(error).__name__})") from None


def value_in(path, besides=None):
    """What a pickle file holds: dicts, lists, texts, numbers, arrays and tensors.

    besides : dict (module, name) -> class that stands for the class of that name

    Raises
    ------
    BadPickle : no such file, damaged, or names anything else.
    """
    try:
        with open(path, "rb") as file:
            return _unpickled(file, besides)
    except OSError as error:
        raise BadPickle(f"cannot be read ({error.strerror})") from None


def array_of(content):
    """The array of floating-point numbers in a pickle's bytes, as ndarray.

    Raises
    ------
    BadPickle : damaged, names anything beside arrays, or holds something else than one array.
    """
    return floats(_unpickled(io.BytesIO(content)))


def floats(value):
    """An array or tensor of floats as ndarray; `BadPickle` for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.detach().float().numpy() if value.dtype == torch.bfloat16 else value.detach().numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise BadPickle(f"holds {getattr(value, 'dtype', type(value).__name__)}, expected an array of floats")
    return value


def array_in_npy(path):
    """The array in a .npy file; `BadPickle` as of `array_in_zip`."""
    try:
        size = path.stat().st_size
        # mapped, so that a header takes no memory on its word
        value = floats(np.lib.format.open_memmap(path, mode="r")) if size <= LIMIT else None
    except BadPickle:
        raise
    except Exception as error:  # a damaged header fails in many ways
        raise BadPickle(damage_of(path, "a .npy file", b"\x93NUMPY", f"truncated or damaged ({error})"[:120])) from None
    if value is None:
        raise BadPickle(f"more than {LIMIT >> 20} MiB")
    return np.array(value)


def array_in_npz(path, name):
    """One array of floats of a .npz file; `BadPickle` as of `array_in_zip`."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(f"{name}.npy").file_size > VIDEO_LIMIT:
                raise BadPickle(f"more than {VIDEO_LIMIT >> 20} MiB when unpacked")
        with np.load(path, allow_pickle=False) as file:
            return floats(file[name])
    except BadPickle:
        raise
    except FileNotFoundError:
        raise BadPickle("no such file") from None
    except KeyError:
        raise BadPickle(f"holds no array '{name}'") from None
    except Exception as error:  # a damaged archive fails in many ways
        reason = f"truncated or damaged ({type(error).__name__}: {str(error)[:80]})"
        raise BadPickle(damage_of(path, "a .npz file", b"PK", reason)) from None


def foreign(name):
    """Whether a file is what a Mac notes of another one of that name: `__MACOSX/…` in zips, `._…` on other disks."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def array_in_zip(path):
    """The array in the one pickle of a zip file.

    Raises
    ------
    BadPickle : not a zip file, not exactly one .pkl in it, a name that leads out of the archive, larger than `LIMIT`
        when unpacked (whatever its header says), or not an array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist()
                       if member.filename.endswith(".pkl") and not foreign(member.filename)]
            if len(members) != 1:
                raise BadPickle(f"{len(members)} pickles in the archive, expected 1")
            name = members[0].filename.replace("\\", "/")
            if name.startswith("/") or ".." in name.split("/") or ":" in name:
                raise BadPickle(f"member '{members[0].filename}' leads out of the archive")
            with archive.open(members[0]) as file:
                content = file.read(LIMIT + 1)
    except BadPickle:
        raise
    except Exception as error:  # a damaged or encrypted archive fails in many ways: BadZipFile, zlib.error, …
        reason = f"truncated or damaged ({type(error).__name__}: {str(error)[:80]})"
        raise BadPickle(damage_of(path, "a zip file", b"PK", reason)) from None
    if len(content) > LIMIT:
        raise BadPickle(f"more than {LIMIT >> 20} MiB when unpacked")
    return array_of(content)
