"""Exported models: the same bits as their run whatever the method, by folder and by name on a hub; what is refused."""

import http.server
import json
import os
import pickletools
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

import cmg
from cmg.data.features import FeatureSet
from cmg.data.numbers import Numbers
from cmg.errors import UserError
from cmg.export import main
from cmg.methods import registry
from cmg.models.pretrained import digest
from cmg.models.uniq4cap.generation import WritingConfig
from cmg.training import checkpoint
from cmg.training.exported import CONFIG, IDS, TENSORS, on_hub
from support import CODE, ROOT, SHAPES, untrained, write_clips
from support_captions import ALIGNED, TINY, write_captioned

MIXED = {"side": 16, "patch": 4, "positions": 2, "dim": 16, "layers": 1, "heads": 2}
RAW = {"video": (6, 20, 24, 3), "audio": (6, 16, 18)}
KINDS = {  # method -> preset, settings, shapes or the file it was trained on
    "unicode": ("small", {}, SHAPES),
    "dcid+turn": ("official", {"transformer": "shared"}, SHAPES),
    "multisk": ("small", {"width": 16, "joint_dim": 12, "heads": 2}, SHAPES),
    "cmmixer": ("small", MIXED, RAW),
    "cmmixer-pair": ("small", {**MIXED, "projected": 12}, RAW),
    "prealign": ("small", ALIGNED, "captions"),
    "uniq4cap": ("small", {**ALIGNED, **TINY, "encoders": "none"}, "captions"),
}


def batch_of(shapes, words=20):
    """Random clips of these shapes, as files hold them, and which steps exist."""
    torch.manual_seed(1)
    x = {m: torch.randn(3, *shape) for m, shape in shapes.items()}
    if shapes == RAW:
        x["video"] = torch.randint(0, 256, x["video"].shape, dtype=torch.uint8)
    elif "text" in shapes and shapes != SHAPES:
        x["text"] = torch.randint(1, words, x["text"].shape, dtype=torch.int32)
    return {m: (clips, torch.arange(clips.shape[1])[None] < torch.tensor([[9], [2], [1]])) for m, clips in x.items()}


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return FeatureSet(write_captioned(tmp_path_factory.mktemp("captioned") / "clips.h5"))


def export(run, out, *flags):
    main([str(run), str(out), *flags])
    return out


@pytest.mark.parametrize("method", KINDS)
def test_an_exported_model_gives_the_same_bits(method, captions, tmp_path):
    preset, changed, shapes = KINDS[method]
    features = captions if shapes == "captions" else None
    (tmp_path / "run").mkdir()
    untrained(tmp_path / "run" / "best.pt", shapes, preset, method, features, **changed)
    one = cmg.load_pretrained(tmp_path / "run")
    two = cmg.load_pretrained(export(tmp_path / "run", tmp_path / "out"))
    assert (two.method, two.offers, two.shapes, two.features) == (method, one.offers, one.shapes, one.features)
    assert two.vocabularies == one.vocabularies and ("text" in two.vocabularies) == (features is not None)
    assert two.sha256 == one.sha256 and {x.dtype for x in two.state_dict().values()} == {
        x.dtype for x in one.state_dict().values()}
    for m, (x, valid) in batch_of(one.shapes).items():
        for found, wanted in zip(two.tokens(m, x, valid), one.tokens(m, x, valid)):
            assert (found is wanted is None) or torch.equal(found, wanted)
        for name, vectors in two.items(m, x, valid).items():
            assert torch.equal(vectors, one.items(m, x, valid)[name])
    if "sentences" in one.offers:
        x, valid = zip(*(batch_of(one.shapes)[m] for m in ("video", "audio")))
        said = [model.describe(dict(zip(("video", "audio"), x)), dict(zip(("video", "audio"), valid)),
                               WritingConfig(beams=1, min_length=4, max_length=8), 0) for model in (one, two)]
        assert said[0] == said[1] and all(said[0])


def test_what_a_checkpoint_holds_comes_back(tmp_path):
    """All parts that anything reads; standardisation, earlier clips and the numerics among them."""
    features = FeatureSet(write_clips(tmp_path / "clips.h5"))
    number = Numbers(100.0, 50.0, 40.0, tuple(map(float, range(12))), tuple(map(float, range(1, 13))))
    untrained(tmp_path / "epoch_003.pt", SHAPES, features=features,
              prepare=lambda model: model.feature_scale.learn("audio", number, "auto"))
    content = torch.load(tmp_path / "epoch_003.pt", weights_only=True)
    content |= {"numerics": 3, "epoch": 3, "earlier_ids": content["pretrain_ids"][:7]}
    checkpoint.save(tmp_path / "epoch_003.pt", content)
    found = checkpoint.read(checkpoint.file_of(export(tmp_path / "epoch_003.pt", tmp_path / "out")))
    assert found.keys() == content.keys()
    for name in content.keys() - {"model", "scale"}:
        assert found[name] == content[name], name
    assert content["scale"]["audio"]["offset"].tolist() == list(range(12))
    assert content["scale"]["audio"]["spreads"].tolist() == list(range(1, 13))
    for mine, theirs in ((found["model"], content["model"]), (found["scale"]["audio"], content["scale"]["audio"])):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(theirs[name])) for name, x in mine.items())
    assert found["scale"].keys() == content["scale"].keys()
    x = {m: 100 + 40 * torch.randn(2, *SHAPES[m]) for m in ("audio",)}
    one, two = cmg.load_pretrained(tmp_path / "epoch_003.pt"), cmg.load_pretrained(tmp_path / "out")
    assert torch.equal(one.encode(**x).codes, two.encode(**x).codes) and one.feature_scale.standardised == ("audio",)


def test_the_digest_is_of_names_types_shapes_and_bytes():
    x = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    assert digest(x) == digest(dict(reversed(x.items())))
    others = [{"a": x["a"]}, {**x, "a": x["a"].view(2, 3)}, {**x, "a": x["a"].int()}, {**x, "a": -x["a"]},
              {"c": x["a"], "b": x["b"]}, {**x, "b": torch.tensor([1])}]
    assert len({digest(one) for one in [x, *others]}) == 7


@pytest.fixture(scope="module")
def handed(tmp_path_factory):
    """An exported model that says where nothing lay."""
    folder = tmp_path_factory.mktemp("handed")
    features = FeatureSet(write_clips(folder / "clips.h5", n=8))
    untrained(folder / "best.pt", SHAPES, features=features)
    content = torch.load(folder / "best.pt", weights_only=True)
    content["args"] |= {"data": [str(folder / "clips.h5"), "other.h5"], "out": str(folder / "run"), "init_from": None}
    checkpoint.save(folder / "best.pt", content)
    return export(folder / "best.pt", folder / "out")


def test_nothing_in_it_can_be_run_and_nothing_tells_of_the_machine(handed):
    assert sorted(path.name for path in handed.iterdir()) == ["README.md", CONFIG, TENSORS, IDS]
    for path in handed.iterdir():
        assert str(handed.parent).encode() not in path.read_bytes()
        with pytest.raises(ValueError):
            list(pickletools.genops(path.read_bytes()))
    config = json.loads((handed / CONFIG).read_text())
    assert (config["flags"]["data"], config["flags"]["out"]) == (["clips.h5", "other.h5"], "run")
    assert config["sha256"]["tensors"] == cmg.load_pretrained(handed).sha256
    assert json.loads((handed / IDS).read_text()) == {"ids": [f"clip{i}" for i in range(8)], "earlier": 0}


def changed(**parts):
    def change(folder):
        config = json.loads((folder / CONFIG).read_text()) | parts
        (folder / CONFIG).write_text(json.dumps(config))

    return change


def with_other_tensor(folder):
    data = bytearray((folder / TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / TENSORS).write_bytes(data)


@pytest.mark.parametrize("damage, line", [
    (lambda folder: (folder / TENSORS).unlink(), "model.safetensors: no such file; expected an exported model"),
    (lambda folder: (folder / IDS).unlink(), "pretrain_ids.json: no such file; expected an exported model"),
    (lambda folder: (folder / CONFIG).unlink(), "neither best.pt nor latest.pt in this folder, nor config.json"),
    (with_other_tensor, "model.safetensors: its tensors are not those of config.json; expected sha256 "),
    (lambda folder: (folder / IDS).write_text('{"ids": [], "earlier": 0}'), "pretrain_ids.json: is not the file of"),
    (lambda folder: (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-9]), "not a whole safetensors"),
    (lambda folder: (folder / TENSORS).write_bytes(b"\0" * 20), "not a whole safetensors file"),
    (lambda folder: (folder / CONFIG).write_text("{"), "config.json: not JSON"),
    (lambda folder: (folder / CONFIG).write_text("[]"), "config.json: expected a JSON object"),
    (changed(export=2), "not the config of an exported model (expected export 1)"),
    (changed(sha256=None), "not the config of an exported model (TypeError"),
    (changed(flags=3), "'args' is missing in it"),
    (changed(shapes={"audio": ["x"]}), "'shapes' holds something else"),
    (changed(shapes={"audio": [6, 12]}), "its weights do not fit its flags"),
    (changed(method="os"), "--method os: expected one of"),
])
def test_a_damaged_folder_is_one_line(handed, tmp_path, damage, line):
    folder = tmp_path / "copy"
    shutil.copytree(handed, folder)
    damage(folder)
    with pytest.raises(UserError) as told:
        cmg.load_pretrained(folder)
    assert line in str(told.value) and "\n" not in str(told.value)


def test_a_method_of_ones_own_is_not_run_from_the_folder(tmp_path, monkeypatch):
    """Its file goes along, to be read, and is named by whoever loads the model."""
    own = tmp_path / "mine" / "masked.py"
    own.parent.mkdir()
    shutil.copyfile(ROOT / "examples" / "masked_autoencoder.py", own)
    kind = registry.find(str(own))
    torch.manual_seed(0)
    model = kind.rebuild(SHAPES, kind.Config(width=16)).eval()
    features = SimpleNamespace(shapes=SHAPES, ids=["a"], provenance={})
    flags, origin = {"method": str(own), "width": 16}, registry.origin(str(own))
    checkpoint.save(tmp_path / "best.pt", checkpoint.inference_part(model, flags, origin, features, 0, 1))
    out = export(tmp_path / "best.pt", tmp_path / "out")
    assert (out / "masked.py").read_bytes() == own.read_bytes()
    assert json.loads((out / CONFIG).read_text())["method"] == "masked.py"
    monkeypatch.chdir(out)  # where a file of this name lies, with the contents that the config says
    with pytest.raises(UserError, match="masked.py is not the file that it was trained with; give it by --method FILE"):
        cmg.load_pretrained(out)
    x = torch.randn(2, *SHAPES["audio"])
    found = cmg.load_pretrained(out, method=str(own)).encode(audio=x).semantic
    assert torch.equal(found, model.encode(audio=x).semantic)


# -- a hub: the answers that huggingface_hub asks for, from a folder ---------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository, anna/codes, at the revision `main` or v1."""

    folder, commit = None, "1" * 40

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        files = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        head = {"X-Repo-Commit": self.commit}
        if path in (f"api/models/anna/codes/revision/{revision}" for revision in ("main", "v1", self.commit)):
            told = {"id": "anna/codes", "modelId": "anna/codes", "sha": self.commit, "private": False, "tags": [],
                    "siblings": [{"rfilename": name} for name in files]}
            body, head["Content-Type"] = json.dumps(told).encode(), "application/json"
        elif path.startswith(f"api/models/anna/codes/tree/{self.commit}"):
            told = [{"type": "file", "path": name, "oid": "0" * 40, "size": len(text)} for name, text in files.items()]
            body, head["Content-Type"] = json.dumps(told).encode(), "application/json"
        elif path.startswith("anna/codes/resolve/") and (name := path.rpartition("/")[2]) in files:
            body, head["ETag"] = files[name], f'"{len(files[name])}{name}"'
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound" if "anna/codes" in path else "RepoNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        for key, value in {**head, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


LOAD = """
import sys, cmg
from cmg.errors import UserError
for name in sys.argv[1:]:
    try:
        print(cmg.load_pretrained(name).sha256)
    except UserError as told:
        print(told)
"""


@pytest.fixture
def hub(handed, tmp_path):
    """A function that loads models by name in a process of its own, of a hub on the loopback interface."""
    pytest.importorskip("huggingface_hub")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"folder": handed}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "PYTHONPATH": str(CODE), "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0",
                   "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1",
                   "NO_PROXY": "127.0.0.1"}

    def load(*names):
        done = subprocess.run([sys.executable, "-c", LOAD, *names], cwd=tmp_path, env=environment, capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    yield load
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_model_of_a_hub_is_loaded_by_its_name(hub, handed, tmp_path):
    wanted = cmg.load_pretrained(handed).sha256
    names = ["anna/codes", "anna/codes@v1", "anna/codes@v2", "anna/others"]
    found = hub(*names)
    assert found[:2] == [wanted, wanted]
    assert {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")} == {"README.md", CONFIG, TENSORS, IDS}
    for name, told in zip(names[2:], found[2:]):
        assert told.startswith(f"{name}: neither a file or folder here nor a model that the hub gives (404 ")


def test_what_is_a_name_on_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert on_hub("anna/codes") and on_hub("anna/codes@v1.0") and on_hub("a-b_c/d.e@refs/pr/1")
    for path in ("run", "a/b/c", "/anna/codes", "./codes", "anna/codes.pt", tmp_path / "run"):
        assert not on_hub(path), path
    (tmp_path / "checkpoint").mkdir()
    assert not on_hub("checkpoint/rum")  # a path with a slip of the pen
    with pytest.raises(UserError, match="checkpoint/rum: no such checkpoint file"):
        cmg.load_pretrained("checkpoint/rum")


def test_without_the_hubs_package_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"^anna/codes: no such file or folder; .* install this project .* \[hub\]$"):
        cmg.load_pretrained("anna/codes")
