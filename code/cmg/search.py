"""What a folder holds that is like a sentence, a picture, a sound or a video.  `cmg search "a dog barks" clips/ …`

    cmg search "a dog barks" clips/ --checkpoint checkpoint/mine
    cmg search bark.wav clips/ --checkpoint checkpoint/mine --target video --top 5

Any modality asks, any answers. An item is a file: the mean of its modalities' vectors of length 1, each the mean over a
file's steps (`Pretrained.items`: joint embeddings, semantics before quantisation, or code vectors); the nearest by
cosine are told, exactly, in blocks of the index. The question is read the same way.

The index, FOLDER.index.h5 beside the folder, is a feature file with these vectors, so that the next question reads no
file again: those that are new or have changed are added, those that are gone left out. It belongs to one checkpoint;
another is refused, unless `--rebuild` says that the index may go. An interrupted start goes on where it was.
"""

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from cmg.cli import Parser, command, whole
from cmg.data.features import FeatureFile, FeatureWriter
from cmg.distributed import choose_device
from cmg.errors import UserError
from cmg.extract.alike import READABLE, Encoders, add_encoder_flags, asked, encoder_flags
from cmg.metrics.retrieval import unit
from cmg.training.checkpoint import load_pretrained

KINDS = ("joint", "semantic", "codes")  # of vectors, the first that a model has is the default
BATCH = 64  # files that are encoded at a time
PATIENCE = 60  # seconds after which what is new in the index is written
BLOCK = 65536  # items that are compared at a time


class Index(NamedTuple):
    """What is known of a folder's N files.

    stamps : `<path in the folder>#<size>-<time of its last change>` of each. kinds : names of the K vectors of a file.
    vectors : dict modality -> float32 ndarray [N, K, D]. there : dict modality -> bool ndarray [N], which files have
    it; one that cannot be read has none.
    """

    stamps: list[str]
    kinds: tuple[str, ...]
    vectors: dict
    there: dict

    def take(self, rows):
        """Some of the files, in this order."""
        return Index([self.stamps[row] for row in rows], self.kinds, {m: x[rows] for m, x in self.vectors.items()},
                     {m: x[rows] for m, x in self.there.items()})

    def plus(self, other):
        """The files of both."""
        both = {field: {m: np.concatenate([mine[m], theirs[m]]) for m in mine} for field, mine, theirs in (
            ("vectors", self.vectors, other.vectors), ("there", self.there, other.there))}
        return Index([*self.stamps, *other.stamps], self.kinds, **both)

    def one_each(self, kind, wanted=None):
        """A vector of every file, the mean of those of length 1 of one modality or of all: Tensor[N, D], and
        BoolTensor[N], which files have any."""
        chosen = [m for m in self.vectors if wanted in (None, m)]
        there = torch.stack([torch.from_numpy(self.there[m]) for m in chosen], 1)  # (N, modalities)
        x = torch.stack([unit(torch.from_numpy(self.vectors[m][:, self.kinds.index(kind)])) for m in chosen], 1)
        return (x * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp_min(1), there.any(1)


def parser() -> Parser:
    p = Parser(prog="cmg.search", description=__doc__)
    p.add_argument("query", help="a sentence, or the path of a video, sound or picture")
    p.add_argument("folder", help="folder of videos, sounds and pictures, searched recursively")
    p.add_argument("--checkpoint", required=True, help="a .pt file, a run folder, an exported one, or OWNER/NAME of a "
                   "hub")
    p.add_argument("--method", help="file of the checkpoint's method, where it is of one's own and has moved since")
    p.add_argument("--top", type=whole(1), default=10, help="files that are told")
    p.add_argument("--source", help="modality of the question, where its file has several; default: all as one")
    p.add_argument("--target", help="modality that answers; default: all that a file has as one")
    p.add_argument("--kind", help=f"of vectors; default: the first of {', '.join(KINDS)} that the model has")
    p.add_argument("--index", help="default: FOLDER.index.h5")
    p.add_argument("--rebuild", action="store_true", help="begin an index of another checkpoint anew")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    p.add_argument("--workers", type=whole(0), default=0, help="processes that decode; 0: this one")
    return add_encoder_flags(p)


# -- the index -------------------------------------------------------------------------------------------------------


def stamps(folder) -> dict[str, Path]:
    """Stamp -> path of every file of the folder that may be read, in order."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in READABLE and path.is_file():
            status = path.stat()
            name = f"{path.relative_to(folder)}#{status.st_size}-{status.st_mtime_ns}"
            if name.isprintable() or name == name.encode(errors="replace").decode():
                found[name] = path
            else:
                print(f"note: {path!r} is left out, its name is not UTF-8", file=sys.stderr)
    if not found:
        raise UserError(f"{folder}: holds no videos, sounds or pictures")
    return found


def named(stamp) -> str:
    """The path in the folder that a stamp is of."""
    return stamp.rpartition("#")[0]


def read_index(path, sha256) -> Index | None:
    """What an earlier question has left; None where there is nothing.

    Raises
    ------
    UserError : the index is another checkpoint's, or is none.
    """
    if not path.exists():
        return None
    file = FeatureFile(path)
    if "model" not in file.attrs:
        raise UserError(f"{path}: not an index of cmg.search; expected another --index")
    if file.attrs["model"] != sha256:
        raise UserError(f"{path}: is of a checkpoint with sha256 {file.attrs['model'][:12]}…, this one has "
                        f"{sha256[:12]}…; expected --rebuild, or another --index")
    read = {m: file.read(m, range(len(file.ids))) for m in file.modalities}
    return Index(file.ids, tuple(file.attrs["kinds"].split()), {m: x for m, (x, _) in read.items()},
                 {m: valid.any(1) for m, (_, valid) in read.items()})


def write_index(path, sha256, index):
    """The index as a feature file, at once: of a file's K "steps" all or none are valid."""
    attrs = {"model": sha256, "kinds": " ".join(index.kinds), "source": "vectors of cmg.search"}
    with FeatureWriter(path, {m: x.shape[1:] for m, x in index.vectors.items()}, attrs, "float32") as writer:
        writer.append(index.stamps, index.vectors, {
            m: np.repeat(there[:, None], len(index.kinds), 1) for m, there in index.there.items()})


@torch.no_grad()
def indexed(encoders, modalities, names, read, like=None) -> Index | None:
    """Vectors of what was read; None where nothing could be, unless there is an index to be like."""
    items, there, kinds = {}, {}, ()
    for m in modalities:
        there[m] = np.array([m in one.features for one in read])
        if there[m].any():
            found = encoders.model.items(m, *encoders.tensors(m, read))
            kinds = tuple(kind for kind in KINDS if kind in found) or tuple(found)
            kinds = tuple(kind for kind in kinds if found[kind].shape == found[kinds[0]].shape)  # one array holds them
            items[m] = torch.stack([found[kind] for kind in kinds], 1).float().cpu().numpy()  # (n, K, D)
    some = next(iter((items or (like.vectors if like else {})).values()), None)
    if some is None:
        return None
    nothing, kinds = np.zeros((len(read), *some.shape[1:]), np.float32), kinds or like.kinds
    return Index(names, kinds, {m: items.get(m, nothing) for m in there}, there)


def up_to_date(path, folder, encoders, sha256, workers=0, rebuild=False) -> tuple[Index, dict[str, str]]:
    """The index of a folder as it is now, and the reasons of files that cannot be read and are new, by stamp."""
    files = stamps(folder)
    known = None if rebuild else read_index(path, sha256)
    before = dict(zip(known.stamps, range(len(known.stamps)))) if known else {}
    fresh = {str(file): name for name, file in files.items() if name not in before}
    index = known.take([before[name] for name in files if name in before]) if known else None
    media = asked(encoders.model, True, False)
    changed, bad, batch, written = known is None or len(index.stamps) < len(before), {}, [], time.monotonic()

    def add():
        nonlocal index, batch
        more = indexed(encoders, media, [fresh[one.name] for one in batch], batch, index)
        if more is not None:
            index, batch = index.plus(more) if index else more, []

    for one in tqdm(encoders.files(list(fresh), workers), "reading", len(fresh), leave=False, disable=None):
        batch.append(one)
        if one.reason:
            bad[fresh[one.name]] = one.reason
        if len(batch) >= BATCH:
            add()
            if index and time.monotonic() - written > PATIENCE:
                write_index(path, sha256, index)
                written = time.monotonic()
    if batch:
        add()
    if index is None:
        name, reason = next(iter(bad.items()))
        raise UserError(f"{folder}: none of its {len(files)} files can be read; first: {files[name]}: {reason}")
    order = dict(zip(index.stamps, range(len(index.stamps))))
    index = index.take([order[name] for name in files if name in order])
    if fresh or changed:
        write_index(path, sha256, index)
    return index, bad


# -- the question ----------------------------------------------------------------------------------------------------


def nearest(query, items, top, block=BLOCK):
    """The `top` items of the largest cosine with a query, exact: (cosines, rows), the earlier row of equal ones first.

    query : Tensor[D]. items : Tensor[N, D], compared block by block.
    """
    best, rows = torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    for start in range(0, len(items), block):
        cosines = (unit(items[start : start + block]) @ unit(query[None])[0]).cpu()
        best = torch.cat([best, cosines])
        rows = torch.cat([rows, torch.arange(start, start + len(cosines))])
        order = best.argsort(descending=True, stable=True)[:top]
        best, rows = best[order], rows[order]
    return best, rows


def ask(encoders, query, by_file, kind, source):
    """The vector of a question, a file or a sentence, [D]."""
    (one,) = encoders.files([query]) if by_file else encoders.sentences([query])
    if one.reason:
        raise UserError(f"{query}: {one.reason}")
    if source is not None and source not in one.features:
        raise UserError(f"--source {source}: {query!r} has {', '.join(one.features)}")
    vectors, _ = indexed(encoders, list(one.features), [query], [one]).one_each(kind, source)
    return vectors[0]


@command
def main(argv=None):
    args = parser().parse_args(argv)
    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one of videos, sounds and pictures")
    model = load_pretrained(args.checkpoint, choose_device(args.device), args.method)
    for flag, m in (("--source", args.source), ("--target", args.target)):
        if m is not None and m not in model.modalities:
            raise UserError(f"{flag} {m}: the checkpoint was pretrained on {', '.join(model.modalities)}")
    by_file = Path(args.query).suffix.lower() in READABLE or Path(args.query).is_file()
    encoders = Encoders(model, asked(model, True, not by_file), **encoder_flags(args, model.modalities))
    place = folder.resolve()
    path = Path(args.index) if args.index else place.with_name(f"{place.name}.index.h5")
    index, bad = up_to_date(path, folder, encoders, model.sha256, args.workers, args.rebuild)
    for name, reason in bad.items():
        print(f"note: {named(name)} cannot be read: {reason}", file=sys.stderr)
    kind = args.kind or index.kinds[0]
    if kind not in index.kinds:
        raise UserError(f"--kind {kind}: the model has {', '.join(index.kinds)}")
    if args.target is not None and args.target not in index.vectors:
        raise UserError(f"--target {args.target}: files have {', '.join(index.vectors)}")
    vectors, there = index.one_each(kind, args.target)
    if not there.any():
        wanted = args.target or " or ".join(index.vectors)
        raise UserError(f"{folder}: none of its {len(there)} files has {wanted} that can be read")
    shown = there.nonzero()[:, 0]
    cosines, rows = nearest(ask(encoders, args.query, by_file, kind, args.source), vectors[shown], args.top)
    print(f"{len(shown)} of {len(there)} files, {kind} vectors, index {os.path.relpath(path)}")
    for cosine, row in zip(cosines.tolist(), shown[rows].tolist()):
        print(f"{cosine:7.3f}  {folder / named(index.stamps[row])}")


if __name__ == "__main__":
    main()
