"""The feature file: one HDF5 file per data set, written by extraction, read by everything else.

    video [N, T, H, W, C] or [N, T, C] (pooled), audio [N, T, A], text [N, L, X]   float16 or float32, any subset
    valid/<modality> [N, T] bool      False where a step is padding (a clip shorter than T, a caption shorter than L)
    id [N]                            UTF-8, of one length
    vocabulary/<modality> [V]         UTF-8, pieces of words by number, of tokens that are such
    attributes                        schema, backbone/<modality>, sha256/<modality>, seconds_per_step, source, …;
                                      modality/<name>: what a modality is that `cmg.modalities.TABLE` has no row for

`cmg.modalities` says which arrays each modality may have. Dimensions are read from the file, never assumed. A file
holds complete rows only: `FeatureWriter` fills a temporary file and renames it when everything is in.
`cmg.data.features.FeatureSet` makes one or several files one data set.

A bit that turns afterwards is noticed by whoever reads it: arrays have checksums (fletcher32), and so has the rest in
the format of HDF5 1.10. Strings have one length because HDF5 keeps those of several in a heap without checksum, in
whose damage it may read forever. Files of before have neither and are read as well.
"""

import json
import os
from pathlib import Path

import h5py
import numpy as np

from cmg import modalities
from cmg.data.hdf5 import Sink, opened
from cmg.data.vocabulary import Vocabulary
from cmg.errors import UserError
from cmg.files import parse_json

SCHEMA = 1
CHUNK_BYTES = 64 * 1024  # rows are read in random order: a chunk is one clip, and only small clips share one


class FeatureWriter:
    """Write a feature file row block by row block; it appears under its name only when it is complete.

    Parameters
    ----------
    path : path of the file; an old file of that name stays untouched until the new one is complete.
    shapes : shape of one clip per modality, e.g. `{"video": (10, 7, 7, 244), "audio": (10, 640)}`.
    attrs : file attributes beside `schema`, e.g. `{"backbone/video": "pixels", "seconds_per_step": 1.0}`.
    dtype : as stored: "float16", "float32" or what else `cmg.modalities` allows; one, or a dict modality -> one.
    vocabularies : dict modality -> `cmg.data.vocabulary.Vocabulary` of its tokens.

    Raises
    ------
    UserError : the folder cannot be written; no room on the disk, or a quota; an id twice; features that are not
        finite or overflow `dtype`.

    >>> with FeatureWriter("clips.h5", {"audio": (10, 128)}, {"source": "mine"}) as writer:
    ...     writer.append(["a", "b"], {"audio": np.zeros((2, 10, 128))}, None)
    """

    def __init__(self, path, shapes, attrs, dtype="float16", vocabularies=None):
        self.path = Path(path)
        self.shapes = {m: tuple(int(n) for n in shape) for m, shape in shapes.items()}
        self.dtypes = {m: np.dtype(dtype[m] if isinstance(dtype, dict) else dtype) for m in self.shapes}
        self.ids = {}  # in order
        self._temp = self.path.with_name(f"{self.path.name}.tmp-{os.getpid()}")
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder, expected the name of a file")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = Sink(self._temp)
        except OSError as error:
            raise UserError(f"{self.path}: cannot write here ({error.strerror})") from None
        # from HDF5 1.10 on there are checksums of all that is no data
        self._h5 = h5py.File(self._sink, "w", libver="v110")
        self._h5.attrs["schema"] = SCHEMA
        declared = {f"modality/{m}": json.dumps(row) for m, row in modalities.declared(self.shapes).items()}
        for name, value in {**attrs, **declared}.items():
            self._h5.attrs[name] = _strings(value) if isinstance(value, str) else value
        for m, vocabulary in (vocabularies or {}).items():  # an attribute holds 64 kB at most
            self._h5.create_dataset(f"vocabulary/{m}", data=_strings(list(vocabulary.pieces)))
        for m, shape in self.shapes.items():
            dtype = self.dtypes[m]
            rows = max(1, CHUNK_BYTES // (int(np.prod(shape)) * dtype.itemsize))
            self._h5.create_dataset(m, (0, *shape), maxshape=(None, *shape), dtype=dtype, chunks=(rows, *shape),
                                    fletcher32=True)
            self._h5.create_dataset(f"valid/{m}", (0, shape[0]), maxshape=(None, shape[0]), dtype=bool, fletcher32=True)

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
            self.ids[name] = None
        for m, shape in self.shapes.items():
            with np.errstate(over="ignore"):  # an overflow to inf is reported below, with the clip's name
                x = np.asarray(features[m]).astype(self.dtypes[m])  # [n, *shape]
            if x.shape != (len(ids), *shape):
                raise UserError(f"{self.path}: {m} features have shape {x.shape}, expected {(len(ids), *shape)}")
            if not np.isfinite(x).all():
                bad = ids[int(np.argmin(np.isfinite(x).reshape(len(ids), -1).all(axis=1)))]
                raise UserError(f"{self.path}: {m} features of '{bad}' are not finite in {self.dtypes[m]}")
            real = np.ones((len(ids), shape[0]), bool) if valid is None else np.asarray(valid[m], bool)
            self._extend(m, x)
            self._extend(f"valid/{m}", real)
        self._h5.flush()
        self._refuse()

    def _refuse(self):
        """`UserError` for what the disk has refused."""
        if self._sink.error is not None:
            raise UserError(f"{self.path}: cannot write ({self._sink.error.strerror})")

    def _extend(self, name, rows):
        data = self._h5[name]
        start = len(data)
        data.resize(start + len(rows), axis=0)
        data[start:] = rows

    def _write_ids(self):
        ids = _strings(list(self.ids))
        self._h5.create_dataset("id", data=ids, maxshape=(None,), chunks=(max(1, len(ids)),), fletcher32=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self._write_ids()
            self._h5.close()
            self._sink.close()
            if kind is None:
                self._refuse()
                os.replace(self._temp, self.path)
        finally:
            self._temp.unlink(missing_ok=True)


class FeatureFile:
    """One feature file, checked when constructed and opened lazily, once per process.

    The handle never crosses a fork or a pickle, so that a `DataLoader` worker always reads through its own.

    Attributes
    ----------
    path : Path
    ids : list[str]
    modalities : tuple[str, ...], in the order of `cmg.modalities.TABLE`
    shapes, dtypes : dict modality -> shape of one clip; numpy dtype as stored
    kinds : dict modality -> of `cmg.modalities.KINDS`, what its array is
    attrs : dict of the file's attributes as plain Python values
    vocabularies : dict modality -> Vocabulary, of tokens that have one

    Raises
    ------
    UserError : no such file, truncated, not HDF5, other schema, missing data set, shapes that disagree, ids twice.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._h5, self._pid, self._absent = None, None, set()
        self._is = None  # which file the path stood for
        with opened(self.path, "a feature file (.h5)") as h5:
            try:
                self._inspect(h5)
            except (KeyError, OSError, RuntimeError) as error:  # what h5py raises where it meets damage
                raise UserError(f"{self.path}: damaged HDF5 file ({_first_line(error)})") from None
        self._is = self._identity()

    def _identity(self):
        status = os.stat(self.path)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _inspect(self, h5):
        """Read what is small (ids, attributes, shapes) and check that all of it agrees."""
        self.attrs = {name: _plain(value) for name, value in h5.attrs.items()}
        if self.attrs.get("schema") != SCHEMA:
            found = self.attrs.get("schema", "none")
            raise UserError(f"{self.path}: feature file schema is {found}, expected {SCHEMA}")
        declared = [name.removeprefix("modality/") for name in self.attrs if name.startswith("modality/")]
        self._declare(declared)
        self.modalities = modalities.ordered(m for m in (*modalities.BUILT_IN, *declared) if m in h5)
        if not self.modalities:
            raise UserError(f"{self.path}: none of the data sets {', '.join(modalities.BUILT_IN)} is in the file")
        for name in ("id", *self.modalities, *(f"valid/{m}" for m in self.modalities)):
            if not isinstance(h5.get(name), h5py.Dataset):  # nor a group, nor a link to a file that is gone
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
            raise UserError(f"{self.path}: id '{first_repeated(self.ids)}' occurs twice")
        self.shapes, self.dtypes, self.kinds, self.vocabularies = {}, {}, {}, {}
        for m in self.modalities:
            x, n = h5[m], len(self.ids)
            kind = modalities.kind_of(x.ndim, x.dtype)
            if kind not in modalities.modality(m).kinds or 0 in x.shape:
                raise UserError(f"{self.path}: '{m}' is {x.dtype} {x.shape}, expected {modalities.expected(m)}")
            if x.shape[0] != n:
                raise UserError(f"{self.path}: '{m}' has {x.shape[0]} rows but 'id' has {n}")
            if h5[f"valid/{m}"].shape != x.shape[:2]:
                raise UserError(f"{self.path}: 'valid/{m}' has shape {h5[f'valid/{m}'].shape}, expected {x.shape[:2]}")
            if h5[f"valid/{m}"].dtype != bool:
                raise UserError(f"{self.path}: 'valid/{m}' is {h5[f'valid/{m}'].dtype}, expected bool")
            self.shapes[m], self.dtypes[m], self.kinds[m] = tuple(x.shape[1:]), x.dtype, kind
            if isinstance(pieces := h5.get(f"vocabulary/{m}"), h5py.Dataset):
                self.vocabularies[m] = Vocabulary(pieces.asstr()[:], f"{self.path}: data set 'vocabulary/{m}'")
        timed = {m: self.shapes[m][0] for m in self.modalities if modalities.modality(m).timed}
        if len(set(timed.values())) > 1:
            steps = " but ".join(f"{steps} of {m}" for m, steps in timed.items()).replace(" of", " steps of", 1)
            raise UserError(f"{self.path}: {steps} per clip")

    def _declare(self, names):
        """Take over what the file says of modalities that not every copy of this project knows."""
        for m in names:
            try:
                row = parse_json(self.attrs[f"modality/{m}"])
            except (TypeError, ValueError):
                row = None
            if not isinstance(row, dict) or row.get("name") != m:
                raise UserError(f"{self.path}: attribute 'modality/{m}' does not declare a modality of this name")
            modalities.declare_all({m: row}, self.path)

    def stand_in(self, modality, shape, dtype, kind):
        """From now on, answer for a modality that the file lacks: zeros, none of their steps valid."""
        self._absent.add(modality)
        self.shapes[modality], self.dtypes[modality], self.kinds[modality] = shape, dtype, kind

    def __getstate__(self):
        return {**self.__dict__, "_h5": None, "_pid": None}

    def _open(self):
        if self._pid != os.getpid():
            # without HDF5's cache of chunks, which copies every clip once more
            self._h5, self._pid = opened(self.path, "a feature file (.h5)", rdcc_nbytes=0), os.getpid()
            if self._identity() != self._is:  # its ids and shapes were another file's
                self.close()
                raise UserError(f"{self.path}: was replaced or written to while it was read; expected features that "
                                "stay as they are until the run ends")
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
        if modality in self._absent:
            shape = self.shapes[modality]
            return np.zeros((len(rows), *shape), self.dtypes[modality]), np.zeros((len(rows), shape[0]), bool)
        wanted, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        # A run of neighbouring rows is one slice: h5py reads a list of rows many times slower than the slices.
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1) if len(wanted) else []
        try:
            x, valid = self._open()[modality], self._open()[f"valid/{modality}"]
            out = np.empty((len(wanted), *x.shape[1:]), x.dtype)
            real = np.empty((len(wanted), valid.shape[1]), bool)
            start = 0
            for run in runs:
                source, target = np.s_[run[0] : run[-1] + 1], np.s_[start : start + len(run)]
                x.read_direct(out, source, target)
                valid.read_direct(real, source, target)
                start += len(run)
        except (KeyError, OSError) as error:
            raise UserError(f"{self.path}: reading '{modality}'{self._first_damaged(modality, wanted)} failed "
                            f"({_first_line(error)})") from None
        return (out, real) if np.array_equal(wanted, rows) else (out[back], real[back])


    def _first_damaged(self, modality, rows):
        """" of 'clip'": the first of these rows that cannot be read by itself, for messages; nothing if all can."""
        for row in rows:
            try:
                self._open()[modality][row], self._open()[f"valid/{modality}"][row]
            except (KeyError, OSError):
                return f" of '{self.ids[row]}'"
        return ""


def first_repeated(ids):
    """The first id that occurs a second time."""
    seen = set()
    return next(name for name in ids if name in seen or seen.add(name))


def _strings(text):
    """A text or a list of texts as an array of UTF-8 strings of one length."""
    data = np.array([one.encode() for one in text] if isinstance(text, list) else text.encode(), np.bytes_)
    return data.astype(h5py.string_dtype("utf-8", max(1, data.itemsize)))


def _plain(value):
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _first_line(error):
    return str(error).strip("'\"").splitlines()[0]
