"""The commands of docs/multisk.md from a user's files to figures, as they stand there, at a tiny size."""

import json
import pickle
import re
import shlex

import pytest

from cmg.data.convert import main as convert
from cmg.data.features import FeatureFile
from cmg.downstream.retrieval import main as retrieval
from cmg.pretrain import main as pretrain
from cmg.training import checkpoint
from support import ROOT
from support_howto import entry, write_bin, write_video

MAINS = {"cmg.data.convert": convert, "cmg.pretrain": pretrain, "cmg.downstream.retrieval": retrieval}
TINY = ["--width", "8", "--joint-dim", "8", "--heads", "1", "--anchors", "4", "--queue", "8", "--mel-widths", "2", "2",
        "--mel-blocks", "1", "--batch-size", "4", "--epochs", "1", "--device", "cpu"]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The files that the commands name, two videos and four clips, in the working folder."""
    for number, name in enumerate(("food/first", "cars/second")):
        write_video(tmp_path / "HowTo", name, seconds=30, seed=number)
    (tmp_path / "videos.csv").write_text("path\nfood/first\ncars/second\n")
    (tmp_path / "caption.pickle").write_bytes(pickle.dumps({
        name: {"start": [0.0, 12.0], "end": [9.0, 25.0], "text": ["word1 word2", "word3"]}
        for name in ("first", "second")}))
    write_bin(tmp_path / "word2vec.bin", {f"word{n}": [n, 1, 0] for n in range(9)})
    captions = [["word1", "word2"], ["word3"], ["word4", "word5 word6"], ["word7"]]
    for name in ("train", "jsfusion_test"):
        clips = [entry(f"{name}{n}", 9, n, caption=said) for n, said in enumerate(captions)]
        (tmp_path / f"msrvtt_{name}.pkl").write_bytes(pickle.dumps(clips))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_from_howto100m_to_msrvtt(desk):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "multisk.md").read_text(encoding="utf-8"), re.S)
    (block,) = [block for block in blocks if "--init-from" in block]
    calls = [shlex.split(line.split("#")[0]) for line in block.replace("\\\n", " ").strip().splitlines()]
    assert [call[2].rpartition(".")[2] for call in calls] == [
        "convert", "pretrain", "convert", "convert", "pretrain", "convert", "retrieval"]
    for python, m, module, *flags in calls:
        assert (python, m) == ("python", "-m")
        tiny = TINY if "--method" in flags else []  # the second pretraining has those of --config
        rows = MAINS[module]([*flags, *tiny, *(["--device", "cpu"] if module.endswith("retrieval") else [])])
    assert FeatureFile("data/msrvtt_train_text.h5").ids == ["train0#0", "train0#1", "train1", "train2#0", "train2#1",
                                                            "train3"]
    first, tuned = (checkpoint.read(f"checkpoint/{name}/latest.pt") for name in ("howto", "msrvtt"))
    assert tuned["shapes"]["video"] == [48, 9] and first["shapes"]["video"] == [12, 9]
    assert tuned["earlier_ids"] == first["pretrain_ids"]
    args = json.loads((desk / "checkpoint/msrvtt/args.json").read_text())["flags"]
    assert (args["width"], args["epochs"], args["lr"], args["method"]) == (8, 5, 1e-5, "multisk")
    found = {(row["source"], row["target"], row["metric"]): row for row in rows}
    assert found["text", "video+audio", "joint_r1"]["n_test"] == 4
    assert found["text", "video", "joint_r10_expected"]["value"] == pytest.approx(0.4)  # 4 of 1000
