"""The mean over video's grid in the place of the grid: all that checkpoints of `--preset official` and of the released
code read of it, in a fraction of the bytes (one 49th of a 7×7 grid's).

    python -m cmg.data.pool --data features.h5 --out pooled.h5

Means are taken in float32 and kept in the file's own precision. Everything else is copied. The tasks take such a file
where they would take the whole one.
"""

from pathlib import Path

import numpy as np

from cmg.cli import Parser, command
from cmg.data.feature_file import FeatureFile, FeatureWriter
from cmg.errors import UserError

ROWS = 256  # clips at a time


def pool(source: FeatureFile, out):
    """Write `source` to the file `out`, video [N, T, H, W, C] as [N, T, C]."""
    if len(source.shapes.get("video", ())) != 4:
        raise UserError(f"{source.path}: holds no video with a grid; expected [N, T, H, W, C]")
    steps, *_, channels = source.shapes["video"]
    attrs = {name: value for name, value in source.attrs.items() if name != "schema"}
    dtype = np.result_type(*source.dtypes.values())
    with FeatureWriter(out, source.shapes | {"video": (steps, channels)}, attrs, dtype.name) as writer:
        for first in range(0, len(source.ids), ROWS):
            rows = np.arange(first, min(first + ROWS, len(source.ids)))
            read = {m: source.read(m, rows) for m in source.modalities}
            features = {m: x for m, (x, _) in read.items()}
            features["video"] = features["video"].mean((2, 3), dtype=np.float32)
            writer.append([source.ids[row] for row in rows], features, {m: valid for m, (_, valid) in read.items()})


@command
def main(argv=None):
    p = Parser(prog="cmg.data.pool", description=__doc__)
    p.add_argument("--data", required=True, help="a feature file whose video has a grid")
    p.add_argument("--out", required=True, help="the file to write (.h5)")
    args = p.parse_args(argv)
    if Path(args.out).exists():
        raise UserError(f"--out {args.out}: exists already; expected a new file")
    source = FeatureFile(args.data)
    pool(source, args.out)
    print(f"{args.out}: {len(source.ids)} clips, {Path(args.out).stat().st_size / 1e6:.1f} MB of "
          f"{Path(args.data).stat().st_size / 1e6:.1f}")


if __name__ == "__main__":
    main()
