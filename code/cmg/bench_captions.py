"""How many captions a second a query transformer writes: greedily, by beams, and without the keys that it keeps.

    python -m cmg.bench_captions                                   # the sizes of --preset small
    python -m cmg.bench_captions --preset paper --clips 16 --device cuda

Random weights, a vocabulary of `--vocabulary` pieces, and clips of as many tokens as `--tokens` says; no caption ends
before `--length` pieces, so that all modes write as much. "no keys kept" is greedy writing that reads the whole caption
anew for every piece, which gives the same sentences. Times are medians of `--repeats`, the queries' pass included.
"""

import json

import torch

from cmg.bench import device_name, median_time
from cmg.cli import Parser, command, git_commit, whole
from cmg.distributed import choose_device
from cmg.downstream.results import markdown_table
from cmg.files import write_atomically
from cmg.methods import registry
from cmg.models.uniq4cap import masks
from cmg.models.uniq4cap.generation import Marks, WritingConfig, ruled, write
from cmg.models.uniq4cap.transformer import QueryTransformer

END = 3  # number of the mark that ends a caption
BEAMS = (1, 3, 5)


@torch.no_grad()
def without_keys(transformer, prefix, marks, config):
    """Greedy captions, int64 Tensor[n, max_length], for which nothing but the queries' keys is kept."""
    n, queries = len(prefix[0][0]), prefix[0][0].shape[2]
    ids = torch.full((n, 1), marks.start, device=prefix[0][0].device)
    while ids.shape[1] < config.max_length:
        visible = masks.causal(torch.ones_like(ids, dtype=torch.bool), queries)
        x, _ = transformer(transformer.embedded_words(ids), 0, visible, past=prefix)
        scores = ruled(transformer.logits(x[:, -1]).log_softmax(-1), ids, marks, config)
        ids = torch.cat([ids, scores.argmax(1, keepdim=True)], 1)
    return ids


def measure(args, device):
    """One record: captions a second of every mode."""
    config = registry.recipe_of(registry.find("uniq4cap"), args.preset).method.transformer
    torch.manual_seed(0)
    transformer = QueryTransformer(args.vocabulary, config).to(device).eval()
    length = min(args.length, config.caption_words)
    source = torch.randn(args.clips, args.tokens, config.source_width, device=device)
    marks = Marks(args.vocabulary - 1, END)

    @torch.no_grad()
    def writing(call, **settings):
        queries = transformer.embedded_queries(args.clips)
        _, prefix = transformer(queries, queries.shape[1], source=source)
        return call(transformer, prefix, marks, WritingConfig(min_length=length, max_length=length, **settings))

    modes = {"greedy" if beams == 1 else f"{beams} beams": lambda beams=beams: writing(write, beams=beams)
             for beams in BEAMS}
    modes["greedy, no keys kept"] = lambda: writing(without_keys)
    seconds = {name: median_time(call, device, args.repeats) for name, call in modes.items()}
    return {"preset": args.preset, "clips": args.clips, "tokens": args.tokens, "length": length,
            "vocabulary": args.vocabulary, "queries": config.queries, "device": device_name(device),
            "captions_per_second": {name: args.clips / taken for name, taken in seconds.items()},
            "commit": git_commit()}


@command
def main(argv=None):
    p = Parser(prog="cmg.bench_captions", description=__doc__)
    p.add_argument("--preset", default="small", help="as in cmg.pretrain, of --method uniq4cap")
    p.add_argument("--clips", type=whole(1), default=64, help="clips at once")
    p.add_argument("--tokens", type=whole(1), default=20, help="of a clip, that queries look at")
    p.add_argument("--length", type=whole(2), default=22, help="pieces of a caption")
    p.add_argument("--vocabulary", type=whole(5), default=8000, help="pieces of words")
    p.add_argument("--repeats", type=whole(1), default=5, help="times that everything is measured")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    p.add_argument("--out", help="JSON file")
    args = p.parse_args(argv)
    record = measure(args, choose_device(args.device))
    rates = record["captions_per_second"]
    print(markdown_table(["captions written", "a second", "times no keys kept"], [
        [name, f"{rate:.1f}", f"{rate / rates['greedy, no keys kept']:.2f}"] for name, rate in rates.items()]))
    if args.out:
        write_atomically(args.out, json.dumps(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    main()
