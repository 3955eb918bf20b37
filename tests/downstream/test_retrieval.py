"""Retrieval: ranks against a second implementation, ties and missing items, captions of public sets, both tasks."""

import csv
import json
from itertools import permutations
from math import comb

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import support
from cmg.data import captions as captions_command
from cmg.data.captions import Caption, read_captions
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.data.videos import clip_of
from cmg.downstream import retrieval
from cmg.downstream.collection import Collection, fused_pairs
from cmg.downstream.retrieval import zero_shot
from cmg.downstream.retrieval_head import TENTHS, tenth, with_head
from cmg.downstream.task import Settings
from cmg.downstream.tokens import item_vectors
from cmg.errors import UserError
from cmg.metrics.retrieval import (
    EXPECTED,
    RELEASED,
    Places,
    averaged,
    chance,
    mean_rank,
    median_rank,
    places,
    places_by,
    recall_at,
    released_mean_rank,
    released_median_rank,
    released_recall_at,
    unit,
)
from cmg.training import checkpoint

INF = float("inf")


def test_places_agree_with_sorting():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randn(n, 6, generator=generator) for n in (23, 17))
    groups = torch.randint(0, 30, (23,), generator=generator), torch.randint(0, 30, (17,), generator=generator)
    found = places(queries, gallery, *groups, chunk=5, block=4)
    assert all(map(torch.equal, found, places(queries, gallery, *groups)))
    q, g = queries.numpy().astype(float), gallery.numpy().astype(float)
    cosine = q @ g.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(g, axis=1)
    expected = []
    for n in range(23):
        order = groups[1].numpy()[np.argsort(-cosine[n])]
        right = np.flatnonzero(order == groups[0][n].item())
        expected.append(right[0] + 1 if len(right) else INF)
    assert found.mean_ranks().tolist() == expected
    assert INF in expected  # some groups are not in the gallery: wrong, not dropped
    for k in (1, 3, 10):
        share = 100 * np.mean(np.array(expected) <= k)
        assert recall_at(k, found) == released_recall_at(k, found) == pytest.approx(share)
    assert not found.wrong.any() and set(found.right.tolist()) == {0, 1}


def some_places():
    """Queries in a gallery of three different vectors -> (places, of each query all orders: which items are right)."""
    vectors, of_query = torch.eye(3, dtype=torch.float64), []
    gallery = torch.tensor([0, 0, 1, 2, 1, 0])
    groups = torch.tensor([4, 5, 5, 4, 7, 5])
    asked = [(0, 4), (0, 5), (1, 5), (1, 4), (2, 4), (2, 7), (1, 9), (2, 5)]
    # A vector that is near to 0, less to 1 and not to 2, and so on: three ties of different nearness.
    queries = torch.stack([vectors[v] + 0.5 * vectors[(v + 1) % 3] for v, _ in asked])
    similarity = (queries @ vectors.T).numpy()
    for (_, group), near in zip(asked, similarity):
        orders = {tuple(sorted(order, key=lambda i: -near[gallery[i]])) for order in permutations(range(6))}
        assert len(orders) == 12  # 3! · 2! · 1!
        of_query.append([[int(groups[i]) == group for i in order] for order in orders])
    return places(queries, vectors[gallery], torch.tensor([group for _, group in asked]), groups), of_query


def test_ties_are_the_mean_over_all_orders():
    """Against the permutations themselves: recalls at every k, the mean rank, and the median of all their ranks."""
    found, of_query = some_places()
    first = [[order.index(True) + 1 if True in order else INF for order in orders] for orders in of_query]
    assert found.mean_ranks().tolist() == pytest.approx([np.mean(ranks) for ranks in first])
    for k in range(1, 8):
        assert recall_at(k, found) == pytest.approx(100 * np.mean([[rank <= k for rank in own] for own in first]))
        means = np.array([np.mean(own) for own in first])
        assert released_recall_at(k, found) == pytest.approx(100 * np.mean(means == 1 if k == 1 else means < k + 1))
    assert median_rank(found) == np.median(first)
    assert mean_rank(found) == INF
    assert released_median_rank(found) == np.median(means[means < INF])  # of what is there to be found
    assert released_mean_rank(found) == pytest.approx(np.mean(means[means < INF]))
    assert {int(m) for m in found.right} == {0, 1, 2}  # of one query two of three equal items are right


@pytest.mark.parametrize(("nearer", "right", "wrong"), [
    (0, 1, 999), (3, 1, 6), (7, 2, 5), (0, 4, 4), (9, 1, 0), (2, 3, 0)])
def test_a_tie_is_shown_in_random_order(nearer, right, wrong):
    """One right item: min(1, max(0, K − nearer) / ties). Several: of the subsets that are shown, those with any."""
    found = Places(*(torch.tensor([n]) for n in (nearer, right, wrong)))
    ties = right + wrong
    for k in (1, 2, 5, 10, 100):
        shown = min(max(0, k - nearer), ties)
        expected = min(1, max(0, k - nearer) / ties) if right == 1 else 1 - comb(wrong, shown) / comb(ties, shown)
        assert recall_at(k, found) == pytest.approx(100 * expected, abs=1e-9)


def test_equal_items_are_found_by_chance():
    """A thousand equal items: 1 % of them among the first ten, as of a gallery in random order, and not 0."""
    n, same = torch.arange(1000), torch.ones(1000, 4)
    found = places(same, same, n, n)
    assert [recall_at(k, found) for k in (1, 10, 1000)] == pytest.approx([0.1, 1.0, 100.0])
    assert median_rank(found) == released_median_rank(found) == 500.5
    assert released_recall_at(10, found) == 0.0  # the rule of the paper protocol
    guessed = chance(n, n)
    assert all(map(torch.equal, found, guessed))


def test_a_large_gallery_is_compared_in_blocks():
    """20 000 × 20 000 items whose best match is known: no tensor of all pairs is ever made."""
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    n = 20_000
    angle = torch.arange(n).double() / n * torch.pi / 2  # cosines of neighbours differ by 3e-9, more than a tie
    items, groups = torch.stack([angle.cos(), angle.sin()], 1), torch.arange(n)
    queries = torch.tensor([0, 1, n - 1])
    with Largest() as largest:
        found = places(items[queries], items, groups[queries], groups, chunk=2, block=1000)
        assert recall_at(1, chance(groups, groups)) == pytest.approx(100 / n)
    assert found.mean_ranks().tolist() == [1, 1, 1] and largest.size <= 2 * n


def test_figures_of_ranks():
    # Ranks 1, 4.5 (a tie of 4 and 5), 5, 5.5, none, 11.
    found = Places(*torch.tensor([[0, 3, 4, 4, 9, 10], [1, 1, 1, 1, 0, 1], [0, 1, 0, 1, 0, 0]]))
    assert found.mean_ranks().tolist() == [1.0, 4.5, 5.0, 5.5, INF, 11.0]
    assert [recall_at(k, found) for k in (1, 4, 5, 10)] == pytest.approx([100 / 6, 25.0, 350 / 6, 400 / 6])
    assert [released_recall_at(k, found) for k in (1, 4, 5)] == pytest.approx([100 / 6, 200 / 6, 400 / 6])
    assert median_rank(found) == 5.0 and released_median_rank(found) == 5.0
    assert mean_rank(found) == INF and released_mean_rank(found) == pytest.approx(27 / 5)
    first = Places(*(x[:3] for x in found))  # of three queries 1.5 are right within 4
    assert median_rank(first) == released_median_rank(first) == 4.5
    lost = Places(*torch.tensor([[0, 2, 2], [1, 0, 0], [0, 0, 0]]))
    assert median_rank(lost) == INF and released_median_rank(lost) == released_mean_rank(lost) == 1.0
    none = Places(*torch.tensor([[2, 2], [0, 0], [0, 0]]))
    assert median_rank(none) == released_median_rank(none) == released_mean_rank(none) == INF


def test_chance_is_that_of_a_shuffled_gallery():
    queries, gallery = torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1, 2, 2])
    shuffles = list(permutations(gallery.tolist()))
    for k in (1, 2, 5, 9):
        hits = np.mean([[q in order[:k] for q in queries.tolist()] for order in shuffles])
        assert recall_at(k, chance(queries, gallery)) == pytest.approx(100 * hits)


# Parity with the released code of MultiSK

with np.load(support.FIXTURES / "multisk_retrieval.npz") as file:
    RELEASES = dict(file)
CASES = sorted(name.removesuffix("/S") for name in RELEASES if name.endswith("/S"))


def places_in(similarity, chunk=7, block=5):
    """Row i looks for column i."""
    near = torch.from_numpy(similarity)
    return places_by(lambda rows, columns: near[rows, columns], *map(torch.arange, near.shape), chunk, block)


@pytest.mark.parametrize("case", CASES)
def test_figures_are_the_released_ones(case):
    given = {name: value.item() for name, value in ((key.removeprefix(f"{case}/"), RELEASES[key]) for key in RELEASES
                                                    if key.startswith(f"{case}/")) if value.ndim == 0}
    found = places_in(RELEASES[f"{case}/S"])
    if case == "ties_first":  # the other reading: the right one is before all that are as near
        found = found._replace(wrong=torch.zeros_like(found.wrong))
    count = len(found.right)
    asked = given.pop("denominator")
    asked = count if asked == -1 else asked
    recalls = {k: RELEASED.recall_at(k, found) * count / asked for k in (1, 5, 10, 50)}
    ours = {f"R{k}": value for k, value in recalls.items()} | {
        "MedR": RELEASED.median_rank(found), "MeanR": RELEASED.mean_rank(found),
        "gmean_R1_R5_R10": np.cbrt(recalls[1] * recalls[5] * recalls[10])}
    assert ours == pytest.approx(given, rel=1e-12)
    strict = [EXPECTED.recall_at(k, found) for k in (1, 5, 10, 50)]
    if case == "all_equal":  # strict keeps the expectation: one of six is first by chance
        assert strict == pytest.approx([100 / 6, 500 / 6, 100, 100]) and recalls[1] == 0
    if case == "nan_on_diagonal":
        assert EXPECTED.mean_rank(found) == INF and int((found.right == 0).sum()) == 1
    if not case.startswith("ties") and case != "all_equal":
        assert strict == pytest.approx([value * asked / count for value in recalls.values()])


def test_the_other_direction_is_the_released_one():
    found = places_in(RELEASES["plain/S"].T)
    assert RELEASED.recall_at(1, found) == pytest.approx(RELEASES["inverse/R1"].item(), rel=1e-12)
    assert RELEASED.median_rank(found) == RELEASES["inverse/MedR"].item()


def test_clips_of_one_name_are_averaged_as_released():
    x, names = averaged(torch.from_numpy(RELEASES["average/E"]), RELEASES["average/ids"])
    assert names == RELEASES["average/out_ids"].tolist()
    np.testing.assert_allclose(x.numpy(), RELEASES["average/out"], rtol=1e-12)


def test_cosines_are_the_released_ones():
    """A row of zeros has a cosine of 0 with all."""
    a, b = (unit(torch.from_numpy(RELEASES[f"cosine/{name}"])) for name in "ab")
    np.testing.assert_allclose((a @ b.T).numpy(), RELEASES["cosine/out"], rtol=1e-12, atol=1e-15)


# Captions


CLOTHO = 'file_name,caption_1,caption_2\nSanta Motor.wav,"A machine, loud",Someone trims\nRain.wav,Rain,\n'
AUDIOCAPS = "audiocap_id,youtube_id,start_time,caption\n1,-abc,20,Rattling\n2,-abc,20,A rattle\n3,-abc,30,A rocket\n"
MSRVTT = "key;vid_key;video_id;sentence\nret0;msr1;video1;a person\n"
COCO = json.dumps({"images": [{"id": 7, "file_name": "val/000007.jpg"}],
                   "annotations": [{"image_id": 7, "caption": "a cat "}, {"image_id": 7, "caption": "one cat"}]})
YOUCOOK = ("end,start,task,text,video_id\n60,47,226,pick the ends,xHr8X2Wpmno\n60,47,226,drop them,xHr8X2Wpmno\n"
           "89,67,226,\"mix, then boil\",xHr8X2Wpmno\n")
VGGSOUND = 'glLQ_000300.mp4,playing organ\r\nglLQ_000310.mp4,"dog, barking"\r\n'


@pytest.mark.parametrize(("text", "expected", "left_out"), [
    (CLOTHO, [("Santa Motor#0", "Santa Motor", "A machine, loud"), ("Santa Motor#1", "Santa Motor", "Someone trims"),
              ("Rain", "Rain", "Rain")], 1),
    (AUDIOCAPS, [("-abc_000020#0", "-abc_000020", "Rattling"), ("-abc_000020#1", "-abc_000020", "A rattle"),
                 ("-abc_000030", "-abc_000030", "A rocket")], 0),
    (MSRVTT, [("video1", "video1", "a person")], 0),
    (MSRVTT.replace(";", ","), [("video1", "video1", "a person")], 0),
    (YOUCOOK, [("xHr8X2Wpmno_47_60#0", "xHr8X2Wpmno_47_60", "pick the ends"),
               ("xHr8X2Wpmno_47_60#1", "xHr8X2Wpmno_47_60", "drop them"),
               ("xHr8X2Wpmno_67_89", "xHr8X2Wpmno_67_89", "mix, then boil")], 0),
    (COCO, [("000007#0", "000007", "a cat"), ("000007#1", "000007", "one cat")], 0),
    (VGGSOUND, [("glLQ_000300", "glLQ_000300", "playing organ"), ("glLQ_000310", "glLQ_000310", "dog, barking")], 0),
    ("--0P,30,waterfall,train\n", [("--0P_000030", "--0P_000030", "waterfall")], 0),
    ("file_name,caption_1\ndrone #3.wav,A drone\ndrone.wav,Hum\n",
     [("drone #3#0", "drone #3", "A drone"), ("drone", "drone", "Hum")], 0),
], ids=["clotho", "audiocaps", "msrvtt", "msrvtt-comma", "youcook", "coco", "vggsound", "vggsound-full", "number"])
def test_captions_of_public_sets(tmp_path, text, expected, left_out):
    path = tmp_path / "captions"
    path.write_bytes(text.encode())
    found, skipped = read_captions(path)
    assert found == [Caption(*row) for row in expected] and len(skipped) == left_out
    assert [clip_of(one.id) for one in found] == [one.clip for one in found]


def test_public_captions_are_as_many_as_published_figures_count(annotations):
    """1000 of MSR-VTT, in both variants of its csv, and 3350 of YouCook2, where one clip is told twice."""
    tested, skipped = read_captions(annotations / "MSRVTT" / "msrvtt_test.csv")
    other, _ = read_captions(annotations / "MSRVTT" / "semicolon_variant_excerpt.csv")
    assert len({one.clip for one in tested}) == len(tested) == 1000 and not skipped
    assert {one.id: one.text for one in other}.items() <= {one.id: one.text for one in tested}.items() and other
    cooked, skipped = read_captions(annotations / "YouCook" / "validation_youcook.csv")
    assert (len(cooked), len({one.clip for one in cooked}), skipped) == (3350, 3349, [])


@pytest.mark.parametrize(("text", "said"), [
    ("a,b,c\n1,2,3\n", "its first line is 'a,b,c'"),
    (MSRVTT + "ret1;msr2;video2\n", "row 3: 3 fields; expected 4"),
    (AUDIOCAPS.replace("30", "x"), "row 4: expected times in whole seconds"),
    ('{"images": []}', "'annotations' is missing"),
    ("key,vid_key,video_id,sentence\n", "no captions in it"),
    ('file_name,caption_1\na.wav,"open\nb.wav,lost\n', "row 2: a field of several lines; expected quotes in pairs"),
    (f"file_name,caption_1\na.wav,{'x' * 140_000}\n", "not a CSV file (field larger than field limit"),
])
def test_broken_captions_are_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "captions"
    path.write_text(text)
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        read_captions(path)
    assert said in str(error.value)


def test_captions_command(tmp_path, capsys):
    (tmp_path / "in.csv").write_text(CLOTHO)
    captions_command.main([str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv")])
    with open(tmp_path / "out.csv", newline="") as file:
        assert list(csv.DictReader(file))[0] == {"id": "Santa Motor#0", "caption": "A machine, loud"}
    printed = capsys.readouterr()
    assert "3 captions of 2 clips, 1 rows left out" in printed.out and "Rain has an empty caption" in printed.err


# The tasks. A clip's features name its code; clips n and n + 8 share one, as far as codes can tell.

CODES, T = 8, 4
FAST = Settings(epochs=20, probe_seeds=1, lrs=(2e-2,), batch_size=16)


class OneHotModel(support.OneHotModel):
    shapes, size = {m: (T, CODES + 1) for m in ("video", "audio", "text")}, CODES


def write_features(path, ids, modalities, invalid=(), scale=1.0):
    """Features of clip n: one-hot of n mod 8, and in the last channel a little of n itself, which codes cannot tell."""
    number = np.array([int(name.split("#")[0].lstrip("c")) for name in ids])
    x = np.zeros((len(ids), T, CODES + 1), dtype=np.float32)
    x[np.arange(len(ids)), :, number % CODES] = 1
    x[..., CODES] = scale * number[:, None]
    valid = np.ones((len(ids), T), dtype=bool)
    valid[[ids.index(name) for name in invalid]] = False
    with FeatureWriter(path, {m: (T, CODES + 1) for m in modalities}, {"source": "made up"}, dtype="float32") as writer:
        writer.append(ids, {m: x for m in modalities}, {m: valid if m == modalities[0] else np.ones_like(valid)
                                                       for m in modalities})
    return path


def by_metric(rows, source, target):
    return {row["metric"]: row for row in rows if (row["source"], row["target"]) == (source, target)}


def test_zero_shot_ranks_codes_and_semantics(tmp_path):
    ids = [f"c{n}" for n in range(16)]
    features = FeatureSet(write_features(tmp_path / "a.h5", ids, ["video", "audio"], scale=0.05))
    rows = zero_shot(OneHotModel(), Collection(features), [("video", "audio"), ("audio", "video")], FAST)
    assert len(rows) == 2 * 2 * 7  # directions, representations, figures
    found = by_metric(rows, "video", "audio")
    # Two clips share each code: one of them is first, by chance. Before quantising they differ.
    assert [found[f"codes_{name}"]["value"] for name in ("r1", "r5", "r10", "median_rank")] == [50.0, 100.0, 100.0, 1.5]
    assert [found[f"semantic_{name}"]["value"] for name in ("r1", "r50", "median_rank", "mean_rank")] == [
        100.0, 100.0, 1.0, 1.0]
    assert (found["codes_mean_rank"]["value"], found["codes_mean_rank"]["chance"]) == (1.5, 8.5)
    assert [found[f"codes_{name}"]["chance"] for name in ("r1", "r5", "median_rank")] == [6.25, 31.25, 8.5]
    assert {(row["n_test"], row["n_gallery"], row["n_missing"]) for row in rows} == {(16, 16, 0)}


def test_a_gallery_of_one_item_is_told(tmp_path, capsys):
    """Whatever is found there is right, as chance is."""
    write_features(tmp_path / "a.h5", ["c1"], ("video", "audio"))
    rows = zero_shot(OneHotModel(), Collection(FeatureSet(tmp_path / "a.h5")), [("video", "audio")], FAST)
    assert {(row["value"], row["chance"]) for row in rows if row["metric"].endswith("_r1")} == {(100.0, 100.0)}
    assert capsys.readouterr().err == "warning: video → audio: the gallery is one item; whatever is found is right\n"


def test_a_model_without_a_codebook_ranks_its_vectors(tmp_path):
    class Vectors(OneHotModel, support.VectorModel):
        offers, encode_modality = support.VectorModel.offers, support.VectorModel.encode_modality

    ids = [f"c{n}" for n in range(16)]
    features = FeatureSet(write_features(tmp_path / "a.h5", ids, ["video", "audio"], scale=0.05))
    rows = zero_shot(Vectors(), Collection(features), [("video", "audio")], FAST)
    # Its vectors are the other's code vectors: two clips share each.
    assert {row["metric"]: row["value"] for row in rows} == {
        "semantic_r1": 50.0, "semantic_r5": 100.0, "semantic_r10": 100.0, "semantic_r25": 100.0,
        "semantic_r50": 100.0,
        "semantic_median_rank": 1.5, "semantic_mean_rank": 1.5}
    assert retrieval.draw(rows, tmp_path / "r.png").exists()
    assert "| video → audio | semantic | 50.0 | 100.0 | 100.0 |" in " ".join(retrieval.table(rows).split())


def test_a_model_says_by_what_its_clips_are_retrieved(tmp_path):
    """Its own vectors in the place of means over steps: the first step's, which two clips share, so that half are
    first. Clips are read in batches."""
    class First(OneHotModel):
        def items(self, modality, features, valid):
            return {"first": self.encode_modality(modality, features, valid).quantized[:, 0]}

    ids = [f"c{n}" for n in range(16)]
    features = FeatureSet(write_features(tmp_path / "a.h5", ids, ["video", "audio"], scale=0.05))
    rows = zero_shot(First(), Collection(features), [("video", "audio")], FAST)
    assert {row["metric"]: row["value"] for row in rows} == {
        "first_r1": 50.0, "first_r5": 100.0, "first_r10": 100.0, "first_r25": 100.0, "first_r50": 100.0,
        "first_median_rank": 1.5, "first_mean_rank": 1.5}
    assert retrieval.draw(rows, tmp_path / "r.png").exists()
    whole, there = item_vectors(OneHotModel(), features, "audio")
    parts, _ = item_vectors(OneHotModel(), features, "audio", batch_size=3)
    assert there.all() and set(whole) == {"codes", "semantic"}
    for name, x in whole.items():
        assert x.dtype == torch.float64 and torch.equal(x, parts[name])


def test_the_order_of_equal_codes_breaks_no_tie(tmp_path):
    """24 clips, the 24 orders of the same four codes: all are equal, whatever order a sum is taken in. Video has other
    codes than audio, for next to a cosine of 1 a small difference is lost."""
    orders = np.array(list(permutations(range(T))))
    one_hot = np.eye(CODES + 1, dtype=np.float32)
    shapes = {m: (T, CODES + 1) for m in ("video", "audio")}
    with FeatureWriter(tmp_path / "a.h5", shapes, {"source": "made up"}, dtype="float32") as writer:
        writer.append([f"c{n}" for n in range(24)], {"video": one_hot[orders], "audio": one_hot[orders + 2]})
    rows = zero_shot(OneHotModel(), Collection(FeatureSet(tmp_path / "a.h5")), [("video", "audio")], FAST)
    found = {row["metric"]: row["value"] for row in rows}
    assert (found["codes_median_rank"], found["codes_r10"]) == (12.5, pytest.approx(1000 / 24, abs=1e-3))
    collection = Collection(FeatureSet(tmp_path / "a.h5"))
    rows = zero_shot(OneHotModel(), collection, [("video", "audio")], FAST._replace(protocol="paper"))
    assert {row["metric"]: row["value"] for row in rows}["codes_r10"] == 0.0


def test_what_is_missing_is_wrong(tmp_path):
    ids = [f"c{n}" for n in range(8)]
    features = FeatureSet(write_features(tmp_path / "a.h5", ids, ["video", "audio"], invalid=["c3", "c4"]))
    rows = zero_shot(OneHotModel(), Collection(features), [("video", "audio"), ("audio", "video")], FAST)
    for source, target, shown in (("video", "audio", 8), ("audio", "video", 6)):
        one = by_metric(rows, source, target)["codes_r10"]
        assert (one["value"], one["n_test"], one["n_gallery"], one["n_missing"]) == (75.0, 8, shown, 2)


def test_captions_of_their_own(tmp_path):
    features = FeatureSet(write_features(tmp_path / "a.h5", [f"c{n}" for n in range(8)], ["audio"]))
    texts = FeatureSet(write_features(tmp_path / "t.h5", ["c0#0", "c0#1", "c1#0", "c2", "c9#0"], ["text"]))
    asked = ["c0#0", "c0#1", "c1#0", "c1#1", "c2", "c9#0"]
    collection = Collection(features, texts, asked)
    rows = zero_shot(OneHotModel(), collection, [("text", "audio"), ("audio", "text")], FAST)
    to_audio = by_metric(rows, "text", "audio")["codes_r1"]
    # c1#1 has no features, and of c9 there is no clip; the other four find theirs.
    assert (to_audio["value"], to_audio["n_test"], to_audio["n_missing"]) == (pytest.approx(400 / 6, abs=1e-3), 6, 2)
    to_text = by_metric(rows, "audio", "text")
    # Clips 3 to 7 have no caption. c1 shares code 1 with the caption of c9: first by chance.
    assert to_text["codes_r1"]["value"] == 31.25 and to_text["codes_r5"]["value"] == 37.5
    assert to_text["codes_median_rank"]["value"] is None
    assert to_text["codes_r1"]["chance"] == pytest.approx(100 * (2 + 1 + 1) / 5 / 8)  # any of two captions is right


def test_captions_of_clips_whose_names_end_in_a_number(tmp_path):
    """`c0 #1` is a clip, as its name says; `c1 #2#0` a caption of another one, and `c2#1` of a third."""
    ids = ["c0 #1", "c1 #2", "c2", "c3"]
    features = FeatureSet(write_features(tmp_path / "a.h5", ids, ["audio"]))
    texts = FeatureSet(write_features(tmp_path / "t.h5", ["c0 #1", "c1 #2#0", "c2#1", "c3"], ["text"]))
    rows = zero_shot(OneHotModel(), Collection(features, texts), [("text", "audio"), ("audio", "text")], FAST)
    for source, target in (("text", "audio"), ("audio", "text")):
        one = by_metric(rows, source, target)["codes_r1"]
        assert (one["value"], one["n_test"], one["n_missing"]) == (100.0, 4, 0)


def test_words_find_what_is_seen_and_heard_as_one(tmp_path):
    """Video tells the units of a clip's number, audio the fours: only both together tell which clip it is."""
    class Halves(support.OneHotModel):
        shapes, size = {m: (T, 8) for m in ("video", "audio", "text")}, 8

        def items(self, modality, features, valid):
            return {"joint": features[:, 0] * (3.0 if modality == "audio" else 1.0)}  # lengths do not count

    ids, shapes = [f"c{n}" for n in range(16)], Halves.shapes
    x, one_hot = {m: np.zeros((16, T, 8), np.float32) for m in shapes}, np.eye(8, dtype=np.float32)
    x["video"][:], x["audio"][:] = one_hot[np.arange(16) % 4][:, None], one_hot[4 + np.arange(16) // 4][:, None]
    x["text"] = x["video"] + x["audio"]
    valid = {m: np.ones((16, T), bool) for m in shapes}
    valid["audio"][5] = valid["audio"][6] = valid["video"][6] = False
    with FeatureWriter(tmp_path / "a.h5", shapes, {"source": "made up"}, dtype="float32") as writer:
        writer.append(ids, x, valid)
    pairs = [("text", "video"), ("text", "audio"), ("video", "text"), ("audio", "text"), ("video", "audio")]
    assert fused_pairs(pairs) == [("text", "video+audio"), ("video+audio", "text")]
    assert fused_pairs(pairs[:1]) == fused_pairs([("video", "audio"), ("audio", "video")]) == []
    rows = zero_shot(Halves(), Collection(FeatureSet(tmp_path / "a.h5")), pairs[:2] + fused_pairs(pairs), FAST)
    alone, both = by_metric(rows, "text", "video"), by_metric(rows, "text", "video+audio")
    # One of four, by chance, and of three where clip 6 lacks.
    assert alone["joint_r1"]["value"] == pytest.approx(100 * (12 / 4 + 3 / 3) / 16, abs=1e-3)
    # Clip 6 has neither; of clip 5 there is video alone, with a cosine of 0.7 with its words, all others have 0.5.
    assert both["joint_r1"]["value"] == pytest.approx(100 * 15 / 16, abs=1e-3)
    assert (both["joint_r1"]["n_test"], both["joint_r1"]["n_gallery"], both["joint_r1"]["n_missing"]) == (16, 15, 1)
    back = by_metric(rows, "video+audio", "text")["joint_r1"]
    assert (back["n_test"], back["n_gallery"], back["n_missing"]) == (16, 16, 1)


def test_what_should_be_there_counts_as_wrong(tmp_path):
    """8 clips of 10, one of which was pretrained on: 7 are there of 9 that should be."""
    features = FeatureSet(write_features(tmp_path / "a.h5", [f"c{n}" for n in range(8)], ["video", "audio"]))
    collection = Collection(features, pretrain_ids=["c1"])
    rows = zero_shot(OneHotModel(), collection, [("video", "audio")], FAST, expected=10)
    found = by_metric(rows, "video", "audio")
    assert (found["codes_r1"]["value"], found["codes_r1"]["n_test"]) == (100.0, 7)
    row = found["codes_r1_expected"]
    assert row["value"] == pytest.approx(700 / 9, abs=1e-3) and row["chance"] == pytest.approx(100 / 9, abs=1e-3)
    assert (row["n_test"], row["n_missing"], row["n_excluded"]) == (9, 2, 1)
    assert "| video → audio | codes, of 9 | 77.8 |" in " ".join(retrieval.table(rows).split())
    assert retrieval.draw(rows, tmp_path / "r.png").exists()
    with pytest.raises(UserError, match="--expected 7: video → audio has 8 queries; expected at least as many"):
        zero_shot(OneHotModel(), collection, [("video", "audio")], FAST, expected=7)


def test_a_whole_video_is_one_item(tmp_path):
    """Clips 2n and 2n + 1 are of video n: an item is the mean of those that there are."""
    class Number(OneHotModel):
        def items(self, modality, features, valid):
            angle = features[:, 0, CODES] / 20
            return {"joint": torch.stack([angle.cos(), angle.sin()], 1).double()}

    ids = [f"{n // 2:011d}_{n % 2}_{n % 2 + 8}" for n in range(10)]
    shapes = {m: (T, CODES + 1) for m in ("video", "audio")}
    x = np.zeros((10, T, CODES + 1), np.float32)
    x[..., CODES] = np.arange(10)[:, None]
    with FeatureWriter(tmp_path / "a.h5", shapes, {}, dtype="float32") as writer:
        writer.append(ids, dict.fromkeys(shapes, x), {m: np.repeat(np.arange(10)[:, None] >= int(m == "video"), T, 1)
                                                      for m in shapes})  # of clip 0 there is no picture
    collection = Collection(FeatureSet(tmp_path / "a.h5"), whole=True)
    items = collection.items(Number(), "audio")
    assert items.clips.tolist() == [0, 1, 2, 3, 4] and items.has.all()
    angle = torch.arange(10).double() / 20
    expected = torch.stack([angle.cos(), angle.sin()], 1).unflatten(0, (5, 2)).mean(1)
    torch.testing.assert_close(items.vectors["joint"], expected, rtol=1e-6, atol=1e-6)
    assert collection.items(Number(), "video").vectors["joint"][0].tolist() == pytest.approx(
        [np.cos(1 / 20), np.sin(1 / 20)], abs=1e-6)
    rows = zero_shot(Number(), collection, [("video", "audio")], FAST)
    found = by_metric(rows, "video", "audio")["joint_r1"]
    assert (found["value"], found["n_test"], found["n_gallery"], found["n_missing"]) == (100.0, 5, 5, 0)


def test_pretrained_clips_are_left_out(tmp_path):
    features = FeatureSet(write_features(tmp_path / "a.h5", [f"c{n}" for n in range(8)], ["video", "audio"]))
    rows = zero_shot(OneHotModel(), Collection(features, pretrain_ids=["c1", "c5"]), [("video", "audio")], FAST)
    assert {(row["n_test"], row["n_gallery"], row["n_excluded"]) for row in rows} == {(6, 6, 2)}
    with pytest.raises(UserError, match="all 8 clips were pretrained on"):
        Collection(features, pretrain_ids=features.ids)


def test_head_is_fitted_with_one_modality_and_queried_with_another(tmp_path):
    ids = [f"c{n}" for n in range(80)]
    features = FeatureSet(write_features(tmp_path / "a.h5", ids, ["video", "audio", "text"], scale=0.0))
    pairs = [("video", "text"), ("text", "video")]
    test = [n for n in range(80) if tenth(f"c{n}") >= 8]
    for protocol in ("strict", "paper"):
        rows = with_head(OneHotModel(), features, pairs, "audio", FAST._replace(protocol=protocol))
        assert [(row["source"], row["metric"]) for row in rows[:4]] == [
            ("video", "r1"), ("video", "r5"), ("video", "r10"), ("text", "r1")]
        for row in rows:
            assert row["n_test"] == len(test) and row["n_train"] == sum(tenth(name) < 6 for name in ids)
            # The head can tell the eight codes, no more: what it finds is what perfect codes find.
            same = torch.tensor([[a % 8 == b % 8 for b in test] for a in test])
            perfect = Places(torch.zeros(len(test)), torch.ones(len(test)), same.sum(1) - 1)
            recall = {"strict": recall_at, "paper": released_recall_at}[protocol]
            assert row["value"] == row["source_value"] == row["target_value"] == pytest.approx(
                recall(int(row["metric"][1:]), perfect), abs=1e-3)
            assert row["target_std"] == 0.0
            assert row["chance"] == pytest.approx(100 * min(1, int(row["metric"][1:]) / len(test)), abs=1e-3)


def test_a_video_and_a_group_are_in_one_split(tmp_path, monkeypatch):
    """Clips of a video, or of a group that is given, are never divided between fit, val and test."""
    divided = []
    monkeypatch.setattr("cmg.downstream.retrieval_head.fit_head", lambda data, source, targets, *_: divided.append(
        {role: data[role, source].gallery for role in TENTHS}) or {
            target: {m: torch.zeros(1, 3) for m in (source, target)} for target in targets})
    shapes = {m: (T, CODES + 1) for m in ("video", "audio", "text")}
    ids = [f"{n:011d}{cut}" for n in range(40) for cut in ("_000010", "_50_60", ".mp4")]
    with FeatureWriter(tmp_path / "a.h5", shapes, {}, dtype="float32") as writer:
        x = np.zeros((len(ids), T, CODES + 1), "float32")
        x[..., 0] = np.arange(len(ids))[:, None]
        writer.append(ids, dict.fromkeys(shapes, x))
    features, pairs = FeatureSet(tmp_path / "a.h5"), [("video", "text")]
    given = {name: f"group_{n % 30}" for n, name in enumerate(ids)}
    for groups, share in ((None, lambda n: n // 3), (given, lambda n: n % 30)):
        divided.clear()
        with_head(OneHotModel(), features, pairs, "audio", FAST, groups=groups)
        order = {role: x[:, 0].double() for role, x in divided[0].items()}
        # The gallery is standardised by the fit part: undo that by its order, of which the values are a line.
        every = torch.cat([*order.values()]).sort().values
        number = {role: {share(int(torch.searchsorted(every, y))) for y in x} for role, x in order.items()}
        assert sum(map(len, order.values())) == len(ids) and all(number.values())
        assert sum(map(len, number.values())) == len(set.union(*number.values()))
    with pytest.raises(UserError, match=f"--groups: none of clip {ids[3]}; expected one of every clip in --data"):
        del given[ids[3]]
        with_head(OneHotModel(), features, pairs, "audio", FAST, groups=given)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("cmg.downstream.task.build_model", lambda content, device, *_: OneHotModel())
    shapes = {m: list(s) for m, s in OneHotModel.shapes.items()}
    checkpoint.save(tmp_path / "best.pt", {"format": 1, "args": {"seed": 5}, "shapes": shapes, "model": {}, "epoch": 3,
                                           "step": 9, "pretrain_ids": ["c1"]})
    write_features(tmp_path / "a.h5", [f"c{n}" for n in range(40)], ["video", "audio", "text"])
    return tmp_path


def call(run, *flags):
    return retrieval.main(["--checkpoint", str(run / "best.pt"), "--data", str(run / "a.h5"), "--device", "cpu",
                           "--probe-epochs", "2", "--probe-seeds", "1", *flags])


def test_command(run, capsys):
    rows = call(run)
    assert len(rows) == 8 * 14 and {row["n_excluded"] for row in rows} == {1}  # six directions, and two fused ones
    assert (run / "retrieval_strict.png").exists() and (run / "retrieval_strict.pdf").exists()
    head = call(run, "--gallery", "audio", "--protocol", "paper")
    assert (run / f"{head[0]['task']}_audio_paper.png").exists()  # each gallery has a picture of its own
    assert {(row["source"], row["target"]) for row in head} == {("video", "text"), ("text", "video")}
    assert json.loads((run / "results.json").read_text()) == rows + head
    captured = capsys.readouterr()
    assert "1 clips were pretrained on" in captured.err and "median rank" in captured.out


def test_picture_has_recalls_of_codes_and_vectors_beside_chance(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(retrieval.bars, "draw", lambda panels, title, draw=retrieval.bars.draw:
                        drawn.append((title, panels)) or draw(panels, title))
    rows = [{"task": "retrieval", "source": source, "target": target, "protocol": "strict", "value": 10.0 * k + n,
             "metric": f"{kind}_r{k}", "chance": k / 2}
            for source, target in (("video", "audio"), ("audio", "video"))
            for n, kind in enumerate(("codes", "semantic")) for k in (1, 5, 10)]
    ranks = [row | {"metric": f"{row['metric'].split('_')[0]}_median_rank", "value": None} for row in rows]
    retrieval.draw(rows + ranks, tmp_path / "r.png")
    head = [{"task": "retrieval_head", "source": "video", "target": "text", "protocol": "paper", "value": k + 1.0,
             "std": 0.5, "source_value": k + 2.0, "source_std": 0.25, "target_value": k + 3.0,
             "target_std": 0.75, "metric": f"r{k}", "chance": k / 2}
            for k in (1, 5, 10)]
    retrieval.draw(head, tmp_path / "h.png")
    (title, (first, second)), (of_head, (only,)) = drawn
    assert (title, of_head) == ("Retrieval, strict", "Retrieval by a head, paper")
    assert (first.title, second.title, only.title) == ("V→A", "A→V", "V→T")
    for panel in (first, second, only):
        assert panel.groups == ["R@1", "R@5", "R@10"] and panel.chance == [0.5, 2.5, 5.0]
        assert panel.ylabel == "recall, %"
    assert first.bars == {"codes": [(10.0, None), (50.0, None), (100.0, None)],
                          "semantic vectors": [(11.0, None), (51.0, None), (101.0, None)]}
    assert only.bars == {"transfer": [(2.0, 0.5), (6.0, 0.5), (11.0, 0.5)],
                         "own modality": [(3.0, 0.25), (7.0, 0.25), (12.0, 0.25)],
                         "upper bound": [(4.0, 0.75), (8.0, 0.75), (13.0, 0.75)]}


def test_groups_are_read(run, capsys):
    """Of a file: the head of `run` with every clip in a group of its own has the clips' own split."""
    text = "group,id\n" + "".join(f"c{n},c{n}\n" for n in range(40))
    (run / "g.csv").write_text(text)
    rows = [call(run, "--gallery", "audio", *flags) for flags in ([], ["--groups", str(run / "g.csv")])]
    assert rows[0] == rows[1]
    for broken, said in ((text + "c1,c0\n", "c0 is in c0 and in c1; expected one group a clip"),
                         ("id\nc0\n", "the columns are ['id']; expected a CSV with the columns id and group")):
        (run / "g.csv").write_text(broken)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            call(run, "--gallery", "audio", "--groups", str(run / "g.csv"))
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "said"), [
    (["--groups", "x.csv"], "--groups: goes with --gallery"),
    (["--gallery", "audio", "--expected", "9"], "--expected and --whole-videos: are of zero-shot retrieval"),
    (["--captions", "x.csv"], "--captions: goes with --text-data"),
    (["--gallery", "audio", "--source", "audio"], "--source audio: --data has only video, text"),
    (["--data", "none.h5"], "none.h5"),
])
def test_command_errors_are_one_line(run, capsys, flags, said):
    with pytest.raises(SystemExit) as stop:
        call(run, *flags)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and said in lines[0]
