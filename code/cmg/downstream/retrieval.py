"""Retrieval across modalities, zero-shot and with a head of a third modality.  `python -m cmg.downstream.retrieval`

    python -m cmg.downstream.retrieval --checkpoint checkpoint/run --data clips.h5                 # zero-shot
    python -m cmg.downstream.retrieval --checkpoint checkpoint/vt --data clips.h5 --gallery audio  # the paper's Table 5

Zero-shot: an item is the mean of its steps, of the code vectors ("codes") and of the encoder's outputs before
quantising ("semantic"), or whatever the model has for an item, such as a joint embedding ("joint"); every query of one
modality ranks all items of the other by cosine. Right is the item of the same clip. R@1/5/10/25/50, the median and the
mean rank, in every direction, and between words and what is seen and heard as one (`video+audio`: the mean of
the two vectors, each of length 1, or the one that there is). Texts may come from a file of their own, with several
captions a clip (`--text-data`; ids as `cmg.data.captions` writes them): each is a query and an item of its own. Right
for a caption is its clip, right for a clip is any of its captions, of which the nearest counts; `chance` knows how many
there are. `--captions`, the CSV they were extracted from, lists the captions that there should be: one without features
counts as wrong instead of being dropped.

Published figures of MSR-VTT and YouCook2 are divided by 1000 and 3350 queries, of which 968 and some 3339 have
features: `--expected 1000` adds R@k that count the lacking ones as wrong, beside those of the queries there are. With
`--whole-videos` a video's clips are one item, the mean of their vectors.

With `--rerank K`, of a checkpoint that judges pairs of clips and captions (`--method uniq4cap`), the same figures of
clips, all that is seen and heard of each, and captions: by similarity ("mtc"), and with the first K of every query
put into order anew by that judgement ("mtm"; `cmg.downstream.reranking`).

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
paper : nothing is left out; items that are equally near have their mean rank, all or nothing, as in the released code
    of MultiSK: counted from 0 it is 0 for R@1 and less than k for R@k; median and mean rank are those of the queries
    that have an item to find. Of the head the epoch is taken at which the target's figures are best on the test clips.
    The code of the paper's experiment was never released: this is its description, not its script.

`chance` is the figure of a gallery in random order. Of the head, `source_value` is that of the source's own queries,
and `target_value` that of the target's with a head that was fitted to the target, the upper bound of the transfer.
"""

import sys
from pathlib import Path

import torch

from cmg.cli import Parser, command, whole
from cmg.data.features import FeatureSet
from cmg.data.joining import held
from cmg.downstream.clip_scores import read_clusters
from cmg.downstream.collection import Collection, Items, fused, fused_pairs
from cmg.downstream.reranking import compare, reranked, rightly_judged
from cmg.downstream.results import markdown_table, result
from cmg.downstream.retrieval_head import RULES, with_head
from cmg.downstream.splits import tell_pretrained
from cmg.downstream.task import DATA, Settings, add_probe_flags, open_run, task_parser
from cmg.errors import UserError
from cmg.figures import bars
from cmg.figures.names import REPRESENTATIONS, TASKS, arrow, axis_label
from cmg.figures.style import save
from cmg.files import read_columns
from cmg.metrics.retrieval import Places, chance, places, present_ranks, recall_at
from cmg.modalities import ordered

RECALLS = (1, 5, 10, 25, 50)
EXPECTED = "_expected"  # ends the metrics of which the number of queries is what there should be


def retrieve(queries: Items, gallery: Items, kind: str) -> Places:
    """Place of every query's item; queries without features have none."""
    found = Places(*torch.zeros(3, len(queries.clips), dtype=torch.int64))
    device = queries.vectors[kind].device
    present = places(queries.vectors[kind], gallery.vectors[kind], queries.clips[queries.has].to(device),
                     gallery.clips[gallery.has].to(device))
    for x, y in zip(found, present):
        x[queries.has] = y
    return found


def zero_shot(model, collection: Collection, pairs, settings: Settings, device="cpu", expected=None) -> list[dict]:
    """Rows of `results.json` less checkpoint and commit: figures × representations × directions.

    expected : how many queries there should be, those that are left out included; adds R@k of so many
    """
    names = dict.fromkeys(name for pair in pairs for name in pair)
    items = {m: collection.items(model, m, device) for m in dict.fromkeys("+".join(names).split("+"))}
    items |= {name: fused([items[m] for m in name.split("+")]) for name in names if name not in items}
    rows = []
    for source, target in pairs:
        queries, gallery = items[source], items[target]
        shown = gallery.clips[gallery.has]
        guessed, count = chance(queries.clips, shown), len(queries.clips)
        if len(shown) == 1:
            print(f"warning: {source} → {target}: the gallery is one item; whatever is found is right", file=sys.stderr)
        asked = None if expected is None else expected - collection.n_excluded
        if asked is not None and asked < count:
            raise UserError(f"--expected {expected}: {source} → {target} has {count + collection.n_excluded} queries; "
                            "expected at least as many")
        for kind in (kind for kind in gallery.vectors if kind in queries.vectors):
            rows += described(retrieve(queries, gallery, kind), guessed, source, target, kind, len(shown), settings,
                              collection.n_excluded, asked)
    return rows


def by_judgement(model, collection: Collection, seen, settings: Settings, first: int, device="cpu") -> list[dict]:
    """The same of clips and captions, before and after the `first` of every query are judged, and how well they are."""
    compared, clip = compare(model, collection, seen, device), "+".join(seen)
    rows = []
    for source, target, kind, found, queries, gallery in reranked(model, compared, clip, first):
        rows += described(found, chance(queries, gallery), source, target, kind, len(gallery), settings,
                          collection.n_excluded, None)
    right = rightly_judged(model, compared, settings.seed)
    if not len(right):
        return rows
    own = torch.isin(compared.captions, compared.clips).sum().item()
    never = 1 - own / len(right)  # what "it does not belong" gets of all pairs
    rows.append(result("retrieval", clip, "text", settings, "mtm_accuracy", 100 * right.double().mean().item(), None,
                       None, 100 * never, 0, len(right), n_excluded=collection.n_excluded))
    return rows


def described(found, guessed, source, target, kind, size, settings, n_excluded, asked) -> list[dict]:
    """Rows of one direction by one kind of items. found, guessed : Places of the queries, and of chance. size : of the
    gallery. asked : how many queries there should be, where that is known: adds R@k of so many."""
    rule, count = RULES[settings.protocol], len(found.right)
    recalls = {f"r{k}": (rule.recall_at(k, found), recall_at(k, guessed), count) for k in RECALLS}
    figures = recalls | {
        "median_rank": (rule.median_rank(found), (size + 1) / 2, count),
        "mean_rank": (rule.mean_rank(found), present_ranks(guessed).mean().item(), count)}
    if asked is not None:
        figures |= {name + EXPECTED: (value * count / asked, of_chance * count / asked, asked)
                    for name, (value, of_chance, _) in recalls.items()}
    missing = int((found.right == 0).sum())
    return [result("retrieval", source, target, settings, f"{kind}_{name}", value, None, None, of_chance, 0, n,
                   n_gallery=size, n_missing=missing + n - count, n_excluded=n_excluded)
            for name, (value, of_chance, n) in figures.items()]


def parser() -> Parser:
    p = task_parser("retrieval")
    p.add_argument("--data", nargs="+", required=True, help=DATA)
    p.add_argument("--text-data", nargs="+", help="feature files of captions, several a clip")
    p.add_argument("--captions", help="CSV with a column id: the captions there should be; the lacking count as wrong")
    p.add_argument("--expected", type=whole(1), help="how many queries there should be, with or without features: adds "
                   "R@k that count the lacking ones as wrong; 1000 for MSR-VTT, 3350 for YouCook2")
    p.add_argument("--whole-videos", action="store_true", help="a video's clips are one item, the mean of their "
                   "vectors")
    p.add_argument("--rerank", type=whole(1), metavar="K", help="find captions of clips and clips of captions by a "
                   "model that judges pairs, which puts the first K of every query into order anew")
    p.add_argument("--gallery", help="fit a head to this modality's features; without it zero-shot")
    p.add_argument("--groups", help="CSV with the columns id and group: clips of a group share what they are made of, "
                   "and are not divided between the head's fit, val and test; default: the clips of a video")
    return add_probe_flags(p, epochs=50, probe_task=False)


@command
def main(argv=None):
    args = parser().parse_args(argv)
    run = open_run(args, needs=("matching",) if args.rerank else ("vectors",))
    data = run.data
    present = list(held(data))
    if args.captions and not args.text_data:
        raise UserError("--captions: goes with --text-data, the features of these captions")
    if args.text_data:
        if args.gallery:
            raise UserError("--text-data: the head needs one text a clip, in --data")
        present = [*(m for m in present if m != "text"), "text"]
    if args.groups and not args.gallery:
        raise UserError("--groups: goes with --gallery, whose head is fitted; zero-shot divides no clips")
    if args.gallery and (args.expected or args.whole_videos):
        raise UserError("--expected and --whole-videos: are of zero-shot retrieval; expected no --gallery")
    if args.rerank and (args.gallery or args.expected or args.whole_videos):
        raise UserError("--rerank: is of clips and captions as they are; expected no --gallery, --expected or "
                        "--whole-videos")
    if args.gallery and args.gallery not in present:
        raise UserError(f"--gallery {args.gallery}: --data has only {', '.join(present)}")
    pairs = run.directions(m for m in present if m != args.gallery)
    needed = {m for pair in pairs for m in pair} | ({args.gallery} if args.gallery else set())
    texts = run.features(args.text_data, [("text",)], "--text-data") if args.text_data else None
    features = FeatureSet(data, ordered(needed - {"text"} if texts else needed))
    run.model.check(features, without=args.gallery)
    pretrain_ids = run.pretrain_ids if args.protocol == "strict" else ()
    if args.gallery:
        groups = read_clusters(args.groups, "group") if args.groups else None
        rows = with_head(run.model, features, pairs, args.gallery, run.settings, pretrain_ids, run.device, groups)
    else:
        asked = [name for name, in read_columns(args.captions, "id")] if args.captions else ()
        collection = Collection(features, texts, asked, pretrain_ids, args.whole_videos)
        pairs = pairs + fused_pairs(pairs)
        rows = zero_shot(run.model, collection, pairs, run.settings, run.device, args.expected)
        if args.rerank:
            seen = ordered({m for pair in pairs for m in pair[0].split("+")} - {"text"})
            rows += by_judgement(run.model, collection, seen, run.settings, args.rerank, run.device)
    tell_pretrained(rows[0]["n_excluded"], "clips")
    rows = run.write("Retrieval", rows, table)
    name = "_".join(filter(None, (rows[0]["task"], args.gallery, args.protocol)))
    run.tell({}, [draw(rows, run.out / f"{name}.png")])
    return rows


def table(rows: list[dict]) -> str:
    """A line for every direction and representation, its figures side by side."""
    lines = {}
    for row in rows:
        kind, _, figure = row["metric"].partition("_") if row["task"] == "retrieval" else ("head", "", row["metric"])
        if figure.endswith(EXPECTED):
            kind, figure = f"{kind}, of {row['n_test']}", figure.removesuffix(EXPECTED)
        lines.setdefault((row["source"], row["target"], kind), {})[figure] = row
    names = [*(f"r{k}" for k in RECALLS), "median_rank", "mean_rank"]
    cells = []
    for (source, target, kind), figures in lines.items():
        values = [figures[name]["value"] if name in figures else None for name in names]
        last = figures["r10"]
        cells.append([f"{source} → {target}", kind, *("–" if v is None else f"{v:.1f}" for v in values),
                      f"{last['chance']:.1f}", str(last["n_test"]), str(last["n_missing"])])
    header = ["direction", "items", *(f"R@{k}" for k in RECALLS), "median rank", "mean rank", "chance R@10", "queries",
              "missing"]
    judged = [f"\n\nMTM judges {row['value']:.1f} % of {row['n_test']} pairs rightly (\"never\" {row['chance']:.1f} %)."
              for row in rows if row["metric"] == "mtm_accuracy"]
    return "".join([markdown_table(header, cells), *judged])


def draw(rows: list[dict], path: Path) -> Path:
    """R@k as bars beside chance, a panel for every direction."""
    found = {(row["source"], row["target"], row["metric"]): row for row in rows}
    panels = []
    for source, target in dict.fromkeys((row["source"], row["target"]) for row in rows):
        own = {metric: row for (*pair, metric), row in found.items() if pair == [source, target]}
        if rows[0]["task"] == "retrieval":
            kinds = [metric.removesuffix("_r1") for metric in own if metric.endswith("_r1")]
            ks = [k for k in RECALLS if f"{kinds[0]}_r{k}" in own]
            shown = {REPRESENTATIONS.get(kind, kind): [(own[f"{kind}_r{k}"]["value"], None) for k in ks]
                     for kind in kinds}
            guessed = [own[f"{kinds[0]}_r{k}"]["chance"] for k in ks]
        else:
            ks = [k for k in RECALLS if f"r{k}" in own]
            shown = {"transfer": [(own[f"r{k}"]["value"], own[f"r{k}"]["std"]) for k in ks],
                     "own modality": [(own[f"r{k}"]["source_value"], own[f"r{k}"]["source_std"]) for k in ks],
                     "upper bound": [(own[f"r{k}"]["target_value"], own[f"r{k}"]["target_std"]) for k in ks]}
            guessed = [own[f"r{k}"]["chance"] for k in ks]
        panels.append(bars.Panel(arrow(source, target), axis_label("r1"), [f"R@{k}" for k in ks], shown, guessed))
    return save(bars.draw(panels, f"{TASKS[rows[0]['task']]}, {rows[0]['protocol']}"), path)


if __name__ == "__main__":
    main()
