"""Labels of one's own: how rows become clips, the split that names give, and one line for what is wrong."""

import numpy as np
import pytest

from cmg.data.ave import Clip
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.data.labels import ENDLESS, has_seconds, read_labels
from cmg.data.videos import place_of, video_of
from cmg.errors import UserError

SPLIT = "id,label,split\na,Dog,train\nb,Cat,val\nc,Cat,test\n"


@pytest.fixture
def labels(tmp_path):
    def read(text):
        (tmp_path / "labels.csv").write_text(text)
        return read_labels(tmp_path / "labels.csv")

    return read


def test_a_row_a_clip(labels):
    found = labels("split,id,start,end,label\ntrain,a,1.4,2.5,Dog\nval,b,,,Cat\ntest,c,0,7,Cat\n")
    assert found.classes == ["Cat", "Dog"] and has_seconds(found)
    assert found.splits == {"train": [Clip("a", "Dog", 1, 3)], "val": [Clip("b", "Cat", 0, ENDLESS)],
                            "test": [Clip("c", "Cat", 0, 7)]}
    assert not has_seconds(labels(SPLIT))


def test_without_a_split_the_test_clips_are_those_held_out(labels, tmp_path):
    """Cuts of a video are in one split, and `--hold-out 0.2` of pretraining leaves out what is in test."""
    names = [f"{video:011d}_{cut}_{cut + 10}" for video in range(60) for cut in (0, 30)]
    found = labels("id,label\n" + "".join(f"{name},{'AB'[n % 2]}\n" for n, name in enumerate(names)))
    where = {clip.id: split for split, clips in found.splits.items() for clip in clips}
    assert len(where) == 120 and len({(video_of(name), split) for name, split in where.items()}) == 60
    assert {split: sum(own == split for own in where.values()) > 8 for split in where.values()} == {
        "train": True, "val": True, "test": True}
    with FeatureWriter(tmp_path / "x.h5", {"audio": (2, 3)}, {"source": "made up"}) as writer:
        writer.append(names, {"audio": np.arange(120 * 6, dtype=np.float32).reshape(120, 2, 3)}, None)
    kept = FeatureSet(tmp_path / "x.h5", hold_out=0.2)
    assert kept.ids == [name for name in names if where[name] != "test"] and len(kept) < 120
    rows = [names.index(name) for name in kept.ids]
    assert kept.stored([*range(len(kept))])["audio"][:, 0, 0].tolist() == [6 * row for row in rows]
    assert kept.rows_of([kept.ids[3]])[0].tolist() == [3]
    assert sum(place_of(str(n)) < 0.2 for n in range(2000)) == pytest.approx(400, abs=60)


def test_what_is_held_out_is_named_where_it_is_little_and_refused_where_it_is_nothing(tmp_path, capsys):
    names = [f"dog {n}" for n in range(1, 6)]  # at 0.74, 0.45, 0.24, 0.89, 0.46
    with FeatureWriter(tmp_path / "x.h5", {"audio": (2, 3)}, {"source": "made up"}) as writer:
        writer.append(names, {"audio": np.ones((5, 2, 3), np.float32)}, None)
    least = min(map(place_of, names))
    with pytest.raises(UserError, match=r"--hold-out 0\.2: leaves out none of the 5 clips, .* or 0\.25 at least"):
        FeatureSet(tmp_path / "x.h5", hold_out=0.2)
    assert 0.24 <= least < 0.25
    assert FeatureSet(tmp_path / "x.h5", hold_out=0.25).ids == ["dog 1", "dog 2", "dog 4", "dog 5"]
    FeatureSet(tmp_path / "x.h5", hold_out=0.5)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "note: --hold-out 0.5: 3 of 5 clips left out: dog 2, dog 3, dog 5")


@pytest.mark.parametrize("text, message", [
    ("id,class\na,Dog\n", "expected a CSV with the columns id and label"),
    (SPLIT + "a,Cat,test\n", "line 5: clip a is in line 2 as well; expected one row a clip"),
    (SPLIT + ",Cat,test\n", "line 5: empty id or label"),
    (SPLIT + "d,Cat\n", "line 5: split ''; expected train, val, test"),
    (SPLIT + "d,Cat,dev\n", "line 5: split 'dev'; expected train, val, test"),
    ("id,label,split\na,Dog,train\nb,Cat,test\n", "none of 2 clips is in the val split; expected some"),
    ("id,label\na,Dog\na_,Dog\n", "split (without a column split a clip's name decides); expected that "
     "column, of train, val, test, or more clips"),
    (SPLIT.replace("Dog", "Cat"), "the only label is 'Cat'; expected two or more"),
    ("id,label,start,end\na,Dog,3,\n", "line 2: event from '3' to ''; expected two numbers of seconds, or none"),
    ("id,label,start,end\na,Dog,-3,2\n", "line 2: event from '-3' to '2'; expected two numbers of seconds, or none"),
    ("id,label,start,end\na,Dog,3,nan\n", "line 2: event from '3' to 'nan'; expected two numbers"),
    ("id,label,start,end\na,Dog,3,2\n", "line 2: the event ends at 2 s, before it begins at 3 s"),
])
def test_what_is_wrong_is_one_line(labels, text, message):
    with pytest.raises(UserError) as error:
        labels(text)
    assert message in str(error.value) and "labels.csv" in str(error.value)
