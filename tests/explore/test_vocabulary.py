"""What a page says of codes: typical steps of distances that are known, places, words and labels."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from cmg.errors import UserError
from cmg.explore import vocabulary
from cmg.explore.vocabulary import Steps


def steps(codes, valid=None, distances=None):
    codes = torch.tensor(codes)
    valid = torch.ones_like(codes, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Steps(codes, valid, torch.zeros(codes.shape) if distances is None else torch.tensor(distances))


def test_typical_steps_are_the_nearest_one_of_each_clip():
    found = steps([[0, 0, 1], [0, 2, 0], [0, 0, 2]], [[True, True, True], [True, True, False], [True, True, True]],
                  [[5.0, 3.0, 1.0], [4.0, 2.0, 0.0], [1.0, 9.0, 1.5]])
    # code 0: clip 2 at 1, clip 0 at 3 (not its step at 5), clip 1 at 4 (its nearest step does not exist)
    assert vocabulary.typical(found, 4, 8, np.arange(3)) == [[2, 0, 0, 1, 1, 0], [0, 2], [2, 2, 1, 1], []]
    assert vocabulary.typical(found, 4, 2, np.arange(3))[0] == [2, 0, 0, 1]
    # clips 0 and 2 say the same: the nearer of both stands for them
    assert vocabulary.typical(found, 4, 8, np.array([0, 1, 0])) == [[2, 0, 1, 0], [0, 2], [2, 2, 1, 1], []]


def test_typical_steps_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    codes, valid = rng.integers(0, 9, (30, 7)), rng.random((30, 7)) < 0.8
    distances = rng.random((30, 7)).astype(np.float32)
    expected = []
    for code in range(9):
        best = {}
        for clip, step in zip(*np.nonzero((codes == code) & valid)):
            if clip not in best or distances[clip, step] < distances[clip, best[clip]]:
                best[clip] = step
        order = sorted(best, key=lambda clip: distances[clip, best[clip]])[:5]
        expected.append([int(x) for clip in order for x in (clip, best[clip])])
    assert vocabulary.typical(steps(codes, valid, distances), 9, 5, np.arange(30)) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 5, 40, 110])
def test_places_lie_in_the_square_and_apart(n):
    vectors = np.random.default_rng(0).normal(size=(n, 8))
    places = vocabulary.layout(vectors)
    assert places.shape == (n, 2) and (places >= 0).all() and (places <= 1).all()
    assert n == 1 or pdist(places).min() > 0.4 / np.sqrt(n)
    assert np.array_equal(places, vocabulary.layout(vectors))  # the same page of the same codes


def test_places_keep_groups_together():
    rng = np.random.default_rng(0)
    group = np.arange(60) % 3
    vectors = 20 * rng.normal(size=(3, 16))[group] + rng.normal(size=(60, 16))
    apart = cdist(*[vocabulary.layout(vectors)] * 2) + np.where(np.eye(60), np.inf, 0)
    assert (group[apart.argmin(1)] == group).mean() > 0.95


def test_places_of_equal_vectors_are_told_apart():
    assert pdist(vocabulary.layout(np.ones((6, 4)))).min() > 0.1


def test_alike_codes_are_the_nearest():
    vectors = np.random.default_rng(0).normal(size=(20, 4))
    apart = cdist(vectors, vectors) + np.where(np.eye(20), np.inf, 0)
    assert vocabulary.alike(vectors) == apart.argsort(1)[:, : vocabulary.ALIKE].tolist()
    assert vocabulary.alike(vectors[:1]) == [[]] and vocabulary.alike(vectors[:2]) == [[1], [0]]


def test_words_are_those_of_the_steps_or_not_known(tmp_path):
    (tmp_path / "c.csv").write_text('id,caption\na,"A dog, barking!"\nb,one two three four five\nc.mp4,short word\n')
    found = steps([[1, 2, 3, 0], [1, 1, 2, 2], [4, 0, 0, 0], [0, 0, 0, 0]],
                  [[True] * 3 + [False], [True] * 4, [True] + [False] * 3, [False] * 4])
    captions, words = vocabulary.caption_words(tmp_path / "c.csv", ["a", "b", "c", "d"], found, "hash")
    assert captions == ["A dog, barking!", "one two three four five", "short word", ""]
    assert words == [["a", "dog", "barking"], ["one", "two", "three", "four"], None, []]  # c has lost one of two
    assert vocabulary.frequent_words(found, 5, words) == [
        [], ["a", 1, "one", 1, "two", 1], ["dog", 1, "four", 1, "three", 1], ["barking", 1], []]
    # a backbone that passes over words may have had the last four of five
    assert vocabulary.caption_words(tmp_path / "c.csv", ["a", "b", "c", "d"], found, "word2vec")[1][1] is None


def test_labels_of_clips(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("id,label,start\nb,dog,0\nb,cat,3\nb,dog,5\nelse,cow,0\n")
    assert vocabulary.read_labels(path, ["a", "b"]) == [[], ["dog", "cat"]]
    with pytest.raises(UserError, match="l.csv: none of its ids is a clip of --data, with a label: labels have 'b'"):
        vocabulary.read_labels(path, ["a"])
