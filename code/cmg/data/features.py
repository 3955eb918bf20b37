"""Feature files: one HDF5 file per data set, the only thing that training and the downstream tasks read.

    video [N, T, H, W, C] or [N, T, C] (pooled), audio [N, T, A], text [N, L, X]   float16 or float32, any subset
    valid/<modality> [N, T] bool      False where a step is padding (a clip shorter than T, a caption shorter than L)
    id [N]                            UTF-8
    attributes                        schema, backbone/<modality>, sha256/<modality>, seconds_per_step, source

Dimensions are read from the file, never assumed. A file holds complete rows only: `FeatureWriter` fills a temporary
file and renames it when everything is in. `FeatureFile` is one file, `FeatureSet` one or several as one data set.
"""

import os
from pathlib import Path

import h5py
import numpy as np
import torch

from cmg.cli import MODALITIES
from cmg.errors import UserError

SCHEMA = 1
CHUNK_BYTES = 64 * 1024  # rows are read in random order: a chunk is one clip, and only small clips share one
AXES = {"video": ("[N,T,H,W,C] or [N,T,C]", (3, 5)), "audio": ("[N,T,A]", (3,)), "text": ("[N,L,X]", (3,))}


class FeatureWriter:
    """Write a feature file row block by row block; it appears under its name only when it is complete.

    Parameters
    ----------
    path : path of the file; an old file of that name stays untouched until the new one is complete.
    shapes : shape of one clip per modality, e.g. `{"video": (10, 7, 7, 244), "audio": (10, 640)}`.
    attrs : file attributes beside `schema`, e.g. `{"backbone/video": "pixels", "seconds_per_step": 1.0}`.
    dtype : "float16" or "float32", as stored.

    Raises
    ------
    UserError : the folder cannot be written; an id twice; features that are not finite or overflow `dtype`.

    Example
    -------
    >>> with FeatureWriter("clips.h5", {"audio": (10, 128)}, {"source": "mine"}) as writer:
    ...     writer.append(["a", "b"], {"audio": np.zeros((2, 10, 128))}, None)
    """

    def __init__(self, path, shapes, attrs, dtype="float16"):
        self.path = Path(path)
        self.shapes = {m: tuple(int(n) for n in shape) for m, shape in shapes.items()}
        self.dtype = np.dtype(dtype)
        self.ids = set()
        self._temp = self.path.with_name(f"{self.path.name}.tmp-{os.getpid()}")
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder, expected the name of a file")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._h5 = h5py.File(self._temp, "w")
        except OSError as error:
            raise UserError(f"{self.path}: cannot write here ({_first_line(error)})") from None
        self._h5.attrs["schema"] = SCHEMA
        for name, value in attrs.items():
            self._h5.attrs[name] = value
        self._h5.create_dataset("id", (0,), maxshape=(None,), dtype=h5py.string_dtype("utf-8"))
        for m, shape in self.shapes.items():
            row_bytes = max(1, int(np.prod(shape)) * self.dtype.itemsize)
            rows = max(1, CHUNK_BYTES // row_bytes)
            self._h5.create_dataset(m, (0, *shape), maxshape=(None, *shape), dtype=self.dtype, chunks=(rows, *shape))
            self._h5.create_dataset(f"valid/{m}", (0, shape[0]), maxshape=(None, shape[0]), dtype=bool)

    def append(self, ids, features, valid=None):
        """Add clips.

        Parameters
        ----------
        ids : list[str] of n clip ids.
        features : modality -> array [n, *shape].
        valid : modality -> bool array [n, T], or None when every step is real.
        """
        for name in ids:
            if name in self.ids:
                raise UserError(f"{self.path}: id '{name}' occurs twice")
            self.ids.add(name)
        start, stop = len(self.ids) - len(ids), len(self.ids)
        for m, shape in self.shapes.items():
            with np.errstate(over="ignore"):  # an overflow to inf is reported below, with the clip's name
                x = np.asarray(features[m]).astype(self.dtype)  # [n, *shape]
            if x.shape != (len(ids), *shape):
                raise UserError(f"{self.path}: {m} features have shape {x.shape}, expected {(len(ids), *shape)}")
            if not np.isfinite(x).all():
                bad = ids[int(np.argmin(np.isfinite(x).reshape(len(ids), -1).all(axis=1)))]
                raise UserError(f"{self.path}: {m} features of '{bad}' are not finite in {self.dtype}")
            real = np.ones((len(ids), shape[0]), bool) if valid is None else np.asarray(valid[m], bool)
            for name, rows in ((m, x), (f"valid/{m}", real)):
                self._h5[name].resize(stop, axis=0)
                self._h5[name][start:stop] = rows
        self._h5["id"].resize(stop, axis=0)
        self._h5["id"][start:stop] = np.array(ids, dtype=object)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._h5.close()
        if kind is None:
            os.replace(self._temp, self.path)
        else:
            self._temp.unlink(missing_ok=True)


class FeatureFile:
    """One feature file, checked when constructed and opened lazily, once per process.

    The handle never crosses a fork or a pickle, so that a `DataLoader` worker always reads through its own.

    Attributes
    ----------
    path : Path
    ids : list[str]
    shapes : dict modality -> shape of one clip
    dtypes : dict modality -> numpy dtype as stored
    attrs : dict of the file's attributes as plain Python values
    modalities : tuple[str, ...], in the order video, audio, text

    Raises
    ------
    UserError : no such file, not HDF5 or truncated, other schema, missing data set, shapes that disagree, ids twice.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._h5, self._pid = None, None
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such feature file")
        try:
            with h5py.File(self.path, "r") as h5:
                self._check(h5)
        except (OSError, RuntimeError) as error:  # what h5py raises for a foreign, truncated or damaged file
            raise UserError(f"{self.path}: not a complete HDF5 file ({_first_line(error)})") from None

    def _check(self, h5):
        self.attrs = {name: _plain(value) for name, value in h5.attrs.items()}
        if self.attrs.get("schema") != SCHEMA:
            found = self.attrs.get("schema", "none")
            raise UserError(f"{self.path}: feature file schema is {found}, expected {SCHEMA}")
        self.modalities = tuple(m for m in MODALITIES if m in h5)
        if not self.modalities:
            raise UserError(f"{self.path}: none of the data sets {', '.join(MODALITIES)} is in the file")
        for name in ("id", *(f"valid/{m}" for m in self.modalities)):
            if name not in h5:
                raise UserError(f"{self.path}: data set '{name}' is missing")
        if h5["id"].ndim != 1 or h5py.check_string_dtype(h5["id"].dtype) is None:
            raise UserError(f"{self.path}: data set 'id' must be one column of strings")
        try:
            self.ids = [str(name) for name in h5["id"].asstr()[:]]
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: data set 'id' is not UTF-8") from None
        if not self.ids:
            raise UserError(f"{self.path}: holds no clips")
        if len(set(self.ids)) != len(self.ids):
            raise UserError(f"{self.path}: id '{_first_repeated(self.ids)}' occurs twice")
        self.shapes, self.dtypes = {}, {}
        for m in self.modalities:
            x, n = h5[m], len(self.ids)
            axes, dims = AXES[m]
            if x.ndim not in dims or x.dtype not in (np.float16, np.float32) or 0 in x.shape:
                raise UserError(f"{self.path}: '{m}' is {x.dtype} {x.shape}, expected float16 or float32 {axes}")
            if x.shape[0] != n:
                raise UserError(f"{self.path}: '{m}' has {x.shape[0]} rows but 'id' has {n}")
            if h5[f"valid/{m}"].shape != x.shape[:2]:
                raise UserError(f"{self.path}: 'valid/{m}' has shape {h5[f'valid/{m}'].shape}, expected {x.shape[:2]}")
            self.shapes[m], self.dtypes[m] = tuple(x.shape[1:]), x.dtype
        if {"video", "audio"} <= self.shapes.keys() and self.shapes["video"][0] != self.shapes["audio"][0]:
            steps = f"{self.shapes['video'][0]} steps of video but {self.shapes['audio'][0]} of audio"
            raise UserError(f"{self.path}: {steps} per clip")

    def __getstate__(self):
        return {**self.__dict__, "_h5": None, "_pid": None}

    def _open(self):
        if self._pid != os.getpid():
            self._h5, self._pid = h5py.File(self.path, "r"), os.getpid()
        return self._h5

    def close(self):
        """Let go of the file; the next read opens it again."""
        if self._pid == os.getpid():
            self._h5.close()
        self._h5, self._pid = None, None

    def read(self, modality, rows):
        """Features of some clips, in any order, a row as often as asked for.

        Returns
        -------
        x : ndarray [n, *shape] in the stored dtype
        valid : bool ndarray [n, T]
        """
        wanted, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        # A run of neighbouring rows is one slice: h5py reads a list of rows many times slower than the slices.
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1) if len(wanted) else []
        try:
            x, valid = self._open()[modality], self._open()[f"valid/{modality}"]
            out = np.empty((len(wanted), *x.shape[1:]), x.dtype)
            real = np.empty((len(wanted), valid.shape[1]), bool)
            start = 0
            for run in runs:
                source, target = slice(run[0], run[-1] + 1), slice(start, start + len(run))
                out[target], real[target] = x[source], valid[source]
                start += len(run)
        except OSError as error:
            raise UserError(f"{self.path}: reading '{modality}' failed ({_first_line(error)})") from None
        return (out, real) if np.array_equal(wanted, rows) else (out[back], real[back])


class FeatureSet(torch.utils.data.Dataset):
    """One or several feature files as one data set that yields whole batches.

    Parameters
    ----------
    paths : one path or a list of paths
    modalities : which to read; all of the first file's if None
    cache : "host" keeps everything in memory in the stored dtype; "disk" reads each batch from the files.

    Use it with a sampler that yields lists of rows; batches come ready, so nothing is left to collate:

    >>> loader = DataLoader(features, batch_sampler=batches, collate_fn=lambda batch: batch, num_workers=2)

    Raises
    ------
    UserError : a modality that a file lacks, shapes or backbones that differ between files, an id that occurs twice.
    """

    def __init__(self, paths, modalities=None, cache="host"):
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if not paths:
            raise UserError("no feature file given")
        if cache not in ("host", "disk"):
            raise UserError(f"feature cache '{cache}' is unknown, expected host or disk")
        self.files = [FeatureFile(path) for path in paths]
        first = self.files[0]
        wanted = tuple(modalities or first.modalities)
        self.modalities = tuple(m for m in MODALITIES if m in wanted)
        self.shapes = {m: first.shapes[m] for m in self.modalities if m in first.shapes}
        self.attrs = first.attrs
        for file in self.files:
            self._check_fits(file, wanted)
        self.ids = [name for file in self.files for name in file.ids]
        self._starts = np.cumsum([0, *(len(file.ids) for file in self.files)])
        self._row = {name: row for row, name in enumerate(self.ids)}
        if len(self._row) != len(self.ids):
            name = _first_repeated(self.ids)
            where = " and in ".join(str(file.path) for file in self.files if name in file.ids)
            raise UserError(f"id '{name}' occurs twice: in {where}")
        self.cache = cache
        self._memory = {m: self._load(m) for m in self.modalities} if cache == "host" else {}

    def _check_fits(self, file, wanted):
        for m in wanted:
            if m not in file.modalities:
                raise UserError(f"{file.path}: has no '{m}' features, only {', '.join(file.modalities)}")
            if file.shapes[m] != self.shapes[m]:
                first = f"{self.shapes[m]} in {self.files[0].path}"
                raise UserError(f"{file.path}: '{m}' clips have shape {file.shapes[m]}, but {first}")
            for name in (f"backbone/{m}", f"sha256/{m}"):
                ours, theirs = self.attrs.get(name, ""), file.attrs.get(name, "")
                if ours != theirs:
                    raise UserError(f"{file.path}: {name} is '{theirs}', but '{ours}' in {self.files[0].path}")

    def _load(self, modality):
        """All rows of one modality: features [N, *shape], valid [N, T], and which rows are finite [N]."""
        dtype = np.result_type(*(file.dtypes[modality] for file in self.files))
        shape = self.shapes[modality]
        x = torch.empty((len(self.ids), *shape), dtype=getattr(torch, dtype.name))
        valid = torch.empty((len(self.ids), shape[0]), dtype=torch.bool)
        finite = torch.empty(len(self.ids), dtype=torch.bool)
        for file, start in zip(self.files, self._starts, strict=False):
            for row in range(0, len(file.ids), 256):  # in blocks, so that no second copy of the set is ever held
                rows = np.arange(row, min(row + 256, len(file.ids)))
                block, real = (torch.from_numpy(part) for part in file.read(modality, rows))
                here = slice(start + row, start + row + len(rows))
                x[here], valid[here], finite[here] = block, real, _finite_rows(block)
        return x, valid, finite

    def __len__(self):
        return len(self.ids)

    def __getitems__(self, indices):
        """A batch of rows.

        Returns
        -------
        dict : modality -> float32 Tensor[B, *shape], "valid/<modality>" -> bool Tensor[B, T],
            "index" -> int64 Tensor[B], the rows themselves.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = {"index": index}
        for m in self.modalities:
            if self.cache == "host":
                x, valid, finite = (part.index_select(0, index) for part in self._memory[m])
            else:
                x, valid = self._read(m, index.numpy())
                finite = _finite_rows(x)
            if not finite.all():
                row = int(index[int(finite.int().argmin())])
                raise UserError(f"{self._file_of(row).path}: '{m}' features of '{self.ids[row]}' are not finite")
            batch[m], batch[f"valid/{m}"] = x.float(), valid
        return batch

    def _file_of(self, row):
        return self.files[int(np.searchsorted(self._starts, row, side="right")) - 1]

    def _read(self, modality, index):
        """Rows from disk, file by file: x Tensor[B, *shape], valid Tensor[B, T]."""
        x = torch.empty((len(index), *self.shapes[modality]), dtype=torch.float32)
        valid = torch.empty((len(index), self.shapes[modality][0]), dtype=torch.bool)
        owner = np.searchsorted(self._starts, index, side="right") - 1
        for number in np.unique(owner):
            here = np.flatnonzero(owner == number)
            part, real = self.files[number].read(modality, index[here] - self._starts[number])
            x[here], valid[here] = torch.from_numpy(part).float(), torch.from_numpy(real)
        return x, valid

    def rows_of(self, ids):
        """Rows of the given ids, in their order, and the ids that the set lacks.

        Returns
        -------
        rows : LongTensor[n]
        missing : list[str]
        """
        rows = [self._row[name] for name in ids if name in self._row]
        return torch.tensor(rows, dtype=torch.int64), [name for name in ids if name not in self._row]


def _finite_rows(x):
    """Which rows hold only finite numbers: Tensor[B, …] -> bool Tensor[B]."""
    return torch.isfinite(x).flatten(1).all(dim=1)


def _first_repeated(ids):
    seen = set()
    return next(name for name in ids if name in seen or seen.add(name))


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value


def _first_line(error):
    return str(error).splitlines()[0]
