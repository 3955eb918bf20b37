"""A checkpoint in which one bit has turned is refused, wherever the bit is."""

import numpy as np
import pytest
import torch

from cmg.errors import UserError
from cmg.training import checkpoint


def turned(path, place):
    """Turn one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[place // 8] ^= 1 << place % 8
    path.write_bytes(raw)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_no_turned_bit_becomes_another_weight(tmp_path):
    """Of 200 single bits every one is refused or, between the entries, changes nothing."""
    content = {name: torch.randn(16, 16) for name in ("a", "b", "c")}
    checkpoint.save(tmp_path / "whole.pt", content)
    raw, refused = (tmp_path / "whole.pt").read_bytes(), 0
    assert equal(checkpoint.load(tmp_path / "whole.pt"), content)
    for place in np.random.default_rng(0).integers(0, 8 * len(raw), 200):
        (tmp_path / "a.pt").write_bytes(raw)
        turned(tmp_path / "a.pt", int(place))
        try:
            assert equal(checkpoint.load(tmp_path / "a.pt"), content), place
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path / "a.pt") in str(error)
            refused += 1
    assert refused >= 130  # the weights are two thirds of this file


def test_the_entry_is_named(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"weight": torch.ones(64)})
    turned(path, 8 * path.read_bytes().index(torch.ones(64).numpy().tobytes()) + 20)
    with pytest.raises(UserError, match=r"a.pt: .*damaged \(entry a.*/data/0 does not have the checksum it was"):
        checkpoint.load(path)
