"""How often a kill or a fault at a random moment was survived, counted; `CMG_TRIALS=N` of each before a release.

    CMG_TRIALS=50 python -m pytest -s tests/test_endurance.py
"""

import errno
import io
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from cmg.data.features import FeatureFile
from cmg.extract import media
from cmg.extract.__main__ import main as extract
from cmg.pretrain import main as pretrain
from support import BAR, CODE, SMALL, write_clips
from support_media import tone, write_wav

pytestmark = pytest.mark.slow
TRIALS = int(os.environ.get("CMG_TRIALS", 1))
minutes = pytest.mark.skipif("CMG_TRIALS" not in os.environ, reason="takes minutes: before a release, CMG_TRIALS=N")
FAULTS = [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ESTALE, errno.EAGAIN, errno.ENOMEM, errno.EDQUOT]


def said(what, survived, number, more=""):
    print(f"\nendurance: {what}: {survived} of {number} survived{more}")


def process_of(module, argv):
    return subprocess.Popen([sys.executable, "-m", module, *argv], env={**os.environ, "PYTHONPATH": str(CODE)},
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def killed_until_done(module, argv, draw, longest, done=lambda: False, most=50):
    """Run a command again and again, killed at moments that are drawn, until it ends by itself -> number of kills.

    longest : s, of a run. The first moment is in its first half, and each kill adds half of it to the next one's range,
    so that it comes to an end. done : whether the last kill came when the result was there, and the interpreter was
    about to end.
    """
    latest = longest / 2
    for kills in range(most):
        if done():
            return kills
        process = process_of(module, argv)
        try:
            _, told = process.communicate(timeout=draw.uniform(0, latest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            latest += longest / 2
            continue
        assert process.returncode == 0 and "Traceback" not in told, told
        return kills
    raise AssertionError("never done")


def weights(folder):
    content = torch.load(folder / "latest.pt", weights_only=True)
    parts = {f"{part}/{name}": value for part in ("model", "method") for name, value in content[part].items()}
    parts |= {f"optimizer/{number}/{name}": value for number, state in content["optimizer"]["state"].items()
              for name, value in state.items()}
    return content["position"], parts


def same_bits(a, b):
    (place, x), (other, y) = weights(a), weights(b)
    return place == other and x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def rows(path):
    file = FeatureFile(path)
    return file.ids, [part for m in file.modalities for part in file.read(m, range(len(file.ids)))]


def same_rows(a, b):
    (ids, x), (others, y) = rows(a), rows(b)
    return ids == others and all(np.array_equal(p, q) for p, q in zip(x, y))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5", n=24))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(40):
        write_wav(folder / f"c{number:02d}.wav", tone(200 + 20 * number, 3, 16000), 16000)
    return folder


@pytest.fixture(scope="module")
def whole(sounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "whole.h5"
    extract(sound_call(sounds, out, 0))
    return out


def sound_call(folder, out, workers):
    return ["--videos", str(folder), "--modalities", "audio", "--seconds", "3", "--workers", str(workers), "--out",
            str(out)]


def test_pretraining_is_killed_and_goes_on_to_the_same_bits(clips, tmp_path):
    flags = ["--data", clips, *SMALL, "--epochs", "20", "--save-every", "1e-6", "--checkpoint-epochs", "5"]
    begun = time.monotonic()
    assert process_of("cmg.pretrain", [*flags, "--out", str(tmp_path / "whole")]).wait() == 0
    lasts, survived, kills, tried = time.monotonic() - begun, 0, 0, 0
    for seed in range(TRIALS):
        out = tmp_path / f"{seed}"
        kills += killed_until_done("cmg.pretrain", [*flags, "--out", str(out), "--resume", "auto"],
                                   random.Random(seed), lasts)
        tried += 1
        survived += same_bits(out, tmp_path / "whole") and not list(out.glob("*.tmp-*"))
    said("pretraining, runs that were killed and ended with identical bits", survived, tried, f", {kills} kills")
    assert survived == TRIALS and kills


@minutes
def test_processes_of_a_run_are_lost(clips, tmp_path):
    """One of two, or the launcher: all end, in one line at the most, and the run goes on to the same bits."""
    flags = ["2", "cmg.pretrain", "--data", clips, *SMALL, "--epochs", "20", "--save-every", "1e-6", "--resume", "auto"]
    begun = time.monotonic()
    assert process_of("cmg.launch", [*flags, "--out", str(tmp_path / "whole")]).wait() == 0
    lasts, survived, kills = time.monotonic() - begun, 0, 0
    for seed in range(TRIALS):
        draw, longest, out, ended = random.Random(seed), lasts / 2, tmp_path / f"{seed}", False
        while not ended:
            process = process_of("cmg.launch", [*flags, "--out", str(out)])
            try:
                _, told = process.communicate(timeout=draw.uniform(0, longest))
                assert process.returncode == 0, told
                ended = True
            except subprocess.TimeoutExpired:
                with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
                    ranks = [int(word) for word in file.read().split()]
                victim = draw.choice([process.pid, *ranks])
                os.kill(victim, draw.choice([signal.SIGKILL, signal.SIGTERM]))
                _, told = process.communicate(timeout=60)  # which lasts until the last of them has closed it
                lines = [line for line in told.replace("\r", "\n").splitlines() if line and not BAR.search(line)]
                ended = victim != process.pid and process.returncode == 0  # it had just done its work
                assert ended or process.returncode in ([2] if victim in ranks else [75, 143, -9, -15]), told
                assert len(lines) <= 1 and ("process" in told or victim not in ranks or ended), told
                kills += 1
                longest += lasts / 2
        survived += same_bits(out, tmp_path / "whole")
    said("runs of two processes that were killed, or their launcher, and ended with identical bits", survived, TRIALS,
         f", {kills} kills")
    assert survived == TRIALS and kills


@minutes
def test_extraction_is_killed_and_goes_on_to_the_same_file(sounds, whole, tmp_path):
    begun, survived, kills = time.monotonic(), 0, 0
    assert process_of("cmg.extract", sound_call(sounds, tmp_path / "a.h5", 2)).wait() == 0
    lasts = time.monotonic() - begun
    for seed in range(TRIALS):
        out = tmp_path / f"{seed}.h5"
        kills += killed_until_done("cmg.extract", sound_call(sounds, out, 2), random.Random(seed), lasts, out.exists)
        survived += same_rows(out, whole) and sorted(path.name for path in tmp_path.glob(f"{seed}.h5*")) == [out.name]
    said("extraction, runs that were killed and ended with the same file", survived, TRIALS, f", {kills} kills")
    assert survived == TRIALS and kills


def children_of(pid):
    """Of the workers alone: their main thread has been told whose they are."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            found = [int(word) for word in file.read().split()]
    except OSError:
        return []
    return [child for child in found if "spawn_main" in words_of(child)]


def words_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


@minutes
def test_extraction_s_workers_are_killed(sounds, whole, tmp_path):
    """The run ends by itself, or in one line that says so, and then goes on."""
    survived = kills = lines = 0
    for seed in range(TRIALS):
        draw, out, number = random.Random(seed), tmp_path / f"{seed}.h5", 0
        while True:
            process, told = process_of("cmg.extract", sound_call(sounds, out, 2)), None
            while told is None:
                try:
                    _, told = process.communicate(timeout=draw.uniform(0, 2.0))
                except subprocess.TimeoutExpired:
                    workers = children_of(process.pid)
                    if workers and number < 2:
                        os.kill(draw.choice(workers), signal.SIGKILL)
                        number += 1
            if process.returncode == 0:
                break
            last = [line for line in told.splitlines() if not line.startswith("resuming")]
            assert process.returncode == 2 and len(last) == 1 and "SIGKILL" in last[0], told
            lines += 1
        kills += number
        survived += same_rows(out, whole) and not out.with_name(f"{out.name}.failed.csv").exists()
    said("extraction with workers that were killed", survived, TRIALS, f", {kills} kills, {lines} ended in one line")
    assert survived == TRIALS and kills


class Faulty:
    """Of all calls of a function one fails: the `when`-th."""

    def __init__(self, function, when, fault):
        self.function, self.left, self.fault = function, when, fault

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise OSError(self.fault, os.strerror(self.fault))
        return self.function(*args, **kwargs)


def outcome_of(main, argv, capsys):
    """"done", or "line" for exit status 2 and one line on stderr; anything else fails."""
    capsys.readouterr()
    try:
        main(argv)
        return "done"
    except SystemExit as stop:
        lines = [line for line in capsys.readouterr().err.splitlines()
                 if line.strip() and not line.startswith(("resuming", "bad clip")) and not BAR.search(line)]
        assert stop.code == 2 and len(lines) == 1, lines
        return "line"


@pytest.mark.parametrize("where", ["open", "read", "write"])
def test_faults_of_an_extraction(sounds, whole, tmp_path, capsys, monkeypatch, where):
    """No clip is bad for them; the same command goes on to the same file."""
    place, name, calls = {"open": (io, "open", 1), "read": (media.Source, "_read", 100),
                          "write": (os, "pwrite", 60)}[where]
    survived, lines, number = 0, 0, 4 * TRIALS
    for seed in range(number):
        draw, out = random.Random(seed), tmp_path / f"{seed}.h5"
        fault, when = draw.choice(FAULTS), draw.randint(1, calls)
        with monkeypatch.context() as patch:
            if where == "read":
                faulty = Faulty(media.Source._read, when, fault)
                patch.setattr(place, name, lambda source, n, faulty=faulty: faulty(source, n))
            elif where == "write":
                patch.setattr(place, name, Faulty(os.pwrite, when, fault))
            else:
                patch.setattr("builtins.open", opening(draw.randint(0, 39), fault))
            lines += outcome_of(extract, sound_call(sounds, out, 0), capsys) == "line"
        if not out.exists():
            extract(sound_call(sounds, out, 0))
        survived += same_rows(out, whole) and not out.with_name(f"{out.name}.failed.csv").exists()
    with capsys.disabled():
        said(f"extraction, faults at {where}", survived, number, f", {lines} ended in one line")
    assert survived == number and lines


def opening(clip, fault):
    whole = open

    def opened(path, *args, **kwargs):
        if str(path).endswith(f"c{clip:02d}.wav"):
            raise OSError(fault, os.strerror(fault), str(path))
        return whole(path, *args, **kwargs)

    return opened


def test_faults_of_a_pretraining(clips, tmp_path, capsys, monkeypatch):
    """Of what it flushes, renames and opens for writing."""
    flags = ["--data", clips, *SMALL, "--save-every", "1e-6"]
    pretrain([*flags, "--out", str(tmp_path / "whole")])
    survived, lines, number = 0, 0, 2 * TRIALS
    for seed in range(number):
        draw, out = random.Random(seed), tmp_path / f"{seed}"
        name = draw.choice(["fsync", "replace"])
        with monkeypatch.context() as patch:
            patch.setattr(os, name, Faulty(getattr(os, name), draw.randint(1, 9), draw.choice(FAULTS)))
            lines += outcome_of(pretrain, [*flags, "--out", str(out), "--resume", "auto"], capsys) == "line"
        pretrain([*flags, "--out", str(out), "--resume", "auto"])
        survived += same_bits(out, tmp_path / "whole") and not list(out.glob("*.tmp-*"))
    with capsys.disabled():
        said("pretraining, faults of writing with identical bits after them", survived, number,
             f", {lines} ended in one line")
    assert survived == number and lines
