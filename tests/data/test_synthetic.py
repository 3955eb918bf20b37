"""The built-in synthetic set: what its files hold, checked against the events they were made from."""

import argparse
import filecmp
import os
from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmg.configs import add_flags
from cmg.data.ave import read_ave, segment_labels
from cmg.data.features import FeatureFile, FeatureSet
from cmg.data.synthetic import SyntheticConfig, SyntheticSpec, sample_events, synthetic_files, synthetic_spec
from cmg.data.synthetic_world import make_world, render_audio, render_grid, render_text
from cmg.errors import UserError

SMALL = SyntheticSpec(clips=60, ave_clips=(30, 10, 10), classes=5)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return synthetic_files(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The default set, as arrays: audio [N, T, A] and pooled video [N, T, C] of 1000 and of 300 + 100 + 100 clips."""
    files = synthetic_files(tmp_path_factory.mktemp("full"))
    arrays = {}
    for name in ("pretrain", "ave"):
        file = FeatureFile(getattr(files, name))
        rows = np.arange(len(file.ids))
        arrays[name] = {m: file.read(m, rows)[0].astype(np.float32) for m in ("audio", "video")}
        arrays[name]["pooled"] = arrays[name]["video"].mean(axis=(2, 3))
    return arrays


def test_same_seed_gives_the_same_bytes(small, tmp_path):
    again = synthetic_files(tmp_path, SMALL)
    for name in ("pretrain", "ave"):
        assert filecmp.cmp(getattr(small, name), getattr(again, name), shallow=False)
    for path in small.annotations.iterdir():
        assert path.read_text() == (again.annotations / path.name).read_text()


def test_other_seed_gives_another_world(small, tmp_path):
    other = synthetic_files(tmp_path, SyntheticSpec(seed=1, clips=60, ave_clips=(30, 10, 10), classes=5))
    ours, theirs = FeatureFile(small.pretrain), FeatureFile(other.pretrain)
    for m in ("video", "audio", "text"):
        # Two files of one world fit together, files of two worlds do not: the world stands where weights' sha256 does.
        assert ours.attrs[f"sha256/{m}"] == FeatureFile(small.ave).attrs[f"sha256/{m}"]
        assert ours.attrs[f"sha256/{m}"] != theirs.attrs[f"sha256/{m}"]
        a, b = ours.read(m, [0])[0].astype(float), theirs.read(m, [0])[0].astype(float)
        assert np.abs(a - b).mean() > 0.5


def test_more_pretraining_clips_change_nothing_else(small, tmp_path):
    more = synthetic_files(tmp_path, SyntheticSpec(clips=61, ave_clips=(30, 10, 10), classes=5))
    a, b = FeatureFile(small.ave), FeatureFile(more.ave)
    assert a.ids == b.ids
    for m in a.modalities:
        np.testing.assert_array_equal(a.read(m, range(50))[0], b.read(m, range(50))[0])


def test_shapes_ids_and_padding(small):
    pretrain, ave = FeatureSet([small.pretrain]), FeatureSet([small.ave])
    assert pretrain.shapes == ave.shapes == {"video": (10, 7, 7, 64), "audio": (10, 64), "text": (10, 64)}
    assert pretrain.ids == [f"syn_pre_{i:05d}" for i in range(60)]
    assert ave.ids == [f"syn_{s}_{i:05d}" for s, n in (("train", 30), ("val", 10), ("test", 10)) for i in range(n)]
    batch = pretrain.__getitems__(list(range(60)))
    assert batch["valid/video"].all() and batch["valid/audio"].all()
    words = batch["valid/text"].sum(dim=1)
    assert words.min() >= 6 and words.max() == 10 and len(words.unique()) == 5
    assert (batch["text"][~batch["valid/text"]] == 0).all()  # a short caption is padded at its end
    assert (batch["valid/text"].int().diff(dim=1) <= 0).all()


def test_every_clip_has_the_events_it_should():
    events = sample_events(SyntheticSpec(clips=4000), "pre")
    two = events.label[:, 1] >= 0
    assert two.mean() == pytest.approx(0.3, abs=0.03)
    assert (np.bincount(events.label[:, 0]) == 400).all()
    assert (events.label[:, 0] != events.label[:, 1]).all()
    for spans in (events.video, events.audio):
        assert spans.min() == 0 and spans.max() == 10
    assert (events.video[..., 1] - events.video[..., 0]).min() == 3
    moved = np.abs(events.video - events.audio)[:, 0]  # [n, 2]
    assert moved.sum(axis=1).max() == 1  # one second at one end, never more
    assert 0.2 < moved.any(axis=1).mean() < 0.3  # 0.3, less what a clip's end leaves no room for
    # Two events never share a second, not even across modalities.
    first = np.stack([events.video[two, 0], events.audio[two, 0]])
    second = np.stack([events.video[two, 1], events.audio[two, 1]])
    before = first[..., 1].max(axis=0) <= second[..., 0].min(axis=0)
    after = second[..., 1].max(axis=0) <= first[..., 0].min(axis=0)
    assert (before ^ after).all() and before.any() and after.any()


def test_annotations_say_where_audio_and_video_show_the_event(tmp_path):
    """At difficulty 0 a second's features are the background's or the event's: read the spans back from the file."""
    spec = SyntheticSpec(clips=1, ave_clips=(80, 10, 10), classes=5, difficulty=0, misalign=1.0)
    files = synthetic_files(tmp_path, spec)
    annotations = read_ave(files.annotations)
    assert annotations.classes == [f"class_{k:02d}" for k in range(5)]
    assert annotations.skipped == annotations.notes == []
    assert {split: len(clips) for split, clips in annotations.splits.items()} == {"train": 80, "val": 10, "test": 10}

    file, clips = FeatureFile(files.ave), sum(annotations.splits.values(), [])
    assert [clip.id for clip in clips] == file.ids
    audio, video = (file.read(m, range(100))[0].astype(np.float32) for m in ("audio", "video"))
    labels = segment_labels(clips, annotations.classes, T=10).numpy()  # [N, T], 5 is background

    # A second at which every clip of the set looks the same, the commonest value, is the background's.
    def on(x):  # [N, T, d] -> bool [N, T]
        flat = x.reshape(1000, -1)
        values, which, counts = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
        return (which.ravel() != counts.argmax()).reshape(100, 10)

    heard, seen = on(audio), on(video)
    np.testing.assert_array_equal(heard & seen, labels < 5)
    assert (heard != seen).any(axis=1).mean() > 0.5  # the misalignment is really there

    # All seconds of one class sound alike, and no two classes do.
    sounds = {k: np.unique(audio[labels == k], axis=0) for k in range(6)}
    assert [len(rows) for rows in sounds.values()] == [1, 1, 1, 1, 1, len(sounds[5])]
    assert len(np.unique(np.concatenate([sounds[k] for k in range(5)]), axis=0)) == 5


def test_video_shows_an_event_in_few_cells(tmp_path):
    spec = SyntheticSpec(clips=1, ave_clips=(60, 10, 10), difficulty=0)
    file = FeatureFile(synthetic_files(tmp_path, spec).ave)
    video = file.read("video", range(60))[0].astype(np.float32)  # [N, T, H, W, C]
    events = sample_events(spec, "train")
    t = events.video[:, 0, 0]
    shown = video[np.arange(60), t]  # the event's first second, [N, H, W, C]
    background = np.median(shown.reshape(-1, 64), axis=0)
    energy = ((shown - background) ** 2).sum(axis=-1).reshape(60, 49)
    brightest = np.sort(energy, axis=1)[:, ::-1]
    assert (brightest[:, :9].sum(axis=1) / energy.sum(axis=1)).min() > 0.9
    assert len(np.unique(energy.argmax(axis=1))) > 20  # and at another place in every clip


def test_nuisance_outweighs_the_class(full):
    """Sums of squares within the events: between classes, between the clips of a class (nuisance), within a clip."""
    events = sample_events(SyntheticSpec(), "train")
    for m, x in (("audio", full["ave"]["audio"][:300]), ("video", full["ave"]["pooled"][:300])):
        on, label = _active(getattr(events, m)), events.label[:, 0]
        clip, steps = np.repeat(np.arange(300), 10).reshape(300, 10)[on], on.sum(axis=1)
        x = x[on]  # [n, d]
        of_clip = np.stack([x[clip == i].mean(axis=0) for i in range(300)])  # [N, d]
        of_class = np.stack([x[label[clip] == k].mean(axis=0) for k in range(10)])[label]  # [N, d]
        between_classes = (steps[:, None] * (of_class - x.mean(axis=0)) ** 2).sum()
        between_clips = (steps[:, None] * (of_clip - of_class) ** 2).sum()
        within_clips = ((x - of_clip[clip]) ** 2).sum()
        total = ((x - x.mean(axis=0)) ** 2).sum()
        assert between_classes + between_clips + within_clips == pytest.approx(total, rel=1e-4)
        assert between_clips > 2 * between_classes


def test_labelled_probe_reads_raw_features_but_does_not_transfer(full):
    spec = SyntheticSpec()
    train, test = sample_events(spec, "train"), sample_events(spec, "test")
    accuracy = {}
    for source in ("audio", "pooled"):
        on, label = _active(_spans(train, source)), np.repeat(train.label[:, :1], 10, axis=1)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        probe.fit(full["ave"][source][:300][on], label[on])
        for target in ("audio", "pooled"):
            on_test, label_test = _active(_spans(test, target)), np.repeat(test.label[:, :1], 10, axis=1)
            accuracy[source, target] = probe.score(full["ave"][target][400:][on_test], label_test[on_test])
    assert 0.85 < accuracy["audio", "audio"] < 0.97 and 0.85 < accuracy["pooled", "pooled"] < 0.97
    assert accuracy["audio", "pooled"] < 0.2 and accuracy["pooled", "audio"] < 0.2  # chance is 0.1


def test_pairs_without_labels_reveal_the_shared_class(full):
    """Linear CCA on unlabelled pretraining seconds, a closed form, makes the probe transfer."""
    pairs = [full["pretrain"][m].reshape(-1, 64) for m in ("audio", "pooled")]
    means, whiten, white = [], [], []
    for x in pairs:
        means.append(x.mean(axis=0))
        x = x - means[-1]
        values, vectors = np.linalg.eigh(x.T @ x / len(x) + 1e-3 * np.eye(64))
        whiten.append(vectors / np.sqrt(values))
        white.append(x @ whiten[-1])
    u, s, vt = np.linalg.svd(white[0].T @ white[1] / len(white[0]))
    shared = [(w @ v[:, :10]) * s[:10] for w, v in zip(whiten, (u, vt.T), strict=True)]  # [64, 10] each

    spec = SyntheticSpec()
    train, test = sample_events(spec, "train"), sample_events(spec, "test")
    project = {m: (full["ave"][m] - means[i]) @ shared[i] for i, m in enumerate(("audio", "pooled"))}
    for source, target in (("audio", "pooled"), ("pooled", "audio")):
        on, on_test = _active(_spans(train, source)), _active(_spans(test, target))
        probe = LogisticRegression(max_iter=300)
        probe.fit(project[source][:300][on], np.repeat(train.label[:, :1], 10, axis=1)[on])
        assert probe.score(project[target][400:][on_test], np.repeat(test.label[:, :1], 10, axis=1)[on_test]) > 0.85


def test_cache_is_used_again_and_repaired(tmp_path):
    spec = SyntheticSpec(clips=4, ave_clips=(4, 2, 2), classes=2)
    files = synthetic_files(tmp_path, spec)
    for path in (files.pretrain, files.ave):
        os.utime(path, (1, 1))
    assert synthetic_files(tmp_path, spec) == files
    assert files.pretrain.stat().st_mtime == 1
    (files.annotations / "valSet.txt").unlink()  # as if an earlier run had been interrupted
    assert synthetic_files(tmp_path, spec) == files
    assert files.pretrain.stat().st_mtime > 1
    assert len(read_ave(files.annotations).splits["val"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == [files.ave.parent.name]
    assert not list(tmp_path.rglob("*.tmp-*"))
    harder = synthetic_files(tmp_path, SyntheticSpec(clips=4, ave_clips=(4, 2, 2), classes=2, difficulty=2.0))
    assert harder.ave.parent != files.ave.parent


def test_flags_reach_the_spec():
    parser = argparse.ArgumentParser()
    add_flags(parser, SyntheticConfig())
    assert synthetic_spec(vars(parser.parse_args([]))) == synthetic_spec({}) == SyntheticSpec()
    line = "--synthetic-clips 7 --synthetic-classes 3 --synthetic-difficulty 0.5"
    assert synthetic_spec(vars(parser.parse_args(line.split()))) == SyntheticSpec(clips=7, classes=3, difficulty=0.5)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"clips": 0}, "--synthetic-clips is 0"),
        ({"classes": 1}, "--synthetic-classes is 1"),
        ({"difficulty": float("nan")}, "--synthetic-difficulty is nan"),
        ({"difficulty": -1.0}, "--synthetic-difficulty is -1.0"),
        ({"lone": 1.5}, "--synthetic-lone is 1.5"),
    ],
)
def test_impossible_settings_name_the_flag(settings, flag):
    with pytest.raises(UserError, match=f"^{flag}, expected"):
        SyntheticSpec(**settings)


def _spans(events, name):
    return events.audio if name == "audio" else events.video


def _active(spans):
    """Seconds of the first event: int [n, 2, 2] -> bool [n, T]."""
    t = np.arange(10)
    return (spans[:, 0, :1] <= t) & (t < spans[:, 0, 1:])


HARD = replace(SMALL, clips=400, classes=12, families=4, scenes=3, lone=0.5, told=0.5)


def test_members_of_a_family_are_alike():
    for own in make_world(HARD).values():
        likeness = np.corrcoef(own.classes)
        family = np.arange(12) // 4
        same = (family[:, None] == family) & ~np.eye(12, dtype=bool)
        assert likeness[same].mean() > 0.5 > 0.25 > np.abs(likeness[family[:, None] != family]).mean()


def test_scenes_come_back():
    """Clips without events fall into three groups, in audio and in video apart from each other."""
    label = np.full((60, 2), -1)
    spans = np.zeros((60, 2, 2), int)
    spec, groups = replace(HARD, difficulty=1.0), {}
    for m, render in (("audio", render_audio), ("video", render_grid)):
        x = render(make_world(spec)[m], label, spans, spec, np.random.default_rng(0))
        x = x.reshape(60, spec.seconds, -1, x.shape[-1]).mean((1, 2))
        found = KMeans(3, n_init=5, random_state=0).fit(x)
        own = ((x - found.cluster_centers_[found.labels_]) ** 2).sum()
        assert own < 0.3 * ((x - x.mean(0)) ** 2).sum() and len(set(found.labels_)) == 3
        groups[m] = found.labels_
    assert adjusted_rand_score(groups["audio"], groups["video"]) < 0.2


def test_events_that_are_only_seen_or_only_heard_or_not_named():
    events, before = (sample_events(spec, "pre") for spec in (HARD, replace(HARD, lone=0.0)))
    absent = {m: (getattr(events, m)[:, 0] == 0).all(1) for m in ("video", "audio")}
    assert 60 < absent["video"].sum() < 140 and 60 < absent["audio"].sum() < 140
    assert not (absent["video"] & absent["audio"]).any()
    for m, gone in absent.items():
        assert np.array_equal(getattr(events, m)[~gone], getattr(before, m)[~gone])
        assert np.array_equal(getattr(events, m)[:, 1], getattr(before, m)[:, 1])
    assert np.array_equal(sample_events(HARD, "test").video, sample_events(replace(HARD, lone=0.0), "test").video)
    label, world = np.arange(1200).reshape(-1, 1) % 12 * [[1, 0]] - [[0, 1]], make_world(HARD)["text"]
    quiet = replace(HARD, difficulty=0.0)
    x, valid = render_text(world, label, quiet, np.random.default_rng(0))
    word = np.maximum(3.0 * world.classes @ world.map + world.bias, 0)[label[:, 0]]  # [n, X]
    named = (np.abs(x - word[:, None]).max(2) < 1e-3).any(1)
    assert 0.42 < named.mean() < 0.58
    every = render_text(world, label, replace(quiet, told=1.0), np.random.default_rng(0))[0]
    assert np.array_equal(every[named], x[named]) and valid.any(1).all()
