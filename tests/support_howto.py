"""HowTo100M's folders and pickled lists in small, as users have them."""

import pickle

import numpy as np

VIDEO, OTHER = "aB-cde_fghi", "zzzzzzzzzz0"


def write_bin(path, words, end=b""):
    """As word2vec writes it; gensim leaves out the line's end after a row."""
    rows = b"".join(word.encode() + b" " + np.array(x, "<f4").tobytes() + end for word, x in words.items())
    path.write_bytes(f"{len(words)} 3\n".encode() + rows)
    return path


def write_video(folder, path, seconds=60, seed=0, deep="_3d", **missing):
    rng, base = np.random.default_rng(seed), folder / path
    base.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"_2d": ("features", rng.normal(size=(seconds, 4))),
              deep: ("features", rng.normal(size=(seconds * 3 // 2, 5))),
              "_spec": ("arr_0", rng.normal(size=(40, seconds * 100 - 2)))}
    for ending, (name, x) in arrays.items():
        np.savez(base.with_name(base.name + ending + ".npz"), **{name: x.astype(np.float32)})
    return [arrays[key][1].astype(np.float32) for key in ("_2d", deep, "_spec")]


def write_howto(folder, captions, paths=(f"food/{VIDEO}", f"cars/{OTHER}")):
    """A folder of two videos, the list of them, speech, word vectors -> (flags, arrays of each video)."""
    arrays = [write_video(folder / "in", path, seed=n, deep="_3d" if n else "") for n, path in enumerate(paths)]
    (folder / "videos.csv").write_text("path\n" + "".join(f"{path}\n" for path in paths))
    (folder / "caption.pickle").write_bytes(pickle.dumps(captions))
    vectors = write_bin(folder / "w.bin", {f"word{n}": [n, 1, 0] for n in range(30)})
    return ["howto", "--csv", str(folder / "videos.csv"), "--features", str(folder / "in"), "--captions",
            str(folder / "caption.pickle"), "--vectors", str(vectors), "--keep-silent", "--out", str(folder / "out.h5"),
            "--overwrite", "--workers", "0"], arrays


SAID = {VIDEO: {"start": [20.0, 10.0], "end": [24.0, 19.0], "text": ["word3 unknown word4", "word1 word2"]}}


def entry(name, seconds, seed=0, **more):
    rng = np.random.default_rng(seed)
    sizes = {"2d": (seconds, 4), "3d": (seconds * 3 // 2, 5), "audio": (40, seconds * 100)}
    arrays = {key: rng.normal(size=size).astype(np.float32) for key, size in sizes.items()}
    return {"id": name, **arrays, "caption": ["word1 word2", "word3"]} | more
