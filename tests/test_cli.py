"""What all commands share: help that is complete, one line for numbers out of range and for results without a place."""

import argparse
import importlib
import math
from pathlib import Path

import pytest

from cmg import cli, pretrain

COMMANDS = ["pretrain", "tables.__main__", "bench", "bench_loading", "gpu_check", "data.convert", "data.captions",
            "extract.__main__", "training.released", *(f"downstream.{task}" for task in (
                "ave", "avvp", "ave_avvp", "ucf_vggsound", "avs", "retrieval", "codebook"))]


def refused(capsys, command, *argv):
    """The one line that a refused command prints; it exits with status 2."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"cmg.{command}").main([str(word) for word in argv])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_flag_and_shows_every_default(name, monkeypatch):
    class Asked(Exception):
        pass

    def ask(parser, argv=None):
        raise Asked(parser)

    monkeypatch.setattr(cli.Parser, "parse_args", ask)
    with pytest.raises(Asked) as asked:
        importlib.import_module(f"cmg.{name}").main([])
    parsers = [asked.value.args[0]]
    for action in parsers[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
    for parser in parsers:
        text = " ".join(parser.format_help().split())
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, f"{action.option_strings}: no help"
            if action.option_strings and action.default not in (None, False, "", (), argparse.SUPPRESS):
                values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
                assert f"(default: {' '.join(map(str, values))})" in text or "default:" in action.help, action.dest
        assert str(Path(__file__).parents[1]) not in text  # no path of this machine


def test_help_of_pretrain_has_the_defaults_of_the_preset(capsys):
    shown = {}
    for preset in ("paper", "small"):
        with pytest.raises(SystemExit) as stop:
            pretrain.main(["--preset", preset, "--help"])
        assert stop.value.code == 0
        shown[preset] = " ".join(capsys.readouterr().out.split())
    assert "size of the codebook (default: 400)" in shown["paper"] and "(default: 0.0004)" in shown["paper"]
    assert "size of the codebook (default: 128)" in shown["small"] and "(default: 0.001)" in shown["small"]


@pytest.mark.parametrize("value, message", [
    (0.5, None), (None, None), ([0.5, 0.25], None),
    (0, "--a-rate 0: expected above 0"), (math.nan, "--a-rate nan: expected above 0"),
    (math.inf, "--a-rate inf: expected above 0"), ([0.5, -1], "--a-rate -1: expected above 0"),
])
def test_require(value, message):
    given = argparse.Namespace(a_rate=value)
    if message is None:
        cli.require(given, ["a_rate"], lambda x: 0 < x < math.inf, "above 0")
    else:
        with pytest.raises(cli.UserError, match=f"^{message}$"):
            cli.require(given, ["a_rate"], lambda x: 0 < x < math.inf, "above 0")


@pytest.mark.parametrize("flag, value, expected", [
    ("--batch-size", "1", "at least 2, for the contrastive terms compare clips"), ("--lr", "-1.0", "above 0"),
    ("--lr", "nan", "above 0"), ("--club-lr", "0.0", "above 0"), ("--align-temperature", "nan", "above 0"),
    ("--weight-decay", "-1.0", "at least 0"), ("--w-cpc", "-1.0", "at least 0"), ("--w-rec", "nan", "at least 0"),
    ("--clip-grad", "-1.0", "at least 0"), ("--seed", "-1", "0 to 4294967295"), ("--seed", "4294967296",
                                                                                 "0 to 4294967295"),
    ("--workers", "-1", "at least 0"), ("--save-every", "-1", "at least 0"), ("--warmup-steps", "-1", "at least 0"),
    ("--specific-dim", "-1", "at least 0"), ("--specific-steps", "-1", "at least 0"),
    ("--reset-after", "0", "at least 1"), ("--club-steps", "0", "at least 1"), ("--max-steps", "0", "at least 1"),
])
def test_pretrain_refuses_numbers_out_of_range(flag, value, expected, tmp_path, capsys):
    line = refused(capsys, "pretrain", "--data", "absent.h5", "--out", tmp_path / "run", flag, value)
    assert line == f"cmg.pretrain: error: {flag} {value}: expected {expected}"


@pytest.mark.parametrize("command, argv, message", [
    ("bench", ["--steps", "0"], "--steps 0: expected at least 1"),
    ("bench", ["--dim", "3"], "--dim 3: expected a multiple of 4, the number of attention heads"),
    ("bench", ["--batch-size", "8", "1"], "--batch-size 1: expected at least 2"),
    ("bench", ["--epoch", "100"], "--epoch 100: expected at least two batches"),
    ("bench_loading", ["--data", "absent.h5", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
    ("bench_loading", ["--data", "absent.h5", "--workers", "-1"], "--workers -1: expected at least 0"),
    ("downstream.ave", ["--checkpoint", "absent", "--data", "synthetic", "a.h5"], "--checkpoint absent: no such file"),
    ("downstream.avvp", ["--checkpoint", "absent", "--data", "a.h5", "--annotations", "a", "--seed", "-1"],
     "--seed -1: expected 0 to 4294967295"),
])
def test_other_commands_refuse_numbers_out_of_range(command, argv, message, capsys):
    assert f"cmg.{command}: error: {message}" in refused(capsys, command, *argv)


@pytest.mark.parametrize("command, argv", [
    ("pretrain", ["--data", "absent.h5"]),
    ("tables.__main__", ["absent.txt", "--data", "absent.h5"]),
    ("gpu_check", ["--device", "cpu", "--small"]),
    ("downstream.avvp", ["--checkpoint", "absent", "--data", "absent.h5", "--annotations", "absent"]),
    ("downstream.retrieval", ["--checkpoint", "absent", "--data", "absent.h5"]),
    ("downstream.codebook", ["--checkpoint", "absent", "--data", "absent.h5"]),
    ("downstream.avs", ["--annotations", "absent", "--query", "raw"]),
])
def test_a_file_in_the_place_of_the_folder_is_told_before_the_work(command, argv, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "run"):
        line = refused(capsys, command, *argv, "--out", out)
        name = command.removesuffix(".__main__")
        assert line == f"cmg.{name}: error: --out {out}: {file} is a file; expected a folder"
    assert file.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["file"]
