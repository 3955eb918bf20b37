"""Composed captions of the synthetic set (`--synthetic-captions K`): what happens in a clip and when, in words.

They take the place of word vectors as text, numbers of a vocabulary of whole words, K a clip in different phrasings.
Two events are told in the order in which the picture shows them.
"""

import numpy as np

from cmg.data.vocabulary import MARKS, Vocabulary

EVENTS = [tuple(one.split(", ")) for one in (
    "a dog, barks", "rain, falls", "a bell, rings", "a man, speaks", "a train, passes", "a baby, cries",
    "an engine, starts", "a bird, sings", "water, runs", "a crowd, cheers", "a cat, meows", "thunder, rolls",
    "a door, slams", "a clock, ticks", "a horse, gallops", "a violin, plays")]
LENGTH = 16  # numbers of a caption, marks included
WHEN = ("at first", "halfway", "in the end", "all the time")
PHRASES = (  # of one event, and of two
    ("{a} {does} {when}", "{a} {does} and then {b} {doing}"),
    ("there is {a} which {does} {when}", "there is {a} which {does} before {b} {doing}"),
    ("{when} one hears how {a} {does}", "one hears how {a} {does} until {b} {doing}"),
    ("in this clip {a} {does} {when}", "in this clip {a} {does} , later {b} {doing}"),
)
MOST = len(PHRASES)


def event(label):
    """Who does what: a class's words; of those beyond the list a thing with a number."""
    return EVENTS[label] if label < len(EVENTS) else (f"thing {label}", "moves")


def words_of(label, spans, seconds, phrase):
    """A caption as a list of words: `label` int [2], -1 where there is no second event; `spans` int [2, 2]."""
    middle, length = spans.sum(1) / 2 / seconds, spans[:, 1] - spans[:, 0]
    order = [k for k in np.argsort(middle, kind="stable") if label[k] >= 0]
    one, two = PHRASES[phrase]
    (a, does), (b, doing) = event(label[order[0]]), event(label[order[-1]])
    if len(order) == 2:
        return two.format(a=a, does=does, b=b, doing=doing).split()
    place = 3 if length[order[0]] >= 0.8 * seconds else int(np.digitize(middle[order[0]], (0.4, 0.6)))
    return one.format(a=a, does=does, when=WHEN[place]).split()


def vocabulary(classes) -> Vocabulary:
    """All words that captions of so many classes may have."""
    parts = [*WHEN, *(phrase for pair in PHRASES for phrase in pair), *(" ".join(event(k)) for k in range(classes))]
    words = sorted({word for part in parts for word in part.split() if "{" not in word})
    return Vocabulary([*MARKS, *words])


def render_captions(labels, spans, seconds, number, known):
    """Captions of n clips: int32 [n, K, LENGTH], all of them there: bool [n, K].

    labels : int [n, 2]. spans : int [n, 2, 2]. known : Vocabulary.
    """
    ids = [[known.caption(words_of(label, span, seconds, k), LENGTH) for k in range(number)]
           for label, span in zip(labels, spans)]
    return np.array(ids, np.int32), np.ones((len(labels), number), bool)
