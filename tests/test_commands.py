"""The one command `cmg`: every module that runs by name, a listing that imports little, the package as installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cmg
from cmg.__main__ import COMMANDS, listing, main
from cmg.errors import UserError
from cmg.tables.file import find_table, read_table
from support import CODE, ROOT, SMALL, TABLES

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CODE)}


def test_every_module_that_runs_is_a_command():
    """All with an `if __name__` of their own but the one that lists them; its docstring names it as it is called."""
    runnable = set()
    for path in (CODE / "cmg").rglob("*.py"):
        if re.search(r'^if __name__ == "__main__":$', path.read_text(encoding="utf-8"), re.M):
            runnable.add(".".join(path.relative_to(CODE).with_suffix("").parts).replace("avs.__main__", "avs"))
    assert {module for module, _ in COMMANDS.values()} == runnable - {"cmg.__main__"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_its_module(name, capsys):
    """Its own --help follows, whichever way it is spelled."""
    with pytest.raises(SystemExit) as stop:
        main([name.replace("_", "-"), "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ") and COMMANDS[name][0].removesuffix(".__main__") in said.splitlines()[0]


def test_without_a_command_all_are_listed(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(COMMANDS) and max(map(len, lines)) <= 100
    main(["--help"])
    assert capsys.readouterr().out.splitlines() == lines
    main(["--version"])
    assert capsys.readouterr().out == f"cmg {cmg.__version__}, numerics {cmg.NUMERICS}\n"


def test_listing_imports_nothing_heavy():
    call = "import sys; from cmg.__main__ import main; main([]); " \
           "print([name for name in ('torch', 'numpy', 'h5py', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", call], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{listing()}\n[]\n"


def test_a_command_that_does_not_exist_is_one_line():
    done = subprocess.run([sys.executable, "-m", "cmg", "pretain"], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("cmg: error: there is no command 'pretain'; did you mean pretrain? (cmg alone lists them)\n")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as setup.py builds it, with its metadata in a folder of its own; runs Python in an empty one."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("installed")
    site, empty = folder / "site", folder / "empty"
    for path in (site, empty):
        path.mkdir()
    build = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(site), "build_py", "-d", str(site)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)

    def run(*words):
        return subprocess.run([sys.executable, *words], cwd=empty, env={**os.environ, "PYTHONPATH": str(site)},
                              capture_output=True, text=True)

    run.site, run.empty = site, empty
    return run


def test_the_installed_package_has_all_that_it_reads(installed):
    """Every tracked file of the package but the link, which is there as files."""
    def inside(folder):
        return {str(path.relative_to(folder)) for path in (folder / "cmg").rglob("*")
                if path.is_file() and path.suffix != ".pyc"}

    tables = {f"cmg/tables/files/{path.name}" for path in TABLES.iterdir()}
    assert inside(installed.site) == inside(CODE) | tables and "cmg/py.typed" in inside(installed.site)
    called = "from importlib.metadata import entry_points; " \
             "(one,) = entry_points(group='console_scripts', name='cmg'); one.load()(['--version'])"
    assert installed("-c", called).stdout == f"cmg {cmg.__version__}, numerics {cmg.NUMERICS}\n"
    told = installed("-c", "from importlib.metadata import metadata; told = metadata('cmg-unicode'); "
                           "print(told['Author'], told['License'], len(told.get_payload()) > 10_000)")
    assert told.stdout == "CMG developers MIT True\n"


def test_tables_go_by_name_in_the_installed_package(installed):
    call = "from cmg.tables.file import find_table, read_table; path = find_table('digits'); print(path); " \
           "print(len(read_table(path).rows))"
    path, number = installed("-c", call).stdout.splitlines()
    assert path == str(installed.site / "cmg" / "tables" / "files" / "digits.toml")
    assert int(number) == len(read_table(TABLES / "digits.toml").rows) > 3


def test_a_table_of_no_such_name_is_one_line():
    assert find_table("mine.toml") == Path("mine.toml") and find_table(TABLES) == TABLES
    with pytest.raises(UserError) as told:
        find_table("digit")
    names = sorted(path.stem for path in TABLES.glob("*.toml"))
    assert str(told.value) == (f"digit: no such table file; expected a path, or one of {', '.join(names)}; did you "
                               "mean digits?")


@pytest.mark.slow
def test_the_installed_package_pretrains_on_the_synthetic_set(installed):
    """Which it makes where it was started, for there is no checkout."""
    done = installed("-m", "cmg", "pretrain", "--data", "synthetic", "--out", "run", "--max-steps", "2", *SMALL)
    assert done.returncode == 0, done.stderr
    assert (installed.empty / "run" / "latest.pt").is_file() and [*(installed.empty / "data").glob("synthetic-*")]
