"""Clips and captions compared by MTC and judged by MTM: against plain arithmetic, and a judge that knows the truth."""

import json

import pytest
import torch

import cmg
from cmg.data.features import FeatureSet
from cmg.downstream.collection import Collection
from cmg.downstream.reranking import compare, judged, reranked
from cmg.downstream.retrieval import main
from cmg.metrics.retrieval import recall_at
from cmg.pretrain import main as pretrain
from support_captions import ALIGNED, TINY, flags, write_captioned

SEEN = ["video", "audio"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reranking")
    for name, more in (("run", ()), ("mute", ("--w-mtm", "0"))):
        pretrain(["--data", write_captioned(folder / "train.h5"), "--method", "uniq4cap", "--encoders", "none", "--out",
                  str(folder / name), "--device", "cpu", "--batch-size", "8", "--epochs", "1", *more,
                  *flags({**ALIGNED, **TINY})])
    return folder / "run", folder / "mute", write_captioned(folder / "test.h5", n=6, prefix="test", seed=3)


def test_scores_are_those_of_the_model(trained):
    """MTC's of every clip and caption, and beyond it MTM's log-odds of the first three; the rest keeps its order."""
    run, _, test = trained
    model, features = cmg.load_pretrained(run), FeatureSet(test)
    found = compare(model, Collection(features), SEEN)
    batch = features.__getitems__(range(6))
    words = batch["text"].flatten(0, 1).long()  # (12, L), two captions a clip
    assert found.clips.tolist() == list(range(6)) and found.captions.tolist() == [k // 2 for k in range(12)]
    with torch.no_grad():
        source, there = model.sources({m: batch[m] for m in SEEN}, {m: batch[f"valid/{m}"] for m in SEEN})
        queries, texts = model.query_vectors(model.asked(source, there)[0]), model.text_vectors(model.read(words))
        by_hand = (queries @ texts.T).amax(1) / model.temperature
        odds = torch.stack([model.matching(source, there, one.expand(6, -1)).diff(dim=1)[:, 0] for one in words], 1)
    torch.testing.assert_close(found.similarity.float(), by_hand, rtol=1e-5, atol=1e-5)
    for to_text, similar, certain in ((True, by_hand, odds), (False, by_hand.T, odds.T)):
        scores, first = judged(model, found, 3, to_text), similar.topk(3, 1).indices
        torch.testing.assert_close(scores.gather(1, first).float() - 1e4, (similar + certain).gather(1, first),
                                   rtol=1e-3, atol=1e-2)
        others = torch.ones_like(scores, dtype=torch.bool).scatter(1, first, False)
        torch.testing.assert_close(scores[others].float(), similar[others], rtol=1e-5, atol=1e-5)


def test_a_judge_that_knows_finds_all_that_are_among_the_first(trained, monkeypatch):
    run, _, test = trained
    model, collection = cmg.load_pretrained(run), Collection(FeatureSet(test))
    found = compare(model, collection, SEEN)
    sources = torch.stack([source for source, _ in found.looks])

    def knows(source, there, words):
        clip = (source[:, None] - sources).abs().flatten(2).amax(2).argmin(1)
        caption = (words[:, None] != found.words).any(2).long().argmin(1)
        return 100.0 * (found.captions[caption] == clip)

    monkeypatch.setattr(model, "belonging", knows)
    rows = {(source, kind): places for source, _, kind, places, _, _ in reranked(model, collection, SEEN, 3)}
    for source in ("video+audio", "text"):
        assert recall_at(1, rows[source, "mtm"]) == pytest.approx(recall_at(3, rows[source, "mtc"]))
        assert recall_at(5, rows[source, "mtm"]) == pytest.approx(recall_at(5, rows[source, "mtc"]))


def test_rows_and_refusals(trained, tmp_path, capsys):
    run, mute, test = trained
    call = ["--data", test, "--device", "cpu", "--out", str(tmp_path), "--rerank", "2"]
    main(["--checkpoint", str(run), *call])
    rows = {(row["source"], row["metric"]): row for row in json.loads((tmp_path / "results.json").read_text())}
    for kind in ("mtc", "mtm"):
        to_text, back = rows["video+audio", f"{kind}_r1"], rows["text", f"{kind}_r1"]
        assert (to_text["target"], to_text["n_test"], to_text["n_gallery"]) == ("text", 6, 12)
        assert (back["target"], back["n_test"], back["n_gallery"]) == ("video+audio", 12, 6)
        assert back["chance"] == pytest.approx(100 / 6, abs=1e-3)
    for more, message in ((["--checkpoint", str(mute)], "offers vectors, sentences; this task needs matching"),
                          (["--checkpoint", str(run), "--whole-videos"], "--rerank: is of clips and captions")):
        with pytest.raises(SystemExit) as stop:
            main([*call, *more])
        assert stop.value.code == 2 and message in capsys.readouterr().err.strip().splitlines()[-1]
