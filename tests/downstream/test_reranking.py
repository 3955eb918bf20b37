"""Clips and captions compared by MTC and judged by MTM: against plain arithmetic, and a judge that knows the truth."""

import json

import pytest
import torch

import cmg
from cmg.data.features import FeatureSet
from cmg.downstream import reranking
from cmg.downstream.collection import Collection
from cmg.downstream.reranking import compare, judged, reranked, rightly_judged
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
    rows = {(source, kind): places for source, _, kind, places, _, _ in reranked(model, found, "video+audio", 3)}
    for source in ("video+audio", "text"):
        assert recall_at(1, rows[source, "mtm"]) == pytest.approx(recall_at(3, rows[source, "mtc"]))
        assert recall_at(5, rows[source, "mtm"]) == pytest.approx(recall_at(5, rows[source, "mtc"]))
    assert rightly_judged(model, found).all()


def test_pairs_to_judge_are_those_of_training(trained, monkeypatch):
    """Each caption with its clip, and twice with a rival: never the clip's own, seldom one that is not alike."""
    run, _, test = trained
    model = cmg.load_pretrained(run)
    found = compare(model, Collection(FeatureSet(test)), SEEN)
    words = found.words.clone()
    words[7] = words[2]  # clips 3 and 1 share a caption
    similarity = torch.full((6, 12), -1e3, dtype=torch.float64)
    similarity[[0, 1, 2, 3, 4, 5], [2, 4, 6, 8, 10, 0]] = 0.0  # the next clip's first caption is alike
    similarity[[0, 1, 2, 3, 4, 5], [0, 2, 4, 6, 8, 10]] = 1e3
    found, asked = found._replace(words=words, similarity=similarity), []
    sources = torch.stack([source for source, _ in found.looks])

    def asks(source, there, said):
        clip = (source[:, None] - sources).abs().flatten(2).amax(2).argmin(1)
        asked.append(torch.stack([clip, (said[:, None] != words).any(2).long().argmin(1)], 1))
        return torch.full((len(said),), -1.0)

    monkeypatch.setattr(model, "belonging", asks)
    right = rightly_judged(model, found)
    assert len(right) == 36 and right.sum() == 24  # "never" is right in two thirds
    own, clips, captions = asked
    assert own[:, 0].tolist() == [k // 2 for k in range(12)]
    assert own[:, 1].tolist() == [*range(7), 2, *range(8, 12)]  # 7 says what 2 says
    for clip, caption in [*clips.tolist(), *captions.tolist()]:
        assert caption // 2 != clip and (clip, caption) != (3, 2)
    # of 0, 4, … the clip before is alike, but for 2: clip 0 is; of clip 0 … 5 the next one's first caption
    assert [clips[k, 0].item() for k in (0, 2, 4, 6, 8, 10)] == [5, 0, 1, 2, 3, 4]
    assert captions[::2].tolist() == [[k, 2 * ((k + 1) % 6)] for k in range(6)]
    monkeypatch.setattr(reranking, "AMONG", 2)
    assert len(rightly_judged(model, found)) == 36
    rivals = torch.cat([pair for n, pair in enumerate(asked[3:]) if n % 3])  # two calls of three
    assert {(clip, caption // 2) for clip, caption in rivals.tolist() if caption != 2} == {
        (k, k ^ 1) for k in range(6)}  # clips 2k and 2k + 1 are each other's rivals
    absent = found._replace(clips=found.clips[1:], looks=found.looks[1:], similarity=found.similarity[1:])
    asked.clear()
    assert len(rightly_judged(model, absent)) == 5 * 2 * 3 - 2 * 2  # captions 0 and 1 have no clip; clip 5 is alone
    assert {0, 1}.isdisjoint(torch.cat(asked)[:, 1].tolist())
    alone = found._replace(clips=found.clips[:1], looks=found.looks[:1], similarity=found.similarity[:1])
    assert rightly_judged(model, alone).tolist() == [False, False]  # nothing but its own two captions


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
    judged = rows["video+audio", "mtm_accuracy"]
    assert judged["n_test"] == 36 and judged["chance"] == pytest.approx(200 / 3, abs=1e-3)
    assert f"MTM judges {judged['value']:.1f} % of 36 pairs rightly" in capsys.readouterr().out
    for more, message in ((["--checkpoint", str(mute)], "offers vectors, sentences; this task needs matching"),
                          (["--checkpoint", str(run), "--whole-videos"], "--rerank: is of clips and captions")):
        with pytest.raises(SystemExit) as stop:
            main([*call, *more])
        assert stop.value.code == 2 and message in capsys.readouterr().err.strip().splitlines()[-1]
