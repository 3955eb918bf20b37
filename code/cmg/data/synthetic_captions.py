"""Composed clips of the synthetic set and their captions (`--synthetic-captions K`): a small grammar of what is seen
and heard, in which order, how often and at what time, so that a caption needs both sight and sound.

    seen    one thing for a part of the clip, or two, one after the other
    heard   one thing, once to three times, a second each, with a second between
    when    while the thing is seen, before it or after it; of two, while the first one or the second one is seen

What is seen cannot be heard and the other way round: all three are drawn apart, out of the same classes. A clip has
five slots of events, of which the first two are seen and the others heard; the same sound in several slots is heard
several times. K captions say the same in different words. They take the place of word vectors as text, numbers of a
vocabulary of whole words.
"""

import numpy as np

from cmg.data.vocabulary import MARKS, Vocabulary

RECIPE = 2  # raise it when the same settings give other clips or captions
EVENTS = [tuple(one.split(", ")) for one in (
    "a dog, barks", "rain, falls", "a bell, rings", "a man, speaks", "a train, passes", "a baby, cries",
    "an engine, starts", "a bird, sings", "water, runs", "a crowd, cheers", "a cat, meows", "thunder, rolls",
    "a door, slams", "a clock, ticks", "a horse, gallops", "a violin, plays")]
LENGTH = 22  # numbers of a caption, marks included
SEEN, HEARD = 2, 3  # slots
TIMES = ("once", "twice", "three times")
PHRASES = (  # {a} and {b} are what is seen, {c} what is heard
    {"while": "{a} is seen while {c}", "before": "{c} before {a} is seen", "after": "{a} is seen before {c}",
     "first": "{a} is seen while {c} , then {b}", "second": "{a} is seen , then {b} while {c}"},
    {"while": "there is {a} and meanwhile {c}", "before": "{c} , then there is {a}", "after": "there is {a} , then {c}",
     "first": "there is {a} and meanwhile {c} , later there is {b}",
     "second": "there is {a} , later there is {b} and meanwhile {c}"},
    {"while": "{c} as {a} is near", "before": "first {c} , in the end {a} is near",
     "after": "first {a} is near , in the end {c}", "first": "first {a} is near as {c} , in the end {b}",
     "second": "first {a} is near , in the end {b} as {c}"},
    {"while": "in this clip of {a} {c}", "before": "in this clip {c} until it shows {a}",
     "after": "in this clip of {a} it ends when {c}", "first": "in this clip of {a} {c} until it shows {b}",
     "second": "in this clip of {a} it shows {b} when {c}"},
)
MOST = len(PHRASES)


def event(label):
    """Who does what: a class's words; of those beyond the list a thing with a number."""
    return EVENTS[label] if label < len(EVENTS) else (f"thing {label}", "moves")


def sample_composed(rng, n, classes, seconds):
    """What is seen and heard in n clips.

    Returns
    -------
    label : int [n, 5], -1 where a slot is empty. video, audio : int [n, 5, 2], [onset, offset) in seconds of what is
    seen and of what is heard, [0, 0) elsewhere.
    """
    label = np.full((n, SEEN + HEARD), -1)
    video, audio = (np.zeros((n, SEEN + HEARD, 2), int) for _ in range(2))
    for i in range(n):
        a, b, c = rng.integers(classes), rng.integers(classes - 1), rng.integers(classes)
        cut = int(rng.integers(seconds // 2 - 1, seconds // 2 + 2))
        halves = [(0, cut), (cut, seconds)]
        two, sight, sound = rng.random() < 0.5, int(rng.integers(2)), int(rng.integers(2))
        label[i, 0], video[i, 0] = a, halves[0 if two else sight]
        if two:
            label[i, 1], video[i, 1] = (b + (b >= a)), halves[1]
        start, stop = halves[sound]
        times = int(rng.integers(1, min(HEARD, (stop - start + 1) // 2) + 1))
        start += int(rng.integers(stop - start - 2 * times + 2))
        label[i, SEEN : SEEN + times] = c
        audio[i, SEEN : SEEN + times] = start + 2 * np.arange(times)[:, None] + [0, 1]
    return label, video, audio


def words_of(label, video, audio, phrase):
    """A caption as a list of words: `label` int [5]; `video`, `audio` int [5, 2]."""
    heard = audio[SEEN:][label[SEEN:] >= 0]
    (c, does), (start, stop) = event(label[SEEN]), video[0]
    if label[1] >= 0:
        when = "first" if heard[0, 0] < video[1, 0] else "second"
    else:
        when = "before" if heard[0, 0] < start else "while" if heard[0, 0] < stop else "after"
    return PHRASES[phrase][when].format(a=event(label[0])[0], b=event(label[1])[0],
                                        c=f"{c} {does} {TIMES[len(heard) - 1]}").split()


def vocabulary(classes) -> Vocabulary:
    """All words that captions of so many classes may have."""
    parts = [*TIMES, *(phrase for kinds in PHRASES for phrase in kinds.values()),
             *(" ".join(event(k)) for k in range(classes))]
    words = sorted({word for part in parts for word in part.split() if "{" not in word})
    return Vocabulary([*MARKS, *words])


def render_captions(label, video, audio, number, known):
    """Captions of n clips: int32 [n, K, LENGTH], all of them there: bool [n, K]. known : Vocabulary."""
    ids = [[known.caption(words_of(*clip, k), LENGTH) for k in range(number)] for clip in zip(label, video, audio)]
    return np.array(ids, np.int32), np.ones((len(label), number), bool)
