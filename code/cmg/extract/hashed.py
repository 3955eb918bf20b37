"""`hash`: a weight-free text backbone, hashed character n-grams of each word."""

import re
import unicodedata
import zlib

import numpy as np

WIDTH = 300
GRAMS = (2, 3, 4)
ZERO_WIDTH_SPACE = "\u200b"  # between words
WORD = re.compile(r"[^\W_]\w*(?:['’][^\W_]\w*)*")  # letters and digits, with apostrophes inside a word
# More letters in a row than words have in scripts without spaces: Thai, Lao, Burmese and Khmer; kana and Han.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{20}"
                      "|[\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]{7}")


def words_of(caption):
    """The words of a caption, lower case and without punctuation, in composed form.

    Combining marks (vowel signs, accents) are part of the word; characters that only steer its display are dropped.
    Scripts without spaces need them: a clause of `UNSPACED` text is one word.

    >>> words_of("A dog's bark -- LOUD!"), words_of("हिन्दी में")
    (['a', "dog's", 'bark', 'loud'], ['हिन्दी', 'में'])
    """
    text = "".join(c for c in caption if c == ZERO_WIDTH_SPACE or unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFC", text).lower()
    # Marks are no \w. As "_", of which the text has no more, they continue a word and begin none.
    marked = "".join("_" if unicodedata.category(c)[0] == "M" else " " if c == "_" else c for c in text)
    return [text[match.start() : match.end()] for match in WORD.finditer(marked)]


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
