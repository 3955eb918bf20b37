"""The pages of MultiSK, CMMixer and UniQ4Cap say what their committed records say."""

import json
from statistics import mean, stdev

from scipy.stats import t

from support import ROOT
from support_records import Record, tables_of


class Lines:
    """figs/NAME.json: a row's cells (row, task, metric, direction) as a page prints them."""

    def __init__(self, name):
        record = json.loads((ROOT / "figs" / f"{name}.json").read_text())
        self.lines, self.apart = ({(one[first], one["task"], one["metric"], one["direction"]): one for one in lines}
                                  for first, lines in (("name", record["lines"]), ("row", record["differences"])))

    def cell(self, *key):
        line = self.lines.get(key)
        return f"{line['value']:.1f} ± {line['value_std']:.1f}" if line else "–"

    def less(self, *key):
        """Difference from the row that it is compared with, and its interval; * where that excludes zero."""
        one = self.apart.get(key)
        return f"{one['difference']:+.1f} {interval(one['low'], one['high'])}" if one else ""

    def paired(self, one, other):
        """Mean over seeds of one line (row, task, metric, direction) less another, with its interval."""
        apart = [a - b for a, b in zip(*(self.lines[key]["values"] for key in (one, other)), strict=True)]
        half = t.ppf(0.975, len(apart) - 1) * stdev(apart) / len(apart) ** 0.5
        return f"{mean(apart):+.1f} {interval(mean(apart) - half, mean(apart) + half)}"


def interval(low, high):
    return f"[{low:+.1f}, {high:+.1f}]" + (" \\*" if low > 0 or high < 0 else "")


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def table(name, *header):
    """The rows of the one table of a page whose header begins like this."""
    (found,) = [own for own in tables_of(page(name)) if own[0][: len(header)] == [*header]]
    return found[1:]

SIX = ("v2a", "v2t", "a2v", "a2t", "t2v", "t2a")


def test_rows_of_multisk():
    """docs/multisk.md says what the record says: means over six directions, and differences paired by seeds."""
    found = {}
    record = json.loads((ROOT / "figs" / "multisk.json").read_text())
    for line in record["lines"]:
        found.setdefault((line["name"], line["task"], line["metric"]), {})[line["direction"]] = line
    minutes = Record("multisk").transfer

    def means(name, task, kind):
        lines = [found[name, task, f"{kind}_r10"][direction] for direction in SIX]
        return [mean(line["values"][seed] for line in lines) for seed in range(3)]

    page = (ROOT / "docs" / "multisk.md").read_text("utf-8")
    (own,) = [own for own in tables_of(page) if own[0][:2] == ["row", "items"]]
    for name, kind, *cells in own[1:-1]:
        expected = []
        for task in ("in-domain", "out-of-domain"):
            values, alone = means(name, task, kind), means("contrastive alone", task, "joint")
            apart = [a - b for a, b in zip(values, alone)]
            half = t.ppf(0.975, 2) * stdev(apart) / 3**0.5
            told = f"{mean(apart):+.1f} [{mean(apart) - half:+.1f}, {mean(apart) + half:+.1f}]"
            told += " \\*" if abs(mean(apart)) > half else ""
            expected += [f"{mean(values):.1f} ± {stdev(values):.1f}", told if any(apart) else ""]
        assert cells == [*expected, minutes[name]["minutes"]], name
    chance = [found["paper", task, "codes_r10"]["v2a"]["chance"] for task in ("in-domain", "out-of-domain")]
    assert own[-1] == ["chance", "", f"{chance[0]:.1f}", "", f"{chance[1]:.1f}", "", ""] and len(own) == 11
    text = " ".join(page.split())
    for rows, metric, sentences in (
            (("contrastive alone", "Multi-SK", "top-r"), "overlap",
             ("video {} % alone, {} with Multi-SK, {} with top-r", "audio {}, {}, {}")),
            (("contrastive alone", "Multi-SK"), "correlation", ("rises from {} to {} (video)", "audio ({}, {})",
                                                                "from {} to {} (text)"))):
        for sentence, m in zip(sentences, "vat"):
            values = [found[row, "neighbourhood", f"features_{metric}"][f"{m}2{m}"]["value"] for row in rows]
            assert sentence.format(*(f"{value:.1f}" for value in values)) in text
    paper = [f"{found['paper', 'neighbourhood', 'features_correlation'][f'{m}2{m}']['value']:.1f}" for m in "vat"]
    assert "keeps more of it: {}, {} and {}.".format(*paper) in text


def test_rows_of_cmmixer():
    record, sides = Lines("cmmixer"), ("v2a", "a2v")
    rows = table("cmmixer", "autoencoder")
    for name, *cells in rows:
        assert cells == [record.cell(name, "separation", metric, d) for metric, d in (
            ("explained", "a2v"), ("gain", "a2v"), ("explained", "v2a"), ("gain", "v2a"), ("alone_gain", "a2v"),
            ("alone_gain", "v2a"))], name
    *encoders, chance = table("cmmixer", "encoders")
    for name, *cells in encoders:
        found, ave, kind = ("retrieval", "ave", "joint") if name != "Uni-Code" else (
            "retrieval of vectors", "ave of vectors", "semantic")
        assert cells == [*(record.cell(name, found, f"{kind}_{r}", d) for r in ("r1", "r10") for d in sides),
                         *(record.less(name, found, f"{kind}_r10", d) for d in sides),
                         *(record.cell(name, ave, "accuracy", d) for d in sides)], name
    assert len(rows) + len(encoders) == len(Record("cmmixer").transfer) - 1
    guessed = [f"{record.lines['from scratch', *key, 'v2a']['chance']:.1f}" for key in (
        ("retrieval", "joint_r1"), ("retrieval", "joint_r10"), ("ave", "accuracy"))]
    assert chance == ["chance", *(2 * guessed[:1]), *(2 * guessed[1:2]), "", "", *(2 * guessed[2:])]
    own = {}
    for (row, task, metric, d), line in record.lines.items():  # gains of the rows that mix
        if task == "separation" and metric == "gain" and row not in ("no mixing", "apart"):
            own[row, d] = line["value"] - t.ppf(0.975, 2) * line["value_std"] / 3**0.5
    assert len(own) == 10 and min(own.values()) > 0 and "of all ten gains" in page("cmmixer")
    behind = [one for (row, _, metric, _), one in record.apart.items() if row.startswith("after") and
              metric == "joint_r10" and not row.endswith(("mean", "long"))]
    clear = sum(one["high"] < 0 for one in behind)
    assert max(one["difference"] for one in behind) < 0
    assert f"({clear} of {len(behind)} intervals exclude zero)" in " ".join(page("cmmixer").split())
    for row, other, *cells in table("cmmixer", "R@10 of", "less"):
        keys = [[(name, "retrieval", "joint_r10", d) for name in (row, other)] for d in sides]
        assert cells == [record.paired(*pair) for pair in keys], (row, other)


def test_costs_of_cmmixer():
    text = " ".join(page("cmmixer").split())
    (step,) = json.loads((ROOT / "figs" / "bench_cmmixer.json").read_text())
    read = json.loads((ROOT / "figs" / "bench_loading_raw.json").read_text())["us_per_clip"]
    assert f"a step takes {step['step_ms'] / 1000:.2f} s" in text
    assert f"a peak memory of {step['peak_memory_mib']:.0f} MiB" in text
    ways = [read[name] for name in ("disk, blocks, cold", "disk, blocks, warm", "memory")]
    assert "{:.1f} ms a clip from a cold disk, {:.1f} ms from a warm one and {:.1f} ms from memory".format(
        *(way / 1000 for way in ways)) in text
    times = "{:.1f}, {:.1f} and {:.1f} times as long".format(*(read["decoded"] / way for way in ways))
    assert f"takes {read['decoded'] / 1000:.0f} ms, {times}" in text and read["decoded"] > 10 * max(ways)


def test_rows_of_uniq4cap():
    record, own, back = Lines("uniq4cap"), "video+audio2t", "t2video+audio"
    *rows, chance = table("uniq4cap", "row", "CIDEr-D")
    metrics = [(m, d) for d in (own, back) for m in ("mtc_r1", "mtm_r1")] + [("mtm_accuracy", own)]
    for name, *cells in rows:
        seen = {"video only": "v2t", "audio only": "a2t"}.get(name, own)
        task = "nearest" if name == "nearest caption" else "captions"
        figures = [record.cell(name, task, f"simple_{m}", seen) for m in ("cider_d", "bleu_4", "rouge_l")]
        less = record.paired((name, task, "simple_cider_d", seen), ("pre-aligned", "captions", "simple_cider_d", own))
        assert cells == [figures[0], "" if name == "pre-aligned" else less, *figures[1:],
                         *(record.cell(name, "retrieval", *key) for key in metrics)], name
    assert [name for name, *_ in rows] == [name for name in Record("uniq4cap").transfer if name != "chance"]
    whole = [record.lines["pre-aligned", "captions", f"simple_{m}", own] for m in ("cider_d", "bleu_4", "rouge_l")]
    found = [record.lines["pre-aligned", "retrieval", *key] for key in metrics]
    guessed = [f"{line['chance']:.1f}" for line in (*whole, *found)]
    assert chance == ["chance", guessed[0], "", *guessed[1:]]
    text = " ".join(page("uniq4cap").split())
    whole = whole[0]["values"]
    for sentence, name, seen in (("without it (by {:.1f} to {:.1f})", "not pre-aligned", own),
                                 ("video alone ({:.1f} to {:.1f})", "video only", "v2t"),
                                 ("of audio alone ({:.1f} to {:.1f})", "audio only", "a2t")):
        other = record.lines[name, "captions", "simple_cider_d", seen]["values"]
        apart = [a - b for a, b in zip(whole, other, strict=True)]
        assert sentence.format(min(apart), max(apart)) in text
    judged = record.lines["pre-aligned", "retrieval", "mtm_accuracy", own]["values"]
    assert (f"MTM judges {record.cell('pre-aligned', 'retrieval', 'mtm_accuracy', own)} % of the pairs rightly "
            f"({min(judged):.1f} to {max(judged):.1f})") in text
    raised = [record.paired(*(("pre-aligned", "retrieval", f"{kind}_r1", d) for kind in ("mtm", "mtc")))
              for d in (own, back)]
    assert "{} (clip → text) and {} (text → clip)".format(*raised) in text


def test_wordings_that_nobody_learnt():
    found = {}
    for row in json.loads((ROOT / "figs" / "uniq4cap_wordings.json").read_text()):
        found.setdefault((row["wording"], row["metric"], row["source"]), []).append(row)
    both, metrics = "video+audio", [("mtc_r1", "video+audio"), ("mtm_r1", "video+audio"), ("mtc_r1", "text"),
                                    ("mtm_r1", "text"), ("mtm_accuracy", "video+audio")]
    for wording, *cells in table("uniq4cap", "asked in"):
        rows = [found[wording, *key] for key in (("simple_cider_d", both), ("simple_bleu_4", both), *metrics)]
        assert [[row["pretrain_seed"] for row in own] for own in rows] == 7 * [[0, 1, 2]]
        values = [[row["value"] for row in own] for own in rows]
        assert cells == [f"{mean(own):.1f} ± {stdev(own):.1f}" for own in values]


def test_captions_of_real_clips():
    """One seed: what captioning and retrieval printed of the digit clips that were held out."""
    rows = {(row["metric"], row["source"]): row for row in json.loads((ROOT / "figs" / "captions.json").read_text())}
    cider, judged = rows["simple_cider_d", "video+audio"], rows["mtm_accuracy", "video+audio"]
    found = [rows[f"{kind}_r1", source]["value"] for source in ("video+audio", "text") for kind in ("mtc", "mtm")]
    text = " ".join(page("uniq4cap").split())
    assert (f"of {cider['n_test']} clips that were held out CIDEr-D is {cider['value']:.1f} (dealt to other clips "
            f"{cider['chance']:.1f}), BLEU-4 {rows['simple_bleu_4', 'video+audio']['value']:.1f}") in text
    assert f"MTM judges {judged['value']:.1f} % of {judged['n_test']} pairs rightly" in text
    assert "{:.1f} before and {:.1f} after (clip → text), {:.1f} and {:.1f} (text → clip)".format(*found) in text


def test_what_readme_says_of_the_systems():
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    mixer, writer = Lines("cmmixer"), Lines("uniq4cap")
    rebuilt = [mixer.cell("image", "separation", metric, d) for metric in ("explained", "gain") for d in ("a2v", "v2a")]
    assert "frames {} % of the mean picture's error are rebuilt, of mel {} %, {} and {} of it".format(*rebuilt) in text
    found = [mixer.cell(row, "retrieval", "joint_r10", "v2a")
             for row in ("after image", "after no mixing", "after apart", "from scratch")]
    assert ("is {} after it, {} after frames alone, {} after two autoencoders apart, {} without any.".format(*found)
            in text)
    vectors = mixer.cell("Uni-Code", "retrieval of vectors", "semantic_r10", "v2a")
    assert f"Uni-Code, on the same clips as vectors, has {vectors}." in text
    own, task = "video+audio2t", "captions"
    told = [writer.cell(row, task, "simple_cider_d", own) for row in ("pre-aligned", "not pre-aligned")]
    nearest = writer.cell("nearest caption", "nearest", "simple_cider_d", own)
    chance = writer.lines["pre-aligned", task, "simple_cider_d", own]["chance"]
    assert (f"CIDEr-D × 100 is {told[0]}, {told[1]} without its first stage, {nearest} of the nearest training "
            f"caption, {chance:.1f} where sentences are dealt") in text
    (real,) = (row["value"] for row in json.loads((ROOT / "figs" / "captions.json").read_text())
               if row["metric"] == "simple_cider_d")
    assert f"Of the digit clips {real:.1f}, one seed" in text
