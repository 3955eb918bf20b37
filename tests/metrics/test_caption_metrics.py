"""Caption metrics against values of the public evaluation, and its words against the Java program's."""

import csv
import math

import numpy as np
import pytest

from cmg.metrics.captions import METRICS, cider_d, longest_common, score
from cmg.metrics.words import TOKENIZERS, ptb_words
from support import FIXTURES

FIXTURE = np.load(FIXTURES / "caption_metrics.npz", allow_pickle=False)
CALLED = dict(zip(METRICS, ("BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "ROUGE_L", "CIDEr_D")))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", ["candidate", "reference"])
def test_words_are_those_of_the_fixture(tokenizer, name):
    for sentence, words in zip(FIXTURE[name], FIXTURE[f"{tokenizer}/{name}_tokens"], strict=True):
        assert TOKENIZERS[tokenizer](str(sentence)) == str(words).split()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("used", ["all_refs", "first_ref"])
def test_figures_are_those_of_the_public_evaluation(tokenizer, used):
    sentences = [str(one) for one in FIXTURE["candidate"]]
    references = [[str(one) for one in FIXTURE["reference"][FIXTURE["reference_owner"] == clip]]
                  for clip in range(len(sentences))]
    if used == "first_ref":
        references = [of_clip[:1] for of_clip in references]
    found = score(sentences, references, tokenizer)
    for metric, called in CALLED.items():
        assert found.corpus[metric] == pytest.approx(float(FIXTURE[f"{tokenizer}/{used}/{called}"]), rel=1e-6), metric
        np.testing.assert_allclose(found.per_clip[metric], FIXTURE[f"{tokenizer}/{used}/{called}_per_clip"],
                                   rtol=1e-6, atol=1e-12, err_msg=metric)


def test_figures_in_closed_form():
    perfect = score(["a b c d e", "f g h i j"], [["a b c d e"], ["f g h i j"]])
    assert perfect.corpus["cider_d"] == pytest.approx(10) and perfect.corpus["rouge_l"] == pytest.approx(1)
    assert perfect.corpus["bleu_4"] == pytest.approx(1, abs=1e-6)
    short = score(["a b c d", "x"], [["a b c d e f g h"], ["y"]])  # 4 of 5 words right, 5 of 9 long
    assert short.corpus["bleu_1"] == pytest.approx(4 / 5 * math.exp(1 - 9 / 5), rel=1e-6)
    assert score(["", "x"], [["a"], ["y"]]).corpus == pytest.approx(dict.fromkeys(METRICS, 0), abs=1e-3)
    assert cider_d([["a"]], [[["a"]]]) == [0]  # a single clip: every word is in all clips
    assert longest_common("abcbdab", "bdcaba") == 4
    for broken in (([], []), (["a"], []), (["a"], [[]])):
        with pytest.raises(ValueError, match="expected as many"):
            score(*broken)


def test_rules_of_the_treebank_words():
    cases = {"He cannot, isn't & won't": "he can not is n't & wo n't", "u.s. and/or a.b": "u.s. and/or a.b",
             "I've 3.50 at 7:30 p.m. etc. and so": "i 've 3.50 at 7:30 p.m. etc. and so", "[x] {y}":
             "-lsb- x -rsb- -lcb- y -rcb-", "wait... what -- \"no\" `yes'": "wait what no yes", "a😀b": "ab",
             "ends here etc": "ends here etc", "o'clock at_home": "o'clock at_home", "": ""}
    for sentence, words in cases.items():
        assert ptb_words(sentence) == words.split()


def test_every_public_caption_has_words(annotations):
    """Captions without a word left, or with a mark that should have been dropped, would be scored wrongly."""
    count = 0
    for path in sorted([*annotations.glob("AudioCaps/dataset/*.csv"), *annotations.glob("MSRVTT/*.csv")]):
        with open(path, newline="", encoding="utf-8") as file:
            delimiter = ";" if file.readline().startswith("key;") else ","
            file.seek(0)
            for row in csv.DictReader(file, delimiter=delimiter):
                words = ptb_words(row.get("caption") or row["sentence"])
                assert words and not {".", ",", "'", "!", "?", '"'} & set(words), row
                assert not any(word.endswith((",", "?", "!", ":", ";")) for word in words), row
                count += 1
    assert count > 50_000
