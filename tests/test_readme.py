"""The README holds: its commands parse, its files exist, its Python runs."""

import importlib
import re
import shlex

import numpy as np
import pytest
import torch

from cmg.__main__ import COMMANDS
from cmg.data.compose.__main__ import SETS
from cmg.data.convert import READERS
from cmg.data.features import FeatureFile
from cmg.data.labels import read_labels
from cmg.data.videos import place_of
from cmg.downstream.registry import MODULES as TASK_MODULES
from cmg.downstream.registry import TASKS
from cmg.tables.file import read_table
from support import ROOT, untrained

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = (ROOT / "figs" / "README.md").read_text(encoding="utf-8")
MAINS = {module.removesuffix(".__main__"): importlib.import_module(module).main for module, _ in COMMANDS.values()}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def script_calls():
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


def flags_known(module, *words):
    """Long flags that a command's --help names, or that of one of its own commands."""
    import contextlib
    import io

    told = io.StringIO()
    with contextlib.redirect_stdout(told), pytest.raises(SystemExit) as stop:
        MAINS[module]([*words, "--help"])
    assert stop.value.code == 0
    return set(re.findall(r"--[a-z][a-z0-9-]+", told.getvalue()))


def test_every_script_of_the_readme_exists_and_knows_its_flags():
    calls = [call for call in script_calls() if call[0].startswith("./scripts/")]
    assert len(calls) >= 5
    for script, *arguments in calls:
        text = (ROOT / script).read_text()
        modules = {*re.findall(r"-m (cmg[\w.]+)", text)} - {"cmg.launch"}  # which starts one of the others
        known = set().union(*(flags_known(m) for m in modules)) if modules else set()
        for flag in (a for a in arguments if a.startswith("--")):
            assert flag in known, f"{script} {flag}"


@pytest.mark.parametrize("page", ["README.md", "docs/encode_and_share.md", "docs/walk.md"])
def test_calls_of_cmg_name_commands_and_flags_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    calls = [shlex.split(line, comments=True) for block in re.findall(r"```bash\n(.*?)```", text, re.S)
             for line in block.replace("\\\n", " ").splitlines() if line.startswith("cmg ")]
    assert len(calls) >= 3
    for _, name, *arguments in calls:
        module = COMMANDS[name][0].removesuffix(".__main__")
        assert {a for a in arguments if a.startswith("--")} <= flags_known(module), (name, arguments)


@pytest.mark.parametrize("module", sorted(MAINS))
def test_scripts_pass_flags_that_exist(module):
    known = flags_known(module)
    for script in (ROOT / "scripts").glob("*.sh"):
        for call in re.findall(rf"-m {re.escape(module)}\s((?:.*\\\n)*.*)", re.sub(r"^#.*", "", script.read_text(),
                                                                                 flags=re.M)):
            for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", call):
                assert flag in known, f"{script.name}: {flag}"


def test_flags_that_the_text_names_exist():
    known = set().union(*(flags_known(m) for m in MAINS)) | {"--logdir"}
    prose = re.sub(r"```.*?```", "", README + FIGURES, flags=re.S)
    for flag in re.findall(r"`(--[a-z][a-z-]+)", prose):
        assert flag in known, flag


def test_the_table_of_tasks_is_that_of_the_registry():
    table = re.search(r"\| task \| command \| measures .*\n\|[:|-]+\n((?:\|.*\n)+)", README)[1]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines()]
    assert rows == [[entry.title, ", ".join(f"`scripts/{call}`" for call in entry.calls), entry.measures]
                    for entry in TASKS.values()]


def test_help_of_a_task_begins_with_its_line_of_the_registry(capsys):
    for module in TASK_MODULES:
        with pytest.raises(SystemExit):
            MAINS[f"cmg.downstream.{module}"](["--help"])
        assert TASKS[module].about in " ".join(capsys.readouterr().out.split())


def test_links_and_files_exist():
    pages = [ROOT / "README.md", *ROOT.glob("*/README.md"), *(ROOT / "docs").glob("*.md")]
    assert len(pages) > 10
    for page in pages:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for name in re.findall(r"`((?:models|losses|methods|training|downstream)/\w+\.py)", README):
        assert (ROOT / "code" / "cmg" / name).exists(), name


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    (snippet,) = blocks("python")
    (tmp_path / "checkpoint" / "mine").mkdir(parents=True)
    untrained(tmp_path / "checkpoint" / "mine" / "best.pt", {"video": (10, 7, 7, 6), "audio": (10, 8)})
    monkeypatch.chdir(tmp_path)
    names = {"features": torch.randn(2, 10, 7, 7, 6)}
    exec(snippet, names)
    tokens = names["tokens"]
    assert tokens.codes.shape == (2, 10) and tokens.quantized.shape == tokens.semantic.shape == (2, 10, 16)
    both = names["model"].encode(video=names["features"], audio=np.zeros((2, 10, 8), np.float32))
    assert set(both) == {"video", "audio"}


def test_commands_of_the_page_of_followups_exist():
    calls = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "followups.md").read_text(), re.S)
    assert len(calls) > 3
    for script, *arguments in (shlex.split(line) for block in calls for line in block.strip().splitlines()):
        text = (ROOT / script).read_text() if script != "python" else f"-m {arguments[1]}"
        known = set().union(*(flags_known(m) for m in {*re.findall(r"-m (cmg[\w.]+)", text)} - {"cmg.launch"}))
        assert {a for a in arguments if a.startswith("--")} <= known, script


def test_commands_of_the_data_guide_name_flags_that_exist():
    guide = (ROOT / "data" / "README.md").read_text()
    (block,) = re.findall(r"```bash\n(.*?)```", guide, re.S)
    calls = re.sub(r"#.*", "", block).replace("\\\n", " ").strip().splitlines()
    assert len(calls) == 3
    for script, *arguments in map(shlex.split, calls):
        assert script == "scripts/extract.sh"
        assert {a for a in arguments if a.startswith("--")} <= flags_known("cmg.extract")
    known = set().union(*(flags_known(m) for m in MAINS), *(flags_known("cmg.data.convert", name) for name in READERS),
                        *(flags_known("cmg.data.compose", name) for name in SETS))
    for flag in re.findall(r"`(--[a-z][a-z0-9-]+)", guide):
        assert flag in known, flag


def test_commands_of_the_page_on_clusters_name_flags_that_exist():
    """What stands after the module of a command, and what the text names."""
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    text = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.S)).replace("\\\n", " ")
    text = text.replace(".sbatch", ".sbatch cmg.pretrain")
    calls = re.findall(r"(cmg\.\w+)([^#\n]*)", text)
    assert {module for module, _ in calls} == {"cmg.pretrain", "cmg.extract", "cmg.tables"} and len(calls) == 9
    for module, rest in calls:
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]+", rest)) <= flags_known(module), rest
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ROOT / "docs" / target).exists()
    own = set(re.findall(r"`(--[a-z][a-z-]+)(?: [^`]*)?`", re.sub(r"```.*?```", "", page, flags=re.S)))
    assert own - {"--signal"} <= flags_known("cmg.pretrain") | flags_known("cmg.extract")


def test_python_of_the_data_guide_runs(tmp_path, monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "data" / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    file = FeatureFile(tmp_path / "mine.h5")
    assert len(file.ids) == 100 and file.shapes == {"video": (10, 7, 7, 512), "audio": (10, 128)}


def test_labels_and_table_of_the_walk_fit_its_commands(tmp_path):
    """Its test clips are among those that its share holds out, and its table file is the one of the page on tables."""
    walk, tables = ((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("walk.md", "tables.md"))
    (tmp_path / "labels.csv").write_text(re.search(r"```\n(id,label,split\n.*?)```", walk, re.S)[1])
    splits = read_labels(tmp_path / "labels.csv").splits
    refused, share = map(float, re.findall(r"--hold-out ([\d.]+) --out runs/mine", walk))
    clips = [clip.id for own in splits.values() for clip in own]
    assert len(clips) == 10 and refused < min(map(place_of, clips))
    held_out = sorted(clip for clip in clips if place_of(clip) < share)
    assert {clip.id for clip in splits["test"]} <= set(held_out)
    assert f"{len(held_out)} of 10 clips left out: {', '.join(held_out)}" in walk
    (tmp_path / "mine.toml").write_text(re.search(r"```toml\n(.*?)```", tables, re.S)[1])
    rows = read_table(tmp_path / "mine.toml").rows
    assert list(rows) == ["with text", "without"]
    assert all(f"--hold-out {share}" in shlex.join(flags) for flags in rows.values())
