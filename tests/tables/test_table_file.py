"""Table files: what they say, and every way in which they are wrong, in one line."""

import importlib
import re

import pytest
from support_tables import AVE, rows

from cmg.configs import flat
from cmg.errors import UserError
from cmg.pretrain import parse
from cmg.tables.file import fill, read_settings, read_table
from support import TABLES


def test_table_files_of_the_repository_parse():
    paths = sorted(TABLES.glob("*.toml"))
    assert len(paths) == 15
    for path in paths:
        table = read_table(path)
        settings = {name: ["x"] for name in re.findall(r"\{(\w+)\}", path.read_text())}
        for name, flags in table.rows.items():
            for trial in table.trials.get(name, [[]]):
                parse(["--data", "x.h5", "--out", "x", *fill(flags, settings, name), *table.trial_flags, *trial])
        for one in table.evaluations:
            parser = importlib.import_module(one.module).parser()
            args = parser.parse_args(["--checkpoint", "x", "--out", "x", *fill(one.arguments, settings, one.name)])
            named = {"--checkpoint", "--open-set"} & {*one.arguments}  # then it does not choose one
            assert one.chooses == (one.module.endswith(".ave") and args.protocol == "strict" and not named)


def test_table_file(tmp_path):
    """Flags of the file, of the group, of the row, in this order; rows outside of groups and AVE's strict evaluation
    come first; a task is named in three ways."""
    file = tmp_path / "t.toml"
    (tmp_path / "mine.py").write_text("from elsewhere import main\n")
    file.write_text("""
about = "What a table file may have."
defaults = '--epochs 3 --note "two words"'   # all

[[groups]]
defaults = '''
--lr 1
--dim 8
'''
rows = [{name = "third", flags = "--lr 2"}, {name = "DCID+X: fourth # row"}]

[evaluations."avvp paper"]
task = "cmg.downstream.avvp"
metrics = ["precision", "recall"]
flags = "--protocol paper"

[evaluations.mine]
task = "mine.py"

[evaluations.ave]
task = "ave"

[[rows]]
name = "first row"
flags = "--w-cpc 0"

[[rows]]
name = "second"
""")
    table, common = read_table(file), ["--epochs", "3", "--note", "two words"]
    assert list(table.rows.items()) == [
        ("first row", [*common, "--w-cpc", "0"]), ("second", common),
        ("third", [*common, "--lr", "1", "--dim", "8", "--lr", "2"]),
        ("DCID+X: fourth # row", [*common, "--lr", "1", "--dim", "8"])]
    assert [tuple(one) for one in table.evaluations] == [
        ("ave", (), "cmg.downstream.ave", ()),
        ("avvp paper", ("precision", "recall"), "cmg.downstream.avvp", ("--protocol", "paper")),
        ("mine", (), str(tmp_path / "mine.py"), ())]
    assert (table.trials, table.trial_flags) == ({}, [])


def test_recipes_have_rows_without_one_of_their_parts():
    """OneCode at its full length on both sets of clips, Uni-Code in Table 2; each compared with the whole."""
    for name, tasks in (("digits", ["ave", "avvp"]), ("nature", ["ave"])):
        table = read_table(TABLES / f"{name}.toml")
        whole = parse(["--data", "x", "--out", "x", *table.rows["OneCode AV"]])
        for part in ("without InfoNCE", "without one code", "without reset"):
            row = f"OneCode AV {part}"
            assert table.references[row] == "OneCode AV" and table.tasks[row] == tasks
            own = parse(["--data", "x", "--out", "x", *table.rows[row]])
            assert (own.run.epochs, own.optimiser) == (whole.run.epochs, whole.optimiser)
            values, others = flat(own.method), flat(whole.method)
            changed = {name for name in values if name in others and values[name] != others[name]}
            assert changed == {
                "without InfoNCE": {"w_onecode"}, "without reset": {"reset"},
                "without one code": {"w_onecode", "w_align", "align_temperature"}}[part]
    without = parse(["--data", "x", "--out", "x", *table.rows["OneCode AV without one code"]]).method.objectives
    assert without["unicode"].align_temperature == whole.method.objectives["onecode"].onecode_temperature
    table2 = read_table(TABLES / "table2.toml")
    for term in ("CLUB", "Cross-CPC", "L_cmcm", "MM-EMA", "reset"):
        assert table2.references[f"without {term}"] == "Uni-Code"
    own, digits = read_table(TABLES / "paper.toml"), read_table(TABLES / "digits.toml")
    whole, *parts = (parse(["--data", "x", "--out", "x", *flags]) for flags in own.rows.values())
    assert whole == parse(["--data", "x", "--out", "x", *digits.rows["paper AV"]])
    values = flat(whole.method)
    lacking = [{name for name, value in flat(part.method).items() if value != values[name]} for part in parts]
    assert lacking == [{"w_club"}, {"w_cpc"}, {"mm_ema", "commitment"}, {"reset"}, {"w_cmcm"}]
    assert all((part.run.epochs, part.optimiser) == (48, whole.optimiser) for part in parts)


def test_rows_are_compared_with_the_first_or_the_one_that_is_named(tmp_path):
    file = tmp_path / "t.toml"
    groups = "[[groups]]\nrows = [{name = 'c'}]\n[[groups]]\nreference = 'e'\nrows = [{name = 'd'}, {name = 'e'}]\n"
    file.write_text(AVE + rows(a="", b="") + groups)
    assert read_table(file).references == {"a": "a", "b": "a", "c": "a", "d": "e", "e": "e"}
    file.write_text("reference = 'b'\n" + AVE + rows(a="", b="") + groups)
    assert read_table(file).references == {"a": "b", "b": "b", "c": "b", "d": "e", "e": "e"}
    file.write_text("reference = 'cc'\n" + AVE + rows(a="", b=""))
    with pytest.raises(UserError, match="reference: there is no row 'cc'; expected one of a, b"):
        read_table(file)
    file.write_text(AVE + "rows = [{name = 'stage', tasks = []}, {name = 'a', init_from = 'stage'}, {name = 'b'}]\n")
    assert set(read_table(file).references.values()) == {"a"}  # not one that is not evaluated


@pytest.mark.parametrize("flags, chooses", [
    ("--data {ave}", True), ("--protocol paper", False), ("--protocol=paper", False),
    ("--checkpoint {run}/a.pt", False), ("--checkpoint={run}/a.pt", False)])
def test_ave_chooses_unless_told_otherwise(flags, chooses, tmp_path):
    file = tmp_path / "t.toml"
    file.write_text(f'evaluations.x = {{task = "ave", flags = "{flags}"}}\n' + rows(a=""))
    assert read_table(file).evaluations[0].chooses == chooses


@pytest.mark.parametrize("text, said", [
    ("a: --lr 1\n", "Expected '=' after a key in a key/value pair (at line 1, column 2); expected TOML"),
    ("[evaluations.ave]\n[evaluations.ave]\n",
     "Cannot declare ('evaluations', 'ave') twice (at line 2, column 17); expected TOML"),
    ("default = 'x'\n", "unknown key 'default'; did you mean 'defaults'?"),
    ("seeds = 3\n", "unknown key 'seeds'; expected one of about, defaults, trial_flags, evaluations, rows, groups, "
     "reference"),
    ("defaults = 3\n", "defaults is 3; expected text in quotes"),
    ("defaults = \"--x 'b\"\n", "defaults: no closing quotation; expected quotes in pairs"),
    ("rows = 'a'\n", "rows is 'a'; expected a list"),
    ("[rows]\na = '--x'\n", "rows is one table; expected a list of them, each with [[ ]] around its name"),
    ("rows = ['a']\n", "rows is 'a'; expected a table of keys"),
    ("rows = [{name = 'a'}, {flags = '--x'}]\n", "row 2: name is ''; expected one with letters or digits"),
    ("rows = [{name = 'a', flag = ''}]\n", "row 'a': unknown key 'flag'; did you mean 'flags'?"),
    ("rows = [{name = 'a', flags = ['--x']}]\n", "row 'a': flags is ['--x']; expected text in quotes"),
    ("rows = [{name = 'a', trials = '--x'}]\n", "row 'a': trials is '--x'; expected a list"),
    (rows(a="--x") * 2, "Cannot overwrite a value (at line 2, column 37); expected TOML"),
    ("rows = [{name = 'a b'}, {name = 'a-b'}]\n",
     "row 'a-b': a second 'a b'; expected names that differ in letters or digits"),
    ("groups = [{rows = [{name = 'a'}]}, {row = []}]\n", "group 2: unknown key 'row'; did you mean 'rows'?"),
    ("rows = [{name = 'a'}]\ngroups = [{rows = [{name = 'A'}]}]\n",
     "row 'A': a second 'a'; expected names that differ in letters or digits"),
    ("evaluations.ave = 'ave'\n", "evaluation 'ave' is 'ave'; expected a table of keys"),
    (AVE + "evaluations.Ave = {task = 'ave'}\n",
     "evaluation 'Ave': a second 'ave'; expected names that differ in letters or digits"),
    ("evaluations.'+' = {task = 'ave'}\n", "evaluation '+': name is '+'; expected one with letters or digits"),
    ("evaluations.tb = {task = 'ave'}\n", "evaluation 'tb': is what a run calls its own folder; expected another name"),
    ("evaluations.'\u00e9' = {task = 'ave'}\nevaluations.'e\u0301' = {task = 'ave'}\n",
     "evaluation 'e\u0301': a second '\u00e9'; expected names that differ in letters or digits"),
    ("evaluations.a = {task = 'ave', metric = []}\n", "evaluation 'a': unknown key 'metric'; did you mean 'metrics'?"),
    ("evaluations.a = {task = 'ave', metrics = [1]}\n", "evaluation 'a': metrics is 1; expected text in quotes"),
    ("evaluations.a = {task = 'avp'}\n", "evaluation 'a': task: there is no 'avp'; did you mean 'avvp'?"),
    ("evaluations.a = {task = 'cmg.pretrain'}\n", "evaluation 'a': task: there is no 'cmg.pretrain'; expected one of "
     "ave, ave_avvp, avs, avvp, captioning, neighbourhood, retrieval, separation, ucf_vggsound"),
    ("evaluations.a = {}\n", "evaluation 'a': task: there is no ''; expected one of "
     "ave, ave_avvp, avs, avvp, captioning, neighbourhood, retrieval, separation, ucf_vggsound"),
    ("evaluations.a = {task = '/absent/mine.py'}\n", "evaluation 'a': task: /absent/mine.py: no such file; expected a "
     ".py file, or a task of cmg.downstream"),
    ("evaluations.a = {task = 'codebook'}\n", "evaluation 'a': task: there is no 'codebook'; expected one of "
     "ave, ave_avvp, avs, avvp, captioning, neighbourhood, retrieval, separation, ucf_vggsound"),
    (AVE + "rows = [{name = 'a', init_from = 'b'}, {name = 'b'}]\n",
     "row 'a': init_from: there is no row 'b' before it; before it are: none"),
    (AVE + "rows = [{name = 'a'}, {name = 'b', init_from = 'b'}]\n",
     "row 'b': init_from: there is no row 'b' before it; before it are: a"),
    (AVE + "rows = [{name = 'a', trials = ['--x']}, {name = 'b', trials = ['--x'], init_from = 'a'}]\n",
     "row 'b': init_from, and rows have trials; expected one or the other"),
    (AVE + "rows = [{name = 'a', tasks = ['avvp']}]\n",
     "row 'a': tasks: there is no evaluation 'avvp'; expected one of ave"),
    (AVE, "no rows; expected [[rows]] with a name and flags"),
    (rows(a="--x"), "no evaluations; expected [evaluations.ave] with a task and flags"),
])
def test_broken_table_files_are_one_line(text, said, tmp_path):
    file = tmp_path / "t.toml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_table(file)
    assert str(error.value) == f"{file}: {said}"


@pytest.mark.parametrize(("text", "said"), [
    ("x = 1\n", "has no `main`; expected a task, as cmg/downstream/task.py says what that is"),
    ("def f(:\n", "no Python (invalid syntax (<unknown>, line 1))"),
    ("a\0b", "no Python (source code string cannot contain null bytes)"),
    ("(" * 5000, "no Python (too many nested parentheses (<unknown>, line 1))"),
])
def test_a_file_that_is_no_task_is_told_before_any_row_runs(text, said, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "t.toml").write_text("evaluations.a = {task = 'mine.py'}\n" + rows(a=""))
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.toml")
    place = f"{tmp_path / 't.toml'}: evaluation 'a': task: {tmp_path / 'mine.py'}"
    assert str(error.value) == f"{place}: {said}"


@pytest.mark.parametrize("text", ["def main(argv=None): ...\n", "from x import main\n", "import x as main\n",
                                  "main = print\n"])
def test_a_task_has_a_main_of_whatever_kind(text, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "t.toml").write_text("evaluations.a = {task = 'mine.py'}\n" + rows(a=""))
    assert read_table(tmp_path / "t.toml").evaluations[0].module == str(tmp_path / "mine.py")


def test_placeholders():
    settings = read_settings([["ave=old.h5", "classes=same"], ["ave=a.h5", "ave=b.h5"]])
    filled = fill(["--data", "{ave}", "--classes={classes}"], settings, "x")
    assert filled == ["--data", "a.h5", "b.h5", "--classes=same"]
    with pytest.raises(UserError, match="--set avvp=…: missing; evaluation 'avvp' needs it"):
        fill(["{avvp}"], settings, "evaluation 'avvp'")
    with pytest.raises(UserError, match="2 values"):
        fill(["{ave}/x"], settings, "x")
    for bad in ("ave", "=x", "ave=", "run=x"):
        with pytest.raises(UserError, match="expected name=value"):
            read_settings([[bad]])
