"""Words of captions in many scripts, and their hashed n-grams."""

import unicodedata

import numpy as np
import pytest

from cmg.extract.__main__ import main
from cmg.extract.hashed import HashedWords, words_of


def test_hash_is_pinned():
    """ "<a", "a>" and "<a>": CRC-32 modulo 300 is the place, its top bit the sign; the same on every machine."""
    x = HashedWords()(["a"])[0]
    assert {int(i): round(float(x[i]) * 3**0.5) for i in np.flatnonzero(x)} == {206: -1, 54: 1, 115: -1}
    np.testing.assert_array_equal(HashedWords()(["b", "a"])[1], x)


def test_hash_of_related_words_is_close():
    x = HashedWords()(["digit", "digits", "seven", "größer"])
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    assert x[0] @ x[1] > 0.6 and abs(x[0] @ x[2]) < 0.3


def test_words_of_a_caption():
    assert words_of("  A dog's BARK — loud, (very) loud!  ") == ["a", "dog's", "bark", "loud", "very", "loud"]
    assert words_of("Straße 42 … ") == ["straße", "42"]
    assert words_of("—!") == []


SENTENCES = {
    "hindi": "हिन्दी में एक कुत्ता भौंक रहा है",
    "nukta": "क़लम पढ़ना ज़रूरी",
    "bengali": "একটি কুকুর ঘেউ ঘেউ করছে",
    "tamil": "ஒரு நாய் குரைக்கிறது கொடி",
    "telugu": "ఒక కుక్క మొరుగుతోంది",
    "arabic": "كَلْبٌ يَنْبَحُ آن",
    "hebrew": "כֶּלֶב נוֹבֵחַ",
    "french": "déjà une forêt, où l'été naît",
    "vietnamese": "một con chó đang sủa",
    "german": "Öl läuft über",
    "turkish": "İki köpek",
    "korean": "개가 짖는다",
    "japanese": "ガラス が 割れる",
    "thai": "สุนัข กำลัง เห่า",
    "tibetan": "ཁྱི",
    "burmese": "ခွေး ဟောင်",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_composed_and_decomposed_text_have_the_same_words(language):
    """As many as spaces say, in NFC; macOS writes names and what is copied from them in NFD."""
    written = SENTENCES[language]
    wanted = [word.strip(",") for word in unicodedata.normalize("NFC", written).lower().split()]
    forms = [words_of(unicodedata.normalize(form, written)) for form in ("NFC", "NFD")]
    assert forms == [wanted, wanted]
    np.testing.assert_array_equal(*(HashedWords()(words) for words in forms))


def test_words_with_marks_and_invisible_characters():
    assert words_of("x\u0301y") == ["x\u0301y"]  # letters that have no composed form
    assert words_of("❤\ufe0f dog \u0301 a\u0301") == ["dog", "á"]  # a mark alone is no word
    assert words_of("snake_case __a__") == ["snake", "case", "a"]
    assert words_of("co\u00adoperate \u200ftwo\u200e \ufeffthree") == ["cooperate", "two", "three"]
    assert words_of("می\u200cخواهم") == ["میخواهم"]  # a zero-width non-joiner is within a word
    assert words_of("สุนัข\u200bเห่า") == ["สุนัข", "เห่า"]  # a zero-width space is between two
    assert words_of("l’été d'été") == ["l’été", "d'été"]


def test_captions_without_spaces_are_told(tmp_path, capsys):
    captions = tmp_path / "c.csv"
    captions.write_text("id,caption\na,一个男人在公园里弹吉他\nb,一个 男人 在 公园 里\n"
                        "c,สุนัขกำลังเห่าอยู่ในสวน\nd,สุนัข กำลัง เห่า\n"
                        "e,A donaudampfschifffahrtsgesellschaft\nf,犬が公園で吠えています\n", encoding="utf-8")
    main(["--captions", str(captions), "--modalities", "text", "--workers", "0", "--out", str(tmp_path / "t.h5")])
    told = "3 captions, such as that of 'a', have no spaces between words"
    assert capsys.readouterr().err.startswith(f"extract: --captions {captions}: {told}")
