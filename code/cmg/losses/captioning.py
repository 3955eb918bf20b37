"""UniQ4Cap's three losses (§3.4): MTC, MTM and MGM.

    MTC   multimodal-text contrast: a clip's queries find its caption among those of the batch, and the other way round.
          The similarity of a clip and a caption is that of the query which is nearest to it.
    MTM   multimodal-text matching: does this caption belong to this clip? The wrong pairs are hard ones, drawn by the
          similarity that MTC found; a clip's own is never drawn.
    MGM   multimodal-grounded generation: the next piece of the caption.

All are means over the clips (MGM: the pieces) of all processes.
"""

import torch
from torch.nn import functional as F

from cmg.distributed import first_row, gather, share

OWN = -10000.0  # score of a clip's own caption where rivals are drawn


def similarity(queries, texts):
    """[A, B] of clips' queries [A, Q, D] and captions [B, D], unit vectors: the nearest query's cosine."""
    return torch.einsum("aqd,bd->abq", queries, texts).amax(2)


def contrast(queries, texts, temperature, smoothing=0.1, own_side=False):
    """MTC.

    Parameters
    ----------
    queries : Tensor[B, Q, D], texts : Tensor[B, D]; unit vectors, row i of both is clip i.
    temperature : float or 0-d Tensor. smoothing : share of the label that is spread over all.
    own_side : a direction moves its own side alone, as in the release, where what is gathered carries no gradient.

    Returns
    -------
    0-d Tensor; scores of this process's clips with all captions and of its captions with all clips, each [B, N]
    """
    with torch.autocast(queries.device.type, enabled=False):  # in bf16 a cosine over a temperature has 2 digits
        queries, texts = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (queries, texts))
        all_queries, all_texts = gather(queries), gather(texts)
        if own_side:
            all_queries, all_texts = all_queries.detach(), all_texts.detach()
        of_clips = similarity(queries, all_texts) / temperature
        of_texts = similarity(all_queries, texts).t() / temperature
    labels = first_row(queries) + torch.arange(len(queries), device=queries.device)
    loss = sum(F.cross_entropy(x, labels, label_smoothing=smoothing) for x in (of_clips, of_texts)) / 2
    return loss, of_clips, of_texts


def rival_probabilities(scores, first, same=None):
    """How likely each is to be drawn as the wrong partner: softmax of scores [B, N] in which row i owns column
    first + i. same : BoolTensor[B, N], what is right as well and no rival."""
    own = torch.arange(len(scores), device=scores.device)
    scores = scores.detach().index_put((own, first + own), scores.new_tensor(OWN))
    return (scores if same is None else scores.masked_fill(same, OWN)).softmax(1)


def among(ids, captions):
    """Which captions int [A, L] are word by word one of those of a clip int [B, K, L]: BoolTensor[A, B]."""
    return (ids[:, None, None] == captions).all(3).any(2)


def draw(probabilities, uniform):
    """One column of each row, int64 [B], by uniform numbers [B] in [0, 1); a column of probability 0 never."""
    reached = probabilities.double().cumsum(1)
    return (reached <= uniform[:, None] * reached[:, -1:]).sum(1)


def next_piece(logits, ids, pad, smoothing=0.1):
    """MGM: cross-entropy of the next piece, mean over all that are no padding.

    logits : Tensor[B, L, V], of position t about piece t + 1. ids : int Tensor[B, L].
    """
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten().long(), ignore_index=pad,
                           reduction="none", label_smoothing=smoothing)
    return loss.sum() / share((ids[:, 1:] != pad).sum().to(loss.dtype))
