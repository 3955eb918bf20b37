"""README and figs/README.md say what the committed records say: every figure of their tables, and every difference."""

import json
import re
from functools import partial
from statistics import mean

import pytest

from cmg.tables.paper import spearman
from support import ROOT
from support_records import Record, tables_of

PAGES = {"README": ROOT / "README.md", "figs": ROOT / "figs" / "README.md", "speed": ROOT / "docs" / "speed.md"}
DIRECTIONS = ("v2a", "a2v")
SEVEN = [("ave", "accuracy"), ("ave", "segment_accuracy"), ("avvp", "segment_f1")]  # columns of the paper's tables
COLUMNS = [(task, metric, direction) for task, metric in SEVEN for direction in DIRECTIONS]


def table(page, *header):
    """The table of a page whose header begins like this, with rows; one that stands there once."""
    (found,) = [own for own in tables_of(PAGES[page].read_text(encoding="utf-8")) if own[0][: len(header)] == [*header]]
    return found


def record_name(row):
    """What a page calls a row, as its record does."""
    return row.replace("`", "").replace(", with text", " AVT")


def test_results_of_the_readme():
    record, unrecorded = Record("digits"), []
    header, *rows = table("README", "pretraining", "clip top-1, video → audio")
    assert len(rows) == 6
    for name, *cells in rows:
        if name.startswith("*"):
            unrecorded.append(name)
            continue
        row = record_name(name)
        if name == "chance":
            expected = [record.transfer[name][f"ave {metric} {d}"] for _, metric in SEVEN[:2] for d in DIRECTIONS]
            assert cells == [*expected, "", "", ""]
            continue
        row = row if row.endswith("AVT") else f"{row} AV"
        expected = [record.get(row, "ave", metric, d) for _, metric in SEVEN[:2] for d in DIRECTIONS]
        assert cells[:4] == expected
        assert cells[4] == record.get(row, "ave", "accuracy", "v2a", "match rate") + " %"
        assert cells[5] == record.get(row, "ave", "accuracy", "v2a", "match chance") + " %"
        assert cells[6] == ("64" if row.startswith("OneCode") else "400")  # --codes
    assert unrecorded == ["*perfect codes*"]
    text = " ".join(PAGES["README"].read_text(encoding="utf-8").split())
    rows = [name for name in record.transfer if name in ("OneCode AVT", "OneCode AV", "paper AVT", "paper AV")]
    errors = [record.get(row, "ave", "accuracy", d, "test error") for row in rows for d in DIRECTIONS]
    assert f"a standard error of {min(errors)} to {max(errors)} points" in text
    nature = Record("nature")
    told = [nature.get("OneCode AVT", "ave", metric, d) for _, metric in SEVEN[:2] for d in DIRECTIONS]
    assert "OneCode with text has {} and {} clip top-1 and {} and {} segments".format(*told) in text
    bound = [nature.get("OneCode AVT", "ave", "accuracy", d, "upper bound") for d in DIRECTIONS]
    assert "a probe of the target itself has {} and {} clip top-1".format(*bound) in text
    rates = [nature.get("OneCode AVT", "ave", "accuracy", "v2a", column) for column in ("match rate", "match chance")]
    assert "picks the same code in {} % of the seconds, by chance in {} %".format(*rates) in text
    told = [nature.get("OneCode AVT, 2 pieces, 256 wide", *column) for column in COLUMNS[:4]]
    rate = nature.get("OneCode AVT, 2 pieces, 256 wide", "ave", "accuracy", "v2a", "match rate")
    assert "it has {} and {} clip top-1 and {} and {} segments, and {} % of the codes".format(*told, rate) in text
    gains = [differences("nature")["OneCode AVT, 2 pieces, 256 wide", "OneCode AVT", *column] for column in COLUMNS[:2]]
    assert "adds {} and {} points of clip top-1".format(*(gain.split()[0].lstrip("+") for gain in gains)) in text
    assert [gain.endswith("*") for gain in gains] == [True, False] and "the first's interval excludes zero" in text


def differences(name):
    """Those of a record, as pages print them: (row, reference, task, metric, direction) -> text."""
    record = json.loads((ROOT / "figs" / f"{name}.json").read_text())
    return {(one["row"], one["reference"], one["task"], one["metric"], one["direction"]):
            f"{one['difference']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}]"
            + (" \\*" if one["low"] > 0 or one["high"] < 0 else "") for one in record["differences"]}


def test_differences_on_digit_clips():
    """Of all rows, and of OneCode without its parts."""
    record, found = Record("digits"), differences("digits")
    header, *rows = table("figs", "digits: row", "less")
    for row, reference, *cells in rows:
        assert cells[:-1] == [found[row, reference, *column[:2], column[2]] for column in COLUMNS]
        assert cells[-1] == record.get(row, "ave", "accuracy", "v2a", "match rate")
    assert {row[0] for row in rows} == {*record.transfer} - {"OneCode AVT", "chance"}


def test_differences_on_nature():
    """Of all rows: of OneCode's parts from OneCode without text, of the others from OneCode with it."""
    record, found = Record("nature"), differences("nature")
    header, *rows = table("figs", "nature: row", "less")
    for row, reference, *cells in rows:
        assert cells[:-2] == [found[row, reference, *column] for column in COLUMNS[:4]]
        assert cells[-2:] == [record.get(row, "ave", "accuracy", "v2a", "match rate"), record.transfer[row]["minutes"]]
    assert {row[0] for row in rows} == {*record.transfer} - {"OneCode AVT", "chance"}
    every = COLUMNS[:4] + [(task, "segment_f1", d) for task in ("avvp", "ave-avvp") for d in DIRECTIONS]
    assert len(holding(found, ["paper AVT"], "OneCode AVT", every)[0]) == 7 and len(every) == 8
    assert [len(holding(found, [f"OneCode AV without {part}"], "OneCode AV", COLUMNS[:4])[0])
            for part in ("InfoNCE", "one code", "reset")] == [4, 1, 0]
    wide, _ = holding(found, ["OneCode AVT, 2 pieces, 256 wide"], "OneCode AVT", every)
    assert len(wide) == 1 and wide[0] > 0


def test_the_hard_set():
    """Every row of its record, and every difference from Uni-Code."""
    record, found = Record("hard"), differences("hard")
    header, *rows = table("figs", "hard: row", "clips v2a")
    assert [row[0] for row in rows] == [name for name in record.transfer]
    for name, *cells in rows:
        if name == "chance":
            assert cells == [record.transfer[name][f"ave {metric} {d}"] for _, metric, d in COLUMNS[:4]] + ["", ""]
            continue
        assert cells[:4] == [record.get(name, *column) for column in COLUMNS[:4]]
        mean, published = record.means.get(name, "").partition(" / ")[::2]
        assert cells[4:] == [mean, published]
    header, *rows = table("figs", "hard: row less Uni-Code")
    for row, *cells in rows:
        assert cells == [found[row, "Uni-Code", *column] for column in COLUMNS[:4]]
    assert {row[0] for row in rows} == {*record.transfer} - {"Uni-Code", "chance"}


def holding(found, rows, reference, columns):
    """Differences of these rows whose interval excludes zero, of those of all columns."""
    told = [found[row, reference, *column] for row in rows for column in columns]
    return [float(one.split()[0]) for one in told if one.endswith("*")], len(told)


def test_claims_by_intervals():
    """How many exclude zero, and by how much, as the pages count them."""
    pages = {page: " ".join(path.read_text(encoding="utf-8").split()) for page, path in PAGES.items()}
    digits, papers = differences("digits"), ("paper AVT", "paper AV")
    others = [(task, metric, d) for task, metric in (("avvp", "segment_f1"), ("ave-avvp", "segment_f1"),
                                                     ("retrieval", "codes_r10")) for d in DIRECTIONS]
    ave, of_ave = holding(digits, papers, "OneCode AVT", COLUMNS[:4])
    rest, of_rest = holding(digits, papers, "OneCode AVT", others)
    assert (len(ave), of_ave, len(rest), of_rest) == (1, 8, 8, 12) and max(ave + rest) < 0
    assert f"intervals of its differences from OneCode with text one excludes zero, {ave[0]} points" in pages["README"]
    assert f"eight exclude zero, by {max(rest)} to {min(rest)} points" in pages["README"]
    assert "ahead in nine of 20: in one of AVE's eight, in all four from AVE to AVVP and all four in" in pages["figs"]
    assert f"by {-max(ave + rest)} to {-min(ave + rest)} points" in pages["figs"]
    parts = {name: holding(digits, [f"OneCode AV without {name}"], "OneCode AV", COLUMNS)[0]
             for name in ("InfoNCE", "one code", "reset", "commitment")}
    assert [len(own) for own in parts.values()] == [6, 1, 2, 1]
    assert "worth {} points of clips from audio to video and {} of".format(*map(abs, parts["reset"])) in pages["figs"]
    assert f"next to nothing, {-parts['commitment'][0]} points in one interval of six" in pages["figs"]

    hard, record = differences("hard"), Record("hard")
    without = [float(hard["without MM-EMA", "Uni-Code", *column].split()[0]) for column in COLUMNS[:4]]
    assert len(holding(hard, ["without MM-EMA"], "Uni-Code", COLUMNS[:4])[0]) == 2
    assert f"by {-max(without)} to {-min(without)} points; two of four intervals exclude zero" in pages["README"]
    assert len(holding(hard, ["without CLUB", "without L_cmcm"], "Uni-Code", COLUMNS[:4])[0]) == 1
    ahead, _ = holding(hard, ["MST", "TURN"], "Uni-Code", COLUMNS[2:4])
    assert len(ahead) == 3 and not holding(hard, ["MST", "TURN"], "Uni-Code", COLUMNS[:2])[0]
    assert f"by {min(ahead)} to {max(ahead)} points" in pages["figs"]
    segments, _ = holding(hard, ["OneCode"], "Uni-Code", COLUMNS[2:4])
    assert "ahead in segments, by {} and {} points".format(*segments) in pages["README"]
    a2v = [value(record.get(row, *COLUMNS[1])) for row in ("Uni-Code", "without Cross-CPC", "without reset")]
    assert "clip top-1 {} → {} from audio to video".format(*a2v[:2]) in pages["README"]
    assert f"without resets {a2v[2]} is left" in pages["README"]
    rho, p = spearman(tuple(map(float, cell.split(" / "))) for cell in record.means.values() if " / " in cell)
    assert f"ρ with the paper's order is {rho:.2f} (permutation p {p:.2f})" in pages["README"]


def test_claims_by_intervals_of_the_papers_tables():
    """Of both tables of ablations at once; of Table 1, the methods against Uni-Code."""
    text = " ".join(PAGES["README"].read_text(encoding="utf-8").split())
    ablations, methods = [differences(f"table{number}") for number in (2, 3)], differences("table1")

    def without(part):
        found = [holding(own, [f"without {part}"], "Uni-Code", COLUMNS)[0] for own in ablations]
        return sorted(sum(found, []), reverse=True)

    for part, count, told in (("Cross-CPC", 12, "without Cross-CPC 12 of 12 intervals exclude zero ({} to {} points)"),
                              ("reset", 8, "without resets eight of 12 ({} to {})"),
                              ("MM-EMA", 3, "without MM-EMA three ({} to {})"),
                              ("L_cmcm", 3, "without L_cmcm three ({} to {})"), ("CLUB", 0, "without vCLUB none")):
        found = without(part)
        assert len(found) == count
        assert told.format(*found[:1], *found[-1:]) in text
    assert [len(holding(methods, [row], "Uni-Code", COLUMNS)[0]) for row in ("DCID+CMCM", "MST", "TURN")] == [2, 0, 0]
    ahead, _ = holding(methods, ["CODIS"], "Uni-Code", COLUMNS)
    assert len(ahead) == 2 and min(ahead) > 0
    assert "and two of six where DCID+CMCM was tuned by itself" in text and "CODIS is ahead in two of six" in text


@pytest.mark.parametrize("head, name", [("recipe", "digits"), ("nature", "nature")])
def test_tables_with_upper_bounds(head, name):
    header, *rows = table("figs", head, "direction")
    record, columns = Record(name), ("transfer", "test error", "own modality", "upper bound")
    for name, direction, *cells in rows:
        clips, seconds = (partial(record.get, name, "ave", metric, direction) for _, metric in SEVEN[:2])
        assert cells == [*(clips(column=column) for column in columns), seconds(), seconds(column="upper bound"),
                         clips(column="match rate"), clips(column="match chance")]
    assert len(rows) == 2 * (len(record.transfer) - 1)


TASKS = {  # row of README's table of tasks -> its task in digits.md, or its cells, record by record
    "AVE event classification": ("ave", "accuracy"), "AVVP event": ("avvp", "segment_f1"),
    "AVE → AVVP": ("ave-avvp", "segment_f1"), "retrieval, zero-shot": ("retrieval", "codes_r10")}
RECIPES = ("OneCode AVT", "OneCode AV", "paper AVT", "paper AV", "no alignment AVT")
ELSEWHERE = {  # row of README's table of tasks, and of those on other checkpoints -> record, columns
    "UCF101 (video)": ("pair", [("ucf-vgg", "accuracy", d) for d in DIRECTIONS]),
    "AVS-S4": ("table4", [("avs", "miou", "a2t"), ("avs by text", "miou", "t2a")]),
    "retrieval with a head": ("table5", [("retrieval", "r10", d) for d in ("v2t", "t2v")])}
OTHERS = ("OneCode", "paper", "no alignment")  # rows of their records, in that of AVS with "AVT"


def value(cell):
    return cell.partition(" ±")[0]


def chance_of(record, column):
    """Of AVS there is none: a record has each row's own score with the query of another class in its place."""
    (chance,) = {line["chance"] for key, line in record.lines.items() if key[1:] == (column[0], column[2], column[1])} \
        if "miou" not in column else {"–"}
    return chance


def test_tasks_of_the_readme():
    """All cells of a column are of one checkpoint's record, where a task is of digits.md."""
    header, *rows = table("README", "task", "command", "measures")
    digits, seen = Record("digits"), 0
    assert len(header) == 9
    for name, _, _, *cells in rows:
        for start, (task, metric) in TASKS.items():
            if name.startswith(start):
                expected = [" / ".join(value(digits.get(row, task, metric, d)) for d in DIRECTIONS) for row in RECIPES]
                chance = [digits.get(RECIPES[0], task, metric, d, "chance") for d in DIRECTIONS]
                assert cells == [*expected, chance[0] if chance[0] == chance[1] else " / ".join(chance)], name
                seen += 1
        for start, (record, columns) in ELSEWHERE.items():
            if name.startswith(start):
                record = Record(record)
                rows_of = [name for name in record.transfer if name.removesuffix(" AVT") in OTHERS]
                one, two, three = (" / ".join(value(record.get(row, *column)) for column in columns) for row in rows_of)
                assert cells == [one, "–", two, "–", three, chance_of(record, columns[0])], name
                seen += 1
    assert seen == 7 and rows[-1][3:] == 6 * ["–"]
    text = " ".join(PAGES["README"].read_text(encoding="utf-8").split())
    told = re.search(r"Epochs and minutes of OneCode's two, `paper`'s two and no alignment: (.*?)\. ", text)[1]
    minutes = [digits.transfer[row]["minutes"] for row in RECIPES]
    assert re.findall(r"(\d+) in ([\d.]+)", told) == list(zip(["24", "24", "48", "48", "24"], minutes))


def test_other_tasks_of_nature():
    record = Record("nature")
    header, *rows = table("figs", "nature: task", "direction")
    tasks = [("avvp", "segment_f1"), ("ave-avvp", "segment_f1")]
    for number, (_, direction, *cells) in enumerate(rows):
        task, metric = tasks[number // 2]
        get = partial(record.get, task=task, metric=metric, direction=direction)
        expected = [get(row, column=column) for row in header[2:-1:2] for column in ("transfer", "upper bound")]
        assert cells == [*expected, get("OneCode AVT", column="chance")]
    assert len(rows) == 4


def test_other_tasks_in_full():
    record = Record("digits")
    header, *rows = table("figs", "task", "direction")
    order = [record_name(name) for name in header[2:-1]]
    tasks = [("avvp", "segment_f1"), ("ave-avvp", "segment_f1"), ("retrieval", "codes_r10")]
    for number, (_, direction, *cells) in enumerate(rows):
        task, metric = tasks[number // 2]
        assert cells == [*(record.get(row, task, metric, direction) for row in order),
                         record.get(order[0], task, metric, direction, "chance")]
    assert len(rows) == 6


def test_tasks_of_other_checkpoints():
    header, *rows = table("figs", "other task", "direction")
    asked = [(Record(record), column) for record, columns in ELSEWHERE.values() for column in columns]
    asked[2:2] = [(record, ("ucf-vgg", "adapted_accuracy", d)) for record, (_, _, d) in asked[:2]]
    assert [row[1] for row in rows] == [direction for _, (*_, direction) in asked]
    for (_, _, *cells), (record, column) in zip(rows, asked, strict=True):
        names = [name for name in record.transfer if name.removesuffix(" AVT") in OTHERS]
        assert cells == [*(record.get(row, *column, shown) for row in names for shown in ("transfer", "upper bound")),
                         chance_of(record, column)]
    pair = Record("pair")
    plain, moved = ([float(value(pair.get(row, "ucf-vgg", metric, d))) for row in OTHERS[:2] for d in DIRECTIONS]
                    for metric in ("accuracy", "adapted_accuracy"))
    gains = [b - a for a, b in zip(plain, moved)]
    none = (value(pair.get(OTHERS[2], "ucf-vgg", "adapted_accuracy", d)) for d in DIRECTIONS)
    assert ("the pair has {} / {}, `paper` {} / {} and no alignment {} / {}. ".format(*moved, *none)
            in " ".join(PAGES["README"].read_text(encoding="utf-8").split()))
    assert f"give {min(gains):.1f} to {max(gains):.1f} points more" in PAGES["figs"].read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_papers_tables(number):
    """Every row of the record, and every difference from Uni-Code."""
    record, found = Record(f"table{number}"), differences(f"table{number}")
    header = ["row", "AVE clip v2a", "a2v", "AVE segment v2a", "a2v", "AVVP segment F v2a", "a2v", "mean",
              "mean in the paper"]
    shown = [own for own in tables_of(PAGES["figs"].read_text(encoding="utf-8")) if own[0] == header][number - 1]
    assert [row[0] for row in shown[1:]] == [name for name in record.transfer if name != "chance"]
    for name, *cells in shown[1:]:
        assert cells[:6] == [record.get(name, task, metric, d) for task, metric, d in COLUMNS]
        ours = mean(float(value(record.get(name, *column))) for column in COLUMNS[:2] + COLUMNS[4:])
        assert float(cells[6]) == pytest.approx(ours, abs=0.1)
        if name in record.means:
            assert cells[6:] == record.means[name].split(" / ")
        else:
            assert cells[7] == ""
    header, *rows = table("figs", f"table{number}: row less Uni-Code")
    assert [row[0] for row in rows] == [name for name in record.transfer if name not in ("Uni-Code", "chance")]
    for name, *cells in rows:
        assert cells == [found[name, "Uni-Code", *column] for column in COLUMNS]


def test_ablations_at_full_length():
    record, found = Record("paper"), differences("paper")
    header, *rows = table("figs", "paper: row")
    assert [row[0] for row in rows] == [name for name in record.transfer if name != "chance"]
    for name, *cells in rows:
        assert cells == [*(record.get(name, *column) for column in COLUMNS),
                         record.get(name, "ave", "accuracy", "v2a", "match rate")]
    header, *rows = table("figs", "paper: row less paper AV")
    for name, *cells in rows:
        assert cells == [found[name, "paper AV", *column] for column in COLUMNS]
    assert len(rows) == len(record.transfer) - 2
    hold = [len(holding(found, [row[0]], "paper AV", COLUMNS)[0]) for row in rows]
    assert hold == [0, 2, 0, 0, 1]  # CLUB, Cross-CPC, MM-EMA, resets, L_cmcm
    assert f"use {record.get('without reset', 'ave', 'accuracy', 'v2a', 'codes')} of 400 codes" in " ".join(
        PAGES["figs"].read_text(encoding="utf-8").split())


def test_the_works_that_followed():
    """Every row of the record, every difference from OneCode, and what TOC reads of two rows."""
    record, found = Record("followups"), differences("followups")
    columns = COLUMNS + [("open", "auroc", d) for d in DIRECTIONS]
    header, *rows = table("figs", "followups: row", "AVE clip v2a")
    assert [row[0] for row in rows] == [*record.transfer]
    for name, *cells in rows[:-1]:
        assert cells[:8] == [record.get(name, *column) for column in columns]
        assert float(cells[8]) == pytest.approx(mean(float(value(cell)) for cell in cells[:6]), abs=0.051)
        assert cells[9:] == [record.get(name, *COLUMNS[0], "match rate"), record.transfer[name]["minutes"]]
    assert rows[-1][1:] == [record.get("Uni-Code", *column, "chance") for column in columns] + 3 * [""]
    header, *rows = table("figs", "followups: row less OneCode")
    for name, *cells in rows:
        assert cells == [found[name, "OneCode", *column] for column in columns]
    assert [row[0] for row in rows] == [name for name in record.transfer if name not in ("OneCode", "chance")]
    text = " ".join(PAGES["figs"].read_text(encoding="utf-8").split())
    behind = {key: one for key, one in found.items() if key[2:] in columns and one.endswith("*") and one[0] == "+"}
    assert list(behind) == [("MICU", "OneCode", "open", "auroc", "a2v")] and "(5.9 points)" in text
    assert not holding(found, ["OneCode, 2 pieces"], "OneCode", columns)[0] and "none of eight intervals" in text
    header, *rows = table("figs", "TOC of")
    tasks = [("toc", "toc_accuracy"), ("toc", "toc_segment_accuracy"), ("toc_avvp", "toc_segment_f1")]
    for name, *cells in rows:
        assert cells == [record.get(name, *column, d) for column in tasks for d in DIRECTIONS]


def test_order_beside_the_papers():
    """ρ over the means and its p among permutations, as the README has them of Tables 1, 2 and 3."""
    (one, p_one), (two, p_two), (three, p_three) = [
        [float(Record(f"table{number}").means[row]) for row in ("Spearman's ρ", "p of ρ")] for number in (1, 2, 3)]
    told = (f"{one:.2f} (permutation p {p_one:.2f}), {two:.2f} ({p_two:.3f}) and {three:.2f} ({p_three:.2f}) in Tables "
            "1, 2 and 3.")
    assert told in " ".join(PAGES["README"].read_text(encoding="utf-8").split())


def test_sizes_of_the_codebook():
    """Fig. 3, and what it shows of the confounding of sharing by size."""
    record = Record("fig3")
    header, *rows = table("figs", "codes", "AVE clip v2a")
    assert [f"AV {size}" for size, *_ in rows] == [name for name in record.transfer if name != "chance"]
    for size, *cells in rows:
        get = partial(record.get, f"AV {size}")
        assert cells == [*(get(*column) for column in COLUMNS[:2] + COLUMNS[4:]),
                         *(get("ave", "accuracy", "v2a", column) for column in ("match rate", "match chance"))]


def test_differences_of_other_tasks():
    header, *rows = table("figs", "digits: row", "AVE → AVVP v2a")
    columns = [(task, metric, d) for task, metric in (("ave-avvp", "segment_f1"), ("retrieval", "codes_r10"))
               for d in DIRECTIONS]
    found = differences("digits")
    assert [row[0] for row in rows] == ["OneCode AV", "paper AVT", "paper AV", "no alignment AVT"]
    for name, *cells in rows:
        assert cells == [found.get((name, "OneCode AVT", *column), "–") for column in columns]


def test_what_no_record_holds_is_listed():
    """Figures of the tables above that no file of figs/ holds: all of them stand in the list, and nothing else."""
    header, *rows = table("figs", "page", "table", "rows without a record")
    listed = {(page, start): (names, how) for page, start, names, how in rows}
    known = {("README", "direction"): "all", ("README", "pretraining"): "*perfect codes*",
             ("speed", "program"): "released, float64, as published; released, cast to float32; here, bf16, "
                                    "`--specific-steps 1`"}
    assert {key: names for key, (names, _) in listed.items()} == known
    # The rest of README's steps a second are in the benchmark's own records.
    for row, precision in (("here, `--precision fp32`", "fp32"), ("here, `--precision bf16`", "bf16")):
        (found,) = [own for own in table("speed", "program") if own[0] == row]
        (told,) = json.loads((ROOT / "figs" / f"bench_{precision}.json").read_text())
        assert found[1] == f"{told['step_ms'] / 1000:.1f}"
        assert found[4] == f"{told['peak_memory_mib'] / 1024:.1f} GiB"


def test_sentences_without_a_record_say_so():
    """README has one, of two checkpoints that the AVE script's own loop has read."""
    texts = {page: " ".join(path.read_text(encoding="utf-8").split()) for page, path in PAGES.items()}
    assert [page for page, text in texts.items() if "o command here prints" in text] == ["README"]


def test_tables_of_the_pages_are_all_looked_at():
    """A table of results that nobody compares with a record would be one more place for a figure of its own."""
    heads = {page: [own[0][0] for own in tables_of(path.read_text(encoding="utf-8"))] for page, path in PAGES.items()}
    assert heads == {
        "README": ["direction", "direction", "pretraining", "task", "`--method`", "`--method`", "to add", "page"],
        "speed": ["program"],
        "figs": ["recipe", "task", "digits: row", "digits: row", "nature", "nature: row", "nature: task", "hard: row",
                 "hard: row less Uni-Code", "codes", "other task", "followups: row", "followups: row less OneCode",
                 "TOC of", "row", "table1: row less Uni-Code", "row", "table2: row less Uni-Code", "paper: row",
                 "paper: row less paper AV", "row", "table3: row less Uni-Code", "page", "files"]}
