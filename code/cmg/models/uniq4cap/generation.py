"""From what is seen and heard to a sentence: greedy, by beams, or drawn, a piece at a time behind the queries' keys.

Lengths count the start mark; the end mark is not counted. The rules are those of the common beam search (Wolf et al.
2020): a repeated piece's score is multiplied by the penalty, no end before the least length; of 2·beams candidates an
ending one counts only among the first `beams`; a sentence's score is Σ log p / length ^ penalty, and a clip is done
when its worst kept sentence is no worse than the best candidate can become.
"""

from dataclasses import dataclass

import torch

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.errors import UserError

OUT = float("-inf")


@dataclass(frozen=True)
class WritingConfig(Config):
    """Writing sentences.

    Attributes
    ----------
    beams : sentences that are followed at once; 1 = greedy
    min_length : pieces of a sentence at least, start mark included
    max_length : pieces at most, start mark included
    length_penalty : exponent of the length that a sentence's log-probability is divided by
    repetition_penalty : factor on the log-probability of a piece that is there already
    draw : draw pieces by their probabilities instead of taking the best
    top_k : pieces that are drawn from
    top_p : share of the probability that is drawn from
    """

    beams: int = setting(3, whole(1))
    min_length: int = setting(1, whole(1))
    max_length: int = setting(30, whole(2))
    length_penalty: float = setting(1.0, number(least=0))
    repetition_penalty: float = setting(1.0, number(above=0))
    draw: bool = setting(False)
    top_k: int = setting(50, whole(1))
    top_p: float = setting(0.9, number(above=0))

    def __post_init__(self):
        super().__post_init__()
        if self.draw and self.beams > 1:
            raise UserError(f"--draw: goes with --beams 1, not with --beams {self.beams}")


class Marks:
    """Ids of the pieces that are no words: where a caption starts, ends, and what pads it."""

    def __init__(self, start, end, pad=0):
        self.start, self.end, self.pad = start, end, pad


@torch.no_grad()
def write(transformer, prefix, marks, config, generator=None):
    """Sentences of n clips.

    Parameters
    ----------
    transformer : QueryTransformer in eval mode. prefix : keys and values of its pass over the queries of n clips.
    marks : Marks. config : WritingConfig. generator : torch.Generator of --draw.

    Returns
    -------
    ids : int64 Tensor[n, at most max_length], start mark first; what follows the end mark is padding.
    scores : Tensor[n], Σ log p / length ^ penalty of beams; None of single sentences.
    """
    most = transformer.position.num_embeddings
    if config.max_length > most:
        raise UserError(f"--max-length {config.max_length}: the model knows captions of {most} pieces; expected no "
                        "more")
    if config.beams > 1:
        return by_beams(transformer, prefix, marks, config)
    return one_by_one(transformer, prefix, marks, config, generator), None


def step(transformer, last, at, past):
    """Log-probabilities [n, V] of the piece after `last` int64 [n], which stands at position `at`; the new past."""
    x, past = transformer(transformer.embedded_words(last[:, None], at), 0, past=past)
    return transformer.logits(x[:, -1]).log_softmax(-1), past


def ruled(scores, ids, marks, config):
    """Log-probabilities after the rules of repetition and of the least length."""
    if config.repetition_penalty != 1:
        there = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, ids, True)
        scores = torch.where(there, scores * config.repetition_penalty, scores)
    if ids.shape[1] < config.min_length:
        scores = scores.index_fill(1, torch.tensor(marks.end, device=scores.device), OUT)
    return scores


def one_by_one(transformer, past, marks, config, generator):
    """The best piece at every step, or a drawn one."""
    n, device = len(past[0][0]), past[0][0].device
    ids = torch.full((n, 1), marks.start, device=device)
    ended = torch.zeros(n, dtype=torch.bool, device=device)
    while ids.shape[1] < config.max_length and not ended.all():
        scores, past = step(transformer, ids[:, -1], ids.shape[1] - 1, past)
        scores = ruled(scores, ids, marks, config)
        if config.draw:
            likely = to_draw_from(scores, config.top_k, config.top_p)
            piece = torch.multinomial(likely, 1, generator=generator)[:, 0]
        else:
            piece = scores.argmax(1)
        piece = torch.where(ended, marks.pad, piece)
        ids = torch.cat([ids, piece[:, None]], 1)
        ended = ended | (piece == marks.end)
    return ids


def to_draw_from(scores, top_k, top_p):
    """Probabilities [n, V]: of the `top_k` best, the smallest set that reaches a share of `top_p`."""
    best, index = scores.topk(min(top_k, scores.shape[1]), 1)
    likely = best.softmax(1)
    likely = likely.where(likely.cumsum(1) - likely < top_p, 0)  # the piece that reaches it is in
    return torch.zeros_like(scores).scatter_(1, index, likely / likely.sum(1, keepdim=True))


def by_beams(transformer, past, marks, config):
    """Beam search: all clips and beams at once."""
    n, b, device = len(past[0][0]), config.beams, past[0][0].device
    past = taken(past, torch.arange(n, device=device).repeat_interleave(b))
    ids = torch.full((n * b, 1), marks.start, device=device)
    scores = past[0][0].new_full((n, b), -1e9)
    scores[:, 0] = 0  # all beams are equal at first: only one counts
    kept = torch.full((n, b, config.max_length), marks.pad, device=device)
    kept_scores = scores.new_full((n, b), OUT)
    done = torch.zeros(n, dtype=torch.bool, device=device)
    rows = torch.arange(n, device=device)[:, None]
    while ids.shape[1] < config.max_length and not done.all():
        length = ids.shape[1]
        found, past = step(transformer, ids[:, -1], length - 1, past)
        V = found.shape[1]
        found = scores.view(-1, 1) + ruled(found, ids, marks, config)
        best, index = found.view(n, b * V).topk(2 * b, 1)  # (n, 2 b), the best first
        beam, piece = index // V, index % V
        ends = piece == marks.end
        # what ends is kept, if it is among the best of what was kept
        counts = ends & (torch.arange(2 * b, device=device) < b) & ~done[:, None]
        ending = torch.where(counts, best / length**config.length_penalty, OUT)
        said = torch.nn.functional.pad(ids.view(n, b, -1), (0, config.max_length - length), value=marks.pad)
        said = said[rows, beam]  # (n, 2 b, max_length)
        said[:, :, length] = marks.end
        kept_scores, order = torch.cat([kept_scores, ending], 1).topk(b, 1)
        kept = torch.cat([kept, said], 1)[rows, order]
        done = done | (kept_scores[:, -1] >= best[:, 0] / length**config.length_penalty)
        # the first `beams` of the others go on
        order = ends.long().argsort(dim=1, stable=True)[:, :b]
        scores, beam, piece = (x.gather(1, order) for x in (best, beam, piece))
        flat = (rows * b + beam).flatten()
        ids = torch.cat([ids[flat], piece.flatten()[:, None]], 1)
        past = taken(past, flat)
    unfinished = torch.where(done[:, None], OUT, scores / ids.shape[1]**config.length_penalty)
    said = torch.nn.functional.pad(ids.view(n, b, -1), (0, config.max_length - ids.shape[1]), value=marks.pad)
    score, best = torch.cat([kept_scores, unfinished], 1).max(1)
    return torch.cat([kept, said], 1)[rows[:, 0], best], score


def taken(past, rows):
    """The keys and values of these rows."""
    return [(keys[rows], values[rows]) for keys, values in past]
