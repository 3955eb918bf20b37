"""H-DCID's second layer under the released arithmetic: losses, gradients into Ψ, both codebooks' update, read-outs."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cmg.downstream.toc import Toc, subsets
from cmg.methods.registry import build
from cmg.models.semantic import TemporalEncoder
from cmg.models.specific import VectorSpecific
from cmg.released import losses
from cmg.released.losses import ReleasedCLUB
from support import FIXTURES

M = {"a": "audio", "v": "video", "t": "text"}


def close(found, expected, tolerance=1e-9):
    assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def public():
    with np.load(FIXTURES / "srcid_step.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def names():
    """Prefixes of our parameters -> of the public ones."""
    found = {"model.semantic.video.grid.channel.": "encoder/video_semantic_encoder.se_layer.",
             "model.specific.video.convs.": "encoder/Video_encoder.conv_stack.",
             "model.specific.video.convs.5.conv3.": "encoder/Video_encoder.conv_stack.5.stack.0.res_block.1.",
             "model.specific.video.convs.5.conv1.": "encoder/Video_encoder.conv_stack.5.stack.0.res_block.3.",
             "model.specific.video.head.": "encoder/Video_encoder.feed_forward."}
    for m in M.values():
        for ours, theirs in (("semantic." + m + ".temporal", f"{m}_self_att"), (f"encoders.{m}", f"{m}_self_att_2")):
            found[f"model.{ours}.project."] = f"encoder/{theirs}.affine_matrix."
            found[f"model.{ours}.encoder."] = f"encoder/{theirs}.encoder."
        if m != "video":
            found[f"model.specific.{m}.linear."] = f"encoder/{m.title()}_encoder.{m}_linear."
        second = "terms.second."
        found[f"{second}specific.{m}.linear."] = f"encoder/{m.title()}_encoder_2.input_linear."
        found[f"{second}decoders.{m}.code."] = f"decoder/{m.title()}_decoder_2.simple_linear."
        found[f"{second}decoders.{m}.out."] = f"decoder/{m.title()}_decoder_2.simple_rec."
        for ours, theirs in (("mean", "p_mu"), ("logvar", "p_logvar")):
            found[f"{second}parts.club.estimators.{m}.{ours}."] = f"club_{m}_2/{theirs}."
    return found


@pytest.fixture
def method(public):
    shapes = {m: tuple(public[m].shape[1:]) for m in ("video", "audio", "text")}
    D, width = public["out/a_sem"].shape[-1], len(public["encoder/Video_encoder.conv_stack.2.weight"])
    layers = len({key.split(".")[3] for key in public if key.startswith("encoder/audio_self_att.encoder.layers.")})
    built = build("srcid", shapes, "official", dim=D, layers=layers, specific_dim=width,
                  codes=public["encoder/Cross_quantizer.embedding"].shape[1])
    model, second = built.model, built.terms["second"]
    for m, encoder in model.semantic.items():
        def temporal(of):
            project, hidden = (public[f"encoder/{of}.{key}.weight"] for key in (
                "affine_matrix", "encoder.layers.0.linear1"))
            return TemporalEncoder(project.shape[1], D, layers, feedforward=len(hidden))

        encoder.words = None  # word vectors go straight into the transformer
        encoder.temporal, model.encoders[m] = temporal(f"{m}_self_att"), temporal(f"{m}_self_att_2")
        q, first = second.parts["club"].estimators[m], public[f"club_{m}_2/p_mu.0.weight"]
        assert type(q) is ReleasedCLUB
        second.parts["club"].estimators[m] = ReleasedCLUB(
            first.shape[1], len(public[f"club_{m}_2/p_mu.6.bias"]), len(first))
    model.specific["text"] = VectorSpecific(*reversed(public["encoder/Text_encoder.text_linear.weight"].shape))
    state, prefixes = {}, names()
    for key in built.state_dict():
        if prefix := max((p for p in prefixes if key.startswith(p)), key=len, default=None):
            state[key] = public[prefixes[prefix] + key.removeprefix(prefix)]
    assert {key.split(".")[1] for key in built.state_dict() if key.startswith("model.") and key not in state} == {
        "codebook", "second"}
    assert all("cpc" in key for key in built.state_dict() if key.startswith("terms.second.") and key not in state)
    built.double().load_state_dict(state, strict=False)
    for book, number in zip(model.codebooks, range(2)):
        for ours, theirs in (("embedding", "embedding"), ("weight", "ema_weight"), ("count", "ema_count")):
            getattr(book, ours).copy_(public[f"encoder/Cross_quantizer.{theirs}"][number])
        book.idle.copy_(public["encoder/Cross_quantizer.unactivated_count"][number].long().expand_as(book.idle))
    second.begin_epoch(3, 5)
    return built.eval()


def test_second_layer(public, method, monkeypatch):
    order = [public[f"perm/{m}_2"] for m in method.model.modalities]
    drawn = itertools.cycle(order)
    monkeypatch.setattr(losses, "shared_permutation", lambda n, device: next(drawn))
    batch = {m: public[m] for m in M.values()}
    batch |= {f"valid/{m}": torch.ones(x.shape[:2], dtype=torch.bool) for m, x in batch.items()}
    state, second = method.encode(batch), method.terms["second"]
    for letter, m in M.items():
        close(state.semantic[m], public[f"out/{letter}_sem"])
        close(state.pooled[m], public[f"out/{letter}_{'club' if m == 'video' else 'spe'}"])
        close(state.second.semantic[m], public[f"out/{letter}_sem_2"])
        close(second.layer(state).specific[m], public[f"out/{letter}_spe_2"])
        close(state.quantized[m].straight, public[f"out/{letter}_vq"])
        close(state.second.quantized[m].straight, public[f"out/{letter}_vq_2"])
    found = second(state)
    for letter, m in M.items():
        for ours, theirs in (("commit", "commit"), ("club", "mi"), ("rec", "recon")):
            close(found[f"{ours}_{m}"], public[f"layer_2/{letter}_{theirs}"])
    loss = sum(x for key, x in found.items() if not key.startswith("cpc_"))
    close(loss, public["layer_2/sum_without_cpc"])
    weighted = sum(method.weights["second"] * x for key, x in found.items() if not key.startswith("cpc_"))
    total, one, cpc = (public[key] for key in ("total_from_epoch_3", "layer_1/sum", "layer_2/cpc"))
    close(weighted + one + method.weights["second"] * cpc, total)

    loss.backward()
    prefixes, compared = names(), 0
    for key, parameter in method.named_parameters():
        if not (prefix := max((p for p in prefixes if key.startswith(p)), key=len, default=None)):
            continue
        theirs = (prefixes[prefix] + key.removeprefix(prefix)).removeprefix("encoder/")
        if (gradient := public.get(f"grad_of_layer_2_sum_without_cpc/{theirs}")) is not None:
            close(parameter.grad, gradient, 1e-8)
            compared += 1
    assert compared == sum(key.startswith("grad_of") for key in public)
    assert all(p.grad is None for p in method.model.semantic.parameters())  # Φ learns nothing from it

    method.update(method.carry(state))
    for number, book in enumerate(method.model.codebooks):
        for ours, theirs in (("embedding", "embedding"), ("weight", "ema_weight"), ("count", "ema_count")):
            close(getattr(book, ours), public[f"after/{theirs}"][number], 1e-8)


def test_read_out(public, method):
    """With the codebooks after the update: tokens of both layers side by side, and TOC's dimensions of each."""
    for number, book in enumerate(method.model.codebooks):
        book.embedding.copy_(public["after/embedding"][number])
    chosen = subsets(method.model, Toc((public["probe/toc_dims"].shape[1],)))
    (dims,) = chosen.values()
    D = method.model.codebook.embedding.shape[1]
    assert dims.tolist() == [*public["probe/toc_dims"][0].tolist(), *(public["probe/toc_dims"][1] + D).tolist()]
    for m in M.values():
        tokens = method.model.encode_modality(m, public[m])
        close(tokens.quantized, public[f"probe/{m}/full"], 1e-8)
        if m != "text":
            assert tokens.codes.tolist() == public[f"probe/{m}/codes_1"].tolist()
            close(tokens.quantized[..., dims], public[f"probe/{m}/toc"], 1e-8)
