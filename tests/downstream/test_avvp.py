"""AVVP: the annotation reader with all oddities of the public files, and the task on codes that are known."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import support
from cmg.data.ave import AveAnnotations, Clip
from cmg.data.avvp import AvvpAnnotations, Event, event_labels, read_avvp
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.downstream import ave_avvp, avvp, events
from cmg.downstream.events import localisation
from cmg.downstream.probe import EventProbes, fit, probe_data
from cmg.downstream.probing import Probings, best_epochs
from cmg.downstream.task import Settings
from cmg.downstream.tokens import TokenSet
from cmg.errors import UserError
from cmg.training import checkpoint

HEADER = "filename\tonset\toffset\tevent_labels\n"
AUDIO = [
    "clip_a\t0\t4\tDog", "clip_a\t2\t10\tSpeech", "clip_a\t2\t10\tSpeech",  # the third repeats the second
    "clip_b\t9\t9\tSpeech", "clip_b\t9\t0\tCheering", "clip_b\t1\t3\tCheering",  # empty, and ends before it starts
    "lost_id\t0\t10\tDog",  # in no split
]
VISUAL = ["clip_a\t0\t10\tDog", "clip_t\t3\t5\tSpeech"]


def write_annotations(folder, audio=AUDIO, visual=VISUAL, val=("clip_a\tDog,Speech", "clip_b\tSpeech"),
                      test=("clip_t\tSpeech,Speech",), classes=None):
    folder.mkdir(exist_ok=True)
    for stem, rows in (("audio", audio), ("visual", visual)):
        (folder / f"AVVP_eval_{stem}.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    for split, rows in (("val", val), ("test", test)):
        (folder / f"AVVP_{split}_pd.csv").write_text("filename\tevent_labels\n" + "".join(f"{r}\n" for r in rows))
    if classes is not None:
        (folder / "categories.txt").write_text("\n".join(classes))
    return folder


def test_oddities_are_dropped_and_accounted_for(tmp_path):
    read = read_avvp(write_annotations(tmp_path))
    assert read.classes == ["Dog", "Speech", "Cheering"]
    assert read.splits == {"val": ["clip_a", "clip_b"], "test": ["clip_t"]}
    assert read.events["audio"] == {"clip_a": [Event("Dog", 0, 4), Event("Speech", 2, 10)],
                                    "clip_b": [Event("Cheering", 1, 3)], "lost_id": [Event("Dog", 0, 10)]}
    path = tmp_path / "AVVP_eval_audio.csv"
    assert read.skipped == [
        f"{path}, line 4: clip_a, Speech 2..10 a second time, dropped",
        f"{path}, line 5: clip_b, Speech: span 9..9 is empty, dropped",
        f"{path}, line 6: clip_b, Cheering: span 9..0 ends before it starts, dropped",
    ]
    assert read.unlisted == [f"{path}: lost_id is in no split, left out by strict"]
    assert read.notes == [f"{tmp_path / 'AVVP_test_pd.csv'}, line 2: clip_t has a class twice (Speech,Speech), "
                          "taken once"]
    assert len(read.account()) == 5


def test_a_row_may_list_all_events_of_a_video(tmp_path):
    """As in the public CMG code's files; both forms hold the same."""
    joined = ["clip_a\t0,2,2\t4,10,10\tDog,Speech,Speech", "clip_b\t9,9,1\t9,0,3\tSpeech,Cheering,Cheering",
              "lost_id\t0\t10\tDog"]
    one, other = read_avvp(write_annotations(tmp_path / "a")), read_avvp(write_annotations(tmp_path / "b", joined))
    assert one.events == other.events and len(one.skipped) == len(other.skipped) == 3


def test_labels_of_seconds(tmp_path):
    read = read_avvp(write_annotations(tmp_path))
    labels = event_labels(["clip_a", "clip_b", "clip_t"], read.events["audio"], read.classes)
    expected = torch.zeros(3, 10, 4, dtype=torch.bool)
    expected[0, 0:4, 0] = expected[0, 2:10, 1] = expected[1, 1:3, 2] = True
    expected[1, [0, 3, 4, 5, 6, 7, 8, 9], 3] = expected[2, :, 3] = True  # nothing is heard in clip_t
    assert torch.equal(labels, expected)
    only = event_labels(["clip_a"], read.events["audio"], ["Speech"])  # other classes are background
    assert only[0, :, 0].tolist() == [False] * 2 + [True] * 8 and only[0, :2, 1].all()


@pytest.mark.parametrize(("change", "said"), [
    ({"classes": ["Dog", "Speech"]}, "class 'Cheering' is annotated but is not in the list of classes"),
    ({"audio": ["clip_a\t0\t4"]}, "AVVP_eval_audio.csv, line 2: expected 4 tab-separated fields"),
    ({"audio": ["clip_a\t0,1\t4\tDog"]}, "line 2: 2 onsets, 1 offsets and 1 classes"),
    ({"audio": ["clip_a\t0.5\t4\tDog"]}, "times '0.5' and '4'; expected whole seconds"),
    ({"audio": ["clip_a\t-1\t4\tDog"]}, "span -1..4; expected seconds from 0 on"),
    ({"test": ["clip_a\tDog"]}, "AVVP_test_pd.csv, line 2: clip_a is in val already"),
])
def test_broken_files_are_refused_in_one_line(tmp_path, change, said):
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        read_avvp(write_annotations(tmp_path, **change))
    assert said in str(error.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_avvp(tmp_path / "nowhere")
    with pytest.raises(UserError, match="AVVP_eval_audio.csv: no such file"):
        read_avvp(tmp_path)


# EventProbes.


def tokens_of(codes, valid=None):
    book = torch.randn(16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.ones_like(codes, dtype=torch.bool) if valid is None else valid
    return TokenSet(codes, book[codes], book[codes], valid)


def test_events_loss_and_score_are_those_of_every_second_listed():
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 6, (7, 10), generator=generator)
    valid = torch.rand(7, 10, generator=generator) < 0.8
    labels = torch.rand(7, 10, 4, generator=generator) < 0.3
    data = probe_data(tokens_of(codes, valid), labels)
    probes = EventProbes(8, 4, [0, 1], [1e-3, 1e-3], dtype=torch.float64)
    w1, b1, w2, b2, alpha = (stack.detach() for stack in probes.parameters())
    assert alpha.tolist() == [[0.1] * 4] * 2
    x, y = tokens_of(codes).vectors[valid], labels[valid].double()  # (n, D), (n, K+1)
    for p in range(2):
        logits = (x @ w1[p].T + b1[p]) @ w2[p].T + b2[p]
        entropy = torch.nn.functional.binary_cross_entropy(logits.sigmoid(), y)
        log = -(y * logits.log_softmax(1) * torch.exp(-alpha[p])).sum(1).mean()
        assert probes.score(data).loss[p].item() == pytest.approx((entropy + log).item(), rel=1e-9)
        fired, true = logits[:, :3] > 0, y[:, :3] > 0
        f1 = 200 * (fired & true).sum() / (fired.sum() + true.sum())
        assert probes.score(data).accuracy[p].item() == pytest.approx(f1.item())


def test_events_probe_learns_two_classes_at_once():
    codes = torch.arange(4).repeat(10, 5)[:, :10]
    table = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)  # code 2 is both
    data = probe_data(tokens_of(codes), table[codes])
    *_, (_, probes) = fit(EventProbes, data, 3, seeds=[0], lrs=[3e-2], epochs=30, batch_size=5)
    assert probes.score(data).accuracy.item() == 100.0
    assert (probes.alpha > 0.1).all()  # nothing holds the weights of the log loss back


# The tasks, on codes that say which class it is: 0..2 a class, 3 nothing; shifted by 4 for a split codebook.

CLASSES = ["Bark", "Cat", "Truck"]
CODES, T = 8, 10
FAST = Settings(epochs=25, probe_seeds=2, batch_size=8, lrs=(1e-2,))


class OneHotModel(support.OneHotModel):
    shapes, size = {"video": (T, CODES), "audio": (T, CODES)}, CODES


def spans(names):
    """What happens in each clip: class and span differ from clip to clip, what is heard is one second behind."""
    return {m: {name: [Event(CLASSES[n % 3], n % 4 + late, n % 4 + 5 + late)] for n, name in enumerate(names)}
            for m, late in (("audio", 1), ("video", 0))}


def write_features(path, events):
    codes = {m: np.full((len(own), T), 3) for m, own in events.items()}
    for m, own in events.items():
        for row, (event,) in zip(codes[m], own.values()):
            row[event.onset:event.offset] = CLASSES.index(event.category)
    with FeatureWriter(path, OneHotModel.shapes, {"source": "made up", "seconds_per_step": 1.0}) as writer:
        writer.append(list(events["audio"]), {m: np.eye(CODES, dtype=np.float32)[c] for m, c in codes.items()}, None)
    return path


@pytest.fixture
def clips(tmp_path):
    """20 clips to fit on and choose by, 12 to test on, with features -> (features, annotations)."""
    names = [f"v{n:02d}" for n in range(20)] + [f"t{n:02d}" for n in range(12)]
    events = spans(names)
    annotations = AvvpAnnotations(CLASSES, {"val": names[:20], "test": names[20:]}, events, [], [], [])
    return FeatureSet(write_features(tmp_path / "avvp.h5", events)), annotations


PAIRS = [("video", "audio"), ("audio", "video")]


def by_key(rows):
    return {(row["source"], row["target"], row["metric"]): row for row in rows}


def test_strict_figures_of_shared_codes(clips):
    task = avvp.AvvpTask(*clips, PAIRS, FAST, pretrain_ids=["t03"])
    rows = by_key(task.run(OneHotModel()))
    assert set(rows) == {(s, t, m) for s, t in PAIRS for m in ("micro_f1", "segment_f1", "event_f1")}
    for row in rows.values():
        assert row["value"] == row["source_value"] == 100.0
        # every fifth of 20 is kept for choosing; one of 12 was pretrained on
        assert (row["n_train"], row["n_test"], row["n_excluded"]) == (16, 11, 1)
    segment = rows["video", "audio", "segment_f1"]
    assert [segment[f"f_{name}"] for name in ("audio", "video", "av", "type_av", "event_av")] == [100.0] * 5
    # The constant answer is one of three classes, five seconds in ten: hit in 4 (or 3) of 11 clips.
    truth = task.splits["test", "audio"].labels[EventProbes]
    constant = torch.zeros_like(truth)
    constant[..., 0] = True
    assert rows["video", "audio", "micro_f1"]["chance"] == pytest.approx(
        localisation(constant[None], truth)["micro_f1"].item(), abs=1e-4)
    name, prediction, true = task.kept["video", "audio"][1]
    assert name == "t01" and np.array_equal(prediction, true) and prediction.sum() == 5


def test_split_codebook_does_not_localise(clips):
    rows = by_key(avvp.AvvpTask(*clips, PAIRS, FAST).run(OneHotModel(audio=4)))
    for row in rows.values():
        assert row["source_value"] == 100.0 and row["value"] < 60.0
        assert (row["match_rate"], row["code_overlap"]) == (0.0, 0.0)


def test_paper_fits_and_reports_on_the_same_videos(clips):
    rows = by_key(avvp.AvvpTask(*clips, PAIRS, FAST._replace(protocol="paper")).run(OneHotModel()))
    assert set(rows) == {(s, t, "precision") for s, t in PAIRS}
    for row in rows.values():
        assert (row["value"], row["n_train"], row["n_test"]) == (100.0, 32, 32)
        assert row["chance"] == 50.0  # half of all seconds are background, the most frequent answer
        assert row["n_true"] == 320


def test_silence_that_buys_precision_is_told(clips, capsys):
    # Of two epochs and two probes; the second epoch has fewer answers, all of them right
    curves = {"precision": [[60.0, 70.0], [100.0, 50.0]], "recall": [[80.0, 80.0], [1.0, 90.0]],
              "f1": [[68.0, 74.0], [2.0, 64.0]], "positives": [[90.0, 90.0], [1.0, 99.0]]}
    curves = {name: [torch.tensor(epoch) for epoch in curve] for name, curve in curves.items()}
    assert {name: x.tolist() for name, x in best_epochs(curves, 2).items()} == {
        "precision": [100.0, 70.0], "recall": [1.0, 80.0], "f1": [2.0, 74.0], "positives": [1.0, 90.0]}
    assert best_epochs(curves, 2, by="f1")["recall"].tolist() == [80.0, 80.0]
    assert best_epochs(curves, 1, by="f1")["positives"].tolist() == [90.0]  # two learning rates of one seed
    task = avvp.AvvpTask(*clips, PAIRS, FAST._replace(protocol="paper", epochs=1, probe_seeds=1))
    probings = Probings(task, OneHotModel())
    probing = probings[EventProbes, "video"]
    probing.curves = dict.fromkeys(("video", "audio"), {name: [x[:1] for x in own] for name, own in curves.items()})
    (row,) = task.rows(probings, EventProbes, "video")
    assert row["recall_vanished"] is True and row["value"] == 100.0
    assert "precision rose to 100.0 % only because recall sank to 1.0 %, from 80.0 %" in capsys.readouterr().err


# AVE→AVVP


def test_the_shipped_mapping_has_the_twelve_classes():
    lines = ave_avvp.SHARED.read_text().splitlines()
    assert len(lines) == 13
    of_ave, of_avvp = zip(*(row for row in csv.reader(lines[1:])))
    mapping = ave_avvp.read_mapping(ave_avvp.SHARED, list(of_ave), list(of_avvp))
    assert mapping["Bark"] == "Dog" and mapping["Race car, auto racing"] == "Car" and len(set(mapping.values())) == 12


def test_mappings_that_do_not_fit_are_refused(tmp_path):
    assert ave_avvp.read_mapping("same", ["a", "b"], ["b", "c"]) == {"b": "b"}
    file = tmp_path / "classes.csv"
    file.write_text("ave,avvp\nBark,Dog\n")
    assert ave_avvp.read_mapping(file, ["Bark"], ["Dog"]) == {"Bark": "Dog"}
    with pytest.raises(UserError, match="line 2: AVVP has no class 'Dog'"):
        ave_avvp.read_mapping(file, ["Bark"], ["Cat"])
    with pytest.raises(UserError, match="no class name in common"):
        ave_avvp.read_mapping("same", ["a"], ["b"])
    with pytest.raises(UserError, match="no such file"):
        ave_avvp.read_mapping(tmp_path / "none.csv", ["a"], ["b"])
    file.write_bytes(b"ave,avvp\nCaf\xe9,Dog\n")
    with pytest.raises(UserError, match="classes.csv: not a UTF-8 CSV file"):
        ave_avvp.read_mapping(file, ["a"], ["b"])
    file.write_text("a;b\n")
    with pytest.raises(UserError, match="expected a CSV with the columns ave and avvp"):
        ave_avvp.read_mapping(file, ["Bark"], ["Cat"])


def make_ave(tmp_path):
    """30 AVE clips whose classes go by other names, with features."""
    names = [f"a{n:02d}" for n in range(30)]
    events = spans(names)
    rows = [Clip(name, own[0].category.upper(), own[0].onset, own[0].offset) for name, own in events["video"].items()]
    late = {name: own for name, own in events["video"].items()}  # AVE has one span for both modalities
    features = FeatureSet(write_features(tmp_path / "ave.h5", {"audio": late, "video": late}))
    splits = {"train": rows[:20], "val": rows[20:], "test": []}
    return features, AveAnnotations([name.upper() for name in CLASSES], splits, [], [])


def test_ave_classes_localise_on_avvp(tmp_path, clips):
    ave = make_ave(tmp_path)
    mapping = {"BARK": "Bark", "CAT": "Cat"}  # trucks are in neither
    rows = by_key(ave_avvp.AveAvvpTask(ave, clips, mapping, PAIRS, FAST).run(OneHotModel()))
    assert len(rows) == 6
    for row in rows.values():
        assert (row["value"], row["source_value"], row["n_classes"]) == (100.0, 100.0, 2)
        assert (row["n_train"], row["n_test"]) == (14, 8)  # two thirds of 20 and of 12
    task = ave_avvp.AveAvvpTask(ave, clips, mapping, PAIRS, FAST._replace(protocol="paper"))
    paper = by_key(task.run(OneHotModel()))
    assert paper["video", "audio", "f1"]["value"] == 100.0
    assert (paper["video", "audio", "f1"]["n_train"], paper["video", "audio", "f1"]["n_test"]) == (20, 22)


def test_videos_that_ave_was_cut_from_are_no_test(tmp_path, clips):
    ave, of_ave = make_ave(tmp_path)
    of_ave.splits["val"].append(Clip("t01", "BARK", 0, 5))
    task = ave_avvp.AveAvvpTask((ave, of_ave), clips, {"BARK": "Bark", "CAT": "Cat"}, PAIRS, FAST)
    assert "t01" not in task.splits["test", "audio"].names and task.n_in_ave == 1


# The commands


@pytest.fixture
def run(tmp_path, clips, monkeypatch):
    """A run folder with best.pt, and the clips' annotation files."""
    monkeypatch.setattr("cmg.downstream.task.build_model", lambda content, device, *_: OneHotModel())
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "best.pt", {
        "format": 1, "args": {"seed": 5}, "shapes": {m: list(s) for m, s in OneHotModel.shapes.items()}, "model": {},
        "epoch": 3, "step": 9, "pretrain_ids": []})
    _, annotations = clips
    rows = {m: [f"{name}\t{e.onset}\t{e.offset}\t{e.category}" for name, own in events.items() for e in own]
            for m, events in annotations.events.items()}
    splits = {s: [f"{name}\tBark" for name in names] for s, names in annotations.splits.items()}
    write_annotations(tmp_path / "AVVP", rows["audio"], rows["video"], splits["val"], splits["test"])
    return tmp_path


def call(run, *flags):
    return avvp.main(["--checkpoint", str(run / "run"), "--data", str(run / "avvp.h5"), "--annotations",
                      str(run / "AVVP"), "--device", "cpu", "--probe-epochs", "20", "--probe-lr", "0.01",
                      "--batch-size", "8", "--probe-seeds", "1", *flags])


def test_command_writes_results_and_pictures(run, capsys, monkeypatch):
    drawn = {}
    monkeypatch.setattr(events.timeline, "draw", lambda clips, classes, title, draw=events.timeline.draw:
                        drawn.update({title: clips}) or draw(clips, classes, title))
    rows = call(run)
    assert json.loads((run / "run" / "results.json").read_text()) == rows and len(rows) == 6
    assert {(row["checkpoint"], row["epoch"], row["value"]) for row in rows} == {
        (str(run / "run" / "best.pt"), 3, 100.0)}
    captured = capsys.readouterr()
    assert "32 videos with 32 events in audio" in captured.err
    for name in ("avvp_strict_video_audio", "avvp_strict_audio_video"):
        assert {file.suffix for file in (run / "run").glob(f"{name}.*")} == {".png", ".pdf"}
    assert set(drawn) == {"AVVP, V→A, strict", "AVVP, A→V, strict"}
    for clips in drawn.values():  # all hits, nothing made up
        assert len(clips) == 6 and all(np.array_equal(p, t) and t.any() for _, p, t in clips)
    paper = call(run, "--protocol", "paper", "--source", "video")
    assert len(paper) == 1 and len(json.loads((run / "run" / "results.json").read_text())) == 7


def test_events_are_annotated_in_two_modalities(tmp_path, clips):
    with FeatureWriter(tmp_path / "three.h5", {m: (T, 4) for m in ("video", "audio", "text")}, {}) as writer:
        writer.append(["t00"], {m: np.zeros((1, T, 4), "float32") for m in ("video", "audio", "text")}, None)
    asked = SimpleNamespace(args=SimpleNamespace(source=None, target="text"))
    with pytest.raises(UserError, match="^--target text: the events are annotated in audio and video only$"):
        events.annotated_directions(asked, [tmp_path / "three.h5"], clips[1])


@pytest.mark.parametrize(("flags", "said"), [
    (["--source", "text"], "--source text: --checkpoint has only"),
    (["--probe-lr", "0"], "--probe-lr: '0' is not a number above 0"),
    (["--annotations", "nowhere"], "no such folder"),
    (["--checkpoint", "."], "neither best.pt nor latest.pt"),
])
def test_command_errors_are_one_line(run, capsys, monkeypatch, flags, said):
    monkeypatch.chdir(run)
    with pytest.raises(SystemExit) as stop:
        call(run, *flags)
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and said in last and "error:" in last
