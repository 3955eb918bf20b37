"""The public sets that clips are composed of: their homes, how they are checked, and copies at hand.

`data/README.md` has their licences and authors. What is checked is what a set holds, for GitHub packs an archive anew
for everybody: the sha256 of all its files, one behind the other by name, .gz files unpacked:

    ls recordings/*.wav | LC_ALL=C sort | xargs cat | sha256sum
"""

import contextlib
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmg.data.compose.download import fetch
from cmg.errors import UserError
from cmg.files import damage_of, in_turn

try:
    from torchvision import datasets
    from torchvision.datasets.mnist import read_image_file, read_label_file
except ImportError:  # an extra
    datasets = None

DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error)
GITHUB, MNIST = "https://github.com", "https://ossci-datasets.s3.amazonaws.com/mnist"
ZIP, GZIP = b"PK", b"\x1f\x8b"  # how such files begin


class Source(NamedTuple):
    """A set, or a file of one, at its home."""

    name: str
    url: str
    file: str  # the name that it gets here, and has on a mirror
    flag: str  # that names a folder with a copy
    pattern: str = ""  # of the names of the files that are read
    number: int = 1  # of these
    sha256: str = ""  # of their contents, one behind the other by name
    file_sha256: str = ""  # of the file at its home, where that is always the same


FSDD = Source(
    "Free Spoken Digit Dataset", f"{GITHUB}/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip",
    "free-spoken-digit-dataset-1.0.10.zip", "--fsdd", "[0-9]_*_*.wav", 3000,
    "ddb17656a0bca4c5ddace082be188ca630516dc2ef1110afe3c4e9cc71173de4")
MNIST_IMAGES = Source(
    "MNIST's test images", f"{MNIST}/t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz", "--mnist",
    "t10k-images?idx3-ubyte*", 1, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6")
MNIST_LABELS = Source(
    "MNIST's test labels", f"{MNIST}/t10k-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "--mnist",
    "t10k-labels?idx1-ubyte*", 1, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6")
ESC10 = Source(
    "ESC-10", f"{GITHUB}/karolpiczak/ESC-10/archive/553c8f1743b9dba6b282e1323c3ca8fa76923448.zip", "ESC-10.zip",
    "--esc10", "[1-5]-*.ogg", 400, "d4e069c90fce7687a3729c31a06bf3b461567579c861d3bcc909e5310e8e669b")
CIFAR = Source(
    "CIFAR-10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "cifar-10-python.tar.gz", "--cifar10",
    file_sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce")


class Place(NamedTuple):
    """Where the sets are: copies at hand, or the folder that downloads go to."""

    copies: dict  # flag -> folder
    downloads: Path
    mirror: str = ""  # an address that has the files under their names, in the place of their homes


def files_of(source, place) -> list[Path]:
    """The files of a set, checked, in the order of their names; fetched and unpacked where there is no copy.

    Raises
    ------
    UserError : what `cmg.data.compose.download.fetch` raises, a damaged archive, files that are not the set's.
    """
    folder = _folder(source, place)
    try:
        return _checked(source, folder)
    except UserError as error:
        if place.copies.get(source.flag):
            raise
        shutil.rmtree(_download(source, place).parent)
        raise UserError(f"{error}; removed, the same command fetches it again") from None


def _checked(source, folder):
    found = {path.name.removesuffix(".gz"): path for path in sorted(folder.rglob(source.pattern)) if path.is_file()}
    paths = [found[name] for name in sorted(found)]
    if len(paths) != source.number:
        raise UserError(f"{folder}: {len(paths)} files {source.pattern}; expected {source.number}, of {source.name}")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(_content(path))
    if digest.hexdigest() != source.sha256:
        raise UserError(f"{folder}: sha256 {digest.hexdigest()} of the files {source.pattern}; expected "
                        f"{source.sha256}, of {source.name}")
    return paths


def _download(source, place):
    return place.downloads / source.name.replace(" ", "-") / source.file


def _folder(source, place):
    """The copy that was named, or what was fetched, unpacked in a folder of its own."""
    if datasets is None:
        raise UserError(f"{source.name} is read by torchvision: install this project with its extra [extract]")
    copy = place.copies.get(source.flag)
    if copy:
        if not Path(copy).is_dir():
            raise UserError(f"{source.flag} {copy}: no folder; expected one that holds {source.name}")
        return Path(copy)
    archive = _download(source, place)
    url = f"{place.mirror.rstrip('/')}/{source.file}" if place.mirror else source.url
    fetch(url, archive, source.file_sha256, f"a copy: {source.flag} FOLDER")
    if archive.suffixes == [".gz"]:
        return archive.parent
    unpacked, unfinished = archive.parent / "unpacked", archive.parent / "unfinished"
    if not unpacked.is_dir():
        with in_turn(unpacked):
            shutil.rmtree(unfinished, ignore_errors=True)  # of a call that was killed
            if not unpacked.is_dir():
                _unpack(archive, unfinished)
                os.replace(unfinished, unpacked)
    return unpacked


def _unpack(archive, folder):
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        else:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
    except DAMAGED as error:
        kind, begins = ("a zip archive", ZIP) if archive.suffix == ".zip" else ("a .tar.gz", GZIP)
        reason = damage_of(archive, kind, begins, f"damaged ({error})")
        archive.unlink()
        raise UserError(f"{archive}: {reason}; removed, the same command fetches it again") from None


def _content(path):
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except DAMAGED as error:
        raise UserError(f"{path}: {damage_of(path, 'a .gz', GZIP, f'damaged ({error})')}") from None


def mnist(place):
    """MNIST's test images [N, 28, 28] uint8 and labels [N], by torchvision's reader."""
    (images,), (labels,) = files_of(MNIST_IMAGES, place), files_of(MNIST_LABELS, place)
    return _idx(images, read_image_file), _idx(labels, read_label_file)


def _idx(path, read):
    with tempfile.NamedTemporaryFile() as raw:  # the reader takes a name, and no .gz
        raw.write(_content(path))
        raw.flush()
        return read(raw.name).numpy()


def cifar(place):
    """CIFAR-10's test photos [N, 32, 32, 3] uint8, labels [N] and the names of its classes, by torchvision's reader.

    That compares every file with a sum of its own before it unpickles any.
    """
    folder = _folder(CIFAR, place)
    with contextlib.suppress(StopIteration):
        folder = next(folder.rglob(datasets.CIFAR10.base_folder)).parent
    try:
        photos = datasets.CIFAR10(folder, train=False)
    except RuntimeError:
        raise UserError(f"{folder}: no whole {datasets.CIFAR10.base_folder}; expected {CIFAR.name}, as torchvision "
                        "knows it") from None
    return photos.data, np.array(photos.targets), photos.classes
