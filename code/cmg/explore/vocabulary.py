"""What a page says of codes: who uses them, which seconds are typical of them, where they lie, which are alike."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from sklearn.manifold import TSNE

from cmg.downstream.tokens import codebook_sharing, encode_set
from cmg.errors import UserError
from cmg.extract.captions import of_each, read_captions
from cmg.extract.hashed import words_of
from cmg.files import read_columns

ALIKE = 6  # nearest codes that a code names
WORDS = 8  # most frequent words that a code names
ROOM = 0.7  # of the distance that codes have on a square lattice: what is nearer is moved apart
LOSES_WORDS = ("word2vec", "bert-released")  # text backbones that pass over words which they do not know


class Steps(NamedTuple):
    """Tensors [N, T] of a modality: the code of each step, whether the step exists, and the squared distance of its
    semantic vector from the code's vector, by which a step is typical of its code.

    pieces : P codes of one second or word, where it has several, lie one after another, as steps of 1/P."""

    codes: torch.Tensor
    valid: torch.Tensor
    distances: torch.Tensor
    pieces: int = 1

    def sharing(self, other) -> dict:
        """`codebook_sharing` with another modality of the same clips."""
        a, b = (s._replace(codes=s.codes.unflatten(1, (-1, s.pieces)), valid=s.valid[:, :: s.pieces])
                for s in (self, other))
        return codebook_sharing(a, b)


def encode(model, features, device="cpu") -> dict[str, Steps]:
    """The steps of every modality of a FeatureSet, dict modality -> Steps on the CPU."""
    found = {}
    for m in features.modalities:
        tokens = encode_set(model, features, m, device=device)
        codes = tokens.codes.flatten(1)  # [N, T · P]
        pieces = codes.shape[1] // tokens.codes.shape[1]
        gap = (tokens.semantic - tokens.vectors).square().unflatten(-1, (pieces, -1)).sum(-1)  # [N, T, P]
        found[m] = Steps(codes.cpu(), tokens.valid.repeat_interleave(pieces, 1).cpu(), gap.flatten(1).cpu(), pieces)
    return found


def typical(steps: Steps, size: int, most: int, owners) -> list[list[int]]:
    """The steps that lie nearest to each code's vector, at most one of an owner.

    owners : int array [N], of each clip; clips that say the same have the same owner, so that a code shows variety.

    Returns
    -------
    For each of `size` codes [clip, step, clip, step, …], nearest first, at most `most` steps.
    """
    n, length = steps.codes.shape
    there = steps.valid.flatten().numpy().nonzero()[0]
    there = there[steps.distances.flatten().numpy()[there].argsort(kind="stable")]  # nearest first
    codes = steps.codes.flatten().numpy()[there]
    _, first = np.unique(codes * (np.max(owners, initial=0) + 1) + np.asarray(owners)[there // length],
                         return_index=True)
    first.sort()
    there, codes = there[first], codes[first]
    by_code = codes.argsort(kind="stable")
    bounds = np.searchsorted(codes[by_code], np.arange(size + 1))
    places = np.stack([there // length, there % length], 1)[by_code]  # [n, 2]
    return [places[a : min(b, a + most)].flatten().tolist() for a, b in zip(bounds[:-1], bounds[1:])]


def layout(vectors) -> np.ndarray:
    """Places [n, 2] in the unit square of vectors [n, D]: near ones side by side, none on top of another.

    t-SNE (van der Maaten and Hinton 2008) from the first two principal components on, then pairs that are too close
    are moved apart. Axes and distances between far codes mean nothing.
    """
    centred = vectors - vectors.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    places[:, : min(2, len(scale))] = (left * scale)[:, :2]
    if len(vectors) > 4 and np.ptp(places) > 0:
        start = places / places.std(0).max() * 1e-4  # as the authors begin
        places = TSNE(perplexity=min(30, (len(vectors) - 1) / 3), init=start.astype(np.float32), random_state=0,
                      method="barnes_hut" if len(vectors) > 100 else "exact").fit_transform(vectors)
    return _apart(_unit(places.astype(float)), ROOM / np.sqrt(max(len(vectors), 1)))


def _unit(places):
    low, extent = places.min(0), np.ptp(places, 0)
    return np.where(extent > 0, (places - low) / np.where(extent > 0, extent, 1), 0.5)


def _apart(places, least, rounds=100):
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        pairs = cKDTree(places).query_pairs(least, output_type="ndarray")
        if not len(pairs):
            break
        gap = places[pairs[:, 0]] - places[pairs[:, 1]]
        length = np.linalg.norm(gap, axis=1, keepdims=True)
        gap = np.where(length > 0, gap, generator.normal(size=gap.shape))  # of equal places
        move = gap / np.linalg.norm(gap, axis=1, keepdims=True) * (least - length) / 2
        number = np.bincount(pairs.flatten(), minlength=len(places)).clip(1)[:, None]
        moves = np.zeros_like(places)
        np.add.at(moves, pairs[:, 0], move)
        np.add.at(moves, pairs[:, 1], -move)
        places = places + moves / number  # the mean: sums would throw groups into each other
    return _unit(places)


def alike(vectors) -> list[list[int]]:
    """Positions of the nearest other vectors of each, nearest first."""
    _, nearest = cKDTree(vectors).query(vectors, min(ALIKE + 1, len(vectors)))
    nearest = nearest.reshape(len(vectors), -1)
    return [[int(j) for j in row if j != i][:ALIKE] for i, row in enumerate(nearest)]


def read_labels(path, ids) -> list[list[str]]:
    """The labels of each clip, of a CSV with the columns id and label, such as `cmg.data.labels` reads; here clips may
    lack one, and of several rows of a clip each label counts once."""
    found = {name: {} for name in ids}
    rows = read_columns(path, "id", "label")
    for name, label in rows:
        if name in found and label:
            found[name][label] = None
    if not any(found.values()):
        told = f"labels have '{rows[0][0]}', --data has '{ids[0]}'" if rows else "it has no rows"
        raise UserError(f"--labels {path}: none of its ids is a clip of --data, with a label: {told}")
    return [list(labels) for labels in found.values()]


def caption_words(path, ids, steps: Steps, backbone) -> tuple[list[str], list[list[str] | None]]:
    """Captions of clips, and the words that the steps of text stand for.

    A clip whose steps are fewer than its words has None: nobody knows which words its backbone has passed over.

    Returns
    -------
    captions : of each clip, "" where it has none
    words : of each clip, one for each step that exists
    """
    found = of_each(path, read_captions(path), ids)
    captions = [found.get(name, [""])[0] for name in ids]
    words, length = [], steps.codes.shape[1] // steps.pieces
    for caption, number in zip(captions, (steps.valid.sum(1) // steps.pieces).tolist()):
        own = words_of(caption)
        fits = number == min(len(own), length) and (len(own) <= length or backbone not in LOSES_WORDS)
        words.append([word for word in own[:length] for _ in range(steps.pieces)] if fits else None)
    return captions, words


def frequent_words(steps: Steps, size: int, words) -> list[list]:
    """For each code [word, number, word, number, …], the most frequent words that have it."""
    counts = [Counter() for _ in range(size)]
    for own, codes in zip(words, steps.codes.tolist()):
        for word, code in zip(own or (), codes):
            counts[code][word] += 1
    return [[x for pair in sorted(one.items(), key=lambda pair: (-pair[1], pair[0]))[:WORDS] for x in pair]
            for one in counts]
