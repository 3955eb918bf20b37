"""`hash`: a weight-free text backbone, hashed character n-grams of each word."""

import re
import zlib

import numpy as np

WIDTH = 300
GRAMS = (2, 3, 4)
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # letters and digits, with apostrophes inside a word


def words_of(caption):
    """The words of a caption, lower case and without punctuation.

    >>> words_of("A dog's bark -- LOUD!")
    ['a', "dog's", 'bark', 'loud']
    """
    return WORD.findall(caption.lower())


class HashedWords:
    """Each word as a unit vector: its character n-grams (2 to 4, with marks at both ends), hashed with a sign.

    Words that share their stem share most of their n-grams, so their vectors are close, as those of trained subword
    embeddings (Bojanowski et al. 2017) are. CRC-32 of the UTF-8 bytes gives index and sign on every machine alike.

    Example
    -------
    >>> HashedWords()(["seven", "sevens"]).shape
    (2, 300)
    """

    name = "hash"
    modality = "text"
    sha256 = ""
    expects = ()
    shape = (WIDTH,)

    def __call__(self, steps):
        x = np.zeros((len(steps), WIDTH), np.float32)
        for row, word in enumerate(steps):
            marked = f"<{word}>"
            for n in GRAMS:
                for start in range(len(marked) - n + 1):
                    code = zlib.crc32(marked[start : start + n].encode())
                    x[row, code % WIDTH] += 1.0 if code >> 31 else -1.0
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
