"""Codes and vectors of media files and sentences.  `cmg encode a.mp4 b.wav --checkpoint checkpoint/mine`

    cmg encode a.mp4 b.wav --checkpoint checkpoint/mine                                 # prints a line a modality
    cmg encode clips/*.mp4 --checkpoint checkpoint/mine --out codes.csv                 # id, modality, step, code
    cmg encode clips/*.mp4 --sentences "a dog barks" --checkpoint checkpoint/mine --out codes.h5

Files are read as those of pretraining were: by the encoders that the checkpoint names, whose weights, where they have
any, are given and have to be the same (`--video-weights` and so on). A .csv holds the codes of all steps that exist, a
.json the same as lists, a .h5 also the vectors: `codes/<modality>` [N, T], `quantized/<modality>` and
`semantic/<modality>` [N, T, D], `valid/<modality>` [N, T] and `id` [N]. Where a step has several codes (`--pieces` of
pretraining), they are 3+40 in print and in a .csv, and [N, T, P] in a .h5. A checkpoint without a codebook has no
codes, and its .h5 only `semantic`.
"""

import csv
import io
import json
from pathlib import Path

import h5py

from cmg.cli import Parser, command, whole
from cmg.distributed import choose_device
from cmg.errors import UserError
from cmg.extract.alike import add_encoder_flags, encode_files, encoder_flags
from cmg.files import replacing, write_atomically
from cmg.training.checkpoint import load_pretrained

SUFFIXES = (".csv", ".json", ".h5")


def parser() -> Parser:
    p = Parser(prog="cmg.encode", description=__doc__)
    p.add_argument("files", nargs="*", metavar="FILE", help="videos, sounds and pictures")
    p.add_argument("--sentences", nargs="+", default=[], help="texts, whose rows follow those of the files")
    p.add_argument("--checkpoint", required=True, help="a .pt file, a run folder, an exported one, or OWNER/NAME of a "
                   "hub")
    p.add_argument("--method", help="file of the checkpoint's method, where it is of one's own and has moved since")
    p.add_argument("--out", help=f"file to write, {', '.join(SUFFIXES)}; default: codes are printed")
    p.add_argument("--modalities", nargs="+", help="to encode; default: all that checkpoint and files have")
    p.add_argument("--seconds", type=whole(1), help="of a file that are read, from its start; default: as many as "
                   "clips of pretraining have")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    p.add_argument("--workers", type=whole(0), default=0, help="processes that decode; 0: this one")
    return add_encoder_flags(p)


def codes_of(ids, tokens):
    """Rows (id, modality, step, code) of all steps that exist; a step of several codes has a list of them."""
    return [(name, m, step, code)
            for row, name in enumerate(ids) for m, found in tokens.items()
            for step, (code, there) in enumerate(zip(found.codes[row].tolist(), found.valid[row].tolist())) if there]


def told(code):
    """As text; several codes of a step as 3+40."""
    return "+".join(map(str, code)) if isinstance(code, list) else str(code)


def as_lists(ids, tokens) -> dict:
    """The same as id -> modality -> codes."""
    found = {name: {} for name in ids}
    for name, m, _, code in codes_of(ids, tokens):
        found[name].setdefault(m, []).append(code)
    return found


def write(path, ids, tokens):
    """Into a file of one of `SUFFIXES`."""
    if path.suffix == ".h5":
        with replacing(path) as unfinished, h5py.File(unfinished, "w") as file:
            file["id"] = ids
            for m, found in tokens.items():
                for name, x in found._asdict().items():
                    if x is not None:
                        file[f"{name}/{m}"] = x.cpu().numpy()
    elif path.suffix == ".json":
        write_atomically(path, json.dumps(as_lists(ids, tokens), ensure_ascii=False, indent=1) + "\n")
    else:
        text = io.StringIO()
        rows = [(*place, told(code)) for *place, code in codes_of(ids, tokens)]
        csv.writer(text, lineterminator="\n").writerows([("id", "modality", "step", "code"), *rows])
        write_atomically(path, text.getvalue())


@command
def main(argv=None):
    args = parser().parse_args(argv)
    ids, out = [*args.files, *args.sentences], args.out and Path(args.out)
    if not ids:
        raise UserError("FILE: nothing to encode; expected files, or --sentences")
    if len(set(ids)) < len(ids):
        raise UserError(f"FILE {next(name for name in ids if ids.count(name) > 1)}: given twice")
    if out and (out.suffix not in SUFFIXES or out.is_dir()):
        raise UserError(f"--out {out}: expected a file that ends in {', '.join(SUFFIXES)}")
    model = load_pretrained(args.checkpoint, choose_device(args.device), args.method)
    if "codes" not in model.offers and (out is None or out.suffix != ".h5"):
        raise UserError(f"--checkpoint {args.checkpoint}: offers {', '.join(model.offers)} and no codes; expected "
                        "--out FILE.h5 for its vectors")
    tokens = encode_files(model, args.files, args.sentences, args.workers, modalities=args.modalities,
                          seconds=args.seconds, **encoder_flags(args, model.modalities))
    if out:
        write(out, ids, tokens)
        print(f"{out}: {len(ids)} rows, {', '.join(tokens)}")
    else:
        for name, found in as_lists(ids, tokens).items():
            for m, codes in found.items():
                print(f"{name}  {m:5}  {' '.join(map(told, codes))}")


if __name__ == "__main__":
    main()
