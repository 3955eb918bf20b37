"""What every command has in common: complete help, numbers in bounds, one line with status 2 for what a user or the
system did."""

import argparse
import errno
import getpass
import importlib
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from cmg import cli, pretrain
from cmg.cli import command, number, whole
from cmg.downstream.registry import MODULES
from support import BAR, CODE, ROOT, SMALL, write_clips

COMMANDS = ["pretrain", "tables.__main__", "bench", "bench_loading", "bench_captions", "gpu_check", "data.convert",
            "data.captions", "data.pool", "data.compose.__main__", "data.compose.render", "explore.__main__",
            "extract.__main__", "encode", "search", "export", "released.checkpoints",
            *(f"downstream.{task}" for task in MODULES)]


def refused(capsys, name, *argv):
    """The one line that a refused command prints; it exits with status 2."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"cmg.{name}").main([str(word) for word in argv])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(params=COMMANDS)
def parsers(request, monkeypatch):
    """The parser of a command, and those of its parts."""
    class Asked(Exception):
        pass

    def ask(parser, argv=None):
        raise Asked(parser)

    monkeypatch.setattr(cli.Parser, "parse_args", ask)
    with pytest.raises(Asked) as asked:
        importlib.import_module(f"cmg.{request.param}").main([])
    found = [asked.value.args[0]]
    for action in found[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


# -- flags -----------------------------------------------------------------------------------------------------------


def test_help_explains_every_flag_and_shows_every_default(parsers):
    for parser in parsers:
        text = " ".join(parser.format_help().split())
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, f"{action.option_strings}: no help"
            if action.option_strings and action.default not in (None, False, "", (), [], argparse.SUPPRESS):
                values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
                assert f"(default: {' '.join(map(str, values))})" in text or "default:" in action.help, action.dest
        assert str(ROOT) not in text  # no path of this machine


def test_help_of_pretrain_has_the_defaults_of_the_preset(capsys):
    shown = {}
    for preset in ("paper", "small"):
        with pytest.raises(SystemExit) as stop:
            pretrain.main(["--preset", preset, "--help"])
        assert stop.value.code == 0
        shown[preset] = " ".join(capsys.readouterr().out.split())
    assert "size of the codebook (default: 400)" in shown["paper"] and "(default: 0.0004)" in shown["paper"]
    assert "size of the codebook (default: 128)" in shown["small"] and "(default: 0.001)" in shown["small"]


@pytest.mark.parametrize("kind, text, value", [
    (whole(), "0", 0), (whole(1), "1", 1), (whole(), "2147483647", 2**31 - 1), (number(least=0), "0", 0.0),
    (whole(4, multiple_of=4), "12", 12), (number(above=0), "1e-9", 1e-9), (number(least=0, below=1), "0.5", 0.5),
])
def test_numbers_in_bounds(kind, text, value):
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize("kind, texts, expected", [
    (whole(), ("-1", "1.5", "1e3", "nan", "2147483648", "9" * 30, ""), "a whole number of at least 0 and below 2^31"),
    (whole(4, multiple_of=4), ("0", "30", "nan"), "a multiple of 4 of at least 4 and below 2^31"),
    (number(least=0), ("-1", "nan", "inf", "-inf", "1e400", "x"), "a number of at least 0"),
    (number(above=0), ("0", "-0.0", "nan", "inf"), "a number above 0"),
    (number(above=0, below=1), ("0", "1", "nan"), "a number above 0 and below 1"),
])
def test_numbers_out_of_bounds(kind, texts, expected):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(text)
        assert str(caught.value) == f"'{text}' is not {expected}"


def test_an_infinite_value_is_no_whole_number():
    """As a JSON file of flags may hold it."""
    with pytest.raises(argparse.ArgumentTypeError, match="^'inf' is not a whole number"):
        whole()(float("inf"))


def test_no_number_goes_unchecked(parsers):
    """Every flag that takes a number refuses nan and -1."""
    for parser in parsers:
        for action in parser._actions:
            if action.type is not None and action.choices is None:
                for text in ("nan", "-1"):
                    with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is not a"):
                        action.type(text)


@pytest.mark.parametrize("flag, value, expected", [
    ("--batch-size", "1", "a whole number of at least 2"), ("--seed", "2147483648", "a whole number of at least 0"),
    ("--max-steps", "0", "a whole number of at least 1"), ("--club-steps", "0", "a whole number of at least 1"),
    ("--dim", "30", "a multiple of 4 of at least 4"), ("--lr", "0", "a number above 0"),
    ("--club-lr", "0.0", "a number above 0"), ("--align-temperature", "0", "a number above 0"),
    ("--w-cpc", "inf", "a number of at least 0"), ("--input-dropout", "1", "a number of at least 0 and below 1"),
    ("--decay", "1", "a number above 0 and below 1"),
])
def test_pretrain_refuses_numbers_out_of_bounds(flag, value, expected, tmp_path, capsys):
    line = refused(capsys, "pretrain", "--data", "absent.h5", "--out", tmp_path / "run", flag, value)
    assert line.startswith(f"cmg.pretrain: error: argument {flag}: '{value}' is not {expected}")


@pytest.mark.parametrize("name, argv, message", [
    ("bench", ["--steps", "0"], "argument --steps: '0' is not a whole number of at least 1"),
    ("bench", ["--dim", "30"], "argument --dim: '30' is not a multiple of 4"),
    ("bench", ["--batch-size", "8", "1"], "argument --batch-size: '1' is not a whole number of at least 2"),
    ("bench", ["--epoch", "100"], "--epoch 100: expected at least two batches"),
    ("bench_loading", ["--data", "absent.h5", "--batch-size", "0"],
     "argument --batch-size: '0' is not a whole number of at least 1"),
    ("downstream.ave", ["--checkpoint", "absent", "--data", "synthetic", "a.h5"], "--checkpoint absent: no such file"),
])
def test_other_commands_refuse_numbers_out_of_bounds(name, argv, message, capsys):
    assert f"cmg.{name}: error: {message}" in refused(capsys, name, *argv)


@pytest.mark.parametrize("name, argv", [
    ("pretrain", ["--data", "absent.h5"]),
    ("tables.__main__", ["absent.toml", "--data", "absent.h5"]),
    ("gpu_check", ["--device", "cpu", "--small"]),
    ("downstream.avvp", ["--checkpoint", "absent", "--data", "absent.h5", "--annotations", "absent"]),
    ("downstream.retrieval", ["--checkpoint", "absent", "--data", "absent.h5"]),
    ("downstream.codebook", ["--checkpoint", "absent", "--data", "absent.h5"]),
    ("downstream.avs", ["--annotations", "absent", "--query", "raw"]),
])
def test_a_file_in_the_place_of_the_folder_is_told_before_the_work(name, argv, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "run"):
        line = refused(capsys, name, *argv, "--out", out)
        shown = name.removesuffix(".__main__")
        assert line == f"cmg.{shown}: error: --out {out}: {file} is a file; expected a folder"
    assert file.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["file"]


# -- what the system does --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error, line", [
    (PermissionError(errno.EACCES, "Permission denied", "/run/args.json"), "/run/args.json: Permission denied"),
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "Resource temporarily unavailable"),
    (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    (RuntimeError("can't start new thread"),
     "can't start new thread; expected a higher limit of processes (ulimit -u), or fewer of them"),
    (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
     "DataLoader worker (pid(s) 7) exited unexpectedly; expected more memory, in /dev/shm as well, or --workers 0"),
    (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nTraceback …\nRuntimeError: unable to allocate "
                  "shared memory(shm) for file </torch_1>: No space left on device (28)\n"),
     "RuntimeError: unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28); expected "
     "more memory, in /dev/shm as well, or --workers 0"),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory (libtorch_cpu.so: failed "
     "to map segment from shared object); expected smaller sizes, such as --batch-size, or more memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
     "out of memory (CUDA out of memory. Tried to allocate 20 GiB.); expected smaller sizes, such as --batch-size, or "
     "more memory"),
])
def test_what_the_system_refuses_is_one_line(capsys, error, line):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as stop:
        command(main)()
    assert stop.value.code == 2 and capsys.readouterr().err == f"{__name__}: error: {line}\n"


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.EBADF, "Bad file descriptor"),
                                   ImportError("cannot import name 'x'")])
def test_a_defect_of_ours_keeps_its_traceback(error):
    def main(argv):
        raise error

    with pytest.raises(type(error)) as caught:
        command(main)()
    assert caught.value is error


def test_a_host_without_memory_is_one_line(capsys):
    with pytest.raises(SystemExit):
        command(lambda argv: torch.empty(2**50))()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "error: out of memory (" in err


def test_a_thread_leaves_what_the_system_refuses_to_who_waits_for_it(capsys, monkeypatch):
    """As TensorBoard's does; of a defect it keeps its traceback."""
    def thread_that_raises(error):
        def fail():
            raise error

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # as it was, after the test
    command(lambda argv: thread_that_raises(OSError(errno.EFBIG, "File too large")))()
    assert capsys.readouterr().err == ""
    command(lambda argv: thread_that_raises(ValueError("a defect")))()
    assert "ValueError: a defect" in capsys.readouterr().err


LIMITED = """
import resource, sys
from cmg.pretrain import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("size, what", [(100, "args.json"), (3000, "File too large"), (50_000, "epoch_000.pt"),
                                        (150_000, "pt: ")])
def test_a_limit_of_file_sizes_is_one_line(tmp_path, size, what):
    """It is met by a text, by TensorBoard's thread, by a checkpoint."""
    clips = write_clips(tmp_path / "clips.h5", n=16)
    environment = {**os.environ, "PYTHONPATH": str(CODE)}
    done = subprocess.run([sys.executable, "-c", LIMITED, str(size), "--data", str(clips), "--out",
                           str(tmp_path / "run"), *SMALL], env=environment, capture_output=True, text=True)
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line and not BAR.search(line)]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert what in lines[0] and "File too large" in lines[0]
    assert not list(tmp_path.rglob("*.tmp-*"))


def child(body, **options):
    """A command in a process of its own."""
    program = f"from cmg.cli import command\n@command\ndef main(argv=None):\n    {body}\nmain()"
    environment = {**os.environ, "PYTHONPATH": str(CODE), "PYTHONIOENCODING": "ascii"}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("known", [{}, {"LOGNAME": "ada"}])
def test_a_user_without_a_name_gets_one(monkeypatch, known):
    """As under `docker run --user 1234`: neither an environment variable nor the user database tells the name."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    weight = torch.nn.Parameter(torch.ones(1))
    assert command(lambda argv: (torch.optim.Adam([weight]), getpass.getuser()))()[1] == known.get(
        "LOGNAME", f"uid{os.getuid()}")


@pytest.mark.parametrize("number_, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_runs_what_must_be_run_and_says_so(number_, status):
    heard = "import signal, time\n    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # else not behind `&`
    process = child(f"{heard}    try:\n        print('there', flush=True)\n        time.sleep(60)\n"
                    "    finally:\n        print('saved')")
    assert process.stdout.readline() == "there\n"
    process.send_signal(number_)
    assert process.communicate(timeout=30) == ("saved\n", "interrupted\n") and process.returncode == status


def test_a_reader_that_leaves_early_is_no_error():
    process = child("print('x' * 10**6)")
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(30) == 141


def test_a_terminal_without_arrows_gets_question_marks():
    assert child("print('video → audio')").communicate(timeout=30) == ("video ? audio\n", "")


def test_a_mistyped_flag_that_is_required_is_named(capsys):
    said = refused(capsys, "downstream.ave", "--checkpiont", "run", "--data", "x.h5")
    assert said.endswith("are required: --checkpoint; --checkpiont is unknown; did you mean --checkpoint? (see --help)")
