"""The AVE task on a made-up model whose codes are known: values, protocols, counts, files and one-line errors."""

import json

import h5py
import numpy as np
import pytest
import torch

import support
from cmg.data.ave import AveAnnotations, Clip, read_ave
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.data.provenance import Provenance
from cmg.downstream import ave
from cmg.downstream.ave import AveTask, evaluate, main
from cmg.downstream.probe import ClipProbes, SegmentProbes, fit
from cmg.downstream.probing import Probing, Probings
from cmg.downstream.results import find_checkpoints, markdown_table, write_results
from cmg.downstream.task import Settings
from cmg.downstream.tokens import Encoded, TokenSet, codebook_sharing, directions, encode_set
from cmg.errors import UserError
from cmg.modalities import Modality, declare
from cmg.models.pretrained import Tokens
from cmg.training import checkpoint
from support import untrained

K, T, CODES = 3, 10, 8  # codes 0..2 are the classes, 3 is background, 4..7 the same of a split codebook
CLASSES = ["Bark", "Cat", "Truck"]
SIZES = {"train": 30, "val": 12, "test": 15}
ROLES = ("fit", "val", "test")
FAST = Settings(epochs=12, probe_seeds=2, batch_size=10)


class OneHotModel(support.OneHotModel):
    shapes, size = {"video": (T, CODES), "audio": (T, CODES), "text": (4, CODES)}, CODES


def make_clips():
    """Clips of all splits; the event fills seconds [onset, onset + 4)."""
    return {split: [Clip(f"{split}_{n:03d}", CLASSES[n % K], n % 5, n % 5 + 4) for n in range(size)]
            for split, size in SIZES.items()}


def write_features(path, clips, modalities=("video", "audio"), channels=CODES):
    shapes = {m: (*OneHotModel.shapes[m][:1], channels) for m in modalities}
    with FeatureWriter(path, shapes, {"source": "made up", "seconds_per_step": 1.0}) as writer:
        codes = np.full((len(clips), T), 3)
        for row, clip in zip(codes, clips):
            row[clip.onset:clip.offset] = CLASSES.index(clip.category)
        one_hot = np.eye(channels, dtype=np.float32)[codes]  # (N, T, channels)
        features = {m: one_hot if m != "text" else one_hot[:, 4:8] for m in modalities}  # seconds 4..7 as "words"
        writer.append([clip.id for clip in clips], features, None)
    return path


def write_annotations(folder, clips):
    folder.mkdir(exist_ok=True)
    text = {split: "".join(f"{c.category}&{c.id}&good&{c.onset}&{c.offset}\n" for c in clips[split]) for split in clips}
    (folder / "Annotations.txt").write_text("".join(text.values()))
    for split, rows in text.items():
        (folder / f"{split}Set.txt").write_text(rows)
    return folder


@pytest.fixture
def clips():
    return make_clips()


@pytest.fixture
def features(tmp_path, clips):
    return FeatureSet(write_features(tmp_path / "ave.h5", [clip for split in clips.values() for clip in split]))


def annotations_of(clips):
    return AveAnnotations(CLASSES, clips, [], [])


def by_key(rows):
    return {(row["source"], row["target"], row["metric"]): row for row in rows}


def test_shared_codes_transfer_fully(features, clips):
    rows = by_key(evaluate(OneHotModel(), features, annotations_of(clips), settings=FAST))
    assert set(rows) == {(s, t, metric) for s, t in (("video", "audio"), ("audio", "video"))
                         for metric in ("accuracy", "segment_accuracy")}
    for (source, _, metric), row in rows.items():
        assert row["value"] == row["source_value"] == row["val"] == row["source_val"] == 100.0, (source, metric)
        assert (row["std"], row["match_rate"], row["code_overlap"]) == (0.0, 100.0, 1.0)
        assert (row["n_train"], row["n_test"], row["n_excluded"], row["n_missing"]) == (30, 15, 0, 0)
        assert (row["shared_codes"], row["used_codes"]) == (4, 4)
        assert (row["task"], row["protocol"], row["split"], row["seed"]) == ("ave", "strict", "test", 0)
    # 15 test clips: 5 of each class; 150 seconds, 60 with an event, so that background is train's most frequent label.
    assert rows["video", "audio", "accuracy"]["chance"] == pytest.approx(100 / 3, abs=1e-4)
    assert rows["video", "audio", "accuracy"]["chance_uniform"] == pytest.approx(100 / 3, abs=1e-4)
    assert rows["video", "audio", "segment_accuracy"]["chance"] == 60.0
    assert rows["video", "audio", "segment_accuracy"]["chance_uniform"] == 25.0


def test_split_codebook_does_not_transfer(features, clips):
    """Audio with codes of its own: own modality and upper bound stay, the transfer goes, match and overlap say why."""
    rows = by_key(evaluate(OneHotModel(audio=4), features, annotations_of(clips), settings=FAST))
    for row in rows.values():
        assert row["source_value"] == row["target_value"] == 100.0
        assert row["value"] < 70.0
        assert (row["match_rate"], row["code_overlap"], row["shared_codes"], row["used_codes"]) == (0.0, 0.0, 0, 8)


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_the_upper_bound_is_a_probe_of_the_target(features, clips, monkeypatch, protocol):
    """Of video, whose codes are one for two classes, no probe can tell these; of audio it can. Every probe is fitted
    once: what is the own modality of one direction is the upper bound of the other."""
    class Blurred(OneHotModel):
        def encode_modality(self, modality, features, valid=None):
            codes = features[..., : self.size].argmax(-1)
            codes = codes // 2 * 2 if modality == "video" else codes
            return Tokens(codes, self.book[codes], features)

    fitted = []
    monkeypatch.setattr(Probing, "__init__", lambda self, task, kind, source, encoded, init=Probing.__init__:
                        fitted.append((kind, source)) or init(self, task, kind, source, encoded))
    settings = FAST._replace(protocol=protocol, lrs=(1e-2,))
    rows = by_key(evaluate(Blurred(), features, annotations_of(clips), settings=settings))
    assert sorted(fitted, key=str) == sorted(((k, m) for k in AveTask.kinds for m in ("audio", "video")), key=str)
    assert rows["video", "audio", "accuracy"]["target_value"] == 100.0
    assert rows["video", "audio", "accuracy"]["source_value"] == pytest.approx(200 / 3, abs=1e-3)
    for source, target, metric in rows:
        for bound, own in (("target_value", "source_value"), ("target_std", "source_std")):
            assert rows[source, target, metric][bound] == rows[target, source, metric][own]
    fitted.clear()
    alone = by_key(evaluate(Blurred(), features, annotations_of(clips), [("video", "audio")], settings))
    assert len(fitted) == 4  # the target's as well
    for key, row in alone.items():
        assert row == rows[key]


def test_text_takes_part_in_clip_accuracy_only(tmp_path, clips):
    path = write_features(tmp_path / "avt.h5", [c for split in clips.values() for c in split],
                          ("video", "audio", "text"))
    rows = by_key(evaluate(OneHotModel(), FeatureSet(path), annotations_of(clips), settings=FAST))
    assert ("video", "text", "segment_accuracy") not in rows and ("text", "video", "segment_accuracy") not in rows
    assert ("video", "audio", "segment_accuracy") in rows and len(rows) == 6 + 2
    # Second 4 lies in every event, so the class is among the words: full transfer; words do not line up with seconds.
    assert rows["text", "audio", "accuracy"]["value"] == 100.0
    assert rows["text", "audio", "accuracy"]["match_rate"] is None
    assert rows["video", "audio", "accuracy"]["match_rate"] == 100.0


def test_a_model_without_a_codebook(features, clips):
    """The very figures of the codes' vectors, and nothing about codes."""
    class Vectors(OneHotModel, support.VectorModel):
        offers, encode_modality = support.VectorModel.offers, support.VectorModel.encode_modality

    codes = ("match_rate", "code_overlap", "shared_codes", "used_codes")
    for settings in (FAST, FAST._replace(protocol="paper")):
        with_codes, without = (by_key(evaluate(model(audio=1), features, annotations_of(clips), settings=settings))
                               for model in (OneHotModel, Vectors))
        for key, row in without.items():
            assert [row[name] for name in codes] == [None] * 4
            for name in ("value", "source_value", "std", "chance", "n_test"):
                assert row[name] == with_codes[key][name]


@pytest.mark.parametrize("step", ["second", "word"])
def test_a_fourth_modality(tmp_path, clips, step):
    """One that has seconds takes part in both figures, one that has none in clip top-1."""
    declare(Modality(f"depth{step}", "depth", ("vectors",), step), "a test")

    class Four(OneHotModel):
        shapes = {m: (T, CODES) for m in ("video", "audio", "text", f"depth{step}")}

        def __init__(self):
            super().__init__()
            self.modalities = tuple(self.shapes)

    modalities = tuple(Four.shapes)
    with FeatureWriter(tmp_path / "four.h5", Four.shapes, {"seconds_per_step": 1.0}) as writer:
        listed = [clip for split in clips.values() for clip in split]
        codes = np.full((len(listed), T), 3)
        for row, clip in zip(codes, listed):
            row[clip.onset:clip.offset] = CLASSES.index(clip.category)
        writer.append([clip.id for clip in listed], dict.fromkeys(modalities, np.eye(CODES, dtype="float32")[codes]))
    rows = by_key(evaluate(Four(), FeatureSet(tmp_path / "four.h5"), annotations_of(clips), settings=FAST))
    timed = [m for m in modalities if m != "text" and (m != "depthword")]
    assert set(rows) == {(a, b, "accuracy") for a in modalities for b in modalities if a != b} | {
        (a, b, "segment_accuracy") for a in timed for b in timed if a != b}
    assert {row["value"] for row in rows.values()} == {100.0}


def test_pretraining_clips_leave_the_test(features, clips):
    ids = ["test_000", "test_007", "train_001", "elsewhere"]
    rows = evaluate(OneHotModel(), features, annotations_of(clips), settings=FAST, pretrain_ids=ids)
    assert {(row["n_excluded"], row["n_test"], row["n_train"]) for row in rows} == {(2, 13, 30)}
    paper = FAST._replace(protocol="paper", epochs=1)
    rows = evaluate(OneHotModel(), features, annotations_of(clips), settings=paper, pretrain_ids=ids)
    assert {(row["n_excluded"], row["n_test"]) for row in rows} == {(0, 30)}
    with pytest.raises(UserError, match="all 15 test clips were pretrained on"):
        AveTask(features, annotations_of(clips), [("video", "audio")], pretrain_ids=[clip.id for clip in clips["test"]])


def test_videos_of_the_training_split_leave_the_test(tmp_path, clips):
    """A video that is there twice, under two classes, is no test of a probe that has learnt it under one."""
    features = FeatureSet(write_features(tmp_path / "two.h5", [c for split in clips.values() for c in split]))
    clips["test"] += [Clip("train_000", "Cat", 7, 9), Clip("val_003", "Truck", 0, 2)]
    ids = ["train_000_000030.mp4", "train_000", "test_000"]
    for pretrain_ids, expected in (((), (0, 2, 15)), (ids, (2, 1, 14))):
        rows = evaluate(OneHotModel(), features, annotations_of(clips), settings=FAST, pretrain_ids=pretrain_ids)
        assert {(row["n_excluded"], row["n_in_train"], row["n_test"]) for row in rows} == {expected}
        assert {row["n_ambiguous"] for row in rows} == {0} and {row["value"] for row in rows} == {100.0}


def test_the_public_splits_after_pretraining_on_llp(tmp_path, annotations):
    """Of AVE's 402 test clips, LLP's training list holds 36, and AVE's own training split 8 under another
    class; one is both."""
    of_ave = read_ave(annotations / "AVE" / "DG-SCT_copy")
    ids = list({clip.id: None for split in of_ave.splits.values() for clip in split})
    with FeatureWriter(tmp_path / "f.h5", {"video": (10, 1), "audio": (10, 1)}, {}) as writer:
        writer.append(ids, {m: np.zeros((len(ids), 10, 1), "float32") for m in ("video", "audio")}, None)
    features, pairs = FeatureSet(tmp_path / "f.h5"), [("video", "audio")]
    with open(annotations / "AVVP" / "AVVP_train.csv", encoding="utf-8") as file:
        llp = [line.split("\t")[0] for line in file][1:]
    files = [f"{name[:11]}.mp4" for name in llp]
    for pretrain_ids, expected in (((), (0, 8, 394)), (llp, (36, 7, 359)), (files, (36, 7, 359))):
        test = AveTask(features, of_ave, pairs, FAST, pretrain_ids).splits["test", "audio"]
        assert (test.n_excluded, test.n_in_train, len(test)) == expected
    paper = AveTask(features, of_ave, pairs, FAST._replace(protocol="paper"), llp).splits["test", "audio"]
    assert (paper.n_excluded, paper.n_in_train, len(paper)) == (0, 0, 3339)


def test_clips_without_features_are_counted(tmp_path, clips):
    present = [clip for split in clips.values() for clip in split][2:-1]
    features = FeatureSet(write_features(tmp_path / "some.h5", present))
    task = AveTask(features, annotations_of(clips), [("video", "audio")], FAST)
    assert [clip.id for clip in task.splits.missing] == ["train_000", "train_001", "test_014"]
    assert {role: len(task.splits[role, "audio"]) for role in ROLES} == {"fit": 28, "val": 12, "test": 14}
    assert features.ids[task.splits["test", "video"].rows[0]] == "test_000"
    only_train = FeatureSet(write_features(tmp_path / "train.h5", clips["train"]))
    with pytest.raises(UserError, match="none of the 12 clips of the val split has features.* such as val_000"):
        AveTask(only_train, annotations_of(clips), [("video", "audio")], FAST)


def test_steps_that_are_no_seconds_are_refused(features, clips):
    features.provenance["audio"] = Provenance(seconds_per_step=0.5)
    with pytest.raises(UserError, match="--data: 0.5 s a step"):
        AveTask(features, annotations_of(clips), [("video", "audio")], FAST)


def test_paper_protocol_needs_the_train_split_only(tmp_path, clips):
    features = FeatureSet(write_features(tmp_path / "train.h5", clips["train"]))
    rows = evaluate(OneHotModel(), features, annotations_of(clips), settings=FAST._replace(protocol="paper"))
    assert {row["n_missing"] for row in rows} == {0} and {row["n_train"] for row in rows} == {30}


def test_a_video_with_two_events_is_two_clips(tmp_path, clips):
    features = FeatureSet(write_features(tmp_path / "two.h5", [c for split in clips.values() for c in split]))
    clips["train"].append(Clip("train_000", "Cat", 7, 9))
    task = AveTask(features, annotations_of(clips), [("video", "audio")], FAST)
    split = task.splits["fit", "audio"]
    assert split.rows[0] == split.rows[-1]
    assert (split.labels[ClipProbes][0], split.labels[ClipProbes][-1]) == (0, 1)
    assert split.labels[SegmentProbes][-1].tolist() == [3] * 7 + [1, 1, 3]


def test_choice_does_not_read_the_test_split(features, clips):
    """With the test labels permuted the choice stays and the result changes; validation works without a test."""
    honest = by_key(evaluate(OneHotModel(), features, annotations_of(clips), settings=FAST))
    wrong = [clip._replace(category=CLASSES[(CLASSES.index(clip.category) + 1) % K]) for clip in clips["test"]]
    lied = by_key(evaluate(OneHotModel(), features, annotations_of(clips | {"test": wrong}), settings=FAST))
    for key, row in honest.items():
        assert [row[name] for name in ("probe_lr", "probe_epoch", "val", "source_val")] == [
            lied[key][name] for name in ("probe_lr", "probe_epoch", "val", "source_val")]
        assert row["value"] == 100.0 and lied[key]["value"] == {"accuracy": 0.0, "segment_accuracy": 60.0}[key[2]]
    task = AveTask(features, annotations_of(clips), [("video", "audio")], FAST)
    del task.splits["test", "video"], task.splits["test", "audio"]
    assert task.validate(OneHotModel()).score == 100.0


def test_choice_of_the_probe_does_not_read_the_target(features, clips):
    """Learning rate and epochs are those of the source's own val, whatever the target's codes are."""
    chosen = []
    for shift in (0, 4):
        rows = by_key(evaluate(OneHotModel(audio=shift), features, annotations_of(clips), [("video", "audio")], FAST))
        chosen.append([(row["probe_lr"], row["probe_epoch"], row["source_val"]) for row in rows.values()])
    assert chosen[0] == chosen[1]


def test_paper_protocol_is_the_best_epoch_on_the_train_split(features, clips):
    """Against a log of every epoch; val and test play no part."""
    settings = Settings("paper", epochs=5, probe_seeds=2, batch_size=8)
    model = OneHotModel(audio=1)  # some codes shared, shifted: a transfer between nothing and all
    rows = by_key(evaluate(model, features, annotations_of(clips), [("video", "audio")], settings))
    task = AveTask(features, annotations_of(clips), [("video", "audio")], settings)
    encoded = Encoded(model, task.splits)
    for kind, metric in ((ClipProbes, "accuracy"), (SegmentProbes, "segment_accuracy")):
        source, target = (task.data(encoded, "fit", m, kind) for m in ("video", "audio"))
        log = [(probes.score(target).accuracy, probes.score(source).accuracy) for _, probes in
               fit(kind, source, task.outputs(kind), seeds=[0, 1], lrs=[4e-4], epochs=5, batch_size=8, clip_norm=0.5)]
        best = [torch.stack(figures).max(0).values for figures in zip(*log)]
        row = rows["video", "audio", metric]
        assert row["value"] == pytest.approx(best[0].mean().item(), abs=1e-4)
        assert row["std"] == pytest.approx(best[0].std().item(), abs=1e-4)
        assert row["source_value"] == pytest.approx(best[1].mean().item(), abs=1e-4)
        assert (row["protocol"], row["split"], row["n_test"]) == ("paper", "train", 30)


def test_invalid_clips_are_not_judged(features, clips):
    """A clip without sound is left out where audio is concerned, and only there."""
    model = OneHotModel()
    task = AveTask(features, annotations_of(clips), [("video", "audio")], FAST)
    probings = Probings(task, model)
    for role in ROLES:
        probings.encoded.tokens(role, "audio").valid[:3] = False
    (row,) = task.rows(probings, ClipProbes, "video")
    assert (row["n_train"], row["n_test"]) == (30, 12)
    assert (row["value"], row["match_rate"]) == (100.0, 100.0)


def test_codebook_sharing_by_hand():
    def tokens(codes, valid=None):
        codes = torch.tensor(codes)
        valid = torch.ones_like(codes, dtype=torch.bool) if valid is None else torch.tensor(valid)
        return TokenSet(codes, codes[..., None].float(), codes[..., None].float(), valid)

    a = tokens([[0, 0, 1, 2]])
    b = tokens([[0, 1, 1, 5]], [[True, True, True, False]])
    # Valid in both: three seconds, two equal. Histograms (2, 1, 1)/4 and (1, 2)/3: min 1/3 + 1/4.
    facts = codebook_sharing(a, b)
    assert facts["match_rate"] == pytest.approx(200 / 3)
    assert facts["code_overlap"] == pytest.approx(1 / 3 + 1 / 4)
    assert (facts["shared_codes"], facts["used_codes"]) == (2, 3)
    assert codebook_sharing(a, tokens([[0, 0]]))["match_rate"] is None


def test_codebook_sharing_of_seconds_with_several_codes():
    """Each code counts: of three seconds with two codes three of six are equal."""
    a, b = (TokenSet(codes, torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.ones(1, 3).bool())
            for codes in (torch.tensor([[[0, 5], [1, 5], [1, 6]]]), torch.tensor([[[0, 6], [1, 5], [0, 7]]])))
    facts = codebook_sharing(a, b)
    assert facts["match_rate"] == pytest.approx(50)
    # of the first codes (1, 2)/3 and (2, 1)/3, of the second (2, 1, 0)/3 and (1, 1, 1)/3
    assert facts["match_chance"] == pytest.approx(100 * ((2 + 2) / 9 + (2 + 1) / 9) / 2)
    assert facts["code_overlap"] == pytest.approx((1 + 1 + 1 + 1) / 6)
    assert (facts["shared_codes"], facts["used_codes"]) == (4, 5)


def test_encode_set_in_batches_and_in_the_asked_order(features):
    model, rows = OneHotModel(), torch.tensor([5, 0, 5, 41, 2])
    whole = encode_set(model, features, "video")
    part = encode_set(model, features, "video", batch_size=2, rows=rows)
    assert whole.codes.shape == (57, T) and whole.vectors.shape == (57, T, 16)
    for got, reference in zip(part, whole):
        assert torch.equal(got, reference[rows])
    assert torch.equal(part.vectors, model.book[part.codes])


def test_directions():
    both = ("audio", "video", "text"), ("video", "audio")
    assert directions(*both) == [("video", "audio"), ("audio", "video")]
    assert directions(*both, source="audio") == [("audio", "video")]
    assert directions(both[0], both[0], target="text") == [("video", "text"), ("audio", "text")]
    for arguments, message in (({"source": "text"}, "--source text: --data has only video, audio"),
                               ({"source": "audio", "target": "audio"}, "--target audio: the same as --source")):
        with pytest.raises(UserError, match=message):
            directions(*both, **arguments)
    with pytest.raises(UserError, match="--target text: --checkpoint has only audio, video"):
        directions(("audio", "video"), ("video", "text"), target="text")
    with pytest.raises(UserError, match="expected two modalities in common"):
        directions(("audio", "video"), ("video", "text"))


def test_results_are_merged_and_written_whole(tmp_path):
    def row(**changes):
        return {"task": "ave", "source": "video", "target": "audio", "protocol": "strict", "metric": "accuracy",
                "seed": 0, "value": 1.0} | changes

    write_results(tmp_path / "new", [row(), row(task="avvp", value=5.0)])
    path = write_results(tmp_path / "new", [row(value=2.0), row(protocol="paper", value=3.0)])
    assert sorted(r["value"] for r in json.loads(path.read_text())) == [2.0, 3.0, 5.0]
    heads = [row(task="retrieval_head", gallery=m) for m in ("audio", "depth")]  # the gallery makes it another one
    for head in heads:
        write_results(tmp_path / "head", [head])
    assert json.loads((tmp_path / "head" / "results.json").read_text()) == heads
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    path.write_text("not json")
    with pytest.raises(UserError, match="not a list of results"):
        write_results(path.parent, [row()])
    assert path.read_text() == "not json"


def test_markdown_table_is_aligned():
    assert markdown_table(["way", "value"], [["v", "100.0"], ["audio", "3"]]).split("\n") == [
        "| way   | value |", "|:------|------:|", "| v     | 100.0 |", "| audio |     3 |"]


def test_checkpoints_are_found_in_order(tmp_path):
    for name in ("epoch_010.pt", "epoch_002.pt", "epoch_1000.pt", "latest.pt", "best.pt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["epoch_002.pt", "epoch_010.pt", "epoch_1000.pt"]
    assert find_checkpoints(tmp_path / "best.pt") == [tmp_path / "best.pt"]


# The command, on a run folder of three checkpoints of which the second shares its codes.

SHIFTS = (4, 0, 1)


@pytest.fixture
def run(tmp_path, clips, monkeypatch):
    """Folder with run/epoch_00{0,1,2}.pt, ave.h5 and annotations/; the model of epoch e has audio shifted SHIFTS[e]."""
    monkeypatch.setattr("cmg.downstream.task.build_model",
                        lambda content, device, *_: OneHotModel(audio=SHIFTS[content["epoch"]]))
    (tmp_path / "run").mkdir()
    for epoch in range(3):
        save_checkpoint(tmp_path / "run" / f"epoch_{epoch:03d}.pt", epoch)
    write_features(tmp_path / "ave.h5", [clip for split in clips.values() for clip in split])
    write_annotations(tmp_path / "annotations", clips)
    return tmp_path


def save_checkpoint(path, epoch, shapes=OneHotModel.shapes):
    checkpoint.save(path, {"format": 1, "args": {"seed": 5}, "shapes": {m: list(s) for m, s in shapes.items()},
                           "model": {}, "epoch": epoch, "step": epoch, "pretrain_ids": ["test_003"]})


def call(run, *flags, **replaced):
    names = {"checkpoint": run / "run", "data": run / "ave.h5", "annotations": run / "annotations"} | replaced
    given = [part for name, value in names.items() if value is not None for part in (f"--{name}", str(value))]
    return main([*given, "--device", "cpu", "--probe-epochs", "12", "--probe-seeds", "2", "--batch-size", "10", *flags])


def test_sweep_marks_the_best_checkpoint(run, capsys):
    rows = call(run)
    folder = run / "run"
    assert (folder / "best.pt").read_bytes() == (folder / "epoch_001.pt").read_bytes()
    assert json.loads((folder / "results.json").read_text()) == rows
    assert len(rows) == 4
    for row in rows:
        assert row["checkpoint"] == str(folder / "epoch_001.pt") and row["epoch"] == 1
        assert (row["value"], row["n_excluded"], row["n_test"], row["pretrain_seed"]) == (100.0, 1, 14, 5)
        assert row["numerics"] == 0  # the checkpoint says nothing
        assert {"task", "source", "target", "protocol", "metric", "value", "source_value", "chance", "n_train",
                "n_test", "seed", "checkpoint", "commit"} <= set(row)
    sweep = json.loads((folder / "ave_sweep_strict.json").read_text())
    assert [entry["epoch"] for entry in sweep] == [0, 1, 2]
    assert sweep[1]["score"] == sweep[1]["video → audio"] == sweep[1]["audio → video"] == 100.0
    assert max(sweep[0]["score"], sweep[2]["score"]) < 70.0
    assert not list(folder.glob("*.tmp*"))
    out, err = capsys.readouterr()
    assert "| **epoch_001.pt** | 100.0 |" in out
    assert "strict (test split)" in out
    assert "| video → audio |         accuracy | 100.0 ± 0.0 |        0.0 |  100.0 ± 0.0 | 100.0 ± 0.0 |\n" in out
    assert "| video → audio |         accuracy |   28.6 |" in out  # 4 of 14, where the table goes on
    assert max(map(len, out.partition("strict (test split)")[2].splitlines()[:30])) <= 100
    assert "1 test clips were pretrained on" in err


@pytest.mark.parametrize(("flags", "epoch", "said", "scores"), [
    ([], 1, "target validation", 3),
    (["--choose-by", "target"], 1, "target validation", 3),
    (["--choose-by", "source"], 0, "source validation", 3),  # all do equally well there: the first
    (["--choose-by", "none"], 2, "no labels", 1),
    (["--protocol", "paper", "--probe-lr", "0.01"], 1, "target training", 3),
])
def test_rows_say_whose_labels_chose_the_checkpoint(run, flags, epoch, said, scores):
    rows = call(run, *flags)
    assert {(row["epoch"], row["chosen_by"]) for row in rows} == {(epoch, said)}
    folder = run / "run"
    if "paper" in flags:
        assert not (folder / "best.pt").exists()
        return
    assert (folder / "best.pt").read_bytes() == (folder / f"epoch_{epoch:03d}.pt").read_bytes()
    # And so do rows of whatever reads the run afterwards, but not of a file that was named by hand.
    again = call(run, checkpoint=folder / "best.pt", out=run / "again")
    named = call(run, checkpoint=folder / f"epoch_{epoch:03d}.pt", out=run / "named")
    assert [{row["chosen_by"] for row in found} for found in (again, named)] == [{said}, {None}]
    call(run, "--choose-only", *flags)
    sweep = json.loads((folder / "ave_sweep_strict.json").read_text())
    assert len(sweep) == scores
    if said == "source validation":
        assert [entry["score"] for entry in sweep] == [100.0] * 3


def test_a_single_checkpoint_is_no_choice(run):
    for name in ("epoch_000.pt", "epoch_002.pt"):
        (run / "run" / name).unlink()
    assert {row["chosen_by"] for row in call(run)} == {"no labels"}


def test_sweep_choice_does_not_read_test_labels(run, clips):
    wrong = [clip._replace(category=CLASSES[(CLASSES.index(clip.category) + 1) % K]) for clip in clips["test"]]
    rows = call(run, annotations=write_annotations(run / "wrong", clips | {"test": wrong}), out=run / "wrong")
    assert {row["epoch"] for row in rows} == {1}
    assert {row["value"] for row in rows if row["metric"] == "accuracy"} == {0.0}


def test_choose_only_leaves_the_test_split_alone(run, monkeypatch):
    """The very scores and the very choice of a whole evaluation, and no result."""
    call(run)
    folder = run / "run"
    sweep, best = (folder / "ave_sweep_strict.json").read_text(), (folder / "best.pt").read_bytes()
    for name in ("ave_sweep_strict.json", "best.pt", "results.json"):
        (folder / name).unlink()
    tokens, asked = Encoded.tokens, set()
    monkeypatch.setattr(Encoded, "tokens", lambda self, role, m: asked.add(role) or tokens(self, role, m))
    call(run, "--choose-only")
    assert (folder / "ave_sweep_strict.json").read_text() == sweep and (folder / "best.pt").read_bytes() == best
    assert asked == {"fit", "val"} and not (folder / "results.json").exists()


def test_own_labels_say_what_the_annotations_say(run, clips, capsys):
    """The same clips by a labels.csv have the same figures under a name of their own; without seconds, clips' alone."""
    expected = by_key(call(run))
    rows = [(split, clip) for split in clips for clip in clips[split]]
    (run / "own.csv").write_text("id,label,start,end,split\n" + "".join(
        f"{clip.id},{clip.category},{clip.onset},{clip.offset},{split}\n" for split, clip in rows))
    found = by_key(call(run, annotations=None, labels=run / "own.csv"))
    assert {key: row["value"] for key, row in found.items()} == {key: row["value"] for key, row in expected.items()}
    assert {row["task"] for row in found.values()} == {"labels"} and (run / "run/labels_strict.png").is_file()
    tasks = [row["task"] for row in json.loads((run / "run/results.json").read_text())]
    assert tasks.count("ave") == tasks.count("labels") == len(found)

    (run / "own.csv").write_text("id,label,split\n" + "".join(
        f"{clip.id},{clip.category},{split}\n" for split, clip in rows))
    clips_alone = by_key(call(run, annotations=None, labels=run / "own.csv"))
    assert {metric for *_, metric in clips_alone} == {"accuracy"}
    assert all(found[key]["value"] == row["value"] for key, row in clips_alone.items())
    with pytest.raises(SystemExit):
        call(run, labels=run / "own.csv")
    assert "--labels: not allowed with argument --annotations" in capsys.readouterr().err


def test_one_checkpoint_elsewhere_and_paper(run, capsys):
    rows = call(run, "--source", "video", "--protocol", "paper", "--probe-lr", "0.01",
                checkpoint=run / "run" / "epoch_002.pt", out=run / "elsewhere")
    assert [(row["source"], row["protocol"], row["epoch"]) for row in rows] == [("video", "paper", 2)] * 2
    assert json.loads((run / "elsewhere" / "results.json").read_text()) == rows
    assert not (run / "run" / "best.pt").exists()
    assert "paper (train split)" in capsys.readouterr().out


def test_picture_shows_transfer_and_upper_bound(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(ave.bars, "draw", lambda panels, draw=ave.bars.draw: drawn.extend(panels) or draw(panels))
    rows = call(run, "--source", "video")
    assert {file.suffix for file in (run / "run").glob("ave_strict.*")} == {".png", ".pdf"}
    assert [(panel.title, panel.ylabel) for panel in drawn] == [
        ("AVE clip top-1", "accuracy, %"), ("AVE segment accuracy", "accuracy, %")]
    for panel, metric in zip(drawn, ("accuracy", "segment_accuracy")):
        own = [row for row in rows if row["metric"] == metric]
        assert panel.groups == [{"audio": "V→A", "text": "V→T"}[row["target"]] for row in own]
        assert panel.bars == {"transfer": [(row["value"], row["std"]) for row in own],
                              "own modality": [(row["source_value"], row["source_std"]) for row in own],
                              "upper bound": [(row["target_value"], row["target_std"]) for row in own]}
        assert panel.chance == [row["chance"] for row in own]


def test_same_seed_same_rows(run):
    first, again = call(run), call(run)
    assert first == again


def test_real_model(tmp_path, clips):
    """A checkpoint of an untrained model, saved and loaded as pretraining does, at a size of its own."""
    features = write_features(tmp_path / "ave.h5", [clip for split in clips.values() for clip in split])
    model = untrained(tmp_path / "epoch_000.pt", {"video": (T, CODES), "audio": (T, CODES)})
    rows = call(tmp_path, checkpoint=tmp_path / "epoch_000.pt",
                annotations=write_annotations(tmp_path / "annotations", clips))
    assert len(rows) == 4 and all(0 <= row["value"] <= 100 for row in rows)
    quantized = encode_set(model, FeatureSet(features), "video").vectors
    assert quantized.shape == (57, T, 16)


@pytest.mark.parametrize("flags, replaced, message", [
    ([], {"checkpoint": "absent"}, "--checkpoint absent: no such file or folder"),
    ([], {"checkpoint": "annotations"}, "no epoch_*.pt in this folder"),
    ([], {"checkpoint": "ave.h5"}, "not a readable checkpoint"),
    ([], {"data": "absent.h5"}, "absent.h5: no such file; expected a feature file"),
    ([], {"annotations": None}, "--annotations: missing"),
    ([], {"annotations": "absent"}, "absent: no such folder"),
    (["--source", "text"], {}, "--source text: --data has only video, audio"),
    (["--source", "audio", "--target", "audio"], {}, "--target audio: the same as --source"),
    (["--probe-epochs", "0"], {}, "--probe-epochs: '0' is not a whole number of at least 1"),
    (["--probe-lr", "-1"], {}, "--probe-lr: '-1' is not a number above 0"),
    (["--choose-by", "source", "--protocol", "paper"], {}, "--choose-by source: paper chooses by the target's"),
    (["--choose-only", "--protocol", "paper"], {}, "--choose-only: paper has no test split"),
    (["--prob-lr", "1"], {}, "unrecognized arguments: --prob-lr 1"),
])
def test_wrong_flags_are_one_line(run, capsys, monkeypatch, flags, replaced, message):
    monkeypatch.chdir(run)
    fails(run, capsys, message, *flags, **replaced)


def test_wrong_dimensions_are_one_line(run, capsys, clips):
    wide = write_features(run / "wide.h5", [clip for split in clips.values() for clip in split], channels=12)
    fails(run, capsys, "video features are [10, 12] a clip; the checkpoint expects [10, 8]", data=wide)


def test_unknown_ids_are_one_line(run, capsys, clips):
    other = [clip._replace(id="x" + clip.id) for split in clips.values() for clip in split]
    fails(run, capsys, "none of the 30 clips of the train split has features; expected ids such as train_000",
          data=write_features(run / "other.h5", other))


def test_missing_clips_are_one_warning(run, capsys, clips):
    some = [clip for split in clips.values() for clip in split][1:-1]
    call(run, "--source", "video", data=write_features(run / "some.h5", some))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "no features" in line]
    assert warnings == ["warning: 2 annotated clips have no features and are left out, the first is train_000"]


def fails(run, capsys, message, *flags, **replaced):
    with pytest.raises(SystemExit) as caught:
        call(run, *flags, **replaced)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if "error" in line]
    assert len(errors) == 1 and message in errors[0] and "Traceback" not in err
    assert not (run / "run" / "results.json").exists()


def test_digits_annotations(digit_media):
    """The renderer's own files are read: 420 clips of ten classes."""
    found = read_ave(digit_media / "annotations")
    assert {split: len(clips) for split, clips in found.splits.items()} == {"train": 300, "val": 60, "test": 60}
    assert found.classes == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def one_class(own):
    return [clip._replace(category="Bark") for clip in own]


def test_classes_that_training_never_has_are_named(features, clips, capsys):
    """Once a direction, though clips and seconds are probed; results.json has them too."""
    clips["train"] = [clip for clip in clips["train"] if clip.category != "Truck"]
    rows = evaluate(OneHotModel(), features, annotations_of(clips), settings=FAST)
    lines = [line for line in capsys.readouterr().err.splitlines() if "can be right by luck alone" in line]
    assert lines == [f"warning: {s} → {t}: 1 class of the test is in no clip that is learnt from and can be right "
                     "by luck alone: Truck" for s, t in (("video", "audio"), ("audio", "video"))]
    assert all(row["unlearnt"] == ["Truck"] for row in rows)
    assert all(66.6 < row["value"] <= 100 for row in rows if row["metric"] == "accuracy")  # the others are all right


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_one_class_alone_teaches_nothing(features, clips, protocol):
    clips["train"] = one_class(clips["train"])
    with pytest.raises(UserError, match="^AVE: all clips with video that are learnt from are 'Bark', 30 in number; "
                                        "expected clips of two classes or more$"):
        evaluate(OneHotModel(), features, annotations_of(clips), settings=FAST._replace(protocol=protocol))


def test_a_test_of_one_class_or_of_one_clip_is_told(features, clips, capsys):
    for own, told in ((one_class(clips["test"]), "all 15 test clips are 'Bark'; an answer that never changes can read"),
                      (clips["test"][:1], "one clip is tested; its figures say nothing of others")):
        rows = evaluate(OneHotModel(), features, annotations_of(clips | {"test": own}), settings=FAST)
        assert "unlearnt" not in rows[0]
        err = capsys.readouterr().err
        assert [err.count(f"warning: {way}: {told}") for way in ("video → audio", "audio → video")] == [1, 1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_modality_of_padding_throughout(tmp_path, clips, split):
    every = [clip for own in clips.values() for clip in own]
    path = write_features(tmp_path / "ave.h5", every)
    with h5py.File(path, "a") as file:
        file["valid/audio"][[n for n, clip in enumerate(every) if clip.id.startswith(split)]] = False
    with pytest.raises(UserError, match=f"^--data: none of {SIZES[split]} clips has any audio$"):
        evaluate(OneHotModel(), FeatureSet(path), annotations_of(clips), settings=FAST)
