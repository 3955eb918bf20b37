"""One or several feature files as one data set: the only thing that training and the downstream tasks read."""

import math
import os
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cmg.data.feature_file import SCHEMA, FeatureFile, FeatureWriter
from cmg.data.joining import Part, apart, join
from cmg.data.videos import place_of
from cmg.distributed import from_all, neighbours, shared_empty, world
from cmg.errors import UserError
from cmg.modalities import ordered

__all__ = ["CACHES", "SCHEMA", "FeatureFile", "FeatureSet", "FeatureWriter"]

NAMED = 10  # clips that are left out are named if there are no more
CACHES = ("device", "host", "disk", "auto")


class FeatureSet(torch.utils.data.Dataset):
    """One or several feature files as one data set that yields whole batches.

    Parameters
    ----------
    paths : one path or a list of paths. Files that share a modality hold different clips, one below the other. Files
        that share none hold different modalities of the same clips, and are joined by id: clips that one lacks are
        left out, and a note says how many.
    modalities : which to read; None for all of the first file's, and of the first of every kind that is joined. Of
        these a later file may lack what has words for steps: its clips count as clips without words, and a note says
        so.
    cache : "host" keeps everything in memory in the stored dtype, "device" in the memory of `device` (on a CPU the
        same thing), "disk" reads each batch from the files; "auto" takes the first of device, host, disk that has
        room (`cache_for`) for every process. The attribute `cache` says what it became.
    device : torch.device of "device" and "auto".
    hold_out : share of the videos whose clips are left out, those whose `place_of` is below it.

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
    UserError : a modality that a file lacks, shapes or origins that differ between files, an id that occurs twice,
        files without a clip in common.

    Batches come ready from lists of rows, nothing is left to collate:

    >>> loader = DataLoader(features, batch_sampler=batches, collate_fn=lambda batch: batch, num_workers=2)
    """

    def __init__(self, paths, modalities=None, cache="host", device="cpu", hold_out=0.0):
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if not paths:
            raise UserError("no feature file given")
        if cache not in CACHES:
            raise UserError(f"feature cache '{cache}' is unknown, expected one of {', '.join(CACHES)}")
        self.files = [FeatureFile(path) for path in paths]
        groups = apart(self.files)
        known = ordered(m for group in groups for m in group[0].modalities)
        for m in modalities or ():
            if m not in known:
                where = ", ".join(str(group[0].path) for group in groups)
                raise UserError(f"{where}: has no '{m}' features, only {', '.join(known)}")
        self.modalities = ordered(modalities or known)
        parts = [Part(group, self.modalities) for group in groups if {*group[0].modalities} & {*self.modalities}]
        self._part = {m: part for part in parts for m in part.modalities}
        self.shapes = {m: self._part[m].shapes[m] for m in self.modalities}
        self.kinds = {m: self._part[m].kinds[m] for m in self.modalities}
        self.provenance = {m: self._part[m].provenance[m] for m in self.modalities}
        self.vocabularies = {m: part.vocabularies[m] for m, part in self._part.items() if m in part.vocabularies}
        self.ids = join(parts)
        if hold_out:
            self._leave_out(parts, hold_out)
        self._row = {name: row for row, name in enumerate(self.ids)}
        device = torch.device(device)
        rank, size = neighbours()
        if cache == "auto":  # alike on all ranks: an epoch from disk has an order of its own
            cache = max(from_all(cache_for(self.nbytes, device, size)), key=CACHES.index)
        self.cache = "host" if cache == "device" and device.type == "cpu" else cache
        self._device = device if self.cache == "device" else torch.device("cpu")
        self._memory = {m: self._load(m, rank, size) for m in self.modalities} if self.cache != "disk" else {}
        from_all(None)  # nobody reads what another has not written yet

    def _leave_out(self, parts, share):
        kept = [row for row, name in enumerate(self.ids) if place_of(name) >= share]
        if not kept:
            raise UserError(f"--hold-out {share:g}: leaves none of the {len(self.ids)} clips; expected a smaller share")
        out = [name for name in self.ids if place_of(name) < share]
        if not out:  # else a user who counts on tests learns it when all has been pretrained on
            enough = math.floor(100 * min(map(place_of, self.ids)) + 1) / 100
            raise UserError(f"--hold-out {share:g}: leaves out none of the {len(self.ids)} clips, for a video's name "
                            f"decides; expected more clips, or {enough:g} at least")
        if not world()[0]:
            named = f": {', '.join(out)}" if len(out) <= NAMED else ""
            print(f"note: --hold-out {share:g}: {len(out)} of {len(self.ids)} clips left out{named}", file=sys.stderr)
        for part in parts:
            part.keep(torch.tensor(kept))
        self.ids = [self.ids[row] for row in kept]

    @property
    def nbytes(self):
        """Size of all features in the stored dtype, in bytes."""
        return sum(len(self._part[m].ids) * int(np.prod(shape)) * self._part[m].dtype(m).itemsize
                   for m, shape in self.shapes.items())

    def _load(self, modality, rank, size):
        """All rows that the files hold of one modality: features [N, *shape], valid [N, T], which rows are finite [N].

        The first two lie on the device, the last on the CPU, so that a look at it waits for no device. On a host, the
        `size` processes of the machine fill the same memory, this one as number `rank` of them.
        """
        if self.cache == "device":
            rank, size = 0, 1
        empty = shared_empty if size > 1 else partial(torch.empty, device=self._device)
        part, shape = self._part[modality], self.shapes[modality]
        n = len(part.ids)
        x = empty((n, *shape), dtype=getattr(torch, part.dtype(modality).name))
        valid, finite = empty((n, shape[0]), dtype=torch.bool), empty((n,), dtype=torch.bool).cpu()
        for file, start in zip(part.files, part.starts, strict=False):
            # in blocks, so that no second copy of the set is ever held
            for row in range(256 * rank, len(file.ids), 256 * size):
                rows = np.arange(row, min(row + 256, len(file.ids)))
                block, real = map(torch.from_numpy, file.read(modality, rows))
                here = slice(start + row, start + row + len(rows))
                x[here], valid[here], finite[here] = block, real, _finite_rows(block)
        return x, valid, finite

    def draw(self, seed, epoch):
        """Of clips with several captions take one at random each, the same on every process; before, the first."""
        for part in self._part.values():
            part.draw(seed, epoch)

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
            part = self._part[m]
            rows = part.rows(index)
            if self.cache == "disk":
                x, valid = part.read(m, rows.numpy())
                finite = _finite_rows(x)
            else:
                x, valid = (_pick(kept, rows, pinned) for kept in self._memory[m][:2])
                finite = self._memory[m][2][rows]
            if not finite.all():
                worst = int(finite.int().argmin())
                raise UserError(f"{part.file_of(int(rows[worst])).path}: '{m}' features of '{self.ids[index[worst]]}' "
                                "are not finite")
            batch[m], batch[f"valid/{m}"] = x, valid
        return batch

    def tokens(self, modality):
        """All of a modality's features and which steps exist, as arrays on the CPU: for what is small, as captions
        are."""
        part = self._part[modality]
        rows = part.rows(torch.arange(len(self)))
        if self.cache == "disk":
            return tuple(found.numpy() for found in part.read(modality, rows.numpy()))
        return tuple(_pick(kept, rows, False).cpu().numpy() for kept in self._memory[modality][:2])

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
