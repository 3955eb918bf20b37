"""How near sentences come to those that people wrote of the same clips: BLEU-1 to -4, ROUGE-L, CIDEr-D.

The definitions are those of the public COCO caption evaluation, whose other two figures, METEOR and SPICE, are Java
programs: they are not computed here, and never stand as 0 in their place.

    BLEU-n     Papineni et al. 2002, over the whole set: counts clipped by the most of any reference, the brevity
               penalty with the reference that is nearest in length (of two, the shorter), no smoothing
    ROUGE-L    Lin 2004, F with β = 1.2 of the longest common subsequence; as in that evaluation the highest precision
               and the highest recall may come from different references; mean over clips
    CIDEr-D    Vedantam et al. 2015: cosine of tf-idf vectors, clipped, times exp(-Δ² / 2σ²) with σ = 6, mean over
               n = 1 … 4 and references, × 10. df counts the clips whose references hold an n-gram, so a single clip
               scores 0, and figures of sets of different sizes do not compare.
"""

import math
from collections import Counter
from dataclasses import dataclass

from cmg.metrics.words import TOKENIZERS

LONGEST = 4  # words of an n-gram
TINY, SMALL = 1e-15, 1e-9  # what the public evaluation adds to counts of 0
BETA, SIGMA = 1.2, 6.0
METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")


@dataclass(frozen=True)
class Scores:
    """corpus : dict metric -> figure of the whole set. per_clip : dict metric -> list of those of its clips."""

    corpus: dict[str, float]
    per_clip: dict[str, list[float]]


def score(sentences, references, tokenizer="ptb") -> Scores:
    """All figures of a set.

    Parameters
    ----------
    sentences : list[str], one a clip. references : list of lists of str, one or more a clip.
    tokenizer : of `cmg.metrics.words.TOKENIZERS`

    Raises
    ------
    ValueError : lists of different lengths, no clips, or a clip without references.
    """
    if len(sentences) != len(references) or not sentences or not all(references):
        raise ValueError(f"{len(sentences)} sentences and references of {sum(map(bool, references))} of "
                         f"{len(references)} clips; expected as many, and some")
    words = TOKENIZERS[tokenizer]
    said = [words(sentence) for sentence in sentences]
    wanted = [[words(one) for one in of_clip] for of_clip in references]
    corpus, per_clip = bleu(said, wanted)
    per_clip["rouge_l"] = [rouge_l(one, of_clip) for one, of_clip in zip(said, wanted)]
    per_clip["cider_d"] = cider_d(said, wanted)
    corpus |= {name: sum(per_clip[name]) / len(said) for name in ("rouge_l", "cider_d")}
    return Scores(corpus, per_clip)


def ngrams(words) -> Counter:
    """How often each run of 1 to 4 words occurs."""
    return Counter(tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))


def bleu(said, wanted):
    """BLEU-1 … BLEU-4 of the set, and of each clip by itself: dict name -> float, dict name -> list.

    said : list of lists of words. wanted : list of lists of these.
    """
    counts, names = [], [f"bleu_{n}" for n in range(1, LONGEST + 1)]
    for words, of_clip in zip(said, wanted):
        nearest = min((abs(len(one) - len(words)), len(one)) for one in of_clip)[1]
        most = Counter()
        for one in of_clip:
            most |= ngrams(one)
        right = [0] * LONGEST
        for gram, count in ngrams(words).items():
            right[len(gram) - 1] += min(count, most[gram])
        counts.append([[len(words), nearest], right, [max(0, len(words) - n) for n in range(LONGEST)]])
    total = _bleu(*([sum(column) for column in zip(*part)] for part in zip(*counts)))
    per_clip = [_bleu(*of_clip) for of_clip in counts]
    return dict(zip(names, total)), {name: [row[n] for row in per_clip] for n, name in enumerate(names)}


def _bleu(lengths, right, guessed):
    """BLEU-n for n = 1 … 4: lengths of sentence and reference, how many n-grams are right, and of how many."""
    ratio = (lengths[0] + TINY) / (lengths[1] + SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, found = 1.0, []
    for n in range(LONGEST):
        product *= (right[n] + TINY) / (guessed[n] + SMALL)
        found.append(product ** (1 / (n + 1)) * brevity)
    return found


def rouge_l(words, of_clip) -> float:
    """ROUGE-L of one clip: words of its sentence, and of each of its references."""
    common = [longest_common(words, one) for one in of_clip]
    precision = max(n / len(words) for n in common) if words else 0.0
    recall = max(n / len(one) if one else 0.0 for n, one in zip(common, of_clip))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(a, b) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row
        row = [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(row[j], before[j + 1]))
    return row[-1]


def cider_d(said, wanted) -> list[float]:
    """CIDEr-D of each clip, × 10."""
    within = Counter(gram for of_clip in wanted for gram in set().union(*(ngrams(one) for one in of_clip)))
    size = math.log(len(said))

    def vector(words):
        weights = [{} for _ in range(LONGEST)]
        for gram, count in ngrams(words).items():
            weights[len(gram) - 1][gram] = count * (size - math.log(max(1, within[gram])))
        return weights, [math.sqrt(sum(w * w for w in part.values())) for part in weights]

    found = []
    for words, of_clip in zip(said, wanted):
        mine, norms = vector(words)
        total = 0.0
        for one in of_clip:
            theirs, their_norms = vector(one)
            apart = max(0, len(words) - 1) - max(0, len(one) - 1)  # in bigrams
            nearness = math.exp(-(apart**2) / (2 * SIGMA**2))
            for n in range(LONGEST):
                if norms[n] and their_norms[n]:
                    both = sum(min(w, theirs[n][gram]) * theirs[n][gram]
                               for gram, w in mine[n].items() if gram in theirs[n])
                    total += both / (norms[n] * their_norms[n]) * nearness
        found.append(10 * total / (LONGEST * len(of_clip)))
    return found
