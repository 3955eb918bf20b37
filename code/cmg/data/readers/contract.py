"""What `cmg.data.convert` needs of a reader: a class that knows one layout in which features were released.

A layout of one's own is one file with a subclass of `Reader`:

    class Reader(contract.Reader):
        '''One .npy a clip.'''

        backbones = {"audio": "mine"}

        @staticmethod
        def add_flags(parser):
            parser.add_argument("--folder", required=True, help="folder of <id>.npy")

        def __init__(self, flags):
            self.source, self.paths = flags.folder, sorted(Path(flags.folder).glob("*.npy"))

        def __len__(self):
            return len(self.paths)

        def __iter__(self):
            for path in self.paths:
                yield clip(path.stem, {"audio": np.load(path)}, steps=10)
"""

import multiprocessing
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np


class Reader(ABC):
    """Clips in the order in which they are written; `len` is their number, bad ones included.

    The first line of the docstring is the layout's help. Iterating yields what `clip` and `bad` give.

    Parameters
    ----------
    flags : the command line, checked; `UserError` for what cannot be read at all.

    Attributes
    ----------
    backbones : dict modality -> name of the encoder to note in the file, unless told otherwise: what it may hold
    seconds_per_step : of media
    source : text to note in the file
    size : bytes that are read
    sha256 : dict modality -> sha256 of the weights that the reader itself applies, such as word vectors
    """

    backbones, seconds_per_step = {}, 1.0
    source, size, sha256 = "", 0, {}

    @staticmethod
    @abstractmethod
    def add_flags(parser):
        """Add the layout's own flags."""

    @abstractmethod
    def __init__(self, flags):
        """Look at what there is to read."""

    @abstractmethod
    def __len__(self):
        """How many clips."""

    @abstractmethod
    def __iter__(self):
        """The clips."""


class Clip(NamedTuple):
    """A converted clip, or a bad one with the reason."""

    id: str
    features: dict  # modality -> float16 ndarray [T, …]
    valid: dict  # modality -> bool ndarray [T]
    rows: dict  # modality -> number of rows as released, before they were cut or padded
    errors: dict  # modality -> (largest, sum, count) of the absolute errors of rounding
    reason: str  # "" when the clip is good


def bad(name, reason) -> Clip:
    """A clip that is left out, and why."""
    return Clip(name, {}, {}, {}, {}, reason)


def clip(name, arrays, steps, may_lack=()) -> Clip:
    """A clip from arrays as they were released: cut or padded to a number of steps, and rounded to float16.

    arrays : dict modality -> float array [t, …], a row a step. steps : of all, or dict modality -> steps. may_lack :
    modalities that may have no row, and then no valid step.
    """
    features, valid, rows, errors = {}, {}, {}, {}
    for m, x in arrays.items():
        if x.ndim < 2 or 0 in x.shape[m in may_lack :]:
            return bad(name, f"{m}: shape {x.shape}, expected one row a second")
        rows[m], (x, valid[m]) = len(x), fit(x, steps[m] if isinstance(steps, dict) else steps)
        with np.errstate(over="ignore"):  # to inf, which is caught here
            features[m] = x.astype(np.float16)
        if not np.isfinite(features[m]).all():
            return bad(name, f"{m}: not finite in float16")
        error = np.abs(x.astype(np.float64) - features[m].astype(np.float64))
        errors[m] = float(error.max()), float(error.sum()), error.size
    return Clip(name, features, valid, rows, errors, "")


def fit(x, steps):
    """[t, …] -> [steps, …] and valid [steps]: cut, or padded with the last step as the public loaders do; zeros where
    there is none."""
    n = min(len(x), steps)
    last = x[n - 1 : n] if n else np.zeros((1, *x.shape[1:]), x.dtype)
    return np.concatenate([x[:n], np.repeat(last, steps - n, axis=0)]), np.arange(steps) < n


def in_processes(function, jobs, workers):
    """The results of a module's function, in the order of the jobs; `workers` 0: in this process."""
    if not workers or not jobs:
        yield from map(function, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        yield from pool.imap(function, jobs, chunksize=4)
