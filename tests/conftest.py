"""Fixtures shared by the tests: the folder of digit clips, and a few of them rendered as real media files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmg import modalities
from cmg.models import toom_cook

torch.set_num_threads(1)  # the tensors are tiny: more threads only wait for each other
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the processes that tests start


def pytest_collection_modifyitems(items):
    """Mark the tests that need the digit clips, so that `-m "not digits"` leaves them out."""
    for item in items:
        if "digits" in item.fixturenames:
            item.add_marker("digits")


@pytest.fixture(autouse=True)
def process():
    """What a run settles for its whole process is as it was before the test."""
    table, used = dict(modalities.TABLE), toom_cook._used
    yield
    modalities.TABLE.clear()
    modalities.TABLE.update(table)
    toom_cook.use(used)


@pytest.fixture(scope="session")
def digits():
    """Source folder of the digit clips (the one with render_media.py), from the environment variable CMG_DIGITS."""
    folder = os.environ.get("CMG_DIGITS", "")
    if not folder or not (Path(folder) / "render_media.py").is_file():
        pytest.skip("needs the digit clips: set CMG_DIGITS to the folder that holds render_media.py")
    return Path(folder)


@pytest.fixture(scope="session")
def annotations():
    """Folder of the public annotation files, AVE/, AVVP/ and others, from the environment variable CMG_ANNOTATIONS."""
    folder = os.environ.get("CMG_ANNOTATIONS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the public annotation files: set CMG_ANNOTATIONS to the folder that holds AVE/ and others")
    return Path(folder)


@pytest.fixture(scope="session")
def digit_media(digits, tmp_path_factory):
    """A folder with the first few digit clips of each kind and split as .mp4 (videos/) and all annotations."""
    out = tmp_path_factory.mktemp("digits")
    call = [sys.executable, "render_media.py", str(out), "--kinds", "pretrain", "ave", "avvp", "--limit", "4"]
    # The source folder may be read-only, and is not ours to leave compiled modules in.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(call, cwd=digits, env=env, check=True, capture_output=True, text=True)
    return out


@pytest.fixture(scope="session")
def composed(tmp_path_factory):
    """Folders of clips composed of tiny sources from a server on the loopback interface: {"digits": …, "nature": …}."""
    import support_clips  # late, for it needs PyAV

    root = tmp_path_factory.mktemp("composed")
    for name, prepare in (("digits", support_clips.digit_sources), ("nature", support_clips.nature_sources)):
        with pytest.MonkeyPatch.context() as patch, support_clips.serving(prepare(patch)) as (address, _):
            support_clips.compose(name, root / name, address)
    return {name: root / name for name in ("digits", "nature")}
