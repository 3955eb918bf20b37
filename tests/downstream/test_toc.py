"""TOC: scores and dimensions against the public implementation's and by loops, its rows, and what it refuses."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support_pair import FAST, PAIRS, OneHotModel, by_pair
from torch.testing import assert_close

from cmg.downstream.clip_scores import read_clip_scores
from cmg.downstream.probe import ClipProbes
from cmg.downstream.probing import Probings, TocProbings
from cmg.downstream.task import Settings
from cmg.downstream.toc import Cut, Toc, chosen_dims, scores, subsets
from cmg.downstream.tokens import TokenSet
from cmg.downstream.ucf_vggsound import PairTask, main
from cmg.errors import UserError
from cmg.models.codebook import Codebook
from cmg.training import checkpoint
from support import FIXTURES


@pytest.fixture(scope="module")
def public():
    with np.load(FIXTURES / "toc.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def test_scores_and_dimensions_are_the_public_ones(public):
    for kind in ("full", "sim"):
        score = scores(public["codebook"], kind)
        assert_close(score, public[f"{kind}/score"], rtol=1e-9, atol=1e-9)
        cases = [found for key in public if (found := re.fullmatch(rf"{kind}/k(\d+)_max(\d+)_min(\d+)", key))]
        assert len(cases) > 2
        for case in cases:
            k, best, worst = map(int, case.groups())
            assert chosen_dims(score, k, (best, worst)).tolist() == public[case[0]].tolist(), case[0]


def test_tokens_are_cut_after_they_were_assigned(public):
    book = Codebook(("audio",), *public["codebook"].shape).double()
    book._buffers["embedding"] = public["codebook"]
    quantized = book.quantize(public["z"])
    assert quantized.codes.tolist() == public["token/indices"].tolist()
    whole = TokenSet(quantized.codes, quantized.vectors, public["z"], None)
    cut = Cut(SimpleNamespace(tokens=lambda role, modality: whole), public["token/dims"]).tokens("fit", "audio")
    assert_close(cut.vectors, public["token/sliced"], rtol=1e-9, atol=1e-9)
    assert cut.codes is whole.codes and cut.semantic is whole.semantic


def test_scores_by_loops():
    codebook = torch.randn(7, 3, dtype=torch.float64)
    for d, (full, sim) in enumerate(zip(scores(codebook), scores(codebook, "sim"))):
        e = codebook[:, d].tolist()
        likeness = sum(a * b for i, a in enumerate(e) for j, b in enumerate(e) if i != j) / (7 * 6)
        variance = sum((a - sum(e) / 7) ** 2 for a in e) / 6
        assert sim.item() == pytest.approx(-0.7 * likeness) and full.item() == pytest.approx(
            -0.7 * likeness + 0.3 * variance)


def model_of(*books):
    first = SimpleNamespace(embedding=books[0])
    return SimpleNamespace(codebook=first, parts=[*books]) if len(books) > 1 else SimpleNamespace(codebook=first)


def test_each_of_several_codebooks_gives_k_dimensions():
    first, second = torch.randn(9, 6), torch.randn(5, 4)
    found = subsets(model_of(first, second), Toc((3, 2)))
    assert list(found) == [3, 2]
    for k, dims in found.items():
        assert dims.tolist() == [*chosen_dims(scores(first), k).tolist(),
                                 *(chosen_dims(scores(second), k) + 6).tolist()]


@pytest.mark.parametrize("books, toc, words", [
    ([torch.randn(9, 6)], Toc((7,)), "--toc-dims 7: expected 1 to 6"),
    ([torch.randn(9, 6)], Toc((2,), "sim", (2, 1)), "--toc-dims 2: expected 3 to 6"),
    ([torch.randn(1, 6)], Toc((2,)), "a single code"),
])
def test_dimensions_that_there_are_not(books, toc, words):
    with pytest.raises(UserError, match=words):
        subsets(model_of(*books), toc)


class TwoDims(OneHotModel):
    """Codes that differ in their first two dimensions alone; the others are large and nearly the same in all."""

    def __init__(self):
        super().__init__()
        wave = torch.linspace(0, 6, self.size)
        self.book = 3 + 0.001 * torch.randn(self.size, 8, generator=torch.Generator().manual_seed(0))
        self.book[:, :2] = torch.stack([wave.sin(), wave.cos()], 1)
        self.codebook = torch.nn.Module()
        self.codebook.embedding, self.codebook.size = self.book, self.size

    offers = ("vectors", "codes")


def test_rows_stand_beside_those_of_whole_tokens(sets):
    model = TwoDims()
    plain = PairTask(*sets, PAIRS, FAST).run(model)
    task = PairTask(*sets, PAIRS, FAST._replace(toc=Toc((2, 4))))
    both = task.run(model)
    assert both[: len(plain)] == plain and len(both) == 2 * len(plain)
    for row in both[len(plain):]:
        assert (row["metric"], row["toc_dims"], row["toc_mix"]) == ("toc_accuracy", 2, "1:0")  # equals: the smaller k
        assert row["value"] == row["source_value"] == row["target_value"] == 100.0
        assert (row["source"], row["target"], "toc_accuracy") in task.clips
    probing = TocProbings(Probings(task, model))[ClipProbes, "video"]
    assert sorted(probing.encoded.dims.tolist()) == [0, 1] and probing.train.vectors.shape[1] == 2


def test_k_is_chosen_on_the_validation_split_of_the_source(sets, monkeypatch):
    """Of two dimensions that say nothing and six of which two tell all, the six."""
    model = TwoDims()
    monkeypatch.setattr("cmg.downstream.probing.subsets", lambda *_: {2: torch.tensor([6, 7]), 6: torch.arange(6)})
    rows = by_pair(PairTask(*sets, PAIRS, FAST._replace(toc=Toc((2, 6)))).run(model)[2:])
    assert [rows[pair]["toc_dims"] for pair in PAIRS] == [6, 6]


def test_command(sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cmg.downstream.task.build_model", lambda content, device, *_: TwoDims())
    shapes = {m: list(s) for m, s in OneHotModel.shapes.items()}
    checkpoint.save(tmp_path / "best.pt", {"format": 1, "args": {}, "shapes": shapes, "model": {}, "epoch": 3,
                                           "step": 9, "pretrain_ids": []})
    flags = [str(flag) for flag in (
        "--checkpoint", tmp_path / "best.pt", "--video-data", tmp_path / "video.h5", "--audio-data",
        tmp_path / "audio.h5", "--annotations", tmp_path / "lists", "--device", "cpu", "--probe-epochs", "12",
        "--probe-lr", "0.01", "--batch-size", "8", "--toc-dims")]
    rows = main([*flags, "4", "--toc-mix", "1:1", "--protocol", "paper", "--toc-score", "sim"])
    assert [row["metric"] for row in rows] == ["accuracy", "accuracy", "toc_accuracy", "toc_accuracy"]
    assert (rows[-1]["toc_dims"], rows[-1]["toc_score"], rows[-1]["toc_mix"]) == (4, "sim", "1:1")
    rows = main([*flags, "4"])
    assert len(read_clip_scores(tmp_path, rows[-1]).scores) == rows[-1]["n_test"]
    for wrong, said in (
        (["9"], "--toc-dims 9: expected 1 to 8, the width of a code vector"),
        (["2", "4", "--protocol", "paper"], "--toc-dims 2 4: paper has no split to choose on; expected one"),
        (["2", "--toc-mix", "3"], "'3' is not a mix best:worst"),
        (["2", "--toc-mix", "0:0"], "'0:0' is not a mix best:worst"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*flags, *wrong])
        assert stop.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_without_the_flag_nothing_is_asked_of_a_codebook():
    assert Settings().toc is None
