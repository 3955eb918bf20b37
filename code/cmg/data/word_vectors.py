"""Word vectors of word2vec and gensim: `.bin` of the original tool, `.kv` of gensim, neither needs gensim.

A `.bin` begins with a line `words width`; then of each word its UTF-8 text, a space and `width` little-endian float32.
A `.kv` is a pickle; it is read with stand-ins for gensim's classes, so that nothing in it is run. The vectors of large
ones lie beside it, in `<name>.vectors.npy`. Vectors are mapped, not read: GoogleNews' three million words are 3.6 GB.
"""

import mmap
from pathlib import Path

import numpy as np

from cmg.data.pickles import BadPickle, floats, value_in
from cmg.errors import UserError
from cmg.files import sha256

LONGEST = 1 << 12  # bytes of a word; where none ends within them the file is no .bin
EXPECTED = "word vectors as a .bin of word2vec or a .kv of gensim"


class _KeyedVectors:
    """Stands for gensim's class; a pickle fills in what that had."""


class _Vocab:
    """Stands for gensim 3's entry of a word."""


STAND_INS = {("gensim.models.keyedvectors", name): _KeyedVectors
             for name in ("KeyedVectors", "Word2VecKeyedVectors", "EuclideanKeyedVectors")}
STAND_INS[("gensim.models.keyedvectors", "Vocab")] = _Vocab


class WordVectors:
    """Vectors of words by their spelling, upper and lower case apart.

    Parameters
    ----------
    path : the file. Raises `UserError` for one that is missing, damaged or something else.

    Attributes
    ----------
    width : int, of a vector
    files : what was read, the vectors beside a .kv included
    """

    def __init__(self, path):
        self.path = path = Path(path)
        if path.suffix not in (".bin", ".kv"):
            raise UserError(f"{path}: expected {EXPECTED}")
        try:
            self.files = self._of_bin() if path.suffix == ".bin" else self._of_gensim()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected {EXPECTED}") from None

    def __contains__(self, word):
        return word in self._place

    @property
    def sha256(self):
        return sha256(*self.files)

    def of(self, words, most=None):
        """Vectors of the words that are known, the first `most` of these: float32 ndarray [n, width]."""
        places = [self._place[word] for word in words if word in self._place][:most]
        if self._vectors is not None:
            return self._vectors[places].astype(np.float32).reshape(-1, self.width)
        rows = [np.frombuffer(self._mapped, "<f4", self.width, place) for place in places]
        return np.array(rows, np.float32).reshape(-1, self.width)

    def _of_bin(self):
        with open(self.path, "rb") as file:
            head = file.readline(64)
            number = head.split()
            if len(number) != 2 or not all(part.isdigit() for part in number) or not int(number[1]):
                raise UserError(f"{self.path}: its first line is {head[:30]!r}; expected the number of words and the "
                                "width, as word2vec writes it")
            count, self.width = map(int, number)
            self._mapped, self._vectors = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), None
        self._place, at, size = {}, len(head), 4 * self.width
        for n in range(count):
            space = self._mapped.find(b" ", at, at + LONGEST)
            if space < 0 or space + 1 + size > len(self._mapped):
                raise UserError(f"{self.path}: ends or is damaged at word {n} of {count}")
            word = self._mapped[at:space].lstrip(b"\n").decode("utf-8", "replace")  # some writers end a row with one
            self._place.setdefault(word, space + 1)
            at = space + 1 + size
        return [self.path]

    def _of_gensim(self):
        beside = self.path.with_name(f"{self.path.name}.vectors.npy")
        try:
            found = vars(value_in(self.path, STAND_INS)) if self.path.is_file() else None
            if found is None:
                raise UserError(f"{self.path}: no such file; expected {EXPECTED}")
            stored = found.get("vectors")
            self._vectors = np.load(beside, mmap_mode="r", allow_pickle=False) if stored is None else floats(stored)
        except (BadPickle, TypeError, ValueError) as problem:
            raise UserError(f"{self.path}: {problem}; expected {EXPECTED}") from None
        except FileNotFoundError:
            raise UserError(f"{beside}: no such file; gensim keeps the vectors of {self.path.name} there") from None
        words = next((found[name] for name in ("index_to_key", "index2word", "index2entity") if name in found), None)
        if not isinstance(words, list) or self._vectors.ndim != 2 or len(words) != len(self._vectors):
            raise UserError(f"{self.path}: not a list of words and a vector of each; expected {EXPECTED}")
        self.width = self._vectors.shape[1]
        self._place = {word: row for row, word in enumerate(words)}
        return [self.path] if stored is not None else [self.path, beside]
