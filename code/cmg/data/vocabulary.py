"""The vocabulary of text as numbers: pieces of words, as WordPiece writes them, and the marks around a caption.

    [PAD] fills up what is short, [UNK] is what no piece spells, [CLS] and [SEP] stand before and after a caption, [DEC]
    starts one that is written

A caption is [CLS] piece … piece [SEP]. [PAD] is number 0, as in BERT's own files, and [DEC], which those do not have,
is the last. A feature file of tokens keeps its vocabulary, so that numbers turn back into words without any other file.
"""

import hashlib

from cmg.errors import UserError

PAD, UNKNOWN, FIRST, END, START = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]"
MARKS = (PAD, UNKNOWN, FIRST, END, "[MASK]")  # that a vocabulary of ours begins with, in the order of BERT's


class Vocabulary:
    """Pieces by number.

    Parameters
    ----------
    pieces : list[str]; [DEC] is added where it is lacking.
    where : file, for messages

    Raises
    ------
    UserError : a piece twice, a mark that is lacking, or [PAD] that is not the first.

    >>> words = Vocabulary([*MARKS, "a", "dog", "##s"])
    >>> words.sentences([[8, 5, 6, 7, 3, 0]])
    ['a dogs']
    """

    def __init__(self, pieces, where="vocabulary"):
        self.pieces = list(pieces)
        if START not in self.pieces:
            self.pieces.append(START)
        self.number = {piece: number for number, piece in enumerate(self.pieces)}
        if len(self.number) < len(self.pieces):
            raise UserError(f"{where}: a piece occurs twice; expected a piece a line, each once")
        for mark in (PAD, UNKNOWN, FIRST, END):
            if mark not in self.number:
                raise UserError(f"{where}: {mark} is missing; expected a vocabulary of BERT's form")
        if self.number[PAD] or self.number[START] != len(self.pieces) - 1:
            raise UserError(f"{where}: {PAD} is number {self.number[PAD]}, {START} number {self.number[START]}; "
                            f"expected the first and the last of {len(self.pieces)}")

    def __len__(self):
        return len(self.pieces)

    def __eq__(self, other):
        return isinstance(other, Vocabulary) and self.pieces == other.pieces

    @property
    def end(self):
        """Number of [SEP]."""
        return self.number[END]

    @property
    def sha256(self):
        """Of the pieces, one a line."""
        return hashlib.sha256("\n".join(self.pieces).encode()).hexdigest()

    @property
    def cased(self):
        """Whether it tells capitals apart: a piece that is no mark has one."""
        return any(piece != piece.lower() for piece in self.pieces if not (piece[0] == "[" and piece[-1] == "]"))

    def caption(self, pieces, length):
        """Numbers of one caption, `length` of them: marked, cut where it is too long, filled up."""
        unknown = self.number[UNKNOWN]
        inside = [self.number.get(piece, unknown) for piece in pieces][: length - 2]
        row = [self.number[FIRST], *inside, self.end]
        return row + [0] * (length - len(row))

    def sentences(self, rows):
        """The words of captions: list of str of lists of numbers. What follows the first end is not read."""
        silent = {self.number[mark] for mark in (PAD, FIRST, START)}
        found = []
        for row in rows:
            row = row[: row.index(self.end)] if self.end in row else row
            found.append(" ".join(self.pieces[n] for n in row if n not in silent).replace(" ##", ""))
        return found
