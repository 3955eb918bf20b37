"""The examples that are programs, run as a user runs them; the others are run where what they extend is tested."""

import runpy

from cmg.data.features import FeatureSet
from cmg.extract.__main__ import main as extract
from support import ROOT, untrained
from support_media import tone, write_wav


def test_own_features(tmp_path, capsys):
    """Two sensors of the same events come to share codes: ten in even use would agree by chance in a tenth."""
    same = runpy.run_path(str(ROOT / "examples" / "own_features.py"))["main"](tmp_path / "mine")
    assert same > 0.2 and "the two sensors have the same code in" in capsys.readouterr().out


def test_encode_and_hand_on(tmp_path, capsys):
    write_wav(tmp_path / "a.wav", tone(440, 3, 16_000), 16_000)
    extract(["--videos", str(tmp_path), "--modalities", "audio", "--seconds", "4", "--workers", "0", "--out",
             str(tmp_path / "a.h5")])
    untrained(tmp_path / "best.pt", None, features=FeatureSet(tmp_path / "a.h5"))
    main = runpy.run_path(str(ROOT / "examples" / "encode_and_hand_on.py"))["main"]
    assert main(tmp_path / "best.pt", tmp_path / "out", tmp_path / "a.wav")
    printed = capsys.readouterr().out
    assert "a.wav, audio: [" in printed and (tmp_path / "out" / "model.safetensors").is_file()
