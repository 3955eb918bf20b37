"""Finished runs side by side: which are one row, what differs, LaTeX, and one line for what cannot be compared."""

import doctest
import json

import numpy as np
import pytest
import torch
from support_tables import row

from cmg.downstream.clip_scores import clustered, write_clip_scores
from cmg.tables import latex
from cmg.tables.compare import main


def finished(folder, values, seed=0, results=None, **flags):
    """A run folder of so much as tasks leave behind."""
    folder.mkdir(parents=True)
    flags = {"batch_size": 10, "seed": seed, "out": str(folder), "lr": 1} | flags
    (folder / "args.json").write_text(json.dumps({"commit": "c0", "numerics": 5, "flags": flags}))
    (folder / "metrics.csv").write_text("step,train/clips_per_s\n0,1\n60,10\n")
    rows = [{"task": "ave", "numerics": 5} | row("accuracy", value, target) for target, value in values.items()]
    (folder / "results.json").write_text(json.dumps(rows if results is None else results))
    scores = {("video", target, "accuracy"): clustered([f"c{n}" for n in range(10)], torch.full((10,), float(value)))
              for target, value in values.items()}
    write_clip_scores(folder, "ave", "strict", scores)
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [finished(tmp_path / "a_1", {"audio": 60.0, "text": 20.0}),
            finished(tmp_path / "a_2", {"audio": 62.0, "text": 20.0}, seed=1),
            finished(tmp_path / "b", {"audio": 70.0, "text": 20.04}, lr=2),
            finished(tmp_path / "b_2", {"audio": 74.0, "text": 20.04}, seed=1, lr=2)]


def test_runs_that_differ_in_the_seed_are_a_row(runs, tmp_path, capsys):
    main([*runs, "--out", str(tmp_path / "out")])
    table = json.loads((tmp_path / "out/table.json").read_text())
    lines = {(line["name"], line["direction"]): line for line in table["lines"]}
    assert [*dict.fromkeys(name for name, _ in lines)] == ["a_1", "b"]
    assert lines["a_1", "v2a"]["values"] == [60.0, 62.0] and lines["b", "v2a"]["value_std"] == pytest.approx(np.sqrt(8))
    (audio,) = [one for one in table["differences"] if one["direction"] == "v2a"]
    assert (audio["row"], audio["reference"], audio["difference"], audio["clips"]) == ("b", "a_1", 11.0, 10)
    assert [cell["minutes"] for cell in table["cells"]] == [1.0] * 4
    assert str(tmp_path / "out/table.md") in capsys.readouterr().out
    assert (tmp_path / "out/table.tex").read_text() == r"""\begin{tabular}{lrr}
\toprule
 & ave v2a & ave v2t \\
\midrule
a\_1 & 61.0 $\pm$ 1.4 & \textbf{20.0} $\pm$ 0.0 \\
b & \textbf{72.0} $\pm$ 2.8 & \textbf{20.0} $\pm$ 0.0 \\
\midrule
chance & 10.0 & 10.0 \\
\bottomrule
\end{tabular}
"""


def test_names_and_choices_of_the_command_line(runs, capsys):
    main([f"first={runs[0]}", f"second={runs[1]}", f"third={runs[2]}", "--metrics", "accuracy", "--tasks", "ave"])
    printed = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in printed.splitlines()[2:5]] == ["first", "second", "third"]
    differing = [line for line in printed.partition("Differences")[2].splitlines() if "|" in line]
    assert [line.split("|")[1].strip() for line in differing[2:]] == ["third"]  # no seed of second is in first


def test_protocols_and_galleries_are_columns_of_their_own(tmp_path, capsys):
    rows = [{"task": "retrieval", "numerics": 5, "gallery": gallery} | row("codes_r10", value, protocol=protocol)
            for gallery, protocol, value in (("audio", "strict", 1.0), ("text", "strict", 2.0), ("text", "paper", 3.0))]
    main([finished(tmp_path / "r", {}, results=[*rows, {"task": "ave"} | row("accuracy", 4.0) | {"value": None}])])
    header, _, figures = capsys.readouterr().out.splitlines()[:3]
    assert [cell.strip() for cell in header.split("|")[2:5]] == [
        "retrieval audio v2a", "retrieval text v2a", "retrieval text paper v2a"]
    assert [cell.strip() for cell in figures.split("|")[2:5]] == ["1.0", "2.0", "3.0"]


@pytest.mark.parametrize("given, message", [
    (["a_1", "x=a_1", "x=a_1"], "a_1: of the same name (x) and seed as"),
    (["x=a_1", "x=b_2"], "b_2: has other flags than"),
    (["a_1", "nowhere"], "args.json: no such file; expected the folder of a run of cmg.pretrain"),
    (["a_1", "--tasks", "avvp"], "--tasks avvp: in no results.json; there are ave"),
    (["a_1", "--metrics", "f1"], "--metrics f1: in no results.json; there are accuracy"),
])
def test_what_cannot_be_compared_is_one_line(runs, tmp_path, capsys, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(given)
    told = capsys.readouterr().err.strip()
    assert end.value.code == 2 and message in told and "\n" not in told


def test_a_run_without_results_is_one_line(tmp_path, capsys):
    folder = finished(tmp_path / "r", {}, results=[])
    with pytest.raises(SystemExit):
        main([folder])
    expected = "expected those of a task, such as cmg.downstream.ave"
    assert f"results.json: holds no rows; {expected}" in capsys.readouterr().err
    (tmp_path / "r" / "results.json").unlink()
    with pytest.raises(SystemExit):
        main([folder])
    assert f"results.json: no such file; {expected}" in capsys.readouterr().err


def test_latex_is_escaped():
    assert doctest.testmod(latex).failed == 0
    assert latex.escaped(r"a\b{c}~^#$&") == r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\#\$\&"
