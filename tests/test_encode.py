"""`cmg encode`: what is printed and written is what the model gives; what is refused."""

import csv
import json

import h5py
import numpy as np
import pytest

import cmg
from cmg.data.features import FeatureSet
from cmg.encode import main
from cmg.extract.__main__ import main as extract
from support import untrained
from support_media import tone, write_wav


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(checkpoint of sound and text, two wave files of 2 and 3 seconds)."""
    folder = tmp_path_factory.mktemp("encode")
    files = []
    for name, seconds in (("a", 2), ("b", 3)):
        write_wav(folder / f"{name}.wav", tone(300 * seconds, seconds, 16_000), 16_000)
        files.append(str(folder / f"{name}.wav"))
    (folder / "captions.csv").write_text("id,caption\na,a dog\nb,rain\n")
    extract(["--videos", str(folder), "--captions", str(folder / "captions.csv"), "--modalities", "audio", "text",
             "--seconds", "4", "--words", "4", "--workers", "0", "--out", str(folder / "ab.h5")])
    features = FeatureSet(folder / "ab.h5")
    untrained(folder / "best.pt", None, features=features)
    untrained(folder / "plain.pt", None, "small", "multisk", features, width=16, joint_dim=12, heads=2)
    return folder / "best.pt", files


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_codes_of_files_and_sentences(trained, tmp_path, capsys):
    path, files = trained
    wanted = cmg.load_pretrained(path).encode_files(*files, sentences=["a loud dog"])
    codes = {files[0]: {"audio": wanted["audio"].codes[0, :2].tolist()},
             files[1]: {"audio": wanted["audio"].codes[1, :3].tolist()},
             "a loud dog": {"text": wanted["text"].codes[2, :3].tolist()}}
    call = [*files, "--sentences", "a loud dog", "--checkpoint", str(path), "--device", "cpu"]
    main(call)
    assert capsys.readouterr().out.splitlines() == [
        f"{name}  {m:5}  {' '.join(map(str, own))}" for name, found in codes.items() for m, own in found.items()]

    main([*call, "--out", str(tmp_path / "codes.json")])
    assert json.loads((tmp_path / "codes.json").read_text()) == codes
    assert capsys.readouterr().out == f"{tmp_path}/codes.json: 3 rows, audio, text\n"
    main([*call, "--out", str(tmp_path / "codes.csv")])
    with open(tmp_path / "codes.csv", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [(name, m, str(step), str(code)) for name, found in codes.items() for m, own in found.items()
                    for step, code in enumerate(own)]
    main([*call, "--out", str(tmp_path / "codes.h5")])
    with h5py.File(tmp_path / "codes.h5") as file:
        assert file["id"].asstr()[:].tolist() == list(codes)
        for m, tokens in wanted.items():
            for name, x in tokens._asdict().items():
                assert np.array_equal(file[f"{name}/{m}"], x.numpy()), (m, name)


def test_several_codes_of_a_step_stand_together(trained, tmp_path, capsys):
    path, files = trained
    untrained(tmp_path / "pieces.pt", None, "small", "onecode", FeatureSet(path.with_name("ab.h5")), pieces=2)
    codes = cmg.load_pretrained(tmp_path / "pieces.pt").encode_files(files[0])["audio"].codes[0, :2].tolist()
    call = [files[0], "--checkpoint", str(tmp_path / "pieces.pt"), "--device", "cpu"]
    main(call)
    assert capsys.readouterr().out == f"{files[0]}  audio  {' '.join(f'{a}+{b}' for a, b in codes)}\n"
    main([*call, "--out", str(tmp_path / "codes.json")])
    assert json.loads((tmp_path / "codes.json").read_text()) == {files[0]: {"audio": codes}}
    main([*call, "--out", str(tmp_path / "codes.csv")])
    with open(tmp_path / "codes.csv", newline="") as file:
        assert [row["code"] for row in csv.DictReader(file)] == [f"{a}+{b}" for a, b in codes]


def test_a_model_without_codes_has_vectors(trained, tmp_path, capsys):
    path, files = trained
    call = [*files, "--checkpoint", path.with_name("plain.pt"), "--device", "cpu"]
    assert "plain.pt: offers vectors and no codes; expected --out FILE.h5 for its vectors" in refused(capsys, *call)
    main([*map(str, call), "--out", str(tmp_path / "a.h5")])
    with h5py.File(tmp_path / "a.h5") as file:
        assert {*file} == {"id", "semantic", "valid"} and file["semantic/audio"].shape == (2, 4, 12)


def test_refusals(trained, tmp_path, capsys):
    path, files = trained
    call = ["--checkpoint", path, "--device", "cpu"]
    assert "FILE: nothing to encode; expected files, or --sentences" in refused(capsys, *call)
    assert f"FILE {files[0]}: given twice" in refused(capsys, *files, files[0], *call)
    assert "--out codes.txt: expected a file that ends in .csv, .json, .h5" in refused(
        capsys, *files, *call, "--out", "codes.txt")
    assert "c.wav: cannot be opened (No such file" in refused(capsys, tmp_path / "c.wav", *call)
    assert "--audio-weights" not in refused(capsys, *files, *call, "--modalities", "video")
    assert not [*tmp_path.iterdir()]
