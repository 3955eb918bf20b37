"""Reading HDF5 where there are no locks, and beside others who have the file open."""

import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from cmg.data.features import FeatureFile, FeatureWriter
from cmg.errors import UserError
from support import ROOT


def write(path):
    audio = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    with FeatureWriter(path, {"audio": (2, 3)}, {}) as writer:
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


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_another_program_writes_is_named_as_that(tmp_path, capsys, whole):
    features = write(tmp_path / "a.h5")
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


def test_a_file_that_is_open_in_this_process_is_read(tmp_path):
    features = write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r"), h5py.File(tmp_path / "a.h5", "r"):
        np.testing.assert_array_equal(FeatureFile(tmp_path / "a.h5").read("audio", [1])[0], features[[1]])
    with h5py.File(tmp_path / "a.h5", "r", locking=False):
        np.testing.assert_array_equal(FeatureFile(tmp_path / "a.h5").read("audio", [1])[0], features[[1]])
