"""Captions of the built-in composed clips in a wording that no training has had.

    python scripts/held_out_wordings.py data/words --classes 6
    python -m cmg.downstream.captioning --checkpoint RUN --data synthetic --captions data/words/captions.csv
    python -m cmg.downstream.retrieval --checkpoint RUN --data synthetic --text-data data/words/captions.h5 --rerank 8

The grammar has four wordings (`cmg/data/synthetic_captions.py`); a run with `--synthetic-captions 3` learns three of
them. Here the clips that are not pretrained on get the fourth: as references, and as features that are asked for.
"""

import csv
import io
from pathlib import Path

from cmg.cli import Parser, command, whole
from cmg.data.features import FeatureWriter
from cmg.data.synthetic import SPLITS, SyntheticSpec, clip_id, sample_events
from cmg.data.synthetic_captions import LENGTH, MOST, vocabulary, words_of
from cmg.files import write_atomically


@command
def main(argv=None):
    p = Parser(prog="held_out_wordings.py", description=__doc__)
    p.add_argument("out", help="folder for captions.csv and captions.h5")
    p.add_argument("--classes", type=whole(2), default=SyntheticSpec.classes, help="as --synthetic-classes of the run")
    args = p.parse_args(argv)
    out, words = Path(args.out), vocabulary(args.classes)
    spec, said = SyntheticSpec(classes=args.classes, captions=MOST - 1), {}
    for split in SPLITS:
        for number, clip in enumerate(zip(*sample_events(spec, split))):
            said[clip_id(split, number)] = words_of(*clip, MOST - 1)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["id", "caption"], *([n, " ".join(s)] for n, s in said.items())])
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "captions.csv", text.getvalue())
    attrs = {"source": f"held_out_wordings.py --classes {args.classes}", "backbone/text": "synthetic",
             "sha256/text": words.sha256}
    with FeatureWriter(out / "captions.h5", {"text": (1, LENGTH)}, attrs, "int32", {"text": words}) as writer:
        writer.append(list(said), {"text": [[words.caption(sentence, LENGTH)] for sentence in said.values()]})
    print(out / "captions.csv", out / "captions.h5", sep="\n")


if __name__ == "__main__":
    main()
