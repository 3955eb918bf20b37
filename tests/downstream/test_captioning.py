"""Captioning: figures of a model's own sentences, references by file or CSV, chance, media files, refusals."""

import csv
import json

import numpy as np
import pytest
import torch

import cmg
from cmg.data.features import FeatureFile, FeatureSet
from cmg.downstream import captioning
from cmg.downstream.captioning import main, measured
from cmg.downstream.task import Settings
from cmg.extract.__main__ import main as extract
from cmg.figures.captions import draw
from cmg.metrics.captions import METRICS, score
from cmg.pretrain import main as pretrain
from support_captions import ALIGNED, TINY, flags, write_captioned
from support_media import levels, tone, write_video


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(checkpoint folder, file that it was trained on, file of other clips)."""
    folder = tmp_path_factory.mktemp("captioning")
    clips = write_captioned(folder / "train.h5")
    pretrain(["--data", clips, "--method", "uniq4cap", "--encoders", "none", "--out", str(folder / "run"), "--device",
              "cpu", "--batch-size", "8", "--epochs", "1", *flags({**ALIGNED, **TINY})])
    test = write_captioned(folder / "test.h5", n=6, prefix="test")
    return folder / "run", clips, test


def rows_of(out):
    return json.loads((out / "results.json").read_text())


def test_figures_are_those_of_the_sentences(trained, tmp_path, capsys):
    run, _, test = trained
    main(["--checkpoint", str(run), "--data", test, "--out", str(tmp_path), "--device", "cpu", "--max-length", "22",
          "--min-length", "5"])
    rows = rows_of(tmp_path)
    assert [row["metric"] for row in rows] == [f"{t}_{name}" for t in ("ptb", "simple") for name in METRICS]
    assert {(row["source"], row["target"], row["n_test"], row["n_references"]) for row in rows} == {
        ("video+audio", "text", 6, 12)}
    with open(tmp_path / "sentences.csv", newline="") as file:
        said = {row["id"]: row["caption"] for row in csv.DictReader(file)}
    features = FeatureSet(test)
    ids, words = features.tokens("text")[0], features.vocabularies["text"]
    wanted = [words.sentences(row.tolist()) for row in ids]
    assert list(said) == features.ids and all(len(one.split()) >= 4 for one in said.values())
    for tokenizer in ("ptb", "simple"):
        found = score(list(said.values()), wanted, tokenizer).corpus
        for name in METRICS:
            (row,) = (row for row in rows if row["metric"] == f"{tokenizer}_{name}")
            assert row["value"] == pytest.approx(100 * found[name], abs=1e-3) and row["tokenizer"] == tokenizer
    assert "dealt to other clips" in capsys.readouterr().out
    assert (tmp_path / "captions.png").exists() and (tmp_path / "captions.pdf").exists()


def test_nearest_captions_are_those_of_the_clips_that_are_nearest(trained, tmp_path):
    """Among the very clips that are asked for, each is its own nearest, and its first caption is right."""
    run, clips, _ = trained
    call = ["--checkpoint", str(run), "--data", clips, "--out", str(tmp_path), "--device", "cpu"]
    main([*call, "--nearest", clips, "--protocol", "paper"])
    assert {(row["metric"], row["writing"]) for row in rows_of(tmp_path)} >= {("ptb_bleu_4", "nearest")}
    features = FeatureSet(clips)
    words = features.vocabularies["text"]
    with open(tmp_path / "sentences.csv", newline="") as file:
        said = [row["caption"] for row in csv.DictReader(file)]
    assert said == words.sentences(features.tokens("text")[0][:, 0].tolist())


def test_clips_are_told_at_the_scale_of_training(trained):
    """Of a model that standardises, features as files hold them say what those of its own scale say."""
    run, _, test = trained
    model, batch = cmg.load_pretrained(run), FeatureSet(test).__getitems__(range(6))
    seen = {m: batch[m] for m in ("video", "audio")}
    assert not model.feature_scale.standardised
    wanted, (_, _, vectors) = model.describe(seen), model.look(seen)
    offset = 100 * torch.randn(12, generator=torch.Generator().manual_seed(0))
    model.feature_scale._set("video", offset=offset, divisor=torch.tensor(50.0))
    stored = seen | {"video": seen["video"] * 50 + offset}
    torch.testing.assert_close(model.look(stored)[2], vectors, rtol=1e-3, atol=1e-4)
    assert model.describe(stored) == wanted
    assert not torch.allclose(model.look(seen)[2], vectors, atol=1e-2)


def test_files_of_the_clips_are_drawn(trained, tmp_path, monkeypatch, capsys):
    """Those that there are and can be read; the others' features."""
    run, _, test = trained
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "test0.mkv", levels(24), 4, sound=30_000 * tone(200, 6, 16_000))
    (tmp_path / "clips" / "test1.mkv").write_bytes(b"no media")
    drawn = []
    monkeypatch.setattr(captioning, "draw", lambda clips, title: drawn.extend(clips) or draw(clips, title))
    main(["--checkpoint", str(run), "--data", test, "--videos", str(tmp_path / "clips"), "--out", str(tmp_path / "out"),
          "--device", "cpu", "--beams", "1", "--min-length", "5", "--max-length", "12"])
    shapes = {clip.name: {m: np.shape(x) for m, x in clip.streams.items()} for clip in drawn}
    assert shapes == {"test0": {"video": (6, 28, 28, 3), "audio": (96_000,)},
                      **{name: {"video": (6, 12), "audio": (6, 10)} for name in ("test1", "test3", "test4")}}
    assert capsys.readouterr().err.count("features are drawn") == 2


def test_references_of_a_csv_and_one_modality(trained, tmp_path):
    run, _, test = trained
    lines = ["id,caption", *(f"test{k}#{n},A Caption {k} {n}!" for k in range(6) for n in range(3))]
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    main(["--checkpoint", str(run), "--data", test, "--captions", str(tmp_path / "captions.csv"), "--modalities",
          "audio", "--tokenizer", "simple", "--out", str(tmp_path), "--device", "cpu", "--max-length", "22"])
    rows = rows_of(tmp_path)
    assert {(row["source"], row["references"], row["n_references"]) for row in rows} == {("audio", "captions.csv", 18)}


def test_sentences_of_other_clips_are_chance():
    """Sentences that are right read 10 · 100, and next to nothing where others' clips are shown: they say which."""
    said = ["a dog barks at night", "two trains pass the town", "rain falls on a roof", "people sing in choirs"]
    rows = {row["metric"]: row for row in measured(said, [[one] for one in said], Settings(), ["video"], ["ptb"])}
    assert rows["ptb_cider_d"]["value"] == pytest.approx(1000) and rows["ptb_cider_d"]["chance"] < 20
    assert rows["ptb_bleu_1"]["value"] == pytest.approx(100, abs=1e-3)


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    (line,) = [one for one in capsys.readouterr().err.strip().splitlines() if not one.startswith("note: ")]
    assert stop.value.code == 2
    return line


def test_refusals(trained, tmp_path, capsys):
    run, clips, test = trained
    call = ["--checkpoint", run, "--device", "cpu", "--out", tmp_path, "--max-length", "22"]
    assert "all 32 clips were trained on" in refusal(capsys, *call, "--data", clips)
    assert "expected it, or --videos" in refusal(capsys, *call)
    assert "--modalities depth: --checkpoint has only video, audio" in refusal(
        capsys, *call, "--data", test, "--modalities", "depth")
    (tmp_path / "captions.csv").write_text("id,caption\ntest0,a\n")
    assert "no caption of 'test1'" in refusal(capsys, *call, "--data", test, "--captions", tmp_path / "captions.csv")
    assert "--max-length 99: the model knows captions of 32 pieces" in refusal(
        capsys, *call[:-1], "99", "--data", test)
    assert "--draw: goes with --beams 1" in refusal(capsys, *call, "--data", test, "--draw")
    assert "a.mp4: no such file" in refusal(capsys, *call, "--videos", tmp_path / "a.mp4")
    (tmp_path / "a.mp4").touch()
    assert "video features are of an unknown encoder" in refusal(capsys, *call, "--videos", tmp_path / "a.mp4")
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_media_files_are_told_in_sentences(tmp_path, capsys):
    """From .mkv files to features and captions, to a model, to a sentence of a new file."""
    (tmp_path / "clips").mkdir()
    for number in range(4):
        sound = 30_000 * tone(200 * (number + 1), 2, 16_000)
        write_video(tmp_path / "clips" / f"c{number}.mkv", levels(8) + np.uint8(40 * number), 4, sound=sound)
    lines = [f'c{k}#{n},"A tone, number {k} {n}"' for k in range(4) for n in range(2)]
    (tmp_path / "captions.csv").write_text("\n".join(["id,caption", *lines]) + "\n")
    extract(["--videos", str(tmp_path / "clips"), "--captions", str(tmp_path / "captions.csv"), "--modalities", "video",
             "audio", "text", "--text-backbone", "wordpiece", "--vocabulary-size", "60", "--seconds", "2", "--workers",
             "0", "--out", str(tmp_path / "clips.h5")])
    assert FeatureFile(tmp_path / "clips.h5").shapes["text"] == (2, 32)
    pretrain(["--data", str(tmp_path / "clips.h5"), "--method", "prealign", "--out", str(tmp_path / "aligned"),
              "--device", "cpu", "--batch-size", "4", "--epochs", "1", *flags(ALIGNED)])
    pretrain(["--data", str(tmp_path / "clips.h5"), "--method", "uniq4cap", "--out", str(tmp_path / "run"), "--device",
              "cpu", "--batch-size", "4", "--epochs", "1", "--init-from", str(tmp_path / "aligned"),
              *flags({**ALIGNED, **TINY})])
    one, two = (cmg.load_pretrained(tmp_path / name).state_dict() for name in ("aligned", "run"))
    assert all(torch.equal(x, one[name]) for name, x in two.items() if name.startswith("encoders."))
    capsys.readouterr()
    main(["--checkpoint", str(tmp_path / "run"), "--videos", str(tmp_path / "clips" / "c1.mkv"), "--device", "cpu",
          "--beams", "1", "--min-length", "6", "--max-length", "12"])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("c1: ")]
    assert len(said) == 1 and len(said[0]) > len("c1: ")
