"""`word2vec`: a word vector of each word, out of a word2vec `.bin` or a gensim `.kv`."""

from cmg.data.word_vectors import WordVectors
from cmg.extract.media import BadClip


class Word2Vec:
    """Each known word as its vector, [n, width]; a word that the file does not know is passed over.

    A word is looked up as captions come here, in lower case, and then with a capital letter, as names are spelt in
    such files.
    """

    name = "word2vec"
    modality = "text"
    expects = ("word vectors, a .bin of word2vec or a .kv of gensim",)

    def __init__(self, weights, device="cpu", precision="fp32"):
        self.known = WordVectors(weights[0])
        self.shape = (self.known.width,)

    @property
    def sha256(self):
        return self.known.sha256

    def __call__(self, steps):
        x = self.known.of([word if word in self.known else word.capitalize() for word in steps])
        if not len(x):
            raise BadClip("none of its words has a vector")
        return x
