"""Retrieval between clips and captions by a model that compares them and then judges pairs (`--rerank K`).

A clip is what is seen and heard together, a caption each of its captions by itself. All are ranked by the model's
similarity ("mtc": the nearest query's cosine over the temperature); then the first K of every query are put into order
anew ("mtm") by the similarity plus the log-odds that the two belong together. Both are log-odds, and the sum is what
the public code of this line of work ranks by. What stands behind the first K keeps its place.

The judgement is measured by itself as well, as MTM was trained: of every caption with its clip, with another clip, and
of its clip with another caption, what share is judged rightly.
"""

from typing import NamedTuple

import torch

from cmg.losses.captioning import draw
from cmg.metrics.retrieval import places_by

BATCH = 64  # clips or captions that are encoded at a time
PAIRS = 512  # that are judged at a time
AHEAD = 1e4  # that the first K have before the others
AMONG = 32  # clips, out of which a rival is drawn: a batch of training


class Compared(NamedTuple):
    """Clips and captions that have features: their clips' numbers [n] and [m], what judges need of them, and the
    similarity of all, Tensor[n, m]."""

    clips: torch.Tensor
    captions: torch.Tensor
    looks: list
    words: torch.Tensor
    similarity: torch.Tensor


@torch.no_grad()
def compare(model, collection, seen, device="cpu") -> Compared:
    """Encode clips, by the modalities `seen` together, and captions."""
    features, names, own = collection.sources[seen[0]]
    clips, looks, queries = [], [], []
    number = dict(zip(names, own))
    rows = features.rows_of(names)[0]
    for part in rows.split(BATCH):
        batch = features.__getitems__(part.tolist())
        valid = {m: batch[f"valid/{m}"].to(device) for m in seen}
        source, there, vectors = model.look({m: batch[m].to(device) for m in seen}, valid)
        some = there.any(1)  # a clip of which nothing is there is nobody's
        looks += list(zip(source[some], there[some]))
        queries.append(vectors[some])
        clips += [collection.number[number[features.ids[row]]] for row, k in zip(part.tolist(), some.tolist()) if k]
    features, names, own = collection.sources["text"]
    number, captions, words = dict(zip(names, own)), [], []
    for row in features.rows_of(names)[0].tolist():
        batch = features.__getitems__([row])
        said = batch["text"][batch["valid/text"]]  # (captions, L)
        words.append(said)
        captions += [collection.number[number[features.ids[row]]]] * len(said)
    words = torch.cat(words).to(device)
    texts = torch.cat([model.caption_vectors(part) for part in words.split(BATCH)])
    similarity = torch.cat([model.similarity(part, texts) for part in torch.cat(queries).split(BATCH)]).double()
    return Compared(torch.tensor(clips, device=device), torch.tensor(captions, device=device), looks, words, similarity)


@torch.no_grad()
def judged(model, found: Compared, first: int, to_text: bool):
    """Scores of queries with all items [Q, G], clips with captions if `to_text`, with the `first` best judged anew."""
    scores = (found.similarity if to_text else found.similarity.T).clone()
    best = scores.topk(min(first, scores.shape[1]), 1).indices  # (Q, K)
    pairs = torch.stack([torch.arange(len(best), device=best.device)[:, None].expand_as(best), best]).flatten(1).T
    query, item = pairs.T
    scores[query, item] += belonging(model, found, *(pairs.T if to_text else pairs.T.flip(0))) + AHEAD
    return scores


def belonging(model, found: Compared, clips, captions):
    """Log-odds, float64 [n], that clips and captions of these numbers belong together."""
    if not len(clips):
        return found.similarity.new_empty(0)
    odds = []
    for clip, caption in zip(clips.split(PAIRS), captions.split(PAIRS)):
        source, there = (torch.stack(one) for one in zip(*(found.looks[k] for k in clip.tolist())))
        odds.append(model.belonging(source, there, found.words[caption]).double())
    return torch.cat(odds)


@torch.no_grad()
def rightly_judged(model, found: Compared, seed=0):
    """BoolTensor[pairs]: of every caption whether it is told to belong to its clip, and not to belong to another clip,
    nor its clip to another caption. Rivals are drawn by similarity, as MTM's are in training, out of as few clips; one
    that has the very caption is none, and a caption whose clip has no features is not asked."""
    draws = torch.rand(2, len(found.words), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draws, right = draws.to(found.similarity.device), []
    for clips in torch.arange(len(found.clips), device=found.clips.device).split(AMONG):
        caption, own = (found.captions[:, None] == found.clips[clips]).nonzero().T  # of each its clip among these
        words = found.words[caption]
        equal = (words[:, None] == words).all(2)  # (captions, captions)
        said = torch.stack([equal[:, own == k].any(1) for k in range(len(clips))], 1)  # (captions, clips)
        similar, uniform = found.similarity[clips][:, caption], draws[:, caption]  # (clips, captions), (2, captions)
        clip, some = rivals(similar.T, ~said, uniform[0])
        other, others = rivals(similar[own], ~said[:, own].T, uniform[1])
        right += [belonging(model, found, clips[own], caption) > 0,
                  belonging(model, found, clips[clip[some]], caption[some]) <= 0,
                  belonging(model, found, clips[own[others]], caption[other[others]]) <= 0]
    return torch.cat(right)


def rivals(scores, allowed, uniform):
    """For each row a column that is allowed, drawn by the softmax of the scores; and whether there is any."""
    return draw(scores.masked_fill(~allowed, -torch.inf).softmax(1), uniform), allowed.any(1)


def reranked(model, found: Compared, clip: str, first: int):
    """(source, target, kind, Places, numbers of the queries, of the gallery) of both directions, before and after.

    clip : how clips are called, by what is seen of them.
    """
    for to_text in (True, False):
        own = found.clips, found.captions
        queries, gallery = own if to_text else own[::-1]
        for kind in ("mtc", "mtm"):
            scores = judged(model, found, first, to_text) if kind == "mtm" else (
                found.similarity if to_text else found.similarity.T)
            places = places_by(lambda rows, columns, x=scores: x[rows, columns], queries, gallery, 512, 65536)
            ends = (clip, "text") if to_text else ("text", clip)
            yield *ends, kind, places, queries.cpu(), gallery.cpu()
