"""The query transformer: BERT's layers, read by queries and by words with one self-attention (UniQ4Cap §3.3, after the
query transformer of Li et al. 2023).

Queries alone look at what is seen and heard, by cross-attention in every `cross_every`-th layer; queries and words have
feed-forwards of their own. Post-norm layers, norms with ε = 1e-12, exact GELU. A word's output layer has the weights of
its embedding. A pass returns the keys and values of its self-attention, which a later pass may have as a prefix: so the
caption is written word by word behind the queries, and so it is learnt.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import number, whole
from cmg.configs import Config, setting

NORM_EPS = 1e-12
UNSEEN = -10000.0  # added to the score of what is not seen, as in BERT; finite, so that a row without any stays finite
START_STD = 0.02  # of BERT's weights, at its width; in a narrow model they would pass on next to nothing
BERT_WIDTH = 768


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Query transformer.

    Attributes
    ----------
    caption_width : D, of queries and words
    caption_layers : layers
    caption_heads : heads of an attention
    caption_hidden : width inside a feed-forward
    queries : Q, vectors that ask what is seen and heard
    cross_every : queries look at what is seen and heard in every N-th layer, the first included
    source_width : width of what they look at
    caption_words : pieces of words that a caption holds at most, its two marks included
    caption_dropout : of attentions and feed-forwards
    """

    caption_width: int = setting(128, whole(1))
    caption_layers: int = setting(4, whole(1))
    caption_heads: int = setting(4, whole(1))
    caption_hidden: int = setting(256, whole(1))
    queries: int = setting(8, whole(1))
    cross_every: int = setting(2, whole(1), metavar="N")
    source_width: int = setting(128, whole(1))
    caption_words: int = setting(32, whole(3))
    caption_dropout: float = setting(0.1, number(least=0, below=1))


class Attention(nn.Module):
    """Multi-head attention of x [B, n, D] on `source` [B, N, S], followed by BERT's residual and norm."""

    def __init__(self, width, source, heads, dropout):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(source, width), nn.Linear(source, width)
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width, NORM_EPS)
        self.drop = nn.Dropout(dropout)

    def split(self, x):
        """[B, n, D] -> [B, heads, n, D / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, source, visible=None, past=None):
        """visible : BoolTensor[B, n, N] or None for all. past : (keys, values) that stand before those of `source`.

        Returns x [B, n, D], and (keys, values), each [B, heads, N, D / heads], those of the past included.
        """
        keys, values = self.split(self.key(source)), self.split(self.value(source))
        if past is not None:
            keys, values = (torch.cat(pair, 2) for pair in zip(past, (keys, values)))
        bias = None if visible is None else (~visible).to(keys.dtype).mul(UNSEEN)[:, None]  # (B, 1, n, N)
        y = F.scaled_dot_product_attention(self.split(self.query(x)), keys, values, bias,
                                           self.drop.p if self.training else 0.0)
        return self.norm(x + self.drop(self.out(y.transpose(1, 2).flatten(2)))), (keys, values)


class FeedForward(nn.Module):
    """x -> norm(x + W₂ gelu(W₁ x))."""

    def __init__(self, width, hidden, dropout):
        super().__init__()
        self.into, self.out, self.norm = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.LayerNorm(width,
                                                                                                          NORM_EPS)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        return self.norm(x + self.drop(self.out(F.gelu(self.into(x)))))


class Layer(nn.Module):
    """Shared self-attention, cross-attention of the queries (if `crosses`), a feed-forward each."""

    def __init__(self, config, crosses):
        super().__init__()
        D, heads, p = config.caption_width, config.caption_heads, config.caption_dropout
        self.attention = Attention(D, D, heads, p)
        self.cross = Attention(D, config.source_width, heads, p) if crosses else None
        self.words, self.queries = (FeedForward(D, config.caption_hidden, p) for _ in range(2))

    def forward(self, x, number, visible, source, seen, past):
        """The first `number` of x [B, n, D] are queries; see `QueryTransformer.forward`."""
        x, kept = self.attention(x, x, visible, past)
        queries, words = x[:, :number], x[:, number:]
        parts = []
        if number:
            if self.cross is not None:
                queries, _ = self.cross(queries, source, seen)
            parts.append(self.queries(queries))
        if words.shape[1]:
            parts.append(self.words(words))
        return torch.cat(parts, 1), kept


class QueryTransformer(nn.Module):
    """See the module.

    Parameters
    ----------
    vocabulary : V, pieces of words, the start of a caption included as the last one
    config : TransformerConfig
    """

    def __init__(self, vocabulary, config):
        super().__init__()
        D = config.caption_width
        self.word, self.position = nn.Embedding(vocabulary, D), nn.Embedding(config.caption_words, D)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.queries, D))
        self.norm, self.drop = nn.LayerNorm(D, NORM_EPS), nn.Dropout(config.caption_dropout)
        self.layers = nn.ModuleList(Layer(config, n % config.cross_every == 0) for n in range(config.caption_layers))
        self.head, self.head_norm = nn.Linear(D, D), nn.LayerNorm(D, NORM_EPS)
        self.head_bias = nn.Parameter(torch.zeros(vocabulary))
        std = START_STD * (BERT_WIDTH / D) ** 0.5
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.query_tokens, std=std)
        for layer in self.layers:  # the queries' feed-forwards begin as the words', as in the release
            layer.queries.load_state_dict(layer.words.state_dict())

    @property
    def queries(self):
        """Q, the number of queries."""
        return self.query_tokens.shape[1]

    def embedded_queries(self, batch):
        """Queries of `batch` clips [B, Q, D]; they have no positions."""
        return self.drop(self.norm(self.query_tokens)).expand(batch, -1, -1)

    def embedded_words(self, ids, first=0):
        """Words [B, L, D] of ids int [B, L], of which the first stands at position `first`."""
        at = torch.arange(first, first + ids.shape[1], device=ids.device)
        return self.drop(self.norm(self.word(ids) + self.position(at)))

    def forward(self, x, number, visible=None, source=None, seen=None, past=None):
        """A pass through all layers.

        Parameters
        ----------
        x : Tensor[B, n, D], embedded, of which the first `number` are queries.
        visible : BoolTensor[B, n, P + n], `cmg.models.uniq4cap.masks`; None for all.
        source : Tensor[B, N, S], what queries look at; seen : BoolTensor[B, N], which of it exists.
        past : what an earlier pass returned of P positions, which stand before these.

        Returns
        -------
        x : Tensor[B, n, D]
        list of (keys, values), a pair for each layer, of the past and of this pass
        """
        if seen is not None:
            seen = seen[:, None, :].expand(-1, number, -1)  # (B, Q, N)
        kept = []
        for layer, before in zip(self.layers, past or [None] * len(self.layers)):
            x, own = layer(x, number, visible, source, seen, before)
            kept.append(own)
        return x, kept

    def logits(self, x):
        """Scores of the next piece, [..., V], of words' outputs x [..., D]."""
        return F.linear(self.head_norm(F.gelu(self.head(x))), self.word.weight, self.head_bias)
