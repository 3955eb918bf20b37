"""Compose clips of public recordings and pictures.  `python -m cmg.data.compose digits|nature --out FOLDER`

The sets are fetched from their homes into --downloads, once, or read from copies at hand. FOLDER then renders itself:
`python FOLDER/render_media.py OUT`. `cmg.data.compose` says what is in it, `data/README.md` whose the sets are.
"""

from collections import Counter
from pathlib import Path

from cmg.cli import Parser, command, require_folder, whole
from cmg.data.compose import digits, nature
from cmg.data.compose.folder import write
from cmg.data.compose.sources import Place

SETS = {"digits": (digits.Digits, digits.SOURCES, "spoken digits (FSDD) and handwritten ones (MNIST)"),
        "nature": (nature.Nature, nature.SOURCES, "sounds of the world (ESC-10) and photos (CIFAR-10)")}


def parser():
    parser = Parser(prog="cmg.data.compose", description=__doc__)
    sets = parser.add_subparsers(dest="set", required=True, parser_class=Parser, metavar="{digits,nature}")
    for name, (_, sources, said) in SETS.items():
        own = sets.add_parser(name, help=said)
        own.add_argument("--out", required=True, metavar="FOLDER", help="folder of clips to write")
        own.add_argument("--seed", type=whole(), default=0, metavar="N", help="what the clips are drawn from")
        for source in sources:
            own.add_argument(source.flag, metavar="FOLDER", help=f"a copy at hand of {source.name}")
        own.add_argument("--downloads", default="data/downloads", metavar="FOLDER", help="where fetched files are kept")
        own.add_argument("--mirror", default="", metavar="URL",
                         help="an address with the same files, in the place of their homes")
    return parser


@command
def main(argv=None):
    args = parser().parse_args(argv)
    require_folder(args.out)
    require_folder(args.downloads, "--downloads")
    material, sources, _ = SETS[args.set]
    copies = {source.flag: getattr(args, source.flag.removeprefix("--")) for source in sources}
    made = material(Place(copies, Path(args.downloads), args.mirror), args.seed)
    rows = write(args.out, made, args.seed)
    counts = Counter(row["kind"] for row in rows)
    print(f"{args.out}: {len(rows)} clips, " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))


if __name__ == "__main__":
    main()
