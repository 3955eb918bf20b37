"""Captions as numbers: with BERT's vocabulary, with another file's, and with one that is learnt of the captions."""

import numpy as np
import pytest

from cmg.data.features import FeatureFile
from cmg.data.vocabulary import MARKS, Vocabulary
from cmg.errors import UserError
from cmg.extract.__main__ import main
from cmg.extract.wordpiece import WordPiece, learn_vocabulary, tokenizer

CAPTIONS = ["A dog's bark, LOUD!", "two dogs are barking", "a café opens", "rain"]
BERT = [*MARKS, "a", "dog", "##s", "'", "s", "bark", "##ing", ",", "loud", "!", "cafe", "opens"]


def captions_csv(path, rows):
    path.write_text("id,caption\n" + "".join(f'{name},"{caption}"\n' for name, caption in rows))
    return str(path)


def extract(tmp_path, rows, *more, out="text.h5"):
    captions = captions_csv(tmp_path / "captions.csv", rows)
    main(["--modalities", "text", "--captions", captions, "--text-backbone", "wordpiece", "--workers", "0",
          "--out", str(tmp_path / out), *more])
    return FeatureFile(tmp_path / out)


def test_words_are_spelled_as_bert_spells_them(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    backbone = WordPiece([str(tmp_path / "vocab.txt")])
    ids = backbone(["A dog's BARKING, loud!", "a Café", "zebra dogs"], 10)
    assert ids.dtype == np.int32 and ids.tolist() == [
        [2, 5, 6, 8, 9, 10, 11, 12, 13, 3],  # cut: the end mark stays
        [2, 5, 15, 3, 0, 0, 0, 0, 0, 0],
        [2, 1, 6, 7, 3, 0, 0, 0, 0, 0]]
    assert backbone.vocabulary.pieces == [*BERT, "[DEC]"]
    assert backbone.vocabulary.sentences(ids.tolist()) == ["a dog ' s barking , loud", "a cafe", "[UNK] dogs"]
    (tmp_path / "cased.txt").write_text("\n".join([*BERT, "A"]) + "\n")
    assert WordPiece([str(tmp_path / "cased.txt")])(["A a"], 4).tolist() == [[2, 17, 5, 3]]


def test_sentences_are_what_the_library_reads(tmp_path):
    words = learn_vocabulary(CAPTIONS, 60)
    by_library = tokenizer(words.number)
    from tokenizers import decoders

    by_library.decoder = decoders.WordPiece(cleanup=False)
    for caption in CAPTIONS:
        pieces = by_library.encode(caption, add_special_tokens=False)
        assert words.sentences([words.caption(pieces.tokens, 40)]) == [by_library.decode(pieces.ids)]


def test_a_learnt_vocabulary_is_the_same_again():
    one = learn_vocabulary(CAPTIONS * 5, 60)
    assert len(one) == 60 and one.pieces[:5] == list(MARKS) and one.pieces[-1] == "[DEC]" and "rain" in one.number
    assert one == learn_vocabulary(CAPTIONS * 5, 60)
    with pytest.raises(UserError, match="--vocabulary-size 10: expected at least .*, the letters of these captions"):
        learn_vocabulary(CAPTIONS, 10)


def test_all_captions_of_a_clip_are_kept(tmp_path, capsys):
    rows = [("one#0", CAPTIONS[0]), ("two", CAPTIONS[3]), ("one#1", CAPTIONS[1]), ("empty", " "), ("one#2", "")]
    file = extract(tmp_path, rows, "--vocabulary-size", "50", "--words", "24")
    assert file.ids == ["one", "two"] and file.kinds == {"text": "tokens"} and file.shapes == {"text": (2, 24)}
    ids, exists = file.read("text", [0, 1])
    assert exists.tolist() == [[True, True], [True, False]] and not ids[1, 1].any()
    words = file.vocabularies["text"]
    assert words.sentences(ids[0].tolist()) == ["a dog ' s bark , loud !", "two dogs are barking"]
    assert file.attrs["sha256/text"] == words.sha256 and file.attrs["backbone/text"] == "wordpiece"
    again = extract(tmp_path, [("three", "a rain dog")], "--text-weights", str(tmp_path / "text.h5"), out="test.h5")
    assert again.vocabularies["text"] == words and again.shapes["text"] == (1, 32)
    assert words.sentences(again.read("text", [0])[0][0].tolist()) == ["a rain dog"]


def test_the_first_k_captions(tmp_path):
    file = extract(tmp_path, [("a#0", "x"), ("a#1", "y"), ("a#2", "x y")], "--captions-per-clip", "2",
                   "--vocabulary-size", "9")
    assert file.vocabularies["text"].sentences(file.read("text", [0])[0][0].tolist()) == ["x", "y"]


@pytest.mark.parametrize(("more", "said"), [
    (["--words", "2"], "--words 2: a caption has two marks and a piece"),
    (["--text-weights", "{}/none.txt"], "none.txt: "),
    (["--text-weights", "{}/short.txt"], "short.txt: [PAD] is missing; expected a vocabulary of BERT's form"),
    (["--text-weights", "{}/late.txt"], "late.txt: [PAD] is number 1"),
    (["--text-weights", "{}/twice.txt"], "twice.txt: a piece occurs twice"),
    (["--text-weights", "{}/short.txt", "--vocabulary-size", "40"], "--vocabulary-size: goes with"),
    (["--text-backbone", "hash", "--captions-per-clip", "2"], "--captions-per-clip: goes with"),
])
def test_refusals(tmp_path, capsys, more, said):
    for name, pieces in {"short": ["a"], "late": ["a", *MARKS], "twice": [*MARKS, "a", "a"]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(pieces))
    with pytest.raises(SystemExit) as stop:
        extract(tmp_path, [("a", "b")], *(one.format(tmp_path) for one in more))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "text.h5").exists()


def test_marks_are_checked():
    with pytest.raises(UserError, match=r"\[SEP\] is missing"):
        Vocabulary([m for m in MARKS if m != "[SEP]"])
