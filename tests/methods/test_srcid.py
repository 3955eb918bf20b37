"""SRCID: when its second layer counts, what a token is, what it trains and what it refuses."""

import pytest
import torch

import cmg
from cmg.data.features import FeatureSet
from cmg.errors import UserError
from support import SHAPES, make_method, refused, rows, run, settings_of, write_clips

FLAGS = ("--method", "srcid", "--modalities", "video", "audio")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return str(write_clips(tmp_path_factory.mktemp("features") / "clips.h5"))


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    return run(clips, tmp_path_factory.mktemp("run") / "a", *FLAGS)


def test_the_second_layer_counts_from_its_epoch_on(trained):
    """Of two epochs from the second; of five from the fourth, as published; from where a flag says."""
    seen = [(row["epoch"], [row[key] for key in row if key.startswith("loss/second/rec")]) for row in rows(trained)]
    assert all((max(own) > 0) == (epoch == 1) for epoch, own in seen) and {epoch for epoch, _ in seen} == {0, 1}
    torch.manual_seed(0)
    for flags, epochs, begins in ((FLAGS, 5, 3), (FLAGS, 1, 0), ((*FLAGS, "--second-from", "2"), 9, 2)):
        term = make_method(settings_of(*flags), {m: SHAPES[m] for m in ("video", "audio")}).terms["second"]
        gates = []
        for epoch in range(epochs):
            term.begin_epoch(epoch, epochs)
            gates.append(term.gate.item())
        assert gates == [0.0] * begins + [1.0] * (epochs - begins)


def test_a_token_has_both_codes(trained, clips):
    model = cmg.load_pretrained(trained)
    features = FeatureSet(clips)
    batch = features.__getitems__(list(range(5)))
    for m in ("video", "audio"):
        tokens = model.encode(**{m: batch[m]})
        first, second = tokens.quantized.split(16, -1)
        assert torch.equal(first, model.codebook.embedding[tokens.codes])
        distances = torch.cdist(second, model.second.embedding).amin(-1)
        assert tokens.quantized.shape == (5, 6, 32) and distances.max() < 1e-5
    assert not torch.equal(model.second.embedding, model.second.embedding[:1].expand_as(model.second.embedding))


def test_the_second_layer_trains_psi_and_not_phi(clips):
    torch.manual_seed(0)
    built = make_method(settings_of(*FLAGS), {m: SHAPES[m] for m in ("video", "audio")}).eval()
    built.begin_epoch(4, 5)
    state = built.encode(FeatureSet(clips, ["video", "audio"]).__getitems__(list(range(8))))
    sum(built.terms["second"](state).values()).backward()
    assert all(p.grad is None for p in built.model.semantic.parameters())
    for part in (built.model.specific, built.model.encoders, built.terms["second"].decoders):
        assert all(p.grad.abs().max() > 0 for p in part.parameters())
    before = built.model.second.embedding.clone()
    built.update(built.carry(state))
    assert not torch.equal(built.model.second.embedding, before)


def test_seconds_at_random_are_refused(clips, tmp_path, capsys):
    line = refused(capsys, "--data", clips, "--out", str(tmp_path / "x"), "--preset", "small", *FLAGS,
                   "--specific-steps", "2")
    assert "--specific-steps 2: srcid encodes what Ψ gives second after second; expected 0" in line
    with pytest.raises(UserError, match="srcid has a codebook of its own kind"):
        cmg.build("srcid+turn", SHAPES)
