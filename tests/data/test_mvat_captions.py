"""Captions of MVAT's json: a list, or an object by id; fields that are lacking or empty are told by the clip's name."""

import json

import pytest

from cmg.data.captions import read_captions
from cmg.errors import UserError

CLIPS = [{"id": "a-1_x", "sound_mplug": "a dog barks", "mplug": "a dog", "title": 3}, {"id": "b", "mplug": "a cat"},
         {"id": "c", "sound_mplug": " rain "}]


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def test_a_list(tmp_path):
    captions, skipped = read_captions(written(tmp_path / "a.json", CLIPS))
    assert [(one.id, one.text) for one in captions] == [("a-1_x", "a dog barks"), ("c", "rain")]
    assert len(skipped) == 1 and "entry 1: b has an empty caption, left out" in skipped[0]


def test_an_object_by_id_and_the_next_field(tmp_path):
    by_id = {one["id"]: {k: v for k, v in one.items() if k not in ("id", "sound_mplug")} for one in CLIPS}
    captions, skipped = read_captions(written(tmp_path / "a.json", by_id))
    assert [(one.clip, one.text) for one in captions] == [("a-1_x", "a dog"), ("b", "a cat")]
    assert "entry 2: c has an empty caption" in skipped[0]


@pytest.mark.parametrize(("content", "said"), [
    ([{"mplug": "x"}], "entry 0: no id; expected objects with id and sound_mplug or mplug or caption"),
    (["x"], "entry 0: no id"),
    ([], "no captions in it"),
    ({"a": {"title": "x"}}, "no captions in it; expected objects with id"),
    ({"a": "x"}, "'images' is missing"),
])
def test_other_forms_are_refused_in_one_line(tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        read_captions(written(tmp_path / "a.json", content))
