"""Commands with one thing wrong: a flag, or a file that is mutated with its structure in mind, by seed."""

import random
import shutil
import wave
from pathlib import Path

import h5py
import numpy as np
import torch

from cmg import bench_loading, cli, pretrain
from cmg.data import convert, pool
from cmg.downstream import ave, avvp, codebook, retrieval
from cmg.extract import __main__ as extract
from cmg.tables import __main__ as tables
from support import SMALL, untrained, write_clips

NUMBERS = ["0", "-1", "1e9", "nan", "inf", "1e400", "99999999999999999999", "1.5", "", " ", "０", "0x10"]
TEXTS = ["", " ", "é|`<b>", "../..", "/dev/null", "\n", "a" * 300, "-", "None", "[]", "ß" * 60]
# Left alone: what may rightly take long, starts processes, or is no input.
NOT = {"help", "workers", "epochs", "max_steps", "probe_epochs", "probe_seeds", "compile", "cuda_graph", "device",
       "out", "processes", "nproc", "dim", "specific_dim", "specific_layers", "codes", "config", "frames", "seconds"}


def make_base(folder):
    """Small good inputs of every kind."""
    clips = write_clips(folder / "clips.h5", 20)
    untrained(folder / "model.pt", {"video": (6, 5, 5, 8), "audio": (6, 12), "text": (6, 10)})
    for name in ("AVE", "AVVP", "sound", "npy"):
        (folder / name).mkdir()
    rows = [f"{'ab'[i % 2]}&clip{i}&good&1&4" for i in range(20)]
    (folder / "AVE" / "Annotations.txt").write_text("\n".join(rows) + "\n")
    for split, part in (("train", rows[:10]), ("val", rows[10:14]), ("test", rows[14:])):
        (folder / "AVE" / f"{split}Set.txt").write_text("\n".join(part) + "\n")
    for split, part in (("train", range(8)), ("val_pd", range(8, 12)), ("test_pd", range(12, 20))):
        lines = ["filename\tevent_labels", *(f"clip{i}\t{'ab'[i % 2]}" for i in part)]
        (folder / "AVVP" / f"AVVP_{split}.csv").write_text("\n".join(lines) + "\n")
    for kind in ("audio", "visual"):
        lines = ["filename\tonset\toffset\tevent_labels", *(f"clip{i}\t1\t4\t{'ab'[i % 2]}" for i in range(8, 20))]
        (folder / "AVVP" / f"AVVP_eval_{kind}.csv").write_text("\n".join(lines) + "\n")
    for i in range(3):
        with wave.open(str(folder / "sound" / f"s{i}.wav"), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
            file.writeframes(np.arange(32000, dtype="<i2").tobytes())
        np.save(folder / "npy" / f"s{i}.npy", np.ones((6, 12), np.float32))
    (folder / "captions.csv").write_text("id,caption\ns0,a dog\ns1,a cat\n")
    (folder / "groups.csv").write_text("id,group\n" + "".join(f"clip{i},g{i % 5}\n" for i in range(20)))
    (folder / "table.toml").write_text('[evaluations.ave]\ntask = "ave"\nflags = "--data {gone}"\n[[rows]]\n'
                                       'name = "full"\nflags = "--preset small"\n')
    return clips


def commands(base):
    """name -> (main, good arguments, the inputs that they read)."""
    task = ["--checkpoint", f"{base}/model.pt", "--data", f"{base}/clips.h5", "--device", "cpu", "--out", "{out}"]
    probe = ["--probe-epochs", "2", "--probe-seeds", "1"]
    both = ["clips.h5", "model.pt"]
    return {
        "pretrain": (pretrain.main, ["--data", f"{base}/clips.h5", "--modalities", "audio", "text", *SMALL,
                                     "--max-steps", "1", "--out", "{out}"], ["clips.h5"]),
        "extract": (extract.main, ["--videos", f"{base}/sound", "--captions", f"{base}/captions.csv", "--modalities",
                                   "audio", "text", "--seconds", "2", "--workers", "0", "--out", "{out}.h5"],
                    ["captions.csv", "sound/s0.wav", "sound/s1.wav"]),
        "convert": (convert.main, ["zips", "--audio", f"{base}/npy", "--workers", "0", "--out", "{out}.h5"],
                    ["npy/s0.npy", "npy/s1.npy"]),
        "pool": (pool.main, ["--data", f"{base}/clips.h5", "--out", "{out}.h5"], ["clips.h5"]),
        "ave": (ave.main, [*task, *probe, "--annotations", f"{base}/AVE"],
                [*both, "AVE/Annotations.txt", "AVE/trainSet.txt", "AVE/testSet.txt"]),
        "avvp": (avvp.main, [*task, *probe, "--annotations", f"{base}/AVVP"],
                 [*both, "AVVP/AVVP_eval_audio.csv", "AVVP/AVVP_test_pd.csv", "AVVP/AVVP_train.csv"]),
        "retrieval": (retrieval.main, [*task, "--groups", f"{base}/groups.csv"], [*both, "groups.csv"]),
        "codebook": (codebook.main, task, both),
        "tables": (tables.main, ["--table", f"{base}/table.toml", "--out", "{out}"], ["table.toml"]),
        "bench_loading": (bench_loading.main, ["--data", f"{base}/clips.h5", "--batch-size", "4"], ["clips.h5"]),
    }


def flags_of(main, argv):
    """The flags that a command's own parsers have, by asking for its help."""
    seen, original = {}, cli.Parser.parse_known_args

    def listen(self, args=None, namespace=None):
        seen.update({max(a.option_strings, key=len): a for a in self._actions if a.option_strings})
        return original(self, args, namespace)

    cli.Parser.parse_known_args = listen
    try:
        main([*argv[:1], "--no-such-flag"] if argv[0] == "zips" else ["--no-such-flag"])
    except SystemExit:
        pass
    finally:
        cli.Parser.parse_known_args = original
    return {flag: action for flag, action in seen.items() if action.dest not in NOT}


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
        name = dice.choice(["audio", "text", "id", "valid/audio", "video"])
        kind = dice.choice(["gone", "nan", "ints", "shape", "length", "complex", "strings", "link", "schema", "padding",
                            "huge", "twice", "origin"])
        x = h5[name][:]
        if kind in ("schema", "origin"):
            where = {"schema": "schema", "origin": "modality/audio"}[kind]
            h5.attrs[where] = dice.choice(["1", 7, [1, 2], np.nan, "{}"])
            return f"{kind} {name}"
        if kind == "padding":
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
    part = dice.choice(sorted(content))
    weight = dice.choice(sorted(content["model"]))
    value = content["model"][weight]
    if kind == "part gone":
        del content[part]
    elif kind == "part other":
        content[part] = dice.choice([None, 7, "x", [], {}, {"a": 1}, torch.ones(2), float("nan"), -1])
    elif kind == "setting":
        name = dice.choice(sorted(content["args"]))
        content["args"][name] = dice.choice([None, -1, 0, float("nan"), "x", [], {}, "", True])
        part = name
    elif kind == "shape":
        name = dice.choice(sorted(content["shapes"]))
        content["shapes"][name] = dice.choice([[], [0], [-1, 3], [6, 10**9], ["a"], [6]])
    elif kind == "weight":
        others = [value[..., None], value.cfloat(), value.long(), value * float("nan"), 7]
        content["model"][weight] = dice.choice(others)
    else:
        del content["model"][weight]
    torch.save(content, path)
    return f"{kind} {part if kind.startswith(('part', 'set')) else weight}"


KNOWING = {".h5": mutate_h5, ".pt": mutate_pt, ".csv": mutate_text, ".txt": mutate_text, ".toml": mutate_text}


def trial(base, folder, seed):
    """Command `seed`: (name, main, argv, what is wrong), with inputs of its own in `folder`."""
    dice = random.Random(seed)
    shutil.copytree(base, folder)
    every = commands(folder)
    name = dice.choice(sorted(every))
    main, argv, inputs = every[name]
    argv = [word.replace("{out}", f"{folder}/out") for word in argv]
    if dice.random() < 0.6:
        path = Path(folder) / dice.choice(inputs)
        how = KNOWING.get(path.suffix, mutate_bytes) if dice.random() < 0.8 else mutate_bytes
        return name, main, argv, f"{path.name}: {how(path, dice)}"
    flags = flags_of(main, argv)
    flag = dice.choice(sorted(flags))
    values = dice.choice([[], [dice.choice(NUMBERS)], [dice.choice(TEXTS)], [f"{folder}/{dice.choice(inputs)}"],
                          ["1", "2"]])
    return name, main, [*argv, flag, *values], f"{flag} {values}"


