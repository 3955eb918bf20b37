"""One or several feature files as one data set: the only thing that training and the downstream tasks read."""

import os
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cmg.data.feature_file import SCHEMA, FeatureFile, FeatureWriter, first_repeated
from cmg.data.provenance import differing, of_attributes
from cmg.distributed import from_all, neighbours, shared_empty
from cmg.errors import UserError
from cmg.modalities import modality, ordered

__all__ = ["CACHES", "SCHEMA", "FeatureFile", "FeatureSet", "FeatureWriter"]

CACHES = ("device", "host", "disk", "auto")


class FeatureSet(torch.utils.data.Dataset):
    """One or several feature files as one data set that yields whole batches.

    Parameters
    ----------
    paths : one path or a list of paths
    modalities : which to read; all of the first file's if None. Of these a later file may lack what has words for
        steps: its clips count as clips without words, and a note says so.
    cache : "host" keeps everything in memory in the stored dtype, "device" in the memory of `device` (on a CPU the
        same thing), "disk" reads each batch from the files; "auto" takes the first of device, host, disk that has
        room (`cache_for`) for every process. The attribute `cache` says what it became.
    device : torch.device of "device" and "auto".

    Several processes open the same set together. With "host" the processes of a machine share one copy, and each reads
    its part of it from the files. With "device" each holds the whole set on its card, because a shuffled epoch may need
    any clip on any rank.

    Attributes
    ----------
    ids, modalities, shapes, kinds : as of a `FeatureFile`, of all files together
    provenance : dict modality -> Provenance, where its features come from
    vocabularies : dict modality -> Vocabulary, of tokens that have one

    Raises
    ------
    UserError : a modality that a file lacks, shapes or origins that differ between files, an id that occurs twice.

    Batches come ready from lists of rows, nothing is left to collate:

    >>> loader = DataLoader(features, batch_sampler=batches, collate_fn=lambda batch: batch, num_workers=2)
    """

    def __init__(self, paths, modalities=None, cache="host", device="cpu"):
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if not paths:
            raise UserError("no feature file given")
        if cache not in CACHES:
            raise UserError(f"feature cache '{cache}' is unknown, expected one of {', '.join(CACHES)}")
        self.files = [FeatureFile(path) for path in paths]
        first = self.files[0]
        for m in modalities or ():
            if m not in first.modalities:
                raise UserError(f"{first.path}: has no '{m}' features, only {', '.join(first.modalities)}")
        self.modalities = ordered(modalities or first.modalities)
        self.shapes = {m: first.shapes[m] for m in self.modalities}
        self.kinds = {m: first.kinds[m] for m in self.modalities}
        self.attrs = first.attrs
        self.vocabularies = {m: words for m, words in first.vocabularies.items() if m in self.modalities}
        self.provenance = {m: of_attributes(first.attrs, m) for m in self.modalities}
        for file in self.files[1:]:
            self._check_fits(file)
        self.ids = [name for file in self.files for name in file.ids]
        self._starts = np.cumsum([0, *(len(file.ids) for file in self.files)])
        self._row = {name: row for row, name in enumerate(self.ids)}
        if len(self._row) != len(self.ids):
            name = first_repeated(self.ids)
            where = " and in ".join(str(file.path) for file in self.files if name in file.ids)
            raise UserError(f"id '{name}' occurs twice: in {where}")
        device = torch.device(device)
        rank, size = neighbours()
        if cache == "auto":  # alike on all ranks: an epoch from disk has an order of its own
            cache = max(from_all(cache_for(self.nbytes, device, size)), key=CACHES.index)
        self.cache = "host" if cache == "device" and device.type == "cpu" else cache
        self._device = device if self.cache == "device" else torch.device("cpu")
        self._memory = {m: self._load(m, rank, size) for m in self.modalities} if self.cache != "disk" else {}
        from_all(None)  # nobody reads what another has not written yet

    @property
    def nbytes(self):
        """Size of all features in the stored dtype, in bytes."""
        return sum(len(self.ids) * int(np.prod(shape)) * self._dtype(m).itemsize for m, shape in self.shapes.items())

    def _dtype(self, modality):
        return np.result_type(*(file.dtypes[modality] for file in self.files))

    def _check_fits(self, file):
        """A later file holds what the first one holds, made in the same way."""
        first = self.files[0]
        for m in self.modalities:
            if m not in file.modalities and not modality(m).timed:
                file.stand_in(m, self.shapes[m], first.dtypes[m], self.kinds[m])
                print(f"note: {file.path} holds no {m}: {len(file.ids)} clips without words", file=sys.stderr)
                continue
            if m not in file.modalities:
                raise UserError(f"{file.path}: has no '{m}' features, only {', '.join(file.modalities)}")
            if file.shapes[m] != self.shapes[m]:
                there = f"{self.shapes[m]} in {first.path}"
                raise UserError(f"{file.path}: '{m}' clips have shape {file.shapes[m]}, but {there}")
            if file.kinds[m] != self.kinds[m]:
                raise UserError(f"{file.path}: '{m}' holds {file.kinds[m]}, but {self.kinds[m]} in {first.path}")
            if file.vocabularies.get(m) != self.vocabularies.get(m):
                raise UserError(f"{file.path}: '{m}' has another vocabulary than that of {first.path}; expected "
                                "captions that were extracted with the same")
            mine, theirs = self.provenance[m], of_attributes(file.attrs, m)
            found = differing(mine, theirs) or next((  # of an encoder that nobody knows nothing else can be said
                (name, getattr(mine, name), getattr(theirs, name)) for name in ("backbone", "sha256")
                if getattr(mine, name) != getattr(theirs, name)), None)
            if found:
                name, *values = found
                ours, other = (f"'{value}'" if value is not None else "not known" for value in values)
                raise UserError(f"{file.path}: {name}/{m} is {other}, but {ours} in {first.path}")

    def _load(self, modality, rank, size):
        """All rows of one modality: features [N, *shape], valid [N, T], and which rows are finite [N].

        The first two lie on the device, the last on the CPU, so that a look at it waits for no device. On a host, the
        `size` processes of the machine fill the same memory, this one as number `rank` of them.
        """
        if self.cache == "device":
            rank, size = 0, 1
        empty = shared_empty if size > 1 else partial(torch.empty, device=self._device)
        n, shape = len(self.ids), self.shapes[modality]
        x = empty((n, *shape), dtype=getattr(torch, self._dtype(modality).name))
        valid, finite = empty((n, shape[0]), dtype=torch.bool), empty((n,), dtype=torch.bool).cpu()
        for file, start in zip(self.files, self._starts, strict=False):
            # in blocks, so that no second copy of the set is ever held
            for row in range(256 * rank, len(file.ids), 256 * size):
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
        dict : modality -> Tensor[B, *shape], float32 where it is no integer, "valid/<modality>" -> bool Tensor[B, T],
            "index" -> int64 Tensor[B], the rows themselves.
        """
        batch = self.stored(indices)
        return batch | {m: batch[m].float() for m in self.modalities if batch[m].is_floating_point()}

    def stored(self, indices, pinned=False):
        """The same batch in the stored dtype; `pinned` puts it into page-locked memory."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = {"index": index}
        for m in self.modalities:
            if self.cache == "disk":
                x, valid = self._read(m, index.numpy())
                finite = _finite_rows(x)
            else:
                x, valid = (_pick(part, index, pinned) for part in self._memory[m][:2])
                finite = self._memory[m][2][index]
            if not finite.all():
                row = int(index[int(finite.int().argmin())])
                raise UserError(f"{self._file_of(row).path}: '{m}' features of '{self.ids[row]}' are not finite")
            batch[m], batch[f"valid/{m}"] = x, valid
        return batch

    def tokens(self, modality):
        """All of a modality's features and which steps exist, as arrays on the CPU: for what is small, as captions
        are."""
        if self.cache != "disk":
            return tuple(part.cpu().numpy() for part in self._memory[modality][:2])
        parts = [file.read(modality, np.arange(len(file.ids))) for file in self.files]
        return tuple(np.concatenate(column) for column in zip(*parts))

    def _file_of(self, row):
        return self.files[int(np.searchsorted(self._starts, row, side="right")) - 1]

    def _read(self, modality, index):
        """Rows from disk, file by file: x Tensor[B, *shape], valid Tensor[B, T]."""
        if len(self.files) == 1:
            return tuple(map(torch.from_numpy, self.files[0].read(modality, index)))
        owner = np.searchsorted(self._starts, index, side="right") - 1
        dtype = getattr(torch, self._dtype(modality).name)
        x = torch.empty((len(index), *self.shapes[modality]), dtype=dtype)
        valid = torch.empty((len(index), self.shapes[modality][0]), dtype=torch.bool)
        for number in np.unique(owner):
            here = np.flatnonzero(owner == number)
            part, real = self.files[number].read(modality, index[here] - self._starts[number])
            x[here], valid[here] = torch.from_numpy(part).to(dtype), torch.from_numpy(real)
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


def cache_for(nbytes, device, sharing=1):
    """Where a feature set of this size should be kept: "device" where it fills at most half of the card's free
    memory, "host" where all copies on this machine, one for `sharing` processes, fill at most 60 % of what is
    available, "disk" otherwise."""
    if device.type == "cuda" and nbytes <= 0.5 * torch.cuda.mem_get_info(device)[0]:
        return "device"
    copies = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)) // sharing)
    return "host" if copies * nbytes <= 0.6 * available_memory() else "disk"


def available_memory():
    """Memory in bytes that can be had without swapping: the machine's, or less in a container. Infinite if unknown."""
    found = [float("inf")]
    for path, pattern, unit in (("/proc/meminfo", r"MemAvailable:\s+(\d+)", 1024),
                                ("/sys/fs/cgroup/memory.max", r"(\d+)", 1)):
        try:
            match = re.search(pattern, Path(path).read_text())
        except OSError:
            continue
        if match:
            found.append(int(match[1]) * unit)
    return min(found)


def _pick(x, index, pinned):
    if pinned:
        out = torch.empty((len(index), *x.shape[1:]), dtype=x.dtype, pin_memory=True)
        return torch.index_select(x, 0, index, out=out)
    return x.index_select(0, index.to(x.device, non_blocking=True))


def _finite_rows(x):
    """Which rows hold only finite numbers: Tensor[B, …] -> bool Tensor[B].

    One inf or NaN makes the sum it is in inf or NaN, so finite sums settle it, at a thirtieth of the time that a look
    at every number takes in float16. Large numbers may overflow a sum: such rows are looked at number by number.
    """
    if not x.is_floating_point():
        return torch.ones(len(x), dtype=torch.bool)
    finite = torch.isfinite(x.sum(dim=-1)).flatten(1).all(dim=1)
    doubtful = (~finite).nonzero()[:, 0]
    finite[doubtful] = torch.isfinite(x[doubtful]).flatten(1).all(dim=1)
    return finite
