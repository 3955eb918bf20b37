"""One or several feature files as one data set: the only thing that training and the downstream tasks read."""

from pathlib import Path

import numpy as np
import torch

from cmg.cli import MODALITIES
from cmg.data.feature_file import SCHEMA, FeatureFile, FeatureWriter, first_repeated
from cmg.errors import UserError

__all__ = ["SCHEMA", "FeatureFile", "FeatureSet", "FeatureWriter"]


class FeatureSet(torch.utils.data.Dataset):
    """One or several feature files as one data set that yields whole batches.

    Parameters
    ----------
    paths : one path or a list of paths
    modalities : which to read; all of the first file's if None
    cache : "host" keeps everything in memory in the stored dtype; "disk" reads each batch from the files.

    Raises
    ------
    UserError : a modality that a file lacks, shapes or backbones that differ between files, an id that occurs twice.

    Batches come ready from lists of rows, nothing is left to collate:

    >>> loader = DataLoader(features, batch_sampler=batches, collate_fn=lambda batch: batch, num_workers=2)
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
            name = first_repeated(self.ids)
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
        rows = torch.tensor([self._row[name] for name in ids if name in self._row], dtype=torch.int64)
        return rows, [name for name in ids if name not in self._row]


def _finite_rows(x):
    """Which rows hold only finite numbers: Tensor[B, …] -> bool Tensor[B]."""
    return torch.isfinite(x).flatten(1).all(dim=1)
