"""Scores of clips: their mean is the figure, their error is that of clusters, and they come back from their file."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import sem

import support
from cmg.data.ave import AveAnnotations, Clip
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.downstream.ave import AveTask, main
from cmg.downstream.clip_scores import (
    ClipScores,
    clustered,
    pooled,
    read_clip_scores,
    read_clusters,
    write_clip_scores,
)
from cmg.downstream.events import EventTask, clip_localisation, localisation
from cmg.downstream.probe import ClipProbes, EventProbes, SegmentProbes, probe_data
from cmg.downstream.task import STRICT, Settings
from cmg.downstream.tokens import TokenSet, codebook_sharing
from cmg.errors import UserError
from cmg.training import checkpoint

T, CODES = 4, 6


class OneHotModel(support.OneHotModel):
    shapes, size = {"video": (T, CODES), "audio": (T, CODES)}, CODES


def scores_of(values, clusters):
    return ClipScores(np.array([f"c{n}" for n in range(len(values))]), np.array(clusters), np.array(values, float))


def test_error_of_clips_that_share_nothing_is_that_of_a_mean():
    values = np.random.default_rng(0).random(30)
    assert scores_of(values, [str(n) for n in range(30)]).error == pytest.approx(sem(values))
    assert scores_of([1.0, 3.0], ["a", "a"]).error is None


def test_clips_of_a_cluster_count_once_where_they_agree():
    """Ten copies of each of twelve clips tell no more than the twelve; unequal clusters by the sandwich formula."""
    values = np.random.default_rng(1).random(12)
    copies = scores_of(np.repeat(values, 10), np.repeat([f"p{n}" for n in range(12)], 10))
    assert copies.error == pytest.approx(sem(values)) and copies.n_clusters == 12
    uneven = scores_of([100, 0, 100, 100, 0, 100], ["a", "a", "a", "b", "b", "c"])
    left = [200 - 200, 100 - 400 / 3, 100 - 200 / 3]  # sums less 3, 2 and 1 means of 200 / 3
    assert uneven.error == pytest.approx((3 / 2 * sum(x**2 for x in left)) ** 0.5 / 6)


def test_pooled_scores_have_the_figure_for_a_mean_and_its_error_by_the_delta_method():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 11, (200,), generator=generator)
    hits = torch.stack([(torch.rand(200, generator=generator) * (counts + 1)).floor() for _ in range(2)])
    found = pooled(hits, counts)
    ratio = hits.double().sum(1) / counts.sum()
    assert torch.allclose(found.mean(1), 100 * ratio, atol=1e-12, rtol=0)
    error = scores_of(found[0].numpy(), [str(n) for n in range(200)]).error
    rng = np.random.default_rng(0)
    drawn = [hits[0, rows].sum() / counts[rows].sum() for rows in rng.integers(0, 200, (4000, 200))]
    assert error == pytest.approx(100 * np.std(drawn), rel=0.05)
    assert torch.equal(pooled(torch.tensor([1, 0]), torch.tensor([1, 1])), torch.tensor([100.0, 0.0]).double())
    assert pooled(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", [ClipProbes, SegmentProbes])
def test_means_of_scores_are_the_figures_of_probes(kind):
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 5, (20, T), generator=generator)
    valid = torch.rand(20, T, generator=generator) > 0.3
    valid[:, 0] = True
    book = torch.randn(5, 8, generator=generator)
    labels = torch.randint(0, 3, (20,) if kind is ClipProbes else (20, T), generator=generator)
    data = probe_data(TokenSet(codes, book[codes], book[codes], valid), labels)
    probes = kind(8, 3, (0, 1), (1e-3, 1e-3))
    task = AveTask.__new__(AveTask)
    found = task.clip_scores(probes, data)[kind.metric]
    assert found.shape == (2, 20)
    assert torch.allclose(found.mean(1), probes.score(data).accuracy.double(), atol=1e-9, rtol=0)
    if kind is ClipProbes:
        assert set(found.flatten().tolist()) == {0.0, 100.0}


def test_means_of_scores_are_the_figures_of_events():
    generator = torch.Generator().manual_seed(3)
    fired, truth = (torch.rand(*size, 6, T, 4, generator=generator) > 0.6 for size in ((2,), ()))
    figures, found = localisation(fired, truth), clip_localisation(fired, truth)
    assert set(found) == {"micro_f1", "segment_f1", "event_f1"}
    for name, scores in found.items():
        assert torch.allclose(scores.mean(-1), figures[name], atol=1e-9, rtol=0), name
    codes = torch.randint(0, 5, (6, T), generator=generator)
    tokens = TokenSet(codes, torch.eye(5)[codes], torch.eye(5)[codes], torch.ones(6, T, dtype=torch.bool))
    task = EventTask(["a", "b", "c"], [("video", "audio")], STRICT)
    probes, data = EventProbes(5, 4, (0,), (1e-3,)), probe_data(tokens, truth)
    measured = task.measure(probes, data)
    for name, scores in task.clip_scores(probes, data).items():
        assert torch.allclose(scores.mean(-1), measured[name], atol=1e-9, rtol=0), name


def test_clusters_are_videos_unless_a_file_says_otherwise(tmp_path):
    names = ["-abc_def123_000010", "-abc_def123_000020", "clip_7", "clip_7"]
    found = clustered(names, torch.tensor([1.0, 2, 3, 4]))
    assert found.clusters.tolist() == ["-abc_def123", "-abc_def123", "clip_7", "clip_7"]
    assert found.names.tolist() == [*names[:3], "clip_7 (2)"] and found.n_clusters == 2
    path = tmp_path / "clusters.csv"
    path.write_text("id,cluster\n" + "".join(f"{name},p{n % 2}\n" for n, name in enumerate(names[:3])))
    assert clustered(names, torch.zeros(4), read_clusters(path)).clusters.tolist() == ["p0", "p1", "p0", "p0"]
    with pytest.raises(UserError, match="1 of 2 test clips have none, the first is other; expected a line for each"):
        clustered(["clip_7", "other"], torch.zeros(2), read_clusters(path))
    for text, said in (("id\na\n", "expected a CSV with the columns id and cluster"), ("", "expected a CSV with the"),
                       ("id,cluster\na,x\na,y\n", "a is in x and in y; expected one cluster a clip")):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_clusters(path)
    with pytest.raises(UserError, match="none.csv: no such file; expected a CSV"):
        read_clusters(tmp_path / "none.csv")


def test_scores_come_back_and_other_directions_stay(tmp_path):
    row = {"task": "ave", "protocol": "strict", "source": "video", "target": "audio", "metric": "accuracy"}
    one, two = scores_of([0, 100], ["a", "b"]), scores_of([100, 100], ["a", "b"])
    path = write_clip_scores(tmp_path, "ave", "strict", {("video", "audio", "accuracy"): one})
    assert path == tmp_path / "ave_strict_clips.npz"
    write_clip_scores(tmp_path, "ave", "strict", {("audio", "video", "accuracy"): two})
    for found, expected in ((read_clip_scores(tmp_path, row), one),
                            (read_clip_scores(tmp_path, row | {"source": "audio", "target": "video"}), two)):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected))
    assert read_clip_scores(tmp_path, row | {"metric": "segment_accuracy"}) is None
    assert read_clip_scores(tmp_path, row | {"protocol": "paper"}) is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_chance_of_a_match_is_that_of_all_pairs_of_seconds():
    generator = torch.Generator().manual_seed(4)
    sides = []
    for _ in range(2):
        codes, valid = torch.randint(0, 4, (9, 5), generator=generator), torch.rand(9, 5, generator=generator) > 0.2
        sides.append(TokenSet(codes, codes[..., None].float(), codes[..., None].float(), valid))
    a, b = sides
    both = a.valid & b.valid
    pairs = [x == y for x in a.codes[both].tolist() for y in b.codes[both].tolist()]
    assert codebook_sharing(a, b)["match_chance"] == pytest.approx(100 * sum(pairs) / len(pairs))
    even = TokenSet(torch.arange(8)[None], torch.zeros(1, 8, 1), torch.zeros(1, 8, 1), torch.ones(1, 8).bool())
    assert codebook_sharing(even, even)["match_chance"] == pytest.approx(100 / 8)
    shuffled = even._replace(codes=even.codes.flip(1))
    assert codebook_sharing(even, shuffled)["code_overlap"] == 1.0 and codebook_sharing(even, shuffled)[
        "match_rate"] == 0.0  # overlap does not look at pairs
    assert codebook_sharing(even, even.take(torch.tensor([0, 0])))["match_chance"] is None


@pytest.fixture
def ave(tmp_path, monkeypatch):
    """20 test clips of 5 patterns; the code of the target is another for two of the patterns, so 60 % are right."""
    monkeypatch.setattr("cmg.downstream.task.build_model", lambda content, device, *_: OneHotModel())
    checkpoint.save(tmp_path / "best.pt", {
        "format": 1, "args": {"seed": 0}, "shapes": {m: list(s) for m, s in OneHotModel.shapes.items()}, "model": {},
        "epoch": 1, "step": 1, "pretrain_ids": []})
    classes, clips = ["Bark", "Cat"], {}
    for split, size in (("train", 20), ("val", 10), ("test", 20)):
        clips[split] = [Clip(f"{split}_{n:03d}", classes[n % 2], 0, T) for n in range(size)]
    every = [clip for own in clips.values() for clip in own]
    codes = {m: np.tile([[classes.index(clip.category)] for clip in every], (1, T)) for m in ("video", "audio")}
    for n, clip in enumerate(clips["test"]):
        if n % 5 < 2:
            codes["audio"][every.index(clip)] = 1 - classes.index(clip.category)
    with FeatureWriter(tmp_path / "ave.h5", OneHotModel.shapes, {"seconds_per_step": 1.0}) as writer:
        writer.append([clip.id for clip in every],
                      {m: np.eye(CODES, dtype=np.float32)[x] for m, x in codes.items()}, None)
    folder = tmp_path / "AVE"
    folder.mkdir()
    text = {split: "".join(f"{c.category}&{c.id}&good&0&{T}\n" for c in own) for split, own in clips.items()}
    (folder / "Annotations.txt").write_text("".join(text.values()))
    for split, own in text.items():
        (folder / f"{split}Set.txt").write_text(own)
    (tmp_path / "clusters.csv").write_text("id,cluster\n" + "".join(
        f"{clip.id},pattern {n % 5}\n" for n, clip in enumerate(clips["test"])))
    return [str(x) for x in ("--checkpoint", tmp_path / "best.pt", "--data", tmp_path / "ave.h5", "--annotations",
                             folder, "--device", "cpu", "--source", "video", "--probe-lr", "0.01", "--batch-size", 5)]


def test_a_task_says_the_error_of_its_test_and_leaves_the_scores(ave, tmp_path, capsys):
    rows = main([*ave, "--clusters", str(tmp_path / "clusters.csv")])
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    (clip, segment) = rows
    # Five pattern means of 0, 0, 100, 100, 100: standard deviation 100 · sqrt(0.3) over sqrt(5).
    expected = 100 * (0.3 / 5) ** 0.5
    for row in (clip, segment):
        assert row["value"] == 60.0 and row["n_clusters"] == 5
        assert row["test_error"] == pytest.approx(expected, abs=1e-4)
        found = read_clip_scores(tmp_path, row)
        assert found.names.tolist() == [f"test_{n:03d}" for n in range(20)]
        assert found.scores == pytest.approx([0 if n % 5 < 2 else 100 for n in range(20)])
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    told = {name.strip(): cell.strip() for start in (0, 4) for name, cell in zip(lines[start], lines[start + 2])}
    assert told["test error"] == f"{expected:.1f}" and told["codes"] == "2"
    assert (told["match rate"], told["match chance"]) == ("60.0", "50.0")
    (alone, _) = main(ave)  # every clip its own cluster
    assert alone["n_clusters"] == 20
    assert alone["test_error"] == pytest.approx(sem([0] * 8 + [100] * 12), abs=1e-4)
    (tmp_path / "AVE" / "clusters.csv").write_text((tmp_path / "clusters.csv").read_text())
    assert main(ave)[0]["n_clusters"] == 5  # beside the annotations
    (fitted,) = main([*ave, "--protocol", "paper", "--probe-epochs", "2"])[:1]  # a fit: no clips were kept for a test
    assert "test_error" not in fitted and not (tmp_path / "ave_paper_clips.npz").exists()


def test_clips_without_a_modality_are_left_out_by_name(tmp_path):
    clips = {split: [Clip(f"{split}_{n}", "AB"[n % 2], 0, T) for n in range(6)] for split in ("train", "val", "test")}
    every = [clip for own in clips.values() for clip in own]
    valid = np.ones((len(every), T), bool)
    valid[every.index(clips["test"][1])] = False
    x = np.eye(CODES, dtype=np.float32)[np.tile([["AB".index(clip.category)] for clip in every], (1, T))]
    with FeatureWriter(tmp_path / "f.h5", OneHotModel.shapes, {}) as writer:
        writer.append([clip.id for clip in every], {m: x for m in OneHotModel.shapes},
                      {"audio": valid, "video": np.ones_like(valid)})
    task = AveTask(FeatureSet(tmp_path / "f.h5"), AveAnnotations(["A", "B"], clips, [], []), [("video", "audio")],
                   Settings(epochs=2, probe_seeds=2, batch_size=3))
    task.run(OneHotModel())
    names, scores = task.clips["video", "audio", "accuracy"]
    assert names == [f"test_{n}" for n in (0, 2, 3, 4, 5)] and scores.shape == (5,)


@pytest.mark.parametrize("damage", ["cut", "bit", "text", "lengths"])
def test_damaged_scores_are_one_line(tmp_path, damage):
    key, scores = ("video", "audio", "accuracy"), clustered(list("abcd"), torch.arange(4.0))
    row = dict(zip(("source", "target", "metric"), key), task="ave", protocol="strict")
    path = write_clip_scores(tmp_path, "ave", "strict", {key: scores})
    assert read_clip_scores(tmp_path, row).scores.tolist() == [0, 1, 2, 3]
    raw = bytearray(path.read_bytes())
    if damage == "bit":
        raw[raw.index(b"scores.npy") + 40] ^= 1
    path.write_bytes({"cut": raw[: len(raw) // 2], "text": b"scores"}.get(damage, raw))
    if damage == "lengths":
        np.savez(path, **{"video/audio/accuracy/scores": np.ones(4), "video/audio/accuracy/names": np.array(["a"])})
    calls = [lambda: read_clip_scores(tmp_path, row)]
    calls += [lambda: write_clip_scores(tmp_path, "ave", "strict", {key: scores})] if damage != "lengths" else []
    for call in calls:
        with pytest.raises(UserError, match=r"^[^\n]*ave_strict_clips.npz: [^\n]*; move it away, or evaluate again"):
            call()
