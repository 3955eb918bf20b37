"""Features that lie in arrays: write a feature file, pretrain on it, and look at the codes.

    python examples/own_features.py FOLDER

The arrays are made up here: 200 clips of two sensors that see the same ten kinds of event, each in its own way.
"""

import sys
from pathlib import Path

import numpy as np

import cmg
from cmg.data.features import FeatureWriter
from cmg.pretrain import main as pretrain

CLIPS, SECONDS, KINDS = 200, 10, 10


def main(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, KINDS, (CLIPS, SECONDS // 2)).repeat(2, axis=1)  # an event lasts two seconds
    worlds = {"video": rng.normal(size=(KINDS, 48)), "audio": rng.normal(size=(KINDS, 32))}
    features = {m: (world[kinds] + 0.3 * rng.normal(size=(CLIPS, SECONDS, world.shape[1]))).astype(np.float32)
                for m, world in worlds.items()}  # [clips, seconds, channels]
    ids = [f"clip_{n:03d}" for n in range(CLIPS)]
    with FeatureWriter(folder / "mine.h5", {m: x.shape[1:] for m, x in features.items()},
                       {"source": "made up", "seconds_per_step": 1.0}) as writer:
        writer.append(ids, features)  # a third argument says which seconds of which clip exist; here, all

    pretrain(["--data", str(folder / "mine.h5"), "--preset", "small", "--epochs", "10", "--dim", "64", "--codes", "32",
              "--w-rec", "0", "--w-club", "0", "--device", "cpu", "--out", str(folder / "run")])

    model = cmg.load_pretrained(folder / "run")
    tokens = model.encode(folder / "mine.h5")
    same = (tokens["video"].codes == tokens["audio"].codes).float().mean().item()
    print(f"the two sensors have the same code in {100 * same:.0f} % of the seconds")
    return same


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "checkpoint/own_features")
