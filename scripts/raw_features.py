"""Raw clips as features: the same small frames and log-mel maps, as vectors for methods that read vectors.

    python scripts/raw_features.py data/raw.h5 data/raw_features.h5

A second's frame and map become block means of SIDE × SIDE, laid out as one vector. Nothing is lost but detail, so that
a method of vectors, such as Uni-Code, is compared with CMMixer on what both see. Ids, which steps are real and the
length of a step stay.
"""

import torch
import torch.nn.functional as F

from cmg.cli import Parser, command, whole
from cmg.data.feature_file import FeatureFile, FeatureWriter
from cmg.errors import UserError

BLOCK = 256  # clips at a time


def vectors(pictures, side):
    """Frames [n, T, H, W, 3] or maps [n, T, time, bands] -> float32 [n, T, side · side · 3] or [n, T, side · side]."""
    x = torch.as_tensor(pictures).float()
    n, T, height, width = x.shape[:4]
    x = x.reshape(n * T, height, width, -1).permute(0, 3, 1, 2)  # (n T, C, H, W)
    return F.adaptive_avg_pool2d(x, side).reshape(n, T, -1).numpy()


@command
def main(argv=None):
    p = Parser(prog="raw_features.py", description=__doc__)
    p.add_argument("raw", help="a feature file of raw clips")
    p.add_argument("out", help="the feature file to write")
    p.add_argument("--side", type=whole(1), default=16, help="blocks a side")
    args = p.parse_args(argv)
    file = FeatureFile(args.raw)
    for m, kind in file.kinds.items():
        if kind not in ("frames", "maps"):
            raise UserError(f"{args.raw}: its {m} is {kind}, expected raw clips, as --video-backbone frames and "
                            "--audio-backbone melimage write them")
    shapes = {m: vectors(file.read(m, [0])[0], args.side).shape[1:] for m in file.modalities}
    attrs = {"source": f"raw_features.py --side {args.side} of {file.path.name}: {file.attrs.get('source', '')}",
             "seconds_per_step": file.attrs["seconds_per_step"], **{f"backbone/{m}": "blocks" for m in file.modalities}}
    with FeatureWriter(args.out, shapes, attrs) as writer:
        for start in range(0, len(file.ids), BLOCK):
            rows = range(start, min(start + BLOCK, len(file.ids)))
            read = {m: file.read(m, rows) for m in file.modalities}
            writer.append([file.ids[n] for n in rows], {m: vectors(x, args.side) for m, (x, _) in read.items()},
                          {m: valid for m, (_, valid) in read.items()})
    print(args.out)


if __name__ == "__main__":
    main()
