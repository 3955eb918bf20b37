"""A folder of clips, written from any material: rows, annotation files, the material itself, and how to render it."""

import csv
import io
import json
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np

from cmg.data.compose.clips import SPLITS, compose
from cmg.files import replacing, write_atomically

# Renders the folder that it lies in, or one whose compositions lie beside a link to it.
RENDER = '''"""Renders the clips of this folder as media: python render_media.py OUT --kinds pretrain ave avvp s4"""

import sys
from pathlib import Path

from cmg.data.compose.render import main

main([str(Path(__file__).absolute().parent), *sys.argv[1:]])
'''


def write(out, material, seed) -> list[dict]:
    """Everything that `cmg.data.compose` says of a folder of clips; `render_media.py` is written last.

    Returns the rows.
    """
    out, rows = Path(out), compose(material, seed)
    for name, arrays in material.files.items():
        with replacing(out / name) as unfinished, open(unfinished, "wb") as file:
            np.savez_compressed(file, **arrays)
    meta = {"name": material.name, "seed": seed, "classes": material.classes, "sample_rate": material.sample_rate,
            "audio_file": material.audio_file, "image_file": material.image_file}
    write_atomically(out / "meta.json", json.dumps(meta, indent=1) + "\n")
    write_atomically(out / "compositions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_atomically(out / "credits.csv", _table(("source", "title", "author", "licence", "url"), material.credits))
    for name, text in annotations(rows, material.classes).items():
        write_atomically(out / "ann" / name, text)
    write_orders(out / "ann", rows)
    write_atomically(out / "render_media.py", RENDER)
    return rows


def annotations(rows, classes) -> dict[str, str]:
    """File name -> text: the annotation files of AVE, AVVP and S4 as they are published, and captions."""
    of = defaultdict(list)
    for row in rows:
        of[row["kind"], row["split"]].append(row)
    ave = {split: "".join(f"{row['category']}&{row['id']}&good&{row['start']}&{row['end']}\n"
                          for row in of["ave", split]) for split in SPLITS}
    files = {"Annotations.txt": "".join(ave.values()), **{f"{split}Set.txt": ave[split] for split in SPLITS}}
    for split, name in (("train", "AVVP_train.csv"), ("val", "AVVP_val_pd.csv"), ("test", "AVVP_test_pd.csv")):
        files[name] = _table(("filename", "event_labels"),
                             [(row["id"], ",".join(row["weak"])) for row in of["avvp", split]], "\t")
    for side, name in (("audio", "audio"), ("visual", "visual")):
        files[f"AVVP_eval_{name}.csv"] = _table(("filename", "onset", "offset", "event_labels"), [
            (row["id"], event["onset"], event["offset"], classes[event["label"]])
            for split in ("val", "test") for row in of["avvp", split] for event in row[side]], "\t")
    files["pretrain_captions.csv"] = _table(
        ("id", "caption"), [(row["id"], row["caption"]) for row in of["pretrain", "train"]])
    s4 = [(row["id"], 0, row["category"], split) for split in SPLITS for row in of["s4", split]]
    if s4:
        files["s4_meta_data.csv"] = _table(("name", "start_time", "category", "split"), s4)
    return files


def write_orders(folder, rows):
    """AVE's `{split}_order.h5`: the rows of Annotations.txt that are of a split."""
    split = np.array([row["split"] for row in rows if row["kind"] == "ave"])
    for name in SPLITS:
        with replacing(folder / f"{name}_order.h5") as unfinished, h5py.File(unfinished, "w") as file:
            file["order"] = np.flatnonzero(split == name)


def _table(header, lines, delimiter=","):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([header, *lines])
    return text.getvalue()
