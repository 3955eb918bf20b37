"""What a machine may refuse each kind of command: a folder, a reader, memory, a lock. One line, and nothing left."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import traceback

import pytest

from cmg.downstream.retrieval import main as retrieval
from cmg.extract.__main__ import main as extract
from cmg.files import locked
from cmg.pretrain import main as pretrain
from support import BAR, CODE, SHAPES, SMALL, untrained, write_clips
from support_media import tone, write_wav

COMMANDS = {"pretrain": pretrain, "extract": extract, "downstream.retrieval": retrieval}
WRITE_ANYWHERE = 1  # CAP_DAC_OVERRIDE: root may write into folders that are read-only


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_clips(folder / "clips.h5", n=16)
    untrained(folder / "model.pt", SHAPES)
    (folder / "sounds").mkdir()
    for number in range(3):
        write_wav(folder / "sounds" / f"c{number}.wav", tone(300 + 50 * number, 2, 16000), 16000)
    return folder


def call_of(name, inputs, out):
    """Flags of a small run, and what is there after it."""
    clips = str(inputs / "clips.h5")
    return {
        "pretrain": (["--data", clips, "--out", str(out), *SMALL], out / "latest.pt"),
        "extract": (["--videos", str(inputs / "sounds"), "--modalities", "audio", "--seconds", "2", "--workers", "0",
                     "--out", str(out / "a.h5")], out / "a.h5"),
        "downstream.retrieval": (["--checkpoint", str(inputs / "model.pt"), "--data", clips, "--device", "cpu", "--out",
                                  str(out)], out / "results.json"),
    }[name]


def forked(folder, main, argv, prepare):
    """A command in a copy of this process -> (exit status, lines on stderr without notes and progress)."""
    told = folder / "stderr"
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.dup2(os.open(told, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
            prepare()
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            main(argv)
            status = 0
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, kept_lines(told.read_text())


def kept_lines(told):
    """What was told on stderr, without notes and progress."""
    lines = filter(str.strip, told.replace("\r", "\n").splitlines())
    return [line for line in lines if not BAR.search(line) and not any(words in line for words in ("clip/s", "note: "))]


def as_anybody():
    """Give up what only root may: to write where permissions forbid it."""
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << WRITE_ANYWHERE)  # of the effective ones
    assert libc.capset(header, sets) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_read_only_is_one_line(inputs, tmp_path, name):
    folder = tmp_path / "kept"
    folder.mkdir()
    folder.chmod(0o555)
    argv, _ = call_of(name, inputs, folder / "run")
    status, lines = forked(tmp_path, COMMANDS[name], argv, as_anybody)
    assert status == 2 and len(lines) == 1, lines
    assert lines[0].startswith(f"cmg.{name}: error: ") and f"{folder}/run" in lines[0]
    assert "Permission denied" in lines[0]
    assert not any(folder.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_left_costs_no_result(inputs, tmp_path, name):
    """As `… | head` does: nobody reads any more, and what the command was for is there."""
    argv, result = call_of(name, inputs, tmp_path / "run")

    def unread():
        reads, writes = os.pipe()
        os.close(reads)
        os.dup2(writes, 1)

    assert forked(tmp_path, COMMANDS[name], argv, unread) == (141, [])
    assert result.is_file() and not list(tmp_path.rglob("*.tmp-*"))


SHORT = """
import importlib, resource, sys
main = importlib.import_module(sys.argv[1]).main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), used + int(sys.argv[2])))
main(sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(("name", "room"), [
    ("pretrain", 64 << 20), ("extract.__main__", 0), ("downstream.retrieval", 0)])
def test_a_process_without_memory_is_one_line(inputs, tmp_path, name, room):
    """In a process of its own: a copy of one that has threads may wait for ever for a lock that one of them held."""
    argv, _ = call_of(name.partition(".__")[0], inputs, tmp_path / "run")
    if name == "pretrain":
        argv = [*argv, "--dim", "4096"]
    call = [sys.executable, "-c", SHORT, f"cmg.{name}", str(room), *argv]
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(CODE)},
                          timeout=300)
    lines = kept_lines(done.stderr)
    assert done.returncode in (0, 2) and len(lines) == bool(done.returncode), lines
    assert done.returncode == 0 or "memory" in lines[0] or "new thread" in lines[0], lines
    assert name != "pretrain" or done.returncode == 2


@pytest.mark.slow
def test_a_worker_without_memory_to_import_is_one_line(inputs, tmp_path, monkeypatch):
    """Of torch's libraries, which take more than a gigabyte of addresses."""
    (tmp_path / "python").write_text(f'#!/bin/sh\nulimit -v 1000000\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    argv, result = call_of("extract", inputs, tmp_path / "run")
    argv[argv.index("--workers") + 1] = "2"
    status, lines = forked(tmp_path, extract, argv,
                           lambda: multiprocessing.set_executable(str(tmp_path / "python")))
    assert status == 2 and len(lines) == 1, lines
    assert "cmg.extract: error: a worker process ended before it began" in lines[0]
    assert "failed to map segment" in lines[0] and lines[0].endswith("expected more memory, or fewer --workers")
    assert not result.exists()


@pytest.mark.parametrize("name, where", [("pretrain", "run"), ("extract", "run/a.h5.parts")])
def test_a_folder_where_another_process_works_is_one_line(inputs, tmp_path, name, where):
    argv, result = call_of(name, inputs, tmp_path / "run")
    assert forked(tmp_path, COMMANDS[name], argv, lambda: None) == (0, [])
    if name == "extract":  # as it was before the last clip
        result.unlink()
        (tmp_path / where).mkdir()
        (tmp_path / where / "settings.json").write_text("{}")
    before = sorted(path for path in tmp_path.rglob("*") if path.name != "stderr")
    with locked(tmp_path / where):
        more = ["--epochs", "3", "--resume", "auto"] if name == "pretrain" else []
        status, lines = forked(tmp_path, COMMANDS[name], [*argv, *more], lambda: None)
    assert (status, lines) == (2, [f"cmg.{name}: error: {tmp_path / where}: another process is at work there; expected "
                                   "its end, or another folder"])
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "stderr") == before
