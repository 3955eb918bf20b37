"""Reading HDF5 where there are no locks, and beside others who have the file open."""

import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from cmg.data.features import FeatureFile, FeatureWriter
from cmg.data.hdf5 import opened
from cmg.errors import UserError
from support import ROOT


def write(path, attrs=()):
    audio = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    with FeatureWriter(path, {"audio": (2, 3)}, dict(attrs)) as writer:
        writer.append(["a", "b"], {"audio": audio})
    return audio


WITHOUT_LOCKS = """
import errno, os, sys, numpy as np
from cmg.data.features import FeatureFile, FeatureWriter
for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS, errno.EIO, errno.EPERM, 524):
    os.environ["FLOCK_ERRNO"] = str(number)
    with FeatureWriter(sys.argv[1], {"audio": (2, 3)}, {}) as writer:
        writer.append(["a"], {"audio": np.full((1, 2, 3), 7)})
    print(FeatureFile(sys.argv[1]).read("audio", [0])[0].sum())
"""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
def test_neither_reading_nor_writing_needs_a_lock(tmp_path):
    """With a library in front of the system's, whose every `flock` fails as it is told to."""
    (tmp_path / "flock.c").write_text("#include <errno.h>\n#include <stdlib.h>\n"
                                      'int flock(int f, int o) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "flock.so", tmp_path / "flock.c"], check=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "code"), "LD_PRELOAD": str(tmp_path / "flock.so")}
    done = subprocess.run([sys.executable, "-c", WITHOUT_LOCKS, tmp_path / "a.h5"], capture_output=True, text=True,
                          env=environment)
    assert (done.stdout, done.stderr) == ("42.0\n" * 7, "")


def older(path):
    """Write a feature file again as it was before checksums: format of HDF5 1.8, strings of any length."""
    with h5py.File(path) as new, h5py.File(f"{path}.old", "w") as old:
        for name, value in new.attrs.items():
            old.attrs[name] = value.decode() if isinstance(value, bytes) else value
        old["id"], old["audio"], old["valid/audio"] = new["id"].asstr()[:], new["audio"][:], new["valid/audio"][:]
    os.replace(f"{path}.old", path)


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_another_program_writes_is_named_as_that(tmp_path, capsys, whole):
    features = write(tmp_path / "a.h5")
    older(tmp_path / "a.h5")
    if not whole:
        (tmp_path / "a.h5").unlink()
    code = "import h5py, sys\nf = h5py.File(sys.argv[1], 'a')\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "a.h5"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        if whole:
            np.testing.assert_array_equal(FeatureFile(tmp_path / "a.h5").read("audio", [1])[0], features[[1]])
            assert capsys.readouterr().err == (f"note: {tmp_path / 'a.h5'}: another program has it open for writing; "
                                               "what it changes from now on may not be seen\n")
        else:
            with pytest.raises(UserError, match="a.h5: .*, or another program is still writing it; expected a feature"):
                FeatureFile(tmp_path / "a.h5")
        other.stdin.close()


HOLDS = """
import h5py, os, signal, sys
f = h5py.File(sys.argv[1], "r+")
f.flush()
if sys.argv[2] == "crashes":
    os.kill(os.getpid(), signal.SIGKILL)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["waits", "crashes"])
def test_a_file_that_says_itself_that_it_is_written_is_read(tmp_path, capsys, how):
    """As our files do since they have checksums: HDF5 refuses it, and for good where the other one has crashed."""
    features = write(tmp_path / "a.h5")
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path / "a.h5", how], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(OSError):
            h5py.File(tmp_path / "a.h5", "r", locking=False)
        file = FeatureFile(tmp_path / "a.h5")
        np.testing.assert_array_equal(file.read("audio", [1, 0])[0], features[[1, 0]])
        assert file.ids == ["a", "b"]
        assert capsys.readouterr().err == (f"note: {tmp_path / 'a.h5'}: another program has it open for writing, or "
                                           "ended without closing it; what it changes from now on may not be seen\n")
        other.stdin.close()


@pytest.mark.parametrize("at", [0, 9, 11, 20, 46])
def test_a_damaged_start_is_not_taken_for_a_mark(tmp_path, at):
    """Each of these bytes is covered by the checksum, or is the checksum."""
    write(tmp_path / "a.h5")
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[at] ^= 1
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(UserError, match="a.h5: (not an HDF5 file|truncated)"):
        FeatureFile(tmp_path / "a.h5")


def test_a_file_that_is_open_in_this_process_is_read(tmp_path):
    features = write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r"), h5py.File(tmp_path / "a.h5", "r"):
        np.testing.assert_array_equal(FeatureFile(tmp_path / "a.h5").read("audio", [1])[0], features[[1]])
    with h5py.File(tmp_path / "a.h5", "r", locking=False):
        np.testing.assert_array_equal(FeatureFile(tmp_path / "a.h5").read("audio", [1])[0], features[[1]])


def test_a_file_of_before_is_read_alike(tmp_path):
    features = write(tmp_path / "a.h5", {"backbone/audio": "ä", "seconds_per_step": 1.0})
    new = FeatureFile(tmp_path / "a.h5")
    older(tmp_path / "a.h5")
    old = FeatureFile(tmp_path / "a.h5")
    assert (old.ids, old.attrs, old.shapes) == (new.ids, new.attrs, new.shapes)
    assert new.attrs["backbone/audio"] == "ä" and old.ids == ["a", "b"]
    np.testing.assert_array_equal(old.read("audio", [1, 0])[0], features[[1, 0]])


def everything(path):
    file = FeatureFile(path)
    data = [part.tobytes() for m in file.modalities for part in file.read(m, range(len(file.ids)))]
    file.close()
    return file.ids, file.attrs, file.shapes, data


def test_no_turned_bit_becomes_another_value(tmp_path):
    """Of 400 single bits, half of them in the header, every one is refused in one line or changes nothing."""
    write(tmp_path / "a.h5", {"backbone/audio": "x"})
    raw, whole, refused = (tmp_path / "a.h5").read_bytes(), everything(tmp_path / "a.h5"), 0
    generator = np.random.default_rng(0)
    for place in [*generator.integers(0, 8 * len(raw), 200), *generator.integers(0, 8 * 1000, 200)]:
        turned = bytearray(raw)
        turned[place // 8] ^= 1 << place % 8
        (tmp_path / "b.h5").write_bytes(turned)
        try:
            assert everything(tmp_path / "b.h5") == whole, place
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path / "b.h5") in str(error)
            refused += 1
    assert refused > 100


def test_the_damaged_clip_is_named(tmp_path):
    audio = np.random.default_rng(0).standard_normal((4, 10, 4000)).astype(np.float16)
    with FeatureWriter(tmp_path / "a.h5", {"audio": (10, 4000)}, {}) as writer:
        writer.append(list("abcd"), {"audio": audio})
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    raw[raw.index(audio[2].tobytes()) + 5] ^= 4
    (tmp_path / "a.h5").write_bytes(raw)
    file = FeatureFile(tmp_path / "a.h5")
    np.testing.assert_array_equal(file.read("audio", [3, 0, 1])[0], audio[[3, 0, 1]])
    with pytest.raises(UserError, match=r"a.h5: reading 'audio' of 'c' failed \(.*filter.*\)$"):
        file.read("audio", [3, 2, 0])


def linked(kind, h5, folder):
    """Put something in the place of the data set `audio` that lies elsewhere."""
    array, secret = h5["audio"][:], folder / "secret"
    secret.write_bytes(bytes(range(array.nbytes)))
    del h5["audio"]
    if kind == "soft":
        h5["sound"], h5["audio"] = array, h5py.SoftLink("/sound")
    elif kind == "external link":
        h5["audio"] = h5py.ExternalLink(str(folder / "other.h5"), "/audio")
    elif kind == "external data":
        h5.create_dataset("audio", array.shape, array.dtype, external=[(str(secret), 0, array.nbytes)])
    else:
        layout = h5py.VirtualLayout(array.shape, array.dtype)
        layout[:] = h5py.VirtualSource(str(folder / "gone.h5"), "audio", array.shape)
        h5.create_virtual_dataset("audio", layout, fillvalue=7)


@pytest.mark.parametrize(("kind", "told"), [
    ("soft", "'audio' is a link"), ("external link", "'audio' is a link to .*other.h5"),
    ("external data", "'audio' lies in another file, .*secret"), ("virtual", "'audio' is put together from other data"),
])
def test_data_that_lies_elsewhere_is_refused(tmp_path, kind, told):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as h5:
        linked(kind, h5, tmp_path)
    for read in (FeatureFile, lambda path: opened(path, "x")):
        with pytest.raises(UserError, match=rf"^[^\n]*a.h5: {told}[^\n]*; expected [^\n]* that holds its data itself$"):
            read(tmp_path / "a.h5")


def test_a_group_within_itself_is_no_endless_walk(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["a/b"] = h5["/"]
    with opened(tmp_path / "a.h5", "x") as h5:
        assert list(h5["a/b/a"]) == ["b"]
