"""Composed captions of the synthetic set: what is seen and heard, when and how often, in words that their vocabulary
has."""

import numpy as np
import pytest

from cmg.data.features import FeatureSet
from cmg.data.synthetic import SyntheticSpec, sample_events, synthetic_files
from cmg.data.synthetic_captions import EVENTS, LENGTH, MOST, TIMES, sample_composed, vocabulary, words_of
from cmg.data.vocabulary import UNKNOWN
from cmg.errors import UserError

SPEC = SyntheticSpec(clips=40, ave_clips=(20, 5, 5), classes=18, captions=MOST)


def told(seen, heard, sounds, phrase=0):
    """The caption of a clip with what is seen (label, span), and one sound in these seconds."""
    label, video, audio = np.full(5, -1), np.zeros((5, 2), int), np.zeros((5, 2), int)
    for slot, (thing, span) in enumerate(seen):
        label[slot], video[slot] = thing, span
    for slot, second in enumerate(sounds, 2):
        label[slot], audio[slot] = heard, (second, second + 1)
    return " ".join(words_of(label, video, audio, phrase))


def test_captions_say_what_is_seen_and_heard():
    assert told([(0, (0, 5))], 2, [1]) == "a dog is seen while a bell rings once"
    assert told([(0, (5, 10))], 2, [0, 2]) == "a bell rings twice before a dog is seen"
    assert told([(0, (0, 5))], 2, [5, 7, 9], 2) == "first a dog is near , in the end a bell rings three times"
    both = [(0, (0, 5)), (1, (5, 10))]
    assert told(both, 2, [0], 1) == "there is a dog and meanwhile a bell rings once , later there is rain"
    assert told(both, 17, [6, 8], 3) == "in this clip of a dog it shows rain when thing 17 moves twice"


def test_every_caption_tells_its_clip_apart():
    """What happens can be read out of a caption, and no other clip has it: of 2000 clips in 4 phrasings, equal captions
    are of clips that are equal but for their exact seconds."""
    label, video, audio = sample_composed(np.random.default_rng(0), 2000, 6, 10)
    assert (audio[:, :2] == 0).all() and (video[:, 2:] == 0).all()  # what is seen is not heard
    meaning = {}
    for one in zip(label, video, audio):
        heard = one[2][2:][one[0][2:] >= 0]
        assert 1 <= len(heard) <= 3 and ((heard[1:, 0] - heard[:-1, 1]) == 1).all() and heard.max() <= 10
        # seconds of the sound, less those in which each thing comes and goes: only their order is told
        order = tuple(np.sign(heard[0, 0] + 0.5 - one[1][k]).tolist() for k in range(2) if one[0][k] >= 0)
        said = tuple(" ".join(words_of(*one, k)) for k in range(MOST))
        what = (*one[0].tolist(), len(heard), str(order))
        assert meaning.setdefault(said, what) == what and len(set(said)) == MOST
        thing, does = EVENTS[one[0][2]]
        assert all(f"{thing} {does} {TIMES[len(heard) - 1]}" in caption for caption in said)
        assert max(len(caption.split()) for caption in said) <= LENGTH - 2
    assert len({said[0] for said in meaning}) == len(meaning) > 800


def test_files_hold_them(tmp_path):
    files = synthetic_files(tmp_path, SPEC)
    features = FeatureSet(files.pretrain)
    assert features.shapes["text"] == (MOST, LENGTH) and features.kinds["text"] == "tokens"
    ids, exists = features.tokens("text")
    words, events = features.vocabularies["text"], sample_events(SPEC, "pre")
    assert exists.all() and words == vocabulary(18) and not (ids == words.number[UNKNOWN]).any()
    for row, clip in enumerate(zip(*events)):
        assert words.sentences(ids[row].tolist()) == [" ".join(words_of(*clip, k)) for k in range(MOST)]
    events = sample_events(SPEC, "test")
    lines = (files.annotations / "testSet.txt").read_text().splitlines()
    assert [tuple(map(int, line.split("&")[3:])) for line in lines] == [tuple(span) for span in events.video[:, 0]]
    with pytest.raises(UserError, match=f"--synthetic-captions is 9, expected at most {MOST}"):
        SyntheticSpec(captions=9)
