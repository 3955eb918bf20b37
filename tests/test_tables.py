"""`cmg.tables`: table files, mean and std over seeds, and cells that are run once, side by side, in processes."""

import csv
import json
from pathlib import Path
from statistics import mean, stdev

import pytest

from cmg.data.synthetic import SyntheticSpec, synthetic_files
from cmg.errors import UserError
from cmg.tables import main, read_table, summarise

TABLES = Path(__file__).parent.parent / "scripts" / "tables"


def test_table_files_of_the_repository_parse():
    from cmg.pretrain import parse

    for path in TABLES.glob("*.txt"):
        for name, flags in read_table(path).items():
            parse(["--data", "x.h5", "--out", "x", *flags]), name


def test_common_flags_come_first_and_comments_go(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("# head\n*: --epochs 3   # all\nfirst row: --w-cpc 0\nsecond:\n")
    assert read_table(file) == {"first row": ["--epochs", "3", "--w-cpc", "0"], "second": ["--epochs", "3"]}
    file.write_text("a: --x\na: --y\n")
    with pytest.raises(UserError, match="line 2"):
        read_table(file)
    file.write_text("no colon here\n")
    with pytest.raises(UserError, match="line 1"):
        read_table(file)


class Finished:
    """A cell whose results are given."""

    def __init__(self, name, seed, values):
        self.name, self.seed, self.values = name, seed, values

    def results(self):
        rows = [{"metric": metric, "source": "video", "target": "audio", "value": value, "source_value": value + 1,
                 "chance": 10.0, "match_rate": 40.0, "code_overlap": 0.5, "commit": "abc"}
                for metric, value in self.values.items()]
        return 1.5, rows


def test_summary_is_mean_and_std_over_seeds():
    values = [70.0, 80.0, 84.0]
    cells = [Finished("row", seed, {"accuracy": v, "segment_accuracy": v / 2}) for seed, v in enumerate(values)]
    (line,) = summarise(cells)
    assert line["direction"] == "v2a" and line["seeds"] == 3 and line["minutes"] == 1.5
    assert line["transfer"] == pytest.approx(mean(values)) and line["transfer std"] == pytest.approx(stdev(values))
    assert line["own modality"] == pytest.approx(mean(values) + 1)
    assert line["segment transfer"] == pytest.approx(mean(values) / 2)


@pytest.mark.slow
def test_cells_run_once_and_make_a_table(tmp_path, capsys):
    files = synthetic_files(tmp_path, SyntheticSpec(clips=48, ave_clips=(12, 12, 12), classes=3))
    table = tmp_path / "t.txt"
    table.write_text("*: --preset small --epochs 1 --batch-size 16 --dim 16 --codes 16\n"
                     "full:\nno cpc: --w-cpc 0\nbroken: --w-cpc nonsense\n")
    argv = [str(table), "--data", str(files.pretrain), "--eval-data", str(files.ave), "--annotations",
            str(files.annotations), "--seeds", "0", "1", "--jobs", "2", "--device", "cpu", "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "2 of 6 cells failed" in told.err and "--w-cpc" in told.err  # the other rows went on
    with open(tmp_path / "o" / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["name"], line["direction"]) for line in lines} >= {("full", "v2a"), ("no cpc", "a2v")}
    assert all(line["seeds"] == "2" for line in lines)
    first = json.loads((tmp_path / "o" / "full-seed0" / "results.json").read_text())
    v2a = [float(line["transfer"]) for line in lines if (line["name"], line["direction"]) == ("full", "v2a")]
    second = json.loads((tmp_path / "o" / "full-seed1" / "results.json").read_text())
    by_hand = [row["value"] for rows in (first, second) for row in rows
               if (row["source"], row["target"], row["metric"]) == ("video", "audio", "accuracy")]
    assert v2a == [pytest.approx(mean(by_hand))]
    stamp = (tmp_path / "o" / "full-seed0" / "latest.pt").stat().st_mtime_ns
    main([*argv, "--rows", "full"])
    assert "2 cells, 2 finished before" in capsys.readouterr().err
    assert (tmp_path / "o" / "full-seed0" / "latest.pt").stat().st_mtime_ns == stamp
