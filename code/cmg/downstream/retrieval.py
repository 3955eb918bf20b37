"""Retrieval across modalities, zero-shot and with a head of a third modality.  `python -m cmg.downstream.retrieval`

    python -m cmg.downstream.retrieval --checkpoint checkpoint/run --data clips.h5                 # zero-shot
    python -m cmg.downstream.retrieval --checkpoint checkpoint/vt --data clips.h5 --gallery audio  # the paper's Table 5

Zero-shot: an item is the mean of its steps, of the code vectors ("codes") and of the encoder's outputs before
quantising ("semantic"); every query of one modality ranks all items of the other by cosine. Right is the item of the
same clip. R@1, R@5, R@10 and the median rank, in every direction. Texts may come from a file of their own, with several
captions a clip (`--text-data`; ids as `cmg.data.captions` writes them). `--captions`, the CSV they were extracted from,
lists the captions that there should be: one without features counts as wrong instead of being dropped.

With `--gallery audio` the checkpoint knows two other modalities, for example video and text. A head learns to find a
clip's audio features, which no pretraining has touched, by the codes of the source; then it is queried with the
target's.

Protocols
---------
strict : clips whose videos the checkpoint was pretrained on are left out of queries and gallery, and counted. Of items
    that are equally near, as those with equal codes are, the expectation under a random order is taken. The head is
    fitted on six tenths of the clips, its epoch chosen on two tenths in the source modality, and tested on the rest.
    The tenths go by a checksum of the clip's video, so they are the same for everyone; where clips are made of shared
    material, by that of its group (`--groups`, a CSV with the columns id and group).
paper : nothing is left out; items that are equally near have their mean rank, all or nothing; of the head the epoch is
    taken at which the target's figures are best on the test clips. The code of the paper's experiment was never
    released: this is its description, not its script.

`chance` is the figure of a gallery in random order. Of the head, `source_value` is that of the source's own queries,
and `target_value` that of the target's with a head that was fitted to the target, the upper bound of the transfer.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from cmg.cli import Parser, command
from cmg.data.features import FeatureSet
from cmg.data.joining import held
from cmg.data.videos import clip_of, from_videos
from cmg.downstream.clip_scores import read_clusters
from cmg.downstream.results import markdown_table, result
from cmg.downstream.retrieval_head import RECALLS, RULES, with_head
from cmg.downstream.splits import tell_pretrained
from cmg.downstream.task import Settings, add_probe_flags, open_run, task_parser
from cmg.downstream.tokens import encode_set
from cmg.errors import UserError
from cmg.figures import bars
from cmg.figures.names import REPRESENTATIONS as SPOKEN
from cmg.figures.names import TASKS, arrow, axis_label
from cmg.figures.style import save
from cmg.files import read_columns
from cmg.losses.masked import clip_vectors
from cmg.metrics.retrieval import Places, chance, places, recall_at
from cmg.modalities import ordered

REPRESENTATIONS = ("codes", "semantic")


class Items(NamedTuple):
    """All items of one modality: their clips' numbers [N], and their vectors [n, D] for those that have features.

    has : bool Tensor[N], which; vectors has a row for each of these, in order.
    """

    clips: torch.Tensor
    has: torch.Tensor
    vectors: dict[str, torch.Tensor]


class Collection:
    """Which items there are in each modality, and which of them belong to the same clip.

    Parameters
    ----------
    features : FeatureSet with the clips, an item a clip and modality
    texts : FeatureSet of captions of their own, ids `<clip>#<k>` or `<clip>`; replaces the clips' own text
    asked : ids of the captions that there should be, features or not
    pretrain_ids : clips to leave out
    """

    def __init__(self, features: FeatureSet, texts: FeatureSet | None = None, asked=(), pretrain_ids=()):
        fresh = left(features.ids, pretrain_ids)
        self.n_excluded = len(features.ids) - len(fresh)
        self.sources = {m: (features, fresh, fresh) for m in features.modalities}  # and names, and clips of these
        if texts is not None:
            names = left(list(dict.fromkeys([*texts.ids, *asked])), pretrain_ids)
            own = set(features.ids)
            self.sources["text"] = texts, names, [clip_of(name, own) for name in names]
        clips = dict.fromkeys(clip for *_, own in self.sources.values() for clip in own)
        self.number = {clip: k for k, clip in enumerate(clips)}
        if not self.number:
            raise UserError(f"--checkpoint: all {len(features)} clips were pretrained on; nothing to retrieve")

    def items(self, model, modality, device="cpu") -> Items:
        """Encode one modality; an item without features, or without a single step, has no vectors."""
        features, names, clips = self.sources[modality]
        rows, missing = features.rows_of(names)
        absent = set(missing)
        has = torch.tensor([name not in absent for name in names])
        clips = torch.tensor([self.number[clip] for clip in clips])
        if not len(rows):
            raise UserError(f"--data: no {modality} item has features")
        tokens = encode_set(model, features, modality, rows=rows, device=device)
        there = tokens.valid.any(1)
        has[has.nonzero()[:, 0][~there.cpu()]] = False
        tokens = tokens.take(there.nonzero()[:, 0])
        # Clips with the same codes in another order are equal, but only a sum in float64 comes out the same for them.
        means = {"codes": tokens.vectors, "semantic": tokens.semantic}
        if tokens.codes is None:
            del means["codes"]
        vectors = {kind: clip_vectors(x.double(), tokens.valid)[0] for kind, x in means.items()}
        return Items(clips, has, vectors)


def left(names, pretrain_ids) -> list[str]:
    """What is left of the names without the clips that the checkpoint was pretrained on."""
    return [name for name, seen in zip(names, from_videos(names, pretrain_ids)) if not seen]


def retrieve(queries: Items, gallery: Items, kind: str) -> Places:
    """Place of every query's item; queries without features have none."""
    found = Places(*torch.zeros(3, len(queries.clips), dtype=torch.int64))
    device = queries.vectors[kind].device
    present = places(queries.vectors[kind], gallery.vectors[kind], queries.clips[queries.has].to(device),
                     gallery.clips[gallery.has].to(device))
    for x, y in zip(found, present):
        x[queries.has] = y
    return found


def zero_shot(model, collection: Collection, pairs, settings: Settings, device="cpu") -> list[dict]:
    """Rows of `results.json` less checkpoint and commit: figures × representations × directions."""
    items = {m: collection.items(model, m, device) for m in dict.fromkeys(m for pair in pairs for m in pair)}
    rows = []
    for source, target in pairs:
        queries, gallery = items[source], items[target]
        shown, rule = gallery.clips[gallery.has], RULES[settings.protocol]
        guessed = chance(queries.clips, shown)
        for kind in gallery.vectors:
            found = retrieve(queries, gallery, kind)
            figures = {f"r{k}": (rule.recall_at(k, found), recall_at(k, guessed)) for k in RECALLS}
            figures["median_rank"] = rule.median_rank(found), (len(shown) + 1) / 2
            rows += [result("retrieval", source, target, settings, f"{kind}_{name}", value, None, None, of_chance, 0,
                            len(queries.clips), n_gallery=len(shown), n_missing=int((found.right == 0).sum()),
                            n_excluded=collection.n_excluded)
                     for name, (value, of_chance) in figures.items()]
    return rows


def parser() -> Parser:
    p = task_parser("retrieval")
    p.add_argument("--data", nargs="+", required=True, help="feature files of the clips")
    p.add_argument("--text-data", nargs="+", help="feature files of captions, several a clip")
    p.add_argument("--captions", help="CSV with a column id: the captions there should be; the lacking count as wrong")
    p.add_argument("--gallery", help="fit a head to this modality's features; without it zero-shot")
    p.add_argument("--groups", help="CSV with the columns id and group: clips of a group share what they are made of, "
                   "and are not divided between the head's fit, val and test; default: the clips of a video")
    return add_probe_flags(p, epochs=50, clusters=False)


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args)
    present = list(held(args.data))
    if args.captions and not args.text_data:
        raise UserError("--captions: goes with --text-data, the features of these captions")
    if args.text_data:
        if args.gallery:
            raise UserError("--text-data: the head needs one text a clip, in --data")
        present = [*(m for m in present if m != "text"), "text"]
    if args.groups and not args.gallery:
        raise UserError("--groups: goes with --gallery, whose head is fitted; zero-shot divides no clips")
    if args.gallery and args.gallery not in present:
        raise UserError(f"--gallery {args.gallery}: --data has only {', '.join(present)}")
    pairs = run.directions(m for m in present if m != args.gallery)
    needed = {m for pair in pairs for m in pair} | ({args.gallery} if args.gallery else set())
    texts = run.features(args.text_data, [("text",)], "--text-data") if args.text_data else None
    features = FeatureSet(args.data, ordered(needed - {"text"} if texts else needed))
    run.model.check(features, without=args.gallery)
    pretrain_ids = run.pretrain_ids if args.protocol == "strict" else ()
    if args.gallery:
        groups = read_clusters(args.groups, "group") if args.groups else None
        rows = with_head(run.model, features, pairs, args.gallery, run.settings, pretrain_ids, run.device, groups)
    else:
        asked = [name for name, in read_columns(args.captions, "id")] if args.captions else ()
        rows = zero_shot(run.model, Collection(features, texts, asked, pretrain_ids), pairs, run.settings, run.device)
    tell_pretrained(rows[0]["n_excluded"], "clips")
    rows = run.write("Retrieval", rows, table)
    name = "_".join(filter(None, (rows[0]["task"], args.gallery, args.protocol)))
    print(draw(rows, run.out / f"{name}.png"))
    return rows


def table(rows: list[dict]) -> str:
    """A line for every direction and representation, its figures side by side."""
    lines = {}
    for row in rows:
        kind, _, figure = row["metric"].partition("_") if row["task"] == "retrieval" else ("head", "", row["metric"])
        lines.setdefault((row["source"], row["target"], kind), {})[figure] = row
    names = [*(f"r{k}" for k in RECALLS), "median_rank"]
    cells = []
    for (source, target, kind), figures in lines.items():
        values = [figures[name]["value"] if name in figures else None for name in names]
        last = figures[names[2]]
        cells.append([f"{source} → {target}", kind, *("–" if v is None else f"{v:.1f}" for v in values),
                      f"{last['chance']:.1f}", str(last["n_test"]), str(last["n_missing"])])
    header = ["direction", "items", "R@1", "R@5", "R@10", "median rank", "chance R@10", "queries", "missing"]
    return markdown_table(header, cells)


def draw(rows: list[dict], path: Path) -> Path:
    """R@1, R@5 and R@10 as bars beside chance, a panel for every direction."""
    found = {(row["source"], row["target"], row["metric"]): row for row in rows}
    panels = []
    for source, target in dict.fromkeys((row["source"], row["target"]) for row in rows):
        own = {metric: row for (*pair, metric), row in found.items() if pair == [source, target]}
        if rows[0]["task"] == "retrieval":
            kinds = [kind for kind in REPRESENTATIONS if f"{kind}_r1" in own]
            shown = {SPOKEN[kind]: [(own[f"{kind}_r{k}"]["value"], None) for k in RECALLS] for kind in kinds}
            guessed = [own[f"{kinds[0]}_r{k}"]["chance"] for k in RECALLS]
        else:
            shown = {"transfer": [(own[f"r{k}"]["value"], own[f"r{k}"]["std"]) for k in RECALLS],
                     "own modality": [(own[f"r{k}"]["source_value"], own[f"r{k}"]["source_std"]) for k in RECALLS],
                     "upper bound": [(own[f"r{k}"]["target_value"], own[f"r{k}"]["target_std"]) for k in RECALLS]}
            guessed = [own[f"r{k}"]["chance"] for k in RECALLS]
        panels.append(bars.Panel(arrow(source, target), axis_label("r1"), [f"R@{k}" for k in RECALLS], shown, guessed))
    return save(bars.draw(panels, f"{TASKS[rows[0]['task']]}, {rows[0]['protocol']}"), path)


if __name__ == "__main__":
    main()
