"""The homes of the sets, copies at hand, and what is refused: each in one line."""

import gzip
import io
import socket
import zipfile

import numpy as np
import pytest

from cmg.data.compose import digits, nature, sources
from cmg.data.compose.sources import Place, cifar, files_of, mnist
from cmg.errors import UserError
from support_clips import (
    by_name,
    compose,
    digest,
    digit_sources,
    nature_sources,
    serving,
    tiny_cifar,
    tiny_fsdd,
    tiny_mnist,
    wav,
    zipped,
)


def at_hand(flag, folder):
    return Place({flag: str(folder)}, folder / "downloads")


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_given_material_has_the_sums_that_the_homes_have(digits):
    """The 3000 recordings of the folder of digit clips, written as WAV files again, and its IDX files."""
    with np.load(digits / "audio_fsdd_8k.npz") as file:
        sound, offsets, names = (file[name] for name in ("audio", "offsets", "name"))
    recordings = {f"{name}.wav": wav(sound[a:b]) for name, a, b in zip(names, offsets, offsets[1:])}
    assert len(recordings) == 3000 and digest(by_name(recordings)) == sources.FSDD.sha256
    images, labels = mnist(at_hand("--mnist", digits / "idx"))
    with np.load(digits / "images_mnist.npz") as file:
        assert np.array_equal(images, file["images"]) and np.array_equal(labels, file["label"])
    with pytest.raises(UserError, match="wav: 60 files .*; expected 3000, of Free Spoken Digit Dataset$"):
        files_of(sources.FSDD, at_hand("--fsdd", digits / "wav"))


@pytest.mark.parametrize("packed", [True, False])
def test_a_copy_may_be_packed_or_not(tmp_path, monkeypatch, packed):
    digit_sources(monkeypatch)
    content = tiny_mnist()
    write(tmp_path, {"deep/" + name + ".gz" * packed: gzip.compress(part) if packed else part for name, part in zip(
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"), content)})
    images, labels = mnist(at_hand("--mnist", tmp_path))
    assert images.tobytes() == content[0][16:] and labels.tolist() == list(content[1][8:])


def test_fetched_sets_are_as_copies_and_fetched_once(tmp_path, monkeypatch):
    with serving(digit_sources(monkeypatch), cut=5000) as (address, asked):
        for out in ("a", "b"):
            compose("digits", tmp_path / out, address)
        assert {name for name, _ in asked} == {
            "free-spoken-digit-dataset-1.0.10.zip", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"}
        assert sum(wanted is None for _, wanted in asked) == 3  # each begun once, and then continued
    write(tmp_path / "fsdd", tiny_fsdd())
    write(tmp_path / "mnist", dict(zip(("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"), tiny_mnist())))
    copies = ["--fsdd", str(tmp_path / "fsdd"), "--mnist", str(tmp_path / "mnist")]
    compose("digits", tmp_path / "c", "http://nowhere", *copies)
    for path in (tmp_path / "a").rglob("*.*"):
        if path.suffix not in (".h5", ".npz"):  # these have times in them
            name = path.relative_to(tmp_path / "a")
            assert path.read_bytes() == (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_other_contents_are_refused_and_fetched_again(tmp_path, monkeypatch):
    served = digit_sources(monkeypatch)
    place = Place({}, tmp_path)
    recordings = tiny_fsdd()
    recordings["0_theo_0.wav"] = recordings["1_theo_0.wav"]
    good, bad = served[digits.FSDD.file], zipped(recordings)
    with serving(served) as (address, _):
        place = Place({}, tmp_path, address)
        served[digits.FSDD.file] = bad
        with pytest.raises(UserError, match="sha256 [0-9a-f]{64} of the files .* expected .*; removed, the same"):
            files_of(digits.FSDD, place)
        served[digits.FSDD.file] = good[:1000]
        with pytest.raises(UserError, match="damaged .*; removed, the same command fetches it again$"):
            files_of(digits.FSDD, place)
        served[digits.FSDD.file] = b"<!DOCTYPE html> sign in"
        with pytest.raises(UserError, match="an HTML page, not a zip archive; removed"):
            files_of(digits.FSDD, place)
        served[digits.FSDD.file] = good
        home = tmp_path / "Free-Spoken-Digit-Dataset"
        write(home, {"unfinished/0_theo_0.wav": b"of a call that was killed"})
        assert len(files_of(digits.FSDD, place)) == 600
        assert sorted(path.name for path in home.iterdir()) == [digits.FSDD.file, "unpacked"]


def test_a_copy_is_never_removed(tmp_path, monkeypatch):
    digit_sources(monkeypatch)
    write(tmp_path, tiny_fsdd() | {"0_theo_0.wav": b"other"})
    with pytest.raises(UserError, match="sha256 .* of the files .* expected [0-9a-f]{64}, of Free Spoken Digit"):
        files_of(digits.FSDD, at_hand("--fsdd", tmp_path))
    assert (tmp_path / "0_theo_0.wav").read_bytes() == b"other"
    with pytest.raises(UserError, match="--fsdd .*: no folder; expected one that holds Free Spoken Digit Dataset$"):
        files_of(digits.FSDD, at_hand("--fsdd", tmp_path / "0_theo_0.wav"))


def test_a_member_that_climbs_out_stays_inside(tmp_path, monkeypatch):
    """Of zip archives; tarfile's own filter refuses such members."""
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as archive:
        archive.writestr("../../out.wav", b"x")
    with serving({digits.FSDD.file: box.getvalue()}) as (address, _):
        with pytest.raises(UserError, match="0 files"):
            files_of(digits.FSDD, Place({}, tmp_path / "a" / "b", address))
    assert not list(tmp_path.rglob("out.wav"))


def test_photos_are_read_from_the_archive_and_from_a_copy(tmp_path, monkeypatch):
    served, photos = nature_sources(monkeypatch), tiny_cifar()
    with serving(served) as (address, _):
        fetched = cifar(Place({}, tmp_path / "downloads", address))
    copy = cifar(at_hand("--cifar10", write(tmp_path / "copy", photos)))
    assert all(np.array_equal(a, b) for a, b in zip(fetched, copy))
    assert fetched[0].shape == (600, 32, 32, 3) and fetched[2][0] == "airplane"
    (tmp_path / "copy" / "cifar-10-batches-py" / "test_batch").write_bytes(b"a program")
    with pytest.raises(UserError, match="no whole cifar-10-batches-py; expected CIFAR-10, as torchvision knows it$"):
        cifar(at_hand("--cifar10", tmp_path / "copy"))


@pytest.mark.parametrize("name, flag", [("digits", "--fsdd"), ("nature", "--esc10")])
def test_no_network_is_one_line(tmp_path, capsys, name, flag):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(SystemExit) as stop:
            compose(name, tmp_path / "out", f"http://127.0.0.1:{nobody.getsockname()[1]}")
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.endswith(f"expected a network, or a copy: {flag} FOLDER")
    assert not (tmp_path / "out").exists()


def test_recordings_of_another_form_are_refused(tmp_path):
    path = write(tmp_path, {"0_theo_0.wav": b"RIFF"}) / "0_theo_0.wav"
    with pytest.raises(UserError, match="0_theo_0.wav: no WAV file"):
        digits.read_recordings([path])
    rates = (rate.to_bytes(4, "little") for rate in (8000, 16000))
    path.write_bytes(tiny_fsdd()["0_theo_0.wav"].replace(*rates, 1))
    with pytest.raises(UserError, match="1 channels, 16 bits, 16000 Hz; expected <digit>_<speaker>_<take 0 to 49>.wav"):
        digits.read_recordings([path])


def test_a_page_without_an_author_is_refused(tmp_path, monkeypatch):
    served = nature_sources(monkeypatch)
    with serving(served) as (address, _):
        place = Place({}, tmp_path, address)
        page = files_of(nature.ESC10, place)[0].parents[1] / "README.md"
        page.write_text("\n".join(page.read_text().splitlines()[1:]))
        with pytest.raises(UserError, match="README.md: no author of 1-1000-A.ogg; expected one of each recording$"):
            nature.Nature(place, 0)
