"""Open-set CMG: who is known, what is fitted, chosen and tested, its figures and what it refuses."""

import json
from types import SimpleNamespace

import pytest
import torch
from support_pair import CODES, FAST, PAIRS, OneHotModel, by_pair, write_features, write_lists

from cmg.data.features import FeatureSet
from cmg.data.numbers import Numbers
from cmg.data.ucf_vggsound import read_pair_lists
from cmg.downstream import ave, ucf_vggsound
from cmg.downstream.clip_scores import clustered
from cmg.downstream.open_set import OpenClipProbes, OpenSet
from cmg.downstream.probe import ProbeData
from cmg.downstream.probing import Probings
from cmg.downstream.ucf_vggsound import PairOpenSet
from cmg.errors import UserError
from cmg.metrics.open_set import confidence
from cmg.training import checkpoint

FOUR = ["Cello", "Piano", "Bowling", "Frisbee"]


@pytest.fixture
def lists(tmp_path):
    """Four classes on both sides, of which two are to be known."""
    ucf = [f"{name},v_{name}_g{group:02d}_c01" for name in FOUR for group in range(1, 26)]
    vgg = [f"{name},{name[:3]}{n:08d},{(['train'] * 6 + ['val'] * 2 + ['test'] * 2)[n]}"
           for name in ("cello", "piano", "bowling", "frisbee") for n in range(10)]
    return write_lists(tmp_path / "lists", ucf, vgg, (FOUR, ["cello", "piano", "bowling", "frisbee"]))


@pytest.fixture
def opened(tmp_path, lists):
    found = read_pair_lists(lists)
    return {m: FeatureSet(write_features(tmp_path / f"{m}.h5", m, items)) for m, items in found.items.items()}, found


def test_unknown_clips_are_tested_and_nothing_else(opened):
    task = PairOpenSet(*opened, PAIRS, FAST, known=2)
    sizes = {key: len(split) for key, split in task.splits.items()}
    assert sizes == {("fit", "video"): 30, ("val", "video"): 6, ("test", "video"): 28,
                     ("fit", "audio"): 12, ("val", "audio"): 4, ("test", "audio"): 8}
    for (role, _), split in task.splits.items():
        labels = split.labels[OpenClipProbes].tolist()
        assert len(labels) == len(split.rows) == len(split)
        assert {*labels} == ({0, 1, 2} if role == "test" else {0, 1})
        assert all(("ello" in name or "ian" in name or "cel" in name or "pia" in name) == (label < 2)
                   for name, label in zip(split.names, labels))
    paper = PairOpenSet(*opened, PAIRS, FAST._replace(protocol="paper"), known=2)
    assert {key: len(split) for key, split in paper.splits.items()} == {
        ("fit", "video"): 50, ("test", "video"): 100, ("fit", "audio"): 20, ("test", "audio"): 40}


def test_moved_features_have_rows_of_their_own(opened):
    model = OneHotModel()
    for m in model.shapes:
        model.feature_scale.learn(m, Numbers(0, 1, 1, (0.1,) * CODES, (0.2,) * CODES))
    rows = PairOpenSet(*opened, PAIRS, FAST._replace(adapt=True), known=2).run(model)
    assert [row["metric"] for row in rows] == 2 * ["auroc", "h_score"] + 2 * ["adapted_auroc", "adapted_h_score"]


class FarApart(OneHotModel):
    """Codes at right angles: what a probe has learnt of some says nothing of the others."""

    def __init__(self, **shift):
        super().__init__(**shift)
        self.book = 3 * torch.eye(self.size)


def test_the_threshold_is_taken_from_known_clips_of_the_source(opened):
    task = PairOpenSet(*opened, PAIRS, FAST, known=2)
    probing = Probings(task, OneHotModel())[OpenClipProbes, "video"]
    sure = confidence(probing.probes.logits(probing.data("val", "video")))
    assert torch.allclose(probing.probes.threshold.double(), sure.sort(-1).values[:, 0].double())  # of 6 clips
    assert probing.probes.outputs == 2


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_rows(opened, protocol):
    """A probe that has never seen the code of an unknown class is less sure of it."""
    task = PairOpenSet(*opened, PAIRS, FAST._replace(protocol=protocol), known=2)
    rows = task.run(FarApart())
    assert {row["metric"] for row in rows} == ({"auroc", "h_score"} if protocol == "strict" else {"h_score"})
    for row in rows:
        assert (row["task"], row["n_known"], row["n_classes"]) == ("ucf_vggsound_open_set", 2, 4)
        assert row["chance"] == {"auroc": 50.0, "h_score": 0.0}[row["metric"]]
        if row["metric"] == "auroc":
            assert row["value"] == row["target_value"] == 100.0
        else:
            a, b = row["known_accuracy"], row["unknown_accuracy"]
            assert a == 100.0 and row["value"] > 95 and b > 90
    split = by_pair([row for row in PairOpenSet(*opened, PAIRS, FAST, known=2).run(FarApart(audio=8))
                     if row["metric"] == "h_score"])
    assert split["video", "audio"]["source_value"] > 95 and split["video", "audio"]["value"] < 75


class Told(OpenClipProbes):
    """A probe whose answers are given."""

    def __init__(self, logits):
        torch.nn.Module.__init__(self)
        self.given, self.threshold = logits, torch.full((len(logits),), 0.6)

    def logits(self, data):
        return self.given


def test_scores_of_clips_have_the_figures_as_means_and_their_slopes():
    """A clip more of one kind moves a figure by what its score says, to first order."""
    torch.manual_seed(0)
    n, K = 400, 3
    target = torch.randint(0, K + 1, (n,))
    logits = torch.randn(2, n, K) + 2 * torch.nn.functional.one_hot(target, K + 1)[:, :K]
    task = OpenSet.__new__(OpenSet)
    task.known, task.strict = K, True

    def measured(index):
        data = ProbeData(None, None, torch.ones(len(index), 1, dtype=torch.bool), target[index])
        probes = Told(logits[:, index])
        return task.measure(probes, data), task.clip_scores(probes, data)

    figures, scores = measured(torch.arange(n))
    for metric, own in scores.items():
        assert torch.allclose(own.mean(-1), figures[metric])
        for clip in range(6):
            more, _ = measured(torch.cat([torch.arange(n), torch.tensor([clip])]))
            slope = (own[:, clip] - figures[metric]) / (n + 1)
            assert torch.allclose(more[metric] - figures[metric], slope, atol=2e-3, rtol=0.1), (metric, clip)
    assert clustered([str(i) for i in range(n)], scores["h_score"].mean(0)).error > 0


@pytest.mark.parametrize("known, words", [(4, "there are 4 classes; expected 2 to 3")])
def test_as_many_known_as_there_are(opened, known, words):
    with pytest.raises(UserError, match=words):
        PairOpenSet(*opened, PAIRS, FAST, known=known)


def test_a_test_without_unknown_clips_is_refused(tmp_path):
    names = ["Cello", "Bowling", "Piano", "Frisbee"], ["playing cello", "bowling", "playing piano", "frisbee"]
    lists = read_pair_lists(write_lists(tmp_path / "l", names=names))
    features = {m: FeatureSet(write_features(tmp_path / f"{m}.h5", m, items)) for m, items in lists.items.items()}
    settings = FAST._replace(protocol="paper")
    with pytest.raises(UserError, match="--open-set 3: all 30 audio clips of test are of known classes"):
        PairOpenSet(features, lists, [("audio", "video")], settings, known=3).run(OneHotModel())


def test_commands(opened, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cmg.downstream.task.build_model", lambda content, device, *_: OneHotModel())
    shapes = {m: list(s) for m, s in OneHotModel.shapes.items()}
    checkpoint.save(tmp_path / "best.pt", {"format": 1, "args": {}, "shapes": shapes, "model": {}, "epoch": 3,
                                           "step": 9, "pretrain_ids": []})
    common = ["--checkpoint", str(tmp_path / "best.pt"), "--device", "cpu", "--probe-epochs", "12", "--probe-lr",
              "0.01", "--batch-size", "8", "--out", str(tmp_path / "out")]
    pair = [*common, "--video-data", str(tmp_path / "video.h5"), "--audio-data", str(tmp_path / "audio.h5"),
            "--annotations", str(tmp_path / "lists")]
    rows = ucf_vggsound.main([*pair, "--open-set", "2"])
    other = ucf_vggsound.main([*pair, "--open-set", "3"])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows + other  # none replaces another
    assert {"test_error", "n_clusters"} <= rows[0].keys()

    names, classes = [f"{split}_{n}" for split in ("train", "val", "test") for n in range(12)], FOUR[:3]
    folder = tmp_path / "ave"
    folder.mkdir()
    lines = {name: f"{classes[n % 3]}&{name}&good&3&7\n" for n, name in enumerate(names)}
    (folder / "Annotations.txt").write_text("".join(lines.values()))
    for split in ("train", "val", "test"):
        (folder / f"{split}Set.txt").write_text("".join(x for name, x in lines.items() if name.startswith(split)))
    items = [SimpleNamespace(id=name, label=n % 3) for n, name in enumerate(names)]
    files = [str(write_features(tmp_path / f"ave_{m}.h5", m, items)) for m in ("video", "audio")]
    flags = [*common, "--data", *files, "--annotations", str(folder), "--open-set"]
    for protocol in ("strict", "paper"):
        rows = ave.main([*flags, "2", "--protocol", protocol])
        assert {(row["task"], row["split"], row["n_known"], row["n_train"], row["n_test"]) for row in rows} == {
            ("ave_open_set", "test", 2, 8, 12)}
    assert (tmp_path / "out" / "ave_open_set_strict.png").exists()
    for wrong, said in ((["3"], "there are 3 classes; expected 2 to 2"), (["2", "--choose-by", "none"], "chooses none"),
                        (["1"], "'1' is not a whole number of at least 2")):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            ave.main([*flags, *wrong])
        assert stop.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        ave.main([*common, "--data", *files, "--labels", "mine.csv", "--open-set", "2"])
    assert "expected --annotations and not --labels" in capsys.readouterr().err.splitlines()[-1]
