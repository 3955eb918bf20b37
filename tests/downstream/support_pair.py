"""A small pair of sets, pictures of one and sounds of the other, whose codes are known; for tests of tasks."""

import numpy as np

import support
from cmg.data.features import FeatureWriter
from cmg.downstream.task import Settings

UCF, VGG = ["Cello", "Bowling\tbowling", "Frisbee", "Piano"], ["playing cello", "bowling", "frisbee", "playing piano"]
CODES, T = 16, 10
FAST = Settings(epochs=12, probe_seeds=2, batch_size=8, lrs=(1e-2,))
PAIRS = [("video", "audio"), ("audio", "video")]


def write_lists(folder, ucf=None, vgg=None, names=(UCF, VGG)):
    """25 groups of one UCF clip of Cello, Piano and Frisbee each; 30 sounds of cello, piano and bowling."""
    folder.mkdir(exist_ok=True)
    if ucf is None:
        ucf = [f"{name},v_{name}_g{group:02d}_c01" for name in ("Cello", "Piano", "Frisbee") for group in range(1, 26)]
    if vgg is None:
        split = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
        vgg = [f"{name},{name[-3:]}{n:08d},{split[n]}"  # ids of eleven characters
               for name in ("playing cello", "bowling", "playing piano") for n in range(10)]
    (folder / "UCF101sameVGGSound.txt").write_text("\r\n".join(names[0]))
    (folder / "VGGSoundsameUCF101.txt").write_text("\n".join(names[1]))
    (folder / "ucf2vggsound.csv").write_text("category,video_id\n" + "".join(f"{row}\n" for row in ucf))
    (folder / "vggsound2ucf.csv").write_text("category,video_id,split\n" + "".join(f"{row}\n" for row in vgg))
    return folder


class OneHotModel(support.OneHotModel):
    shapes, size = {"video": (T, CODES), "audio": (T, CODES)}, CODES


def write_features(path, modality, items):
    codes = np.full((len(items), T), 7)
    codes[:, 3:7] = np.array([item.label for item in items])[:, None]
    with FeatureWriter(path, {modality: (T, CODES)}, {"source": "made up"}) as writer:
        writer.append([item.id for item in items], {modality: np.eye(CODES, dtype=np.float32)[codes]}, None)
    return path


def by_pair(rows):
    return {(row["source"], row["target"]): row for row in rows}
