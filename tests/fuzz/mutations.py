"""Files that are mutated with their structure in mind."""

import io
import json
import pickle
import struct
import zipfile

import h5py
import numpy as np
import torch
from PIL import Image

NUMBERS = ["0", "-1", "1e9", "nan", "inf", "1e400", "99999999999999999999", "1.5", "", " ", "０", "0x10"]
TEXTS = ["", " ", "é|`<b>", "../..", "/dev/null", "\n", "a" * 300, "-", "None", "[]", "ß" * 60]
VALUES = [None, -1, 0, 10**9, 1.5, float("nan"), float("inf"), "", "x", [], {}, True, [[1]], 1e300, 2**70]
BOXES = [b"moov", b"trak", b"mdhd", b"stsd", b"stts", b"stsz", b"stco", b"stsc", b"mp4v", b"mp4a", b"tkhd", b"mdat",
         b"elst"]


def mutate_bytes(path, dice):
    raw = bytearray(path.read_bytes())
    kind = dice.choice(["cut", "empty", "bit", "html", "noise", "swap", "folder"])
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return kind
    if kind == "bit" and raw:
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    if kind == "swap":
        raw[: len(raw) // 2] = raw[len(raw) // 2 :]
    path.write_bytes({"cut": raw[: dice.randrange(len(raw) + 1)], "empty": b"", "html": b"<!doctype html>",
                      "noise": dice.randbytes(99)}.get(kind, raw))
    return kind


def mutate_text(path, dice):
    sign = {".csv": "," if path.parent.name != "AVVP" else "\t", ".txt": "&"}.get(path.suffix, "=")
    rows = [line.split(sign) for line in path.read_text().splitlines()]
    kind = dice.choice(["cell", "header", "twice", "shorter", "longer", "rename", "one"])
    row = dice.randrange(len(rows))
    if kind == "cell":
        rows[row][dice.randrange(len(rows[row]))] = dice.choice(NUMBERS + TEXTS)
    elif kind == "header":
        rows = rows[:1]
    elif kind == "one":
        rows = rows[:2]
    elif kind == "twice":
        rows.append(rows[row])
    elif kind == "shorter":
        rows[row] = rows[row][:-1]
    elif kind == "longer":
        rows[row] = [*rows[row], dice.choice(TEXTS)]
    else:
        rows[0][0] = dice.choice(TEXTS)
    path.write_text("\n".join(sign.join(row) for row in rows) + "\n")
    return kind


def mutate_h5(path, dice):
    with h5py.File(path, "a") as h5:
        names = ("audio", "text", "id", "valid/audio", "video", "avadataset")
        name = dice.choice([name for name in names if name in h5])
        kind = dice.choice(["gone", "nan", "ints", "shape", "length", "complex", "strings", "link", "schema", "padding",
                            "huge", "twice", "origin"])
        x = h5[name][:]
        if kind in ("schema", "origin"):
            where = {"schema": "schema", "origin": "modality/audio"}[kind]
            h5.attrs[where] = dice.choice(["1", 7, [1, 2], np.nan, "{}"])
            return f"{kind} {name}"
        if kind == "padding" and "valid" in h5:
            h5["valid/audio"][:] = False
            return kind
        del h5[name]
        new = {"nan": lambda: np.where(np.arange(x.size).reshape(x.shape) % 7, x, np.nan),
               "ints": lambda: np.ones(x.shape, int),
               "shape": lambda: x[..., None], "length": lambda: x[:-1], "complex": lambda: np.ones(x.shape, complex),
               "strings": lambda: np.full(x.shape, b"x"), "huge": lambda: np.full(x.shape, 1e300),
               "twice": lambda: np.repeat(x[:1], len(x), 0)}
        if kind == "link":
            h5[name] = h5py.SoftLink("/nowhere")
        elif kind in new and (x.dtype.kind != "O" and x.dtype.kind != "S" or kind not in ("nan", "shape")):
            h5[name] = new[kind]()
    return f"{kind} {name}"


def mutate_pt(path, dice):
    content = torch.load(path, weights_only=True)
    kind = dice.choice(["part gone", "part other", "setting", "shape", "weight", "weight gone"])
    part, weights = dice.choice(sorted(content)), content["model" if "model" in content else "net"]
    weight = dice.choice(sorted(weights))
    value = weights[weight]
    if kind == "part gone":
        del content[part]
    elif kind == "part other":
        content[part] = dice.choice([None, 7, "x", [], {}, {"a": 1}, torch.ones(2), float("nan"), -1])
    elif kind == "setting":
        name = dice.choice(sorted(content["args"]))
        content["args"][name] = dice.choice([None, -1, 0, float("nan"), "x", [], {}, "", True, 10**6, 300])
        part = name
    elif kind == "shape" and "shapes" in content:
        name = dice.choice(sorted(content["shapes"]))
        content["shapes"][name] = dice.choice([[], [0], [-1, 3], [6, 10**9], ["a"], [6]])
    elif kind != "weight gone":
        others = [value[..., None], value.cfloat(), value.long(), value * float("nan"), 7]
        weights[weight] = dice.choice(others)
    else:
        del weights[weight]
    torch.save(content, path)
    return f"{kind} {part if kind.startswith(('part', 'set')) else weight}"


def inside(node, dice):
    """A random place in nested dicts and lists: (what holds it, its key); None of what holds nothing."""
    place = None
    while isinstance(node, dict | list) and node:
        key = dice.choice(sorted(node, key=str)) if isinstance(node, dict) else dice.randrange(len(node))
        place, node = (node, key), node[key]
        if dice.random() < 0.25:
            break
    return place


def change(content, dice):
    """Another value at a random place, or none."""
    place = inside(content, dice)
    if place is None:
        return dice.choice(VALUES), "all of it"
    node, key = place
    if dice.random() < 0.3:
        del node[key]
    else:
        node[key] = dice.choice(VALUES)
    return content, f"{key}"


def mutate_json(path, dice):
    if dice.random() < 0.1:
        path.write_text("[" * 100_000)
        return "deep"
    content, what = change(json.loads(path.read_text()), dice)
    path.write_text(json.dumps(content))
    return what


def mutate_pickle(path, dice):
    content, what = change(pickle.loads(path.read_bytes()), dice)
    path.write_bytes(pickle.dumps(content, dice.choice([0, 2, 4, 5])))
    return what


def other_array(x, dice):
    return dice.choice([x[..., None], x[:0], x[:1], x.astype(complex) if x.dtype.kind == "f" else x, x.astype(str),
                        np.full(x.shape, np.nan), np.ones(x.shape, int), np.array(7.0), x.astype(object)])


def mutate_npz(path, dice):
    with np.load(path) as file:
        arrays = dict(file)
    name = dice.choice(sorted(arrays))
    kind = dice.choice(["gone", "other", "header"])
    if kind == "gone":
        del arrays[name]
    elif kind == "other":
        arrays[name] = other_array(arrays[name], dice)
    np.savez(path, **arrays)
    if kind == "header":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", header(dice) + bytes(64))
    return f"{kind} {name}"


def mutate_npy(path, dice):
    kind = dice.choice(["other", "header"])
    if kind == "other":
        np.save(path, other_array(np.load(path), dice), allow_pickle=True)
    else:
        path.write_bytes(header(dice) + bytes(64))
    return kind


def header(dice):
    """Of a .npy file that says more, or something else, than there is."""
    told = "{'descr': '%s', 'fortran_order': False, 'shape': %s}"
    said = dice.choice([told % ("<f4", "(1000000, 100000)"), "{'descr': '<f4'}", "[]", told % ("<f4", "(-1, 4)"),
                        "(" * 900, told % ("|O", "(3,)")]).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(said)) + said


def mutate_zip(path, dice):
    with zipfile.ZipFile(path) as archive:
        ((name, content),) = [(name, archive.read(name)) for name in archive.namelist()]
    kind = dice.choice(["name", "two", "none", "bomb", "other", "inner"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind != "none":
            inner = {"bomb": bytes(80 << 20), "other": pickle.dumps(dice.choice(VALUES)),
                     "inner": pickle.dumps(other_array(pickle.loads(content), dice))}.get(kind, content)
            archive.writestr(dice.choice(["../x.pkl", "/x.pkl", "x.txt", "a/b.pkl"]) if kind == "name" else name, inner)
        if kind == "two":
            archive.writestr("second.pkl", content)
    return kind


def mutate_wav(path, dice):
    raw, place = bytearray(path.read_bytes()), dice.choice([4, 16, 20, 22, 24, 28, 32, 34, 40])
    raw[place : place + 2] = dice.choice([b"\0\0", b"\xff\xff", b"\1\0", b"\x80\x7f"])
    path.write_bytes(raw)
    return f"header at {place}"


def mutate_mp4(path, dice):
    raw = bytearray(path.read_bytes())
    box = dice.choice([box for box in BOXES if box in raw])
    place = raw.index(box) + dice.choice([-4, 0, 4, 8, 12, 16, 20, 24, 28, 32])
    raw[place : place + 4] = dice.choice([bytes(4), b"\xff" * 4, b"\0\0\0\1", b"\x7f\xff\xff\xff", b"abcd",
                                          b"\0\0\x7f\xff"])
    path.write_bytes(raw)
    return f"{box.decode()} at {place}"


def mutate_png(path, dice):
    size = dice.choice([(1, 1), (32, 32), (7, 900), (4000, 3)])
    mode = dice.choice(["RGB", "L", "I;16", "RGBA", "1", "P"])
    file = io.BytesIO()
    Image.new(mode, size).save(file, "png")
    raw = bytearray(file.getvalue())
    if dice.random() < 0.4:
        raw[dice.randrange(8, 33)] ^= 255
    path.write_bytes(raw)
    return f"{mode} {size}"


KNOWING = {".h5": mutate_h5, ".pt": mutate_pt, ".csv": mutate_text, ".txt": mutate_text, ".toml": mutate_text,
           ".json": mutate_json, ".pkl": mutate_pickle, ".npz": mutate_npz, ".npy": mutate_npy, ".zip": mutate_zip,
           ".wav": mutate_wav, ".mp4": mutate_mp4, ".png": mutate_png}


def mutate(path, dice):
    """Change a file by what it is, or as bytes -> what was done, in words."""
    return (KNOWING.get(path.suffix, mutate_bytes) if dice.random() < 0.8 else mutate_bytes)(path, dice)
