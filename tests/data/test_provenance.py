"""Where features come from: read from a file, kept by a checkpoint, checked wherever features meet it."""

import numpy as np
import pytest
import torch

import cmg
from cmg.data.features import FeatureSet, FeatureWriter
from cmg.data.provenance import Provenance, differing, of_attributes
from cmg.downstream.retrieval import main as retrieval
from cmg.errors import UserError
from support import SHAPES, SMALL, refused, run

A = {"backbone/audio": "clap", "sha256/audio": "a" * 64, "seconds_per_step/audio": 1.0, "precision/audio": "fp32",
     "backbone/video": "pixels", "sha256/video": "", "seconds_per_step/video": 1.0, "frames_per_second/video": 16}
CHANGES = {"backbone": ("vggish", "clap"), "sha256": ("b" * 64, "a" * 64), "seconds_per_step": (0.5, 1.0),
           "precision": ("bf16", "fp32")}


def write(path, attrs, names=range(24), seed=0):
    """Clips of two modalities whose file says where they come from."""
    rng, shapes = np.random.default_rng(seed), {m: SHAPES[m] for m in ("video", "audio")}
    with FeatureWriter(path, shapes, attrs) as writer:
        features = {m: rng.standard_normal((len(names), *shape)) for m, shape in shapes.items()}
        writer.append([f"clip{i}" for i in names], features)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on features of A: (feature file, run folder)."""
    folder = tmp_path_factory.mktemp("run")
    clips = write(folder / "a.h5", A)
    return clips, run(clips, folder / "run", "--epochs", "1")


def test_what_a_file_says_of_a_modality_counts_before_what_it_says_of_all():
    attrs = {"seconds_per_step": 1.0, "seconds_per_step/audio": 0.5, "precision": "fp32", "backbone/audio": "clap",
             "sha256/audio": "", "frames_per_second": 16}
    assert of_attributes(attrs, "audio") == Provenance("clap", None, 0.5, 16, "fp32")
    assert of_attributes(attrs, "video") == Provenance(None, None, 1.0, 16, "fp32")  # as files were written before
    assert of_attributes({}, "text") == Provenance() and str(Provenance()) == "not known"
    assert str(Provenance("clap", "0123456789abcdef", 0.5, 16, "bf16")) == \
        "clap, sha256 0123456789ab…, 0.5 s a step, 16 frames a second, bf16"


def test_only_what_both_know_can_differ():
    full = Provenance("clap", "a", 1.0, 16, "fp32")
    assert differing(full, full) is differing(full, Provenance()) is differing(Provenance(), full) is None
    assert differing(full, full._replace(precision=None)) is None
    assert differing(full, full._replace(sha256="b", precision="bf16")) == ("sha256", "a", "b")


@pytest.mark.parametrize("name", CHANGES)
def test_features_of_another_origin_are_refused_everywhere(trained, tmp_path, capsys, name):
    """Evaluated, encoded, resumed: the shapes agree, the origin does not, and each says so in one line."""
    clips, out = trained
    theirs, ours = CHANGES[name]
    other = write(tmp_path / "b.h5", A | {f"{name}/audio": theirs})
    line = f"audio features have {name} {theirs}; {{}} was pretrained on {ours}"
    with pytest.raises(SystemExit) as stop:
        retrieval(["--checkpoint", str(out), "--data", other, "--out", str(tmp_path / "found"), "--device", "cpu"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "cmg.downstream.retrieval: error: --data: " + line.format("the checkpoint")]
    with pytest.raises(UserError) as error:
        cmg.load_pretrained(out).encode(other)
    assert str(error.value) == f"{other}: " + line.format("the checkpoint")
    assert refused(capsys, "--data", other, "--out", str(out), *SMALL, "--resume", "auto") == \
        "cmg.pretrain: error: --data: " + line.format(f"{out}/latest.pt")
    with pytest.raises(UserError, match=rf"b.h5: {name}/audio is '{theirs}', but '{ours}' in .*a.h5"):
        FeatureSet([clips, write(tmp_path / "b.h5", A | {f"{name}/audio": theirs}, range(24, 30))])


def test_the_same_origin_is_taken_and_shown(trained, tmp_path):
    clips, out = trained
    model = cmg.load_pretrained(out)
    assert set(model.encode(write(tmp_path / "c.h5", A, range(30, 40)))) == {"video", "audio"}
    assert model.features == FeatureSet(clips).provenance
    head = ["  method unicode, offers vectors, codes",
            "  audio [6, 12]: features clap, sha256 aaaaaaaaaaaa…, 1 s a step, fp32",
            "  video [6, 5, 5, 8]: features pixels, 1 s a step, 16 frames a second"]
    assert repr(model).splitlines()[1:4] == head
    assert set(model.encode(write(tmp_path / "d.h5", {"source": "who knows"}))) == {"video", "audio"}


def test_a_checkpoint_of_before_does_not_know(trained, tmp_path, capsys):
    clips, out = trained
    content = torch.load(out / "latest.pt", weights_only=True)
    older = {name: value for name, value in content.items() if name not in ("method_of", "features", "modalities")}
    torch.save(older | {"format": 1}, tmp_path / "older.pt")
    model = cmg.load_pretrained(tmp_path / "older.pt")
    assert repr(model).splitlines()[2] == "  audio [6, 12]: features not known" and model.method == "unicode"
    assert all(torch.equal(x.codes, y.codes) for x, y in zip(
        model.encode(clips).values(), cmg.load_pretrained(out).encode(clips).values()))
    assert set(model.encode(write(tmp_path / "b.h5", A | {"backbone/audio": "vggish"}))) == {"video", "audio"}
