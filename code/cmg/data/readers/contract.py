"""What `cmg.data.convert` needs of a reader: a class that knows one layout in which features were released.

A layout of one's own is one file with a subclass of `Reader`:

    class Reader(contract.Reader):
        '''One .npy a clip.'''

        backbones = {"audio": "mine"}

        @staticmethod
        def add_flags(parser):
            parser.add_argument("--folder", required=True, help="folder of <id>.npy")

        def __init__(self, flags):
            self.source, self.jobs = flags.folder, {path.stem: path for path in Path(flags.folder).glob("*.npy")}

        def read(self, jobs):
            for name, path in jobs.items():
                yield [clip(name, {"audio": np.load(path)}, steps=10)]
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import NamedTuple

import numpy as np

from cmg.processes import Died, each

AGAIN = "the same id again, its first clip is kept"


class Reader(ABC):
    """What there is to read, and how.

    The first line of the docstring is the layout's help.

    Parameters
    ----------
    flags : the command line, checked; `UserError` for what cannot be read at all.

    Attributes
    ----------
    jobs : dict name -> what `read` needs: the clips, or what several clips are cut from, in the order of the file
    bad : list[Clip] of what is known to be bad before anything is read, of names that are not in `jobs`
    unit : what a job is called
    workers : processes that read; 0 is this one
    backbones : dict modality -> name of the encoder to note in the file, unless told otherwise: what it may hold
    seconds_per_step : of media
    source : text to note in the file
    size : bytes of all that is read, 0 where that is not known
    sha256 : dict modality -> sha256 of the weights that the reader itself applies, such as word vectors
    """

    jobs, bad, unit, workers = {}, (), "clip", 0
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
    def read(self, jobs):
        """Yield for some of the jobs, one after the other, a list of what `clip` and `bad` give."""

    def place(self, name) -> str:
        """Where a job is read from, for the list of bad clips."""
        return self.source


def once(jobs, again=AGAIN):
    """The first job of every name, and a bad clip for each that comes again: pairs (name, job) -> dict, list."""
    first, repeated = {}, []
    for name, job in jobs:
        if name in first:
            repeated.append(bad(name, again))
        else:
            first[name] = job
    return first, repeated


class Clip(NamedTuple):
    """A converted clip, or a bad one with the reason."""

    id: str
    features: dict  # modality -> float16 ndarray [T, …]
    valid: dict  # modality -> bool ndarray [T]
    rows: dict  # modality -> number of rows as released, before they were cut or padded
    errors: dict  # modality -> (largest, sum, count) of the absolute errors of rounding
    reason: str  # "" when the clip is good
    job: tuple = ()  # the name of its job, and how many clips that has; `cmg.data.convert` notes it


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


def in_processes(function, jobs, workers, lost):
    """The results of a module's function, in the order of the jobs; `workers` 0: in this process.

    lost : function (job, how its processes ended) -> the result of a job that took them down, see `cmg.processes.each`.
    """
    if not workers or not jobs:
        yield from map(function, jobs)
        return
    makes = [partial(partial, _of_numbered, function=function)] * min(workers, len(jobs))
    early, due = {}, 0  # results that wait for those of earlier jobs
    for (number, job), found in each(list(enumerate(jobs)), makes):
        early[number] = lost(job, found.how) if isinstance(found, Died) else found
        while due in early:
            yield early.pop(due)
            due += 1


def _of_numbered(job, function):
    return function(job[1])
