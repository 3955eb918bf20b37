"""The checkout itself: layout, packaging, and the scripts, run against stand-ins so that nothing is downloaded."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

import cmg
from cmg.data.features import FeatureFile
from cmg.methods.registry import available
from cmg.pretrain import parse
from support import ROOT

TOP = {"code", "data", "checkpoint", "docs", "examples", "figs", "scripts", "tests", "requirements.txt", "README.md",
       "setup.py", "CHANGELOG.md", "CITATION.cff"}
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"])


def test_top_level_is_what_the_readme_shows():
    assert {name for name in TOP if not (ROOT / name).exists()} == set()
    try:
        call = ["git", "-C", str(ROOT), "ls-files", "-z"]
        tracked = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in tracked if name}
    assert {name for name in top if name[0] != "."} <= TOP | {"pyproject.toml", "LICENSE"}


def test_code_stays_the_module_of_the_standard_library():
    for folder in ("code", "data", "checkpoint", "examples", "figs", "scripts", "tests"):
        assert not (ROOT / folder / "__init__.py").exists()
    call = [sys.executable, "-c", "import code, pdb, cmg; print(code.__file__, cmg.__file__, sep=chr(10))"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "code")}
    said = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    standard = os.path.join(os.path.dirname(os.__file__), "code.py")
    assert said.splitlines() == [standard, str(ROOT / "code" / "cmg" / "__init__.py")]


def test_the_tested_set_is_what_setup_asks_for():
    """requirements.txt holds a release of all that setup.py needs, one set of torch, torchvision and torchaudio, which
    meets every bound of the package and of its extras."""
    literals = _setup_literals(ROOT / "setup.py")
    required, extras = literals["REQUIRED"], literals["EXTRAS"]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines[:3] == ["torch==2.11.*", "torchvision==0.26.*", "torchaudio==2.11.*"]
    assert set(extras) == {"extract", "vit", "wandb", "avs", "hub", "dev", "browser"}
    # scripts/env.sh checks these without pip, and knows these two forms only.
    parts = {one: re.fullmatch(r"([\w-]+)(==|>=)(\d+\.\d+)(?:\.\*)?", one).groups()
             for one in [*lines, *required, *sum(extras.values(), [])]}
    tested = {parts[line][0]: tuple(map(int, parts[line][2].split("."))) for line in lines}
    assert {parts[one][0] for one in required} | {"torchvision", "torchaudio"} == set(tested)
    for name, relation, bound in map(parts.get, [*required, *sum(extras.values(), [])]):
        bound = tuple(map(int, bound.split(".")))
        assert name not in tested or (tested[name] == bound if relation == "==" else tested[name] >= bound), name


def test_only_the_extras_that_bring_them_read_pictures_and_sound():
    """What imports torchvision and torchaudio is what the extras [extract] and [avs] are for, which bring them."""
    package, line = ROOT / "code" / "cmg", re.compile(r"^\s*(?:import|from) (?:torchvision|torchaudio)", re.M)
    importing = {str(path.relative_to(package)) for path in package.rglob("*.py")
                 if line.search(path.read_text(encoding="utf-8"))}
    assert {name for name in importing if not name.startswith("extract/")} == {
        "data/compose/sources.py", "downstream/avs/backbones.py"}
    extras = _setup_literals(ROOT / "setup.py")["EXTRAS"]
    for extra in ("extract", "avs", "dev"):
        assert {"torch==2.11.*", "torchvision==0.26.*", "torchaudio==2.11.*"} <= {*extras[extra]}


def test_setup_finds_the_package_and_all_its_parts():
    code = ROOT / "code"
    found = {".".join(path.parent.relative_to(code).parts) for path in code.rglob("__init__.py")}
    stub = (
        "import setuptools, runpy\n"
        "setuptools.setup = lambda **given: print(sorted(given['packages']), given['package_dir'], given['name'])\n"
        "runpy.run_path('setup.py')\n"
    )
    pytest.importorskip("setuptools")
    call = [sys.executable, "-c", stub]
    printed = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert printed == f"{sorted(found)} {{'': 'code'}} cmg-unicode"


def test_the_version_is_the_same_everywhere():
    version = re.escape(cmg.__version__)
    assert re.search(rf'^    version="{version}",$', (ROOT / "setup.py").read_text(), re.M)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert re.search(rf"^## {version}$", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_workflow_runs_the_test_command():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert re.findall(r"^      - run: (.*)$", text, re.M) == ["./scripts/test.sh"]


def test_modules_import_only_from_their_own_layer_and_those_above():
    """The layers are the lines of the package's docstring; `bench` stands for bench_loading too."""
    package = ROOT / "code" / "cmg"
    lines = [line[4:].split("  ")[0].split(", ") for line in cmg.__doc__.splitlines() if line.startswith("    ")]
    layer = {name: number for number, names in enumerate(lines) for name in names}

    def layer_of(module):
        return layer[re.sub(r"^bench_.*", "bench", module.split(".")[1])]

    for path in set(package.rglob("*.py")) - {package / "__init__.py"}:
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cmg":
                for name in (f"{node.module}.{alias.name}" for alias in node.names):
                    assert layer_of(name) <= layer_of(module), f"{module} imports {name}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    if script.name not in ("env.sh", "clips.sh"):  # these are sourced
        assert os.access(script, os.X_OK)
        lines = script.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines


def test_the_example_of_the_data_page_runs(tmp_path, monkeypatch):
    example = re.search(r"```python\n(.*?)```", (ROOT / "data" / "README.md").read_text(), re.S).group(1)
    monkeypatch.chdir(tmp_path)
    exec(example.replace("512", "8"), {})
    file = FeatureFile(tmp_path / "mine.h5")
    assert file.shapes == {"video": (10, 7, 7, 8), "audio": (10, 128)}
    assert file.ids[99] == "clip_099" and file.attrs["backbone/audio"] == "vggish"
    x, valid = file.read("audio", [0, 99])
    assert x.shape == (2, 10, 128) and 5 <= valid.sum(axis=1).min() <= valid.sum(axis=1).max() <= 10


# The scripts with a stand-in for Python that only writes down how it was called.


@pytest.fixture
def called(tmp_path):
    """Run a script from a foreign folder -> the calls it made, a list of argument lists."""
    log, stand_in = tmp_path / "log", tmp_path / "python"
    stand_in.write_text(f'#!/usr/bin/env bash\n[[ "$1" == - ]] && exit\n(IFS=$\'\\t\'; echo "$*") >>"{log}"\n')
    stand_in.chmod(0o755)
    away = tmp_path / "away"
    away.mkdir()

    def run(script, *flags, **environment):
        log.unlink(missing_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name != "NPROC"}
        environment = {**inherited, "CMG_PYTHON": str(stand_in), **environment}
        subprocess.run([str(ROOT / script), *flags], cwd=away, env=environment, check=True, capture_output=True)
        return [line.split("\t") for line in log.read_text().splitlines()]

    return run


def test_digits_script_fills_the_tables_that_it_is_asked_for(called, tmp_path):
    (tmp_path / "render_media.py").touch()
    calls = called("scripts/digits.sh", str(tmp_path), "--seeds", "7", TABLES="digits pair")
    tables = [call for call in calls if call[:2] == ["-m", "cmg.tables"]]
    media = ROOT / "data" / "digits"
    assert calls[0] == [str(tmp_path / "render_media.py"), str(media), "--kinds", "pretrain", "ave", "avvp", "s4"]
    assert [call[call.index("--data") + 1 : call.index("--set")] for call in tables] == [
        [str(media / "pretrain.h5")], [str(media / "other_speakers.h5")]]
    assert [call[2] for call in tables] == [str(ROOT / "scripts" / "tables" / f"{t}.toml") for t in ("digits", "pair")]
    assert all(call[-2:] == ["--seeds", "7"] for call in tables)
    made = {_value(call, "--out") for call in calls if call[:2] == ["-m", "cmg.extract"]}
    assert made == {str(media / f"{name}.h5") for name in (
        "pretrain", "other_speakers", "heard_train", "heard_test", "ave", "avvp", "retrieval",
        "pair_video", "pair_audio")}


@pytest.mark.parametrize("script, sources", [
    ("digits", ["--fsdd", "a b", "--mnist=c"]), ("nature", ["--mirror", "http://x/"]), ("nature", [])])
def test_without_a_folder_the_clips_are_composed_first(called, script, sources):
    """Into a folder of their own, and every placeholder of the table file is set."""
    calls = called(f"scripts/{script}.sh", "--seeds", "7", *sources, "--rows", "x", CMG_DIGITS="", CMG_NATURE="")
    media = ROOT / "data" / "composed" / script
    assert calls[0] == ["-m", "cmg.data.compose", script, "--out", str(media / "clips"), "--downloads",
                        str(ROOT / "data" / "downloads"), *sources]
    assert calls[1][:2] == [str(media / "clips" / "render_media.py"), str(media)]
    (table,) = [call for call in calls if call[:2] == ["-m", "cmg.tables"]]
    assert table[-4:] == ["--seeds", "7", "--rows", "x"]
    assert _value(table, "--out") == str(ROOT / "checkpoint" / "composed" / script)
    set_ = table[table.index("--set") + 1 : table.index("--seeds")]
    with open(table[2]) as file:
        placeholders = set(re.findall(r"\{(\w+)\}", file.read())) - {"run"}
    assert placeholders <= {pair.split("=")[0] for pair in set_}
    made = {_value(call, "--out") for call in calls if call[:2] == ["-m", "cmg.extract"]}
    features = [word.split("=")[-1] for word in table if word.endswith(".h5")]
    assert features and made >= set(features)


@pytest.mark.parametrize("script", ["digits", "nature"])
@pytest.mark.parametrize("flags, message", [
    (["away"], "away: no render_media.py; expected a folder of clips, or none to compose them"),
    (["away", "--mirror", "x"], "away and --mirror; expected a folder of clips, or what to compose them of"),
    (["--mirror"], "--mirror: expected a value")])
def test_clip_scripts_refuse_in_one_line(tmp_path, script, flags, message):
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/usr/bin/env bash\n")
    stand_in.chmod(0o755)
    done = subprocess.run([str(ROOT / "scripts" / f"{script}.sh"), *flags], capture_output=True, text=True,
                          env={**os.environ, "CMG_PYTHON": str(stand_in)})
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("env:")]
    assert said == [f"{script}.sh: error: {message}"]


@pytest.mark.parametrize("script", ["table1", "table5", "fig3"])
def test_table_scripts_take_features_of_ones_own(called, script):
    """No folder of digit clips is asked for, none is rendered, and nothing of them is set."""
    own = ["--data", "a b.h5", "--out", "mine", "--set", "ave=c.h5"]
    (call,) = called(f"scripts/{script}.sh", *own, CMG_DIGITS="", JOBS="3")
    assert call == ["-m", "cmg.tables", str(ROOT / "scripts" / "tables" / f"{script}.toml"), "--seeds", "0", "1", "2",
                    "--jobs", "3", "--out", str(ROOT / "checkpoint" / script), *own]


def test_digits_script_takes_no_half_written_test_split_for_a_whole_one():
    """It makes the split unless the file is there that digit_ave.py writes last."""
    last = re.findall(r"\[\[ -f \"\$media/new/ann/(\w+\.\w+)\" \]\] \|\|", (ROOT / "scripts" / "digits.sh").read_text())
    written = re.findall(r"\w+\.(?:txt|csv)", (ROOT / "scripts" / "digit_ave.py").read_text())
    assert last == ["clusters.csv"] == written[-1:]


@pytest.mark.parametrize("number", range(1, 6))
def test_table_scripts_fill_their_tables(called, tmp_path, number):
    """Every placeholder of the table file is set; Table 5 is pretrained without the speakers of its test clips."""
    (tmp_path / "render_media.py").touch()
    (call,) = [call for call in called(f"scripts/table{number}.sh", str(tmp_path)) if call[:2] == ["-m", "cmg.tables"]]
    table = ROOT / "scripts" / "tables" / f"table{number}.toml"
    assert call[2] == str(table) and _value(call, "--out") == str(ROOT / "checkpoint" / f"table{number}")
    set_ = call[call.index("--set") + 1 : call.index("--seeds")]
    assert set(re.findall(r"\{(\w+)\}", table.read_text())) <= {pair.split("=")[0] for pair in set_}
    assert (_value(call, "--data") == str(ROOT / "data" / "digits" / "other_speakers.h5")) == (number == 5)


def test_pretrain_script_pretrains_then_validates(called):
    pretrain, ave = called("scripts/pretrain.sh")
    run_folder = str(ROOT / "checkpoint" / "synthetic")
    assert pretrain[:2] == ["-m", "cmg.pretrain"] and ave[:2] == ["-m", "cmg.downstream.ave"]
    assert _value(pretrain, "--out") == _value(ave, "--checkpoint") == run_folder
    assert _value(pretrain, "--resume") == "auto"
    assert _value(pretrain, "--data") == _value(ave, "--data") == "synthetic"


@pytest.mark.parametrize("flags", [["--out", "my run"], ["--out=my run"], ["--out", "other", "--out", "my run"]])
def test_pretrain_script_validates_the_users_run(called, flags):
    pretrain, ave = called("scripts/pretrain.sh", "--device", "cpu", *flags, "--seed", "3")
    assert pretrain[-len(flags) - 2 :] == [*flags, "--seed", "3"]  # the user's flags come last, so they win
    assert _value(ave, "--checkpoint") == "my run"
    assert _value(ave, "--device") == "cpu"


def test_pretrain_script_leaves_other_data_and_presets_alone(called):
    (pretrain,) = called("scripts/pretrain.sh", "--data", "a.h5", "b.h5", "--preset", "paper")
    assert pretrain[-5:] == ["--data", "a.h5", "b.h5", "--preset", "paper"]
    assert pretrain.count("--preset") == 1 and "--checkpoint-epochs" not in pretrain
    assert called("scripts/pretrain.sh", "--seed", "1", "--help") == [
        ["-m", "cmg.pretrain", "--preset", "small", "--checkpoint-epochs", "4", "--seed", "1", "--help"]]


@pytest.mark.parametrize("flag, value, dropped, kept", [
    ("--method", "my methods/mine.py", ["--preset"], ["--data", "--seed"]),
    ("--method", "mine.py:Mine", ["--preset"], ["--data"]),
    ("--method", "dcid+mine.py", [], ["--preset", "--checkpoint-epochs"]),
    ("--config", "args.json", ["--preset", "--checkpoint-epochs", "--data", "--seed"], ["--resume"]),
])
def test_pretrain_script_sets_what_the_method_or_the_config_leaves_open(called, flag, value, dropped, kept):
    """A method of one's own has presets of its own, and a --config says all there is to say."""
    pretrain = called("scripts/pretrain.sh", flag, value)[0]
    assert pretrain[-2:] == [flag, value] and not {*dropped} & {*pretrain} and {*kept} <= {*pretrain}
    shown = called("scripts/pretrain.sh", flag, value, "--help")
    preset = ["--preset", "small", "--checkpoint-epochs", "4"] if "--preset" in kept else []
    assert shown == [["-m", "cmg.pretrain", *preset, flag, value, "--help"]]


def test_pretrain_script_honours_nproc(called):
    pretrain, ave = called("scripts/pretrain.sh", NPROC="2")
    launcher = ["-m", "cmg.launch", "2", "cmg.pretrain"]
    assert pretrain[: len(launcher)] == launcher
    assert ave[:2] == ["-m", "cmg.downstream.ave"]


@pytest.mark.parametrize("script, environment", [
    ("ave", {}), ("pretrain", {}), ("pretrain", {"NPROC": "2"}), ("bench", {}), ("table2", {}),
    ("digits", {"TABLES": "ave pair"})])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_script_ends_its_program_and_nothing_follows(tmp_path, script, environment, number):
    log, stand_in = tmp_path / "log", tmp_path / "python"
    stand_in.write_text(f"""#!/usr/bin/env bash
[[ "$1" == - ]] && exit
trap 'echo ended >>"{log}"; exit 7' TERM INT
echo began >>"{log}"
for ((i = 0; i < 600; i++)); do sleep 0.05; done
""")
    stand_in.chmod(0o755)
    flags = ["--data", "x.h5"] if script in ("digits", "table2") else []
    inherited = {name: value for name, value in os.environ.items() if name != "NPROC"}
    with subprocess.Popen([str(ROOT / "scripts" / f"{script}.sh"), *flags], stderr=subprocess.DEVNULL, cwd=tmp_path,
                          env=inherited | {"CMG_PYTHON": str(stand_in)} | environment) as process:
        for _ in range(600):
            if log.exists():
                break
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) == 7
    assert log.read_text() == "began\nended\n"


@pytest.mark.parametrize("processes", ["two", "0", "-1", "2 3", "08", "1000", "9" * 30])
@pytest.mark.parametrize("script", ["pretrain.sh", "multisk.sh", "cmmixer.sh", "uniq4cap.sh"])
def test_scripts_refuse_what_is_no_number_of_processes(script, processes):
    environment = {**os.environ, "CMG_PYTHON": "true", "NPROC": processes}
    done = subprocess.run([str(ROOT / "scripts" / script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (f"{script}: error: NPROC={processes}: expected a number of processes, "
                                            "1 to 999")


@pytest.mark.parametrize("method", [*available(), "dcid+cmcm", "dcid+smit+turn"])
def test_the_pretrain_script_takes_every_method(called, method):
    """It gives a method nothing but what all methods have, so that the preset decides the rest."""
    given = called("scripts/pretrain.sh", "--method", method)[0][2:]
    shown, preset = parse(given), parse(["--data", "synthetic", "--out", "x", "--preset", "small", "--method", method])
    assert shown.kind.name == method and shown.method == preset.method and shown.optimiser == preset.optimiser


def test_multisk_script_pretrains_then_retrieves(called):
    pretrain, retrieval, neighbours = called("scripts/multisk.sh", "--out", "my run", "--device", "cpu")
    assert pretrain[:4] == ["-m", "cmg.pretrain", "--method", "multisk"] and _value(pretrain, "--data") == "synthetic"
    assert (retrieval[1], neighbours[1]) == ("cmg.downstream.retrieval", "cmg.downstream.neighbourhood")
    assert {_value(call, "--checkpoint") for call in (retrieval, neighbours)} == {"my run"}
    assert {_value(call, "--data") for call in (retrieval, neighbours)} == {"synthetic"}
    (alone,) = called("scripts/multisk.sh", "--data", "a.h5", "--preset", "released", NPROC="2")
    assert alone[:4] == ["-m", "cmg.launch", "2", "cmg.pretrain"]
    assert alone[-4:] == ["--data", "a.h5", "--preset", "released"]
    assert called("scripts/multisk.sh", "--help") == [["-m", "cmg.pretrain", "--method", "multisk", "--help"]]


def test_uniq4cap_script_has_two_stages_and_tells_videos(called):
    aligned, captions, tested = called("scripts/uniq4cap.sh", "--out=my run", "--device", "cpu", "--epochs", "2")
    assert [_value(call, "--method") for call in (aligned, captions)] == ["prealign", "uniq4cap"]
    assert [_value(call, "--out") for call in (aligned, captions)] == ["my run/aligned", "my run/captions"]
    assert _value(captions, "--init-from") == "my run/aligned" and _value(captions, "--epochs") == "2"
    assert tested[1] == "cmg.downstream.captioning" and _value(tested, "--device") == "cpu"
    assert called("scripts/uniq4cap.sh", "--caption", "a b.mp4", "c.mp4", "--checkpoint", "x") == [
        ["-m", "cmg.downstream.captioning", "--checkpoint", str(ROOT / "checkpoint" / "uniq4cap" / "captions"),
         "--videos", "a b.mp4", "c.mp4", "--checkpoint", "x"]]


def test_cmmixer_script_mixes_then_fine_tunes(called):
    """Fine-tuning begins with the mixed encoder, and gets the flags that it knows."""
    given = ["--out", "my run", "--device", "cpu", "--mix=pixel", "--no-flip", "--epochs", "7", "--dim", "64"]
    mixed, pairs, separation, retrieval, ave, again, last = called("scripts/cmmixer.sh", *given, PAIRS="--epochs 9")
    settings = [parse(call[2:]) for call in (mixed, pairs)]
    assert [one.flags["method"] for one in settings] == ["cmmixer", "cmmixer-pair"]
    assert [one.run.epochs for one in settings] == [7, 9] and settings[1].run.init_from == "my run/mixed/latest.pt"
    assert settings[0].method.mix == "pixel"
    for one, folder in zip(settings, ("mixed", "pairs")):
        assert one.run.out == f"my run/{folder}" and one.method.pictures.dim == 64 and not one.method.augment.flip
        assert one.flags["preset"] == "small" and one.run.device == "cpu" and one.run.data == ["synthetic"]
    assert [call[1].rpartition(".")[2] for call in (separation, retrieval, ave, again, last)] == [
        "separation", "retrieval", "ave", "retrieval", "ave"]
    own, theirs = called("scripts/cmmixer.sh", "--data", "a.h5", "b.h5", "--preset", "base", NPROC="2")
    for call, method in ((own, "cmmixer"), (theirs, "cmmixer-pair")):
        assert call[:6] == ["-m", "cmg.launch", "2", "cmg.pretrain", "--method", method]
        settings = parse(call[4:])
        assert settings.run.data == ["a.h5", "b.h5"] and settings.method.augment.crop == 0.5
    assert called("scripts/cmmixer.sh", "--help") == [["-m", "cmg.pretrain", "--method", "cmmixer", "--help"]]


def test_thin_scripts_pass_flags_on(called):
    (ave,) = called("scripts/ave.sh", "--checkpoint", "x", "--protocol", "paper")
    assert ave[:2] == ["-m", "cmg.downstream.ave"] and ave[-4:] == ["--checkpoint", "x", "--protocol", "paper"]
    assert called("scripts/extract.sh", "--out", "a b.h5") == [["-m", "cmg.extract", "--out", "a b.h5"]]
    assert called("scripts/test.sh", "-k", "ave") == [["-m", "pytest", str(ROOT / "tests"), "-q", "-k", "ave"]]
    assert called(".ci/run") == called("scripts/test.sh") == [[str(ROOT / "tests" / "side_by_side.py")]]


# env.sh itself, in a checkout of its own with one harmless requirement that lies in a local folder.


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose only requirement is `cmgprobe`, and a function that runs a script of it."""
    root = tmp_path / "check out"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "env.sh", root / "scripts")
    _require(root, "cmgprobe==1.2.*")
    script = root / "scripts" / "show.sh"
    script.write_text(
        "#!/usr/bin/env bash\nset -euo pipefail\nCMG_EXTRAS=more\n"
        'source "$(dirname "${BASH_SOURCE[0]}")/env.sh"\n'
        'exec "$python" -c "import cmgprobe; print(cmgprobe.__file__)"\n'
    )
    script.chmod(0o755)
    wheels = tmp_path / "wheels"
    _wheel(wheels, "cmgprobe", "1.2.3")
    _wheel(wheels, "cmgmore", "0.5")

    def run(**environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "VIRTUAL_ENV", "CONDA", "CMG_"))}
        clean |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri(), "PIP_CONFIG_FILE": os.devnull}
        return subprocess.run([str(script)], env={**clean, **environment}, cwd=tmp_path, capture_output=True, text=True)

    run.root = root
    return run


@pytest.mark.slow
def test_environment_is_made_once_and_again_when_requirements_change(checkout):
    venv = checkout.root / ".venv"
    first = checkout()
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(str(venv)) and len(first.stderr.splitlines()) == 2

    second = checkout(PIP_FIND_LINKS="/nowhere")  # no package index is asked
    assert second.stdout == first.stdout and second.stderr == f"env: using {venv}/bin/python\n"

    (venv / "cmg-stamp-more").unlink()  # as an interrupted installation leaves it
    assert checkout().returncode == 0 and (venv / "cmg-stamp-more").exists()

    _require(checkout.root, "cmgprobe==1.3.*")
    failed = checkout()
    assert failed.returncode == 1 and failed.stdout == ""
    said = failed.stderr.splitlines()
    assert len(said) == 2 and said[1].startswith("env: error: pip could not install") and "cmgprobe==1.3.*" in said[1]
    _require(checkout.root, "cmgprobe==1.2.*")  # the stamps of the first installation still hold
    assert checkout(PIP_FIND_LINKS="/nowhere").returncode == 0

    # A Python that is told by name is taken, and so is an active one that has everything.
    active = {"VIRTUAL_ENV": str(venv), "PATH": f"{venv}/bin:/usr/bin:/bin"}
    for choice in ({"CMG_PYTHON": f"{venv}/bin/python"}, active):
        chosen = checkout(**choice)
        assert chosen.stdout == first.stdout and len(chosen.stderr.splitlines()) == 1


def test_environment_errors_are_one_line(checkout, tmp_path):
    lost = checkout(CMG_PYTHON="/nowhere/python")
    assert lost.returncode == 1 and lost.stderr == "env: error: CMG_PYTHON is '/nowhere/python', which is no command\n"

    bare = checkout(CMG_PYTHON=sys.executable)  # used as it is, with a word of warning
    assert bare.stderr.splitlines()[0].endswith("(CMG_PYTHON) lacks cmgprobe==1.2.* cmgmore>=0.4 ")
    assert "No module named 'cmgprobe'" in bare.stderr

    old = tmp_path / "old"
    old.mkdir()
    for name in ("bash", "dirname", "cat", "cksum", "tail", "grep", "env"):
        (old / name).symlink_to(shutil.which(name))
    (old / "python3").write_text('#!/usr/bin/env bash\n[[ "$1" == --version ]] && echo Python 3.8.1 && exit\nexit 1\n')
    (old / "python3").chmod(0o755)
    failed = checkout(PATH=str(old))
    assert failed.returncode == 1
    assert failed.stderr == "env: error: needs Python 3.11 or newer, found Python 3.8.1; set CMG_PYTHON\n"
    assert not (checkout.root / ".venv").exists()


def _setup_literals(path):
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in nodes}


def _value(arguments, flag):
    """The value that argparse would keep: the last one given."""
    last = max(i for i, argument in enumerate(arguments) if argument == flag)
    return arguments[last + 1]


def _require(root, requirement):
    (root / "requirements.txt").write_text(f"{requirement}\n")
    (root / "setup.py").write_text(f'REQUIRED = ["{requirement}"]\nEXTRAS = {{"more": ["cmgmore>=0.4"]}}\n')


def _wheel(folder, name, version):
    """The smallest package that pip installs."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
