"""Whether a model keeps the neighbourhoods that clips have in one modality.

    python -m cmg.downstream.neighbourhood --checkpoint checkpoint/run --data clips.h5

The vectors by which clips are retrieved (of several kinds the last, which is continuous) are held against what they
were made of: the means of the features over steps and cells ("features"), and of a model that has one, the input-space
embedding ("input"). For both, per modality: the share of the 10 nearest other clips that are the same (`overlap`), and
Spearman's ρ between the similarities of all pairs of clips, in % (`correlation`). `chance` is the figure of spaces that
have nothing to do with each other. Of a run folder of MultiSK it is drawn as well how anchors are used (`anchors.png`,
see `cmg.downstream.anchors`).
"""

import torch

from cmg.cli import Parser, command, whole
from cmg.data.joining import held
from cmg.downstream import anchors
from cmg.downstream.results import markdown_table, result
from cmg.downstream.task import DATA, add_place_flags, open_run, task_parser
from cmg.downstream.tokens import item_vectors
from cmg.errors import UserError
from cmg.losses.masked import clip_vectors
from cmg.metrics.neighbourhood import knn_overlap, similarity_correlation
from cmg.modalities import ordered


class References:
    """What the vectors of clips are held against; read as the vectors themselves are."""

    def __init__(self, model):
        self.model = model

    def items(self, modality, features, valid) -> dict[str, torch.Tensor]:
        steps = features.float().flatten(2, -2).mean(2) if features.dim() > 3 else features.float()  # (B, T, C)
        found = {"features": clip_vectors(steps.double(), valid)[0]}
        if hasattr(self.model, "embed"):
            scaled = self.model.feature_scale(modality, features, valid)
            found["input"] = self.model.embed(modality, scaled, valid).input
        return found


def preservation(model, features, settings, neighbours=10, device="cpu") -> list[dict]:
    """Rows of `results.json` less checkpoint and commit: modalities × references × measures."""
    rows = []
    for m in features.modalities:
        items, there = item_vectors(model, features, m, device=device)
        references, _ = item_vectors(References(model), features, m, device=device)
        n = int(there.sum())
        if n <= neighbours:
            raise UserError(f"--data: {n} clips have {m}; expected more than the {neighbours} neighbours")
        vectors = items[list(items)[-1]][there]
        for name, reference in references.items():
            figures = {"overlap": (knn_overlap(reference[there], vectors, neighbours), 100 * neighbours / (n - 1)),
                       "correlation": (similarity_correlation(reference[there], vectors), 0.0)}
            rows += [result("neighbourhood", m, m, settings, f"{name}_{measure}", value, None, None, chance, 0, n,
                            neighbours=neighbours) for measure, (value, chance) in figures.items()]
    return rows


def parser() -> Parser:
    p = task_parser("neighbourhood")
    p.add_argument("--data", nargs="+", required=True, help=DATA)
    p.add_argument("--modalities", nargs="+", help="default: all that data and checkpoint share")
    p.add_argument("--neighbours", type=whole(1), default=10, help="nearest clips that are compared")
    return add_place_flags(p)


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args)
    data = run.data
    present = held(data)
    for m in args.modalities or ():
        if m not in run.model.modalities:
            raise UserError(f"--modalities {m}: --checkpoint has only {', '.join(run.model.modalities)}")
    wanted = ordered(args.modalities or {*present} & {*run.model.modalities})
    if not wanted:
        raise UserError(f"--data has {', '.join(present)} and --checkpoint {', '.join(run.model.modalities)}; expected "
                        "a modality in common")
    features = run.features(data, [wanted])
    rows = preservation(run.model, features, run.settings, args.neighbours, run.device)
    rows = run.write("Neighbourhoods", rows, table)
    for path in anchors.draw(run, features):
        print(path)
    return rows


def table(rows: list[dict]) -> str:
    """A line for every modality and what its vectors are held against."""
    lines = {}
    for row in rows:
        reference, _, measure = row["metric"].partition("_")
        lines.setdefault((row["source"], reference), {})[measure] = row
    header = ["modality", "held against", "nearest in common, %", "chance", "ρ of similarities, %", "clips"]
    return markdown_table(header, [
        [m, reference, f"{own['overlap']['value']:.1f}", f"{own['overlap']['chance']:.1f}",
         f"{own['correlation']['value']:.1f}", str(own["overlap"]["n_test"])]
        for (m, reference), own in lines.items()])


if __name__ == "__main__":
    main()
