"""The captioner of UniQ4Cap (§3.3): frozen encoders, the query transformer on their tokens, and its three read-outs."""

import torch
from torch import nn
from torch.nn import functional as F

from cmg.errors import UserError
from cmg.losses.captioning import similarity
from cmg.models.pretrained import Pretrained, Tokens
from cmg.models.uniq4cap import masks
from cmg.models.uniq4cap.encoders import averaged
from cmg.models.uniq4cap.generation import Marks, WritingConfig, write
from cmg.models.uniq4cap.transformer import QueryTransformer

PAD = 0
TEMPERATURE = 0.07  # where the learnt temperature of MTC starts


class Captioner(Pretrained):
    """What stage 2 trains.

    Parameters
    ----------
    shapes : dict modality -> shape of one clip; "text" is (K, L), captions of L pieces.
    encoders : ModuleDict of `ClipEncoder`, frozen; a modality without one is read as it was extracted.
    vocabulary : V, the start mark included as the last piece. config : TransformerConfig. contrast_dim : of MTC.
    cells : side of the grid that a second of video is averaged to, where it has no encoder. judges : whether it learns
    by MTC and MTM, and so can say what belongs together.

    Attributes
    ----------
    seen : the modalities that are captioned, in order.
    """

    offers = ("vectors", "sentences", "matching")

    def __init__(self, shapes, encoders, vocabulary, config, contrast_dim=256, cells=1, judges=True):
        super().__init__(shapes)
        self.offers = Captioner.offers if judges else Captioner.offers[:2]
        self.seen = tuple(m for m in self.shapes if m != "text")
        self.cells, self.encoders = cells, encoders.requires_grad_(False)
        widths = {m: encoders[m].context.norm.normalized_shape[0] if m in encoders else self.shapes[m][-1]
                  for m in self.seen}
        S, D = config.source_width, config.caption_width
        self.source_norm = nn.ModuleDict({m: nn.LayerNorm(width) for m, width in widths.items()})
        self.source = nn.ModuleDict({m: nn.Linear(width, S) for m, width in widths.items()})
        self.transformer = QueryTransformer(vocabulary, config)
        self.query_side, self.text_side = nn.Linear(D, contrast_dim), nn.Linear(D, contrast_dim)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.matches = nn.Linear(D, 2)

    @property
    def start(self):
        """Id of the mark that starts a caption that is written: the last of the vocabulary."""
        return self.transformer.word.num_embeddings - 1

    def train(self, mode=True):
        """The frozen encoders stay as they are used: without dropout."""
        super().train(mode)
        self.encoders.eval()
        return self

    # -- passes ------------------------------------------------------------------------------------------------------

    def sources(self, features, valid=None):
        """What queries look at: Tensor[B, N, S], and which of it exists, BoolTensor[B, N]; video before audio.

        features : dict modality -> Tensor[B, T, …]. valid : dict modality -> BoolTensor[B, T].
        """
        tokens, there = [], []
        for m in self.seen:
            if m not in features:
                continue
            x, real = features[m], (valid or {}).get(m)
            if m in self.encoders:
                with torch.no_grad():
                    x, exists = self.encoders[m](x, real)
            else:
                side = self.cells if x.dim() == 5 else 1
                exists = x.new_ones(x.shape[:2], dtype=torch.bool) if real is None else real
                x, exists = averaged(x, side), exists.repeat_interleave(side**2, 1)
            tokens.append(self.source[m](self.source_norm[m](x.to(self.temperature.dtype))))
            there.append(exists)
        return torch.cat(tokens, 1), torch.cat(there, 1)

    def asked(self, source, seen=None):
        """The queries' pass by themselves: outputs [B, Q, D], and their keys and values."""
        x = self.transformer.embedded_queries(len(source))
        return self.transformer(x, x.shape[1], source=source, seen=seen)

    def read(self, ids):
        """The words' pass by themselves, both ways: outputs [B, L, D] of ids int [B, L]."""
        return self.transformer(self.transformer.embedded_words(ids), 0, masks.among_words(ids != PAD))[0]

    def together(self, source, seen, ids):
        """Queries and words in one pass, all see all: outputs [B, Q + L, D]."""
        queries = self.transformer.embedded_queries(len(ids))
        x = torch.cat([queries, self.transformer.embedded_words(ids)], 1)
        visible = masks.everyone(ids != PAD, queries.shape[1])
        return self.transformer(x, queries.shape[1], visible, source, seen)[0]

    def matching(self, source, seen, ids):
        """Logits [B, 2] of "does not belong" and "belongs": the mean over the queries."""
        return self.matches(self.together(source, seen, ids)[:, : self.transformer.queries]).mean(1)

    def following(self, prefix, ids):
        """Scores [B, L, V] of the piece after each: `ids` with the start mark in the place of the first.

        prefix : keys and values of the queries' pass.
        """
        ids = torch.cat([torch.full_like(ids[:, :1], self.start), ids[:, 1:]], 1)
        visible = masks.causal(ids != PAD, prefix[0][0].shape[2])
        return self.transformer.logits(self.transformer(self.transformer.embedded_words(ids), 0, visible,
                                                        past=prefix)[0])

    def query_vectors(self, queries):
        """Unit vectors [B, Q, contrast_dim] of the queries' outputs."""
        return F.normalize(self.query_side(queries), dim=-1)

    def text_vectors(self, words):
        """Unit vectors [B, contrast_dim] of the outputs of words [B, L, D]: what the first of them says."""
        return F.normalize(self.text_side(words[:, 0]), dim=-1)

    # -- what is offered ---------------------------------------------------------------------------------------------

    def encode_modality(self, modality, features, valid=None):
        """Unit vectors in the space of MTC. Of sight and sound one a second, the mean over queries that look at that
        second alone; of text one a caption."""
        self.require(modality, features.shape[1:])
        B, T = features.shape[:2]
        if modality == "text":
            vectors = self.text_vectors(self.read(features.flatten(0, 1).long()))
            return Tokens(None, None, vectors.unflatten(0, (B, T)))
        source, _ = self.sources({modality: features}, {} if valid is None else {modality: valid})
        source = source.unflatten(1, (T, -1)).flatten(0, 1)  # (B T, cells², S)
        vectors = self.query_vectors(self.asked(source)[0]).mean(1)
        return Tokens(None, None, F.normalize(vectors, dim=-1).unflatten(0, (B, T)))

    def fits(self, modality, shape):
        """Of text any number of captions of no more pieces than the model knows."""
        if modality == "text":
            return len(shape) == 2 and shape[1] <= self.transformer.position.num_embeddings
        return super().fits(modality, shape)

    def scaled(self, features, valid=None):
        """Features as files hold them, on the model's device and of its scale; which steps exist."""
        for m, x in features.items():
            self.require(m, x.shape[1:])
        valid = {m: x.to(self.device) for m, x in (valid or {}).items()}
        return {m: self.feature_scale(m, x.to(self.device), valid.get(m)) for m, x in features.items()}, valid

    def look(self, features, valid=None):
        """What clips are compared and judged by: sources [B, N, S], which of them exist [B, N], and vectors of the
        queries [B, Q, contrast_dim]."""
        source, there = self.sources(*self.scaled(features, valid))
        return source, there, self.query_vectors(self.asked(source, there)[0])

    def caption_vectors(self, ids):
        """Unit vectors [B, contrast_dim] of captions int [B, L]."""
        return self.text_vectors(self.read(ids.long()))

    def similarity(self, queries, texts):
        """MTC's scores [A, B] of clips [A, Q, contrast_dim] and captions [B, contrast_dim]."""
        return similarity(queries, texts) / self.temperature

    def belonging(self, source, seen, ids):
        """Log-odds [B] that captions int [B, L] belong to their clips, as MTM judges."""
        no, yes = self.matching(source, seen, ids.long()).unbind(1)
        return yes - no

    @torch.no_grad()
    def describe(self, features, valid=None, writing=None, seed=0):
        """Sentences of clips, list of str.

        Parameters
        ----------
        features : dict modality -> Tensor[B, T, …] of one or several that the model has seen. valid : as in `encode`.
        writing : WritingConfig, by default three beams. seed : of pieces that are drawn.
        """
        vocabulary = self.vocabularies.get("text")
        if vocabulary is None:
            raise UserError("this model has no vocabulary; expected one that was pretrained on captions of a feature "
                            "file")
        writing = writing or WritingConfig(max_length=min(30, self.transformer.position.num_embeddings))
        _, prefix = self.asked(*self.sources(*self.scaled(features, valid)))
        generator = torch.Generator(self.device).manual_seed(seed) if writing.draw else None
        marks = Marks(self.start, vocabulary.end, PAD)
        ids, _ = write(self.transformer, prefix, marks, writing, generator)
        return vocabulary.sentences(ids.tolist())
