"""Composed captions of the synthetic set: what happens and when, in words that their vocabulary has."""

import numpy as np
import pytest

from cmg.data.features import FeatureSet
from cmg.data.synthetic import SyntheticSpec, sample_events, synthetic_files
from cmg.data.synthetic_captions import LENGTH, MOST, vocabulary, words_of
from cmg.data.vocabulary import UNKNOWN
from cmg.errors import UserError

SPEC = SyntheticSpec(clips=40, ave_clips=(20, 5, 5), classes=18, captions=MOST)


def test_captions_say_what_happens_in_order():
    alone, both = np.array([0, -1]), np.array([0, 1])
    early, late = np.array([[0, 3], [0, 0]]), np.array([[6, 10], [1, 4]])
    assert " ".join(words_of(alone, early, 10, 0)) == "a dog barks at first"
    assert " ".join(words_of(alone, np.array([[0, 9], [0, 0]]), 10, 1)) == "there is a dog which barks all the time"
    assert " ".join(words_of(both, late, 10, 0)) == "rain falls and then a dog barks"
    assert " ".join(words_of(np.array([17, -1]), late, 10, 0)) == "thing 17 moves in the end"


def test_files_hold_them_and_keep_the_rest(tmp_path):
    files, plain = synthetic_files(tmp_path, SPEC), synthetic_files(tmp_path, SyntheticSpec(
        clips=40, ave_clips=(20, 5, 5), classes=18))
    features, others = FeatureSet(files.pretrain), FeatureSet(plain.pretrain)
    assert features.shapes["text"] == (MOST, LENGTH) and features.kinds["text"] == "tokens"
    ids, exists = features.tokens("text")
    words, events = features.vocabularies["text"], sample_events(SPEC, "pre")
    assert exists.all() and words == vocabulary(18) and not (ids == words.number[UNKNOWN]).any()
    for row, (label, spans) in enumerate(zip(events.label, events.video)):
        wanted = [" ".join(words_of(label, spans, 10, k)) for k in range(MOST)]
        assert words.sentences(ids[row].tolist()) == wanted and len(set(wanted)) == MOST
    for m in ("video", "audio"):
        np.testing.assert_array_equal(features.tokens(m)[0], others.tokens(m)[0])
    with pytest.raises(UserError, match=f"--synthetic-captions is 9, expected at most {MOST}"):
        SyntheticSpec(captions=9)
