"""The examples that are programs, run as a user runs them; the others are run where what they extend is tested."""

import runpy

from support import ROOT


def test_own_features(tmp_path, capsys):
    """Two sensors of the same events come to share codes: ten in even use would agree by chance in a tenth."""
    same = runpy.run_path(str(ROOT / "examples" / "own_features.py"))["main"](tmp_path / "mine")
    assert same > 0.2 and "the two sensors have the same code in" in capsys.readouterr().out
