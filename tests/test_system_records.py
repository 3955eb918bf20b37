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
    for row, other, *cells in table("cmmixer", "R@10 of", "less"):
        keys = [[(name, "retrieval", "joint_r10", d) for name in (row, other)] for d in sides]
        assert cells == [record.paired(*pair) for pair in keys], (row, other)


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
