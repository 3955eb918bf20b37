"""The query transformer against numbers of the public implementation: masks, passes, losses, gradients, sentences."""

import numpy as np
import pytest
import torch
from torch import nn

from cmg.losses.captioning import contrast, draw, next_piece, rival_probabilities
from cmg.models.uniq4cap import masks
from cmg.models.uniq4cap.captioner import Captioner
from cmg.models.uniq4cap.generation import Marks, WritingConfig, to_draw_from, write
from cmg.models.uniq4cap.transformer import TransformerConfig
from support import FIXTURES

FIXTURE = np.load(FIXTURES / "uniq_captioner.npz", allow_pickle=False)
GRADS = np.load(FIXTURES / "uniq_captioner_grads.npz", allow_pickle=False)
MASKS = np.load(FIXTURES / "uniq_masks.npz", allow_pickle=False)
SENTENCES = np.load(FIXTURES / "uniq_generate.npz", allow_pickle=False)
OURS = {
    "emb/word": "transformer.word.weight", "emb/pos": "transformer.position.weight",
    "emb/norm_w": "transformer.norm.weight", "emb/norm_b": "transformer.norm.bias",
    "lm/bias": "transformer.head_bias", "lm/dense_w": "transformer.head.weight", "lm/dense_b": "transformer.head.bias",
    "lm/norm_w": "transformer.head_norm.weight", "lm/norm_b": "transformer.head_norm.bias",
    "query_tokens": "transformer.query_tokens", "mtc_temperature": "temperature",
    "mtc_query_proj_w": "query_side.weight", "mtc_query_proj_b": "query_side.bias",
    "mtc_text_proj_w": "text_side.weight", "mtc_text_proj_b": "text_side.bias",
    "mtm_head_w": "matches.weight", "mtm_head_b": "matches.bias",
}
PARTS = {"self": "attention", "cross": "cross", "ffn_text": "words", "ffn_query": "queries"}


def our_name(name):
    """The name of a weight of the fixture in `Captioner`."""
    if name in OURS:
        return OURS[name]
    stem, leaf = name.rsplit("_", 1)
    leaf = {"w": "weight", "b": "bias"}[leaf]
    if stem.startswith("feat_"):
        _, part, m = stem.split("_")
        return f"{'source_norm' if part == 'norm' else 'source'}.{m}.{leaf}"
    layer, part = stem.split("/")
    part, place = part.rsplit("_", 1)
    return f"transformer.layers.{layer.removeprefix('layer')}.{PARTS[part]}.{'into' if place == 'in' else place}.{leaf}"


def tensor(name, fixture=FIXTURE):
    x = torch.from_numpy(fixture[name])
    return x.double() if x.is_floating_point() else x


@pytest.fixture
def captioner():
    """The tiny model of the fixture, in float64 and eval mode."""
    w = {name: FIXTURE[name] for name in FIXTURE.files if name.startswith("w/")}
    V, D = w["w/emb/word"].shape
    config = TransformerConfig(
        caption_width=D, caption_layers=int(FIXTURE["layers"]), caption_heads=int(FIXTURE["heads"]),
        caption_hidden=len(w["w/layer0/ffn_text_in_b"]), queries=int(FIXTURE["n_queries"]),
        cross_every=int(FIXTURE["cross_every"]), source_width=len(w["w/feat_proj_video_b"]),
        caption_words=len(w["w/emb/pos"]))
    shapes = {m: FIXTURE[f"{m}_features"].shape[1:] for m in ("video", "audio")}
    shapes["text"] = (1, FIXTURE["ids"].shape[1])
    model = Captioner(shapes, nn.ModuleDict(), V, config, len(w["w/mtc_text_proj_b"])).double()
    state = {our_name(name.removeprefix("w/")): torch.from_numpy(value) for name, value in w.items()}
    assert {name: x.shape for name, x in state.items()} == {name: x.shape for name, x in model.named_parameters()}
    model.load_state_dict(state)
    return model.eval()


def features():
    return {m: tensor(f"{m}_features") for m in ("video", "audio")}


def close(found, wanted, tolerance=1e-8):
    torch.testing.assert_close(found.detach(), wanted, rtol=tolerance, atol=tolerance)


# -- who sees whom -----------------------------------------------------------------------------------------------------


def test_masks():
    exists, Q = torch.from_numpy(MASKS["text_mask"]).bool(), int(MASKS["n_queries"])
    wanted = {name: torch.from_numpy(MASKS[name]) for name in MASKS.files if MASKS[name].dtype == bool}
    assert wanted["mtc_query_pass"].all() and wanted["mtc_query_pass"].shape[1] == Q  # no mask
    assert torch.equal(masks.among_words(exists), wanted["mtc_text_pass"])
    assert torch.equal(masks.everyone(exists, Q), wanted["mtm_joint_pass"])
    assert torch.equal(masks.causal(exists, Q), wanted["mgm_text_rows"])
    assert torch.equal(wanted["mgm_joint_rows"][:, Q:], wanted["mgm_text_rows"])  # which two passes compute
    assert not wanted["mgm_joint_rows"][:, :Q, Q:].any() and wanted["mgm_joint_rows"][:, :Q, :Q].all()


def test_no_position_knows_a_later_piece(captioner):
    """Another piece at position t moves the scores from t on, and no earlier one, nor a query or what is seen."""
    ids = tensor("ids")
    source, seen = captioner.sources(features())
    _, prefix = captioner.asked(source, seen)
    with torch.no_grad():
        before = captioner.following(prefix, ids)
        for t in range(1, ids.shape[1]):
            changed = ids.clone()
            changed[:, t] = torch.where(ids[:, t] == 0, 0, (ids[:, t] + 5) % 20 + 3)
            moved = (captioner.following(prefix, changed) - before).abs().amax(2)  # (B, L)
            assert not moved[:, :t].any()
            assert (moved[:, t] > 1e-6).equal(ids[:, t] != 0)
        alone, _ = captioner.asked(source, seen)
        assert torch.equal(alone, captioner.asked(source, seen)[0])


def test_padding_changes_nothing(captioner):
    """Pieces after the end, and seconds that do not exist, are not looked at."""
    ids, real = tensor("ids"), {"video": torch.ones(5, 5, dtype=torch.bool)}
    real["video"][:, 3:] = False
    cut = {m: x[:, :3] if m == "video" else x for m, x in features().items()}
    whole = captioner.sources(features(), real)
    with torch.no_grad():
        close(captioner.asked(*whole)[0], captioner.asked(*captioner.sources(cut))[0], 1e-12)
        longer = torch.nn.functional.pad(ids, (0, 3))
        close(captioner.matching(*whole, longer), captioner.matching(*whole, ids), 1e-12)


# -- passes, losses, gradients -----------------------------------------------------------------------------------------


def three_losses(model, own_side=False):
    """The losses of the fixture's batch, with the rivals that it drew, and all that it has on the way."""
    ids = tensor("ids")
    source, seen = model.sources(features())
    queries, prefix = model.asked(source, seen)
    words = model.read(ids)
    mtc, of_clips, of_texts = contrast(model.query_vectors(queries), model.text_vectors(words), model.temperature,
                                       float(FIXTURE["label_smoothing"]), own_side)
    av, text = tensor("neg_av_index"), tensor("neg_text_index")
    clips = [torch.cat([x, x[av], x]) for x in (source, seen)]
    captions = torch.cat([ids, ids, ids[text]])
    logits = model.matching(*clips, captions)
    labels = torch.cat([torch.ones(len(ids)), torch.zeros(2 * len(ids))]).long()
    scores = model.following(prefix, ids)
    losses = mtc, nn.functional.cross_entropy(logits, labels), next_piece(scores, ids, 0)
    return losses, locals()


def test_passes_and_losses(captioner):
    losses, way = three_losses(captioner)
    close(way["source"], tensor("encoder_tokens"))
    close(way["queries"], tensor("query_pass"))
    close(way["words"], tensor("text_pass"))
    close(captioner.query_vectors(way["queries"]), tensor("mtc_query_feat"))
    close(captioner.text_vectors(way["words"]), tensor("mtc_text_feat"))
    close(captioner.together(way["source"], way["seen"], way["ids"]), tensor("joint_pass"))
    close(way["logits"], tensor("mtm_logits"))
    close(way["scores"], tensor("mgm_logits"))
    close(rival_probabilities(way["of_texts"], 0), tensor("neg_prob_av_for_text"))
    close(rival_probabilities(way["of_clips"], 0), tensor("neg_prob_text_for_av"))
    for loss, name in zip(losses, ("mtc", "mtm", "mgm")):
        close(loss, tensor(f"loss_{name}"))
    plain = next_piece(way["scores"], way["ids"], 0, smoothing=0.0)
    close(plain, tensor("mgm_loss_no_smoothing_check"))


@pytest.mark.parametrize("own_side", [False, True], ids=["g", "gathered"])
def test_gradients(captioner, own_side):
    losses, _ = three_losses(captioner, own_side)
    sum(losses).backward()
    prefix = "gathered/" if own_side else "g/"
    wanted = {our_name(n.removeprefix(prefix)): tensor(n, GRADS) for n in GRADS.files if n.startswith(prefix)}
    assert own_side or wanted.keys() == dict(captioner.named_parameters()).keys()
    for name, gradient in wanted.items():
        close(captioner.get_parameter(name).grad, gradient.view_as(captioner.get_parameter(name)))


def test_rivals_are_drawn_as_likely_as_they_are():
    """Uniform numbers on a fine grid hit each column as often as its probability says, and its own never."""
    scores = torch.tensor([[1.0, 2.0, 0.0], [0.5, 9.0, 0.5], [3.0, 1.0, 4.0]]).double()
    likely = rival_probabilities(scores, 0)
    grid = (torch.arange(30_000).double() + 0.5) / 30_000
    for row in range(3):
        found = draw(likely[row].expand(len(grid), -1), grid).bincount(minlength=3) / len(grid)
        close(found.double(), likely[row], 1e-4)
        assert found[row] == 0
    ends = torch.tensor([0.0, 1 - 1e-16, 1 - 1e-16]).double()
    assert all(drawn != row for row, drawn in enumerate(draw(likely, ends).tolist()))


# -- sentences ---------------------------------------------------------------------------------------------------------


def cases():
    return range(int(SENTENCES["n_gen"]))


@pytest.mark.parametrize("number", cases())
def test_sentences_piece_by_piece(captioner, number):
    """Greedy, and beams with all rules, against ids and scores of the public search."""
    case = {name.split("/")[1]: SENTENCES[name] for name in SENTENCES.files if name.startswith(f"gen{number}/")}
    with torch.no_grad():
        captioner.transformer.head_bias.copy_(tensor("lm_bias", SENTENCES))
    _, prefix = captioner.asked(*captioner.sources(features()))
    config = WritingConfig(**{name: case[name].item() for name in (
        "beams", "min_length", "max_length", "length_penalty", "repetition_penalty")})
    end = int(FIXTURE["sep_id"])
    ids, scores = write(captioner.transformer, prefix, Marks(int(FIXTURE["dec_id"]), end), config)

    def sentence(row):
        row = list(row)
        return row[: row.index(end) + 1] if end in row else row

    for mine, theirs in zip(ids.tolist(), case["ids"].tolist(), strict=True):
        assert sentence(mine) == sentence(theirs)
    if "score" in case:
        np.testing.assert_allclose(scores, case["score"], rtol=1e-6)


def test_the_pieces_that_are_drawn_from():
    probabilities = to_draw_from(tensor("sampling/logits", SENTENCES).log_softmax(1), 50, 0.9)
    close(probabilities, tensor("sampling/probs", SENTENCES))


def test_drawn_sentences_follow_the_seed(captioner):
    _, prefix = captioner.asked(*captioner.sources(features()))
    config, marks = WritingConfig(beams=1, draw=True, max_length=9), Marks(captioner.start, int(FIXTURE["sep_id"]))
    one, again, other = (write(captioner.transformer, prefix, marks, config, torch.Generator().manual_seed(seed))[0]
                         for seed in (0, 0, 1))
    assert torch.equal(one, again) and not (one.shape == other.shape and torch.equal(one, other))
