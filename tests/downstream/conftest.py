"""Fixtures that the tests of several tasks share."""

import pytest
from support_pair import write_features, write_lists

from cmg.data.features import FeatureSet
from cmg.data.ucf_vggsound import read_pair_lists


@pytest.fixture
def sets(tmp_path):
    lists = read_pair_lists(write_lists(tmp_path / "lists"))
    features = {m: FeatureSet(write_features(tmp_path / f"{m}.h5", m, items)) for m, items in lists.items.items()}
    return features, lists
