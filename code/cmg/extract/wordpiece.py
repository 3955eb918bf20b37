"""`wordpiece`: captions as numbers of pieces of words, all that a clip has, as what writes captions has to read them.

The vocabulary is BERT's (its vocab.txt, a piece a line), that of another feature file, so that a test set has the one
of its training set, or is learnt of the captions themselves where no `--text-weights` are given. It is kept in the
feature file. A vocabulary without capitals reads captions in lower case and without accents, as BERT does.
"""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from cmg.data.features import FeatureFile
from cmg.data.vocabulary import MARKS, UNKNOWN, Vocabulary
from cmg.errors import UserError
from cmg.files import read_text


def tokenizer(pieces, cased=False):
    """BERT's rules (Devlin et al. 2019) over a vocabulary, dict piece -> number."""
    found = Tokenizer(models.WordPiece(pieces, unk_token=UNKNOWN))
    found.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return found


def learn_vocabulary(captions, size) -> Vocabulary:
    """The vocabulary of `size` pieces, its marks included, that spells captions in the fewest; the same of the same
    captions."""
    plain = tokenizer({UNKNOWN: 0})
    words = [word for caption in captions
             for word, _ in plain.pre_tokenizer.pre_tokenize_str(plain.normalizer.normalize_str(caption))]
    # The library numbers letters within words in the order of a hash table, which decides between equals: known before,
    # they are in order.
    inside = [f"##{letter}" for letter in sorted({letter for word in words for letter in word[1:]})]
    least = len(MARKS) + len(inside) + len({word[0] for word in words}) + 1
    if size < least:
        raise UserError(f"--vocabulary-size {size}: expected at least {least}, the letters of these captions")
    trainer = trainers.WordPieceTrainer(vocab_size=size - 1, special_tokens=[*MARKS, *inside], show_progress=False)
    plain.train_from_iterator(captions, trainer)
    pieces = plain.get_vocab()
    return Vocabulary(sorted(pieces, key=pieces.get))


def read_vocabulary(path) -> Vocabulary:
    """Of a feature file, or of a text with a piece a line; a Vocabulary is itself."""
    if isinstance(path, Vocabulary):
        return path
    if Path(path).suffix in (".h5", ".hdf5"):
        file = FeatureFile(path)
        if "text" not in file.vocabularies:
            raise UserError(f"--text-weights {path}: its text has no vocabulary; expected a feature file of "
                            "--text-backbone wordpiece, or a vocab.txt")
        return file.vocabularies["text"]
    return Vocabulary(read_text(path, "vocabulary, a piece a line").splitlines(), path)


class WordPiece:
    """Captions [K strings] -> int32 [K, L], each marked, cut to L numbers and filled up with those of [PAD]."""

    name = "wordpiece"
    modality = "text"
    reads = "captions"
    dtype = "int32"
    expects = ("a vocabulary: vocab.txt of a BERT, or a feature file whose vocabulary is used",)
    shape = ()

    def __init__(self, weights, device="cpu", precision="fp32"):
        self.vocabulary = read_vocabulary(weights[0])
        self.tokenizer = tokenizer(self.vocabulary.number, self.vocabulary.cased)

    @property
    def sha256(self):
        return self.vocabulary.sha256

    def __call__(self, captions, length):
        pieces = (self.tokenizer.encode(caption, add_special_tokens=False).tokens for caption in captions)
        return np.array([self.vocabulary.caption(one, length) for one in pieces], np.int32).reshape(-1, length)
