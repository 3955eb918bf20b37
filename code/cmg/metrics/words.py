"""The words of a sentence, as caption metrics count them. Scores depend on the choice, so every row names its own.

    ptb      the Penn Treebank words of the public COCO caption evaluation, by rules and without Java
    simple   lower case, runs of letters a to z, digits and apostrophes

`ptb` lower-cases, splits n't and the clitics 's 'm 'd 're 've 'll, takes "cannot" and its like apart, keeps words
that are joined by - / & _ . and numbers as 3.50 and 7:30 whole, keeps the full stop of p.m. and of a few abbreviations,
writes brackets as -lrb- and -rrb-, and drops the marks that the evaluation drops. Its rules agree with the Java program
on captions; on prose some words in a thousand differ.
"""

import re

CONTRACTED = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "lemme": "lem me",
              "gimme": "gim me"}
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
DROPPED = {*".?!,:;-'`\"", "--", "...", "''", "``", *"“”‘’„«»…–—"}
NEGATED = re.compile(r"(?<=\w)n't\b")
CLITIC = re.compile(r"(?<=\w)'(?=(?:s|m|d|re|ve|ll)\b)")
PTB_WORD = re.compile(
    r"(?:[a-z]\.){2,}"  # p.m.
    r"|\b(?:etc|mr|mrs|ms|dr|st|vs|jr|sr)\.(?=\s)"
    r"|n't\b|'(?:s|m|d|re|ve|ll)\b"
    r"|\d+(?:[.,:]\d+)+(?:-\w+)*"  # 3.50, 7:30, 10.5-inch
    r"|\w+(?:[-/&.']\w+)*"  # the underscore is a letter here
    r"|\.\.\.|--|\S"
)
SIMPLE_WORD = re.compile(r"[a-z0-9']+")


def ptb_words(sentence) -> list[str]:
    """Penn Treebank words.

    >>> ptb_words("The dog doesn't stop (at 7:30 p.m.) -- it's LOUD!")
    ['the', 'dog', 'does', "n't", 'stop', '-lrb-', 'at', '7:30', 'p.m.', '-rrb-', 'it', "'s", 'loud']
    """
    text = "".join(c for c in sentence.lower() if ord(c) < 0x10000).replace("’", "'")
    text = CLITIC.sub(" '", NEGATED.sub(" n't", text))
    found = []
    for word in PTB_WORD.findall(text):
        found += CONTRACTED.get(word, BRACKETS.get(word, word)).split()
    return [word for word in found if word not in DROPPED]


def simple_words(sentence) -> list[str]:
    """Lower case, runs of [a-z0-9'].

    >>> simple_words("A well-known chef's 10.5-inch knife")
    ['a', 'well', 'known', "chef's", '10', '5', 'inch', 'knife']
    """
    return SIMPLE_WORD.findall(sentence.lower())


TOKENIZERS = {"ptb": ptb_words, "simple": simple_words}
