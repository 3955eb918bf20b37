"""FCID under the released arithmetic: one whole training step, its update and its read-outs, against the public
implementation's numbers."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cmg.losses.cross_cpc import CrossCPC
from cmg.methods.registry import build
from cmg.models.semantic import TemporalEncoder
from cmg.released import losses
from cmg.released.losses import ReleasedClipCLUB, ReleasedCLUB
from support import FIXTURES

M = {"v": "video", "a": "audio", "t": "text"}


def close(found, expected, tolerance=1e-9):
    assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def public():
    with np.load(FIXTURES / "fcid_step.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def names():
    """Prefixes of our parameters -> of the public ones."""
    found = {"model.semantic.video.grid.channel.": "encoder/v_gen_encoder.se_layer.",
             "specific.video.convs.": "encoder/v_spe_encoder.conv_stack.",
             "specific.video.convs.5.conv3.": "encoder/v_spe_encoder.conv_stack.5.stack.0.res_block.1.",
             "specific.video.convs.5.conv1.": "encoder/v_spe_encoder.conv_stack.5.stack.0.res_block.3.",
             "specific.video.head.": "encoder/v_spe_encoder.feed_forward.",
             "specific.audio.linear.": "encoder/a_spe_encoder.audio_linear.",
             "model.paths.timed.clip.": "encoder/va2vat.linear.", "model.paths.text.clip.": "encoder/t2vat.linear.",
             "terms.rec.decoders.audio.code.": "decoder/a_fine_decoder.audio_linear.",
             "terms.rec.decoders.audio.out.": "decoder/a_fine_decoder.audio_rec.",
             "terms.rec.decoders.video.code.": "decoder/v_fine_decoder.video_linear."}
    block = "decoder/v_fine_decoder.inverse_conv_block."
    for ours, theirs in {"up1": "0", "residual.conv3": "1.stack.0.res_block.1", "up2": "2", "out": "4",
                         "residual.conv1": "1.stack.0.res_block.3"}.items():
        found[f"terms.rec.decoders.video.{ours}."] = f"{block}{theirs}."
    for path, theirs in (("timed", "va"), ("text", "t")):
        for part in ("general", "specific"):
            found[f"model.paths.{path}.{part}."] = f"encoder/{theirs}_{part[:3]}_encoder.input_linear."
    for letter, m in M.items():
        found[f"model.semantic.{m}.temporal.project."] = f"encoder/{letter}_self_att.affine_matrix."
        found[f"model.semantic.{m}.temporal.encoder."] = f"encoder/{letter}_self_att.encoder."
        found[f"terms.coarse_rec.decoders.{m}.code."] = f"decoder/{letter}_coarse_decoder.simple_linear."
        found[f"terms.coarse_rec.decoders.{m}.out."] = f"decoder/{letter}_coarse_decoder.simple_rec."
        found[f"terms.cpc.context.{m}."], found[f"terms.cpc.predict.{m}."] = f"cpc/{m}_ar_lstm.", f"cpc/{m}_predictors."
    for ours, theirs in (("club.estimators.video", "video"), ("club.estimators.audio", "audio"),
                         ("coarse_club.estimators.timed", "audiovisual"), ("coarse_club.estimators.text", "text")):
        found[f"terms.{ours}.mean."], found[f"terms.{ours}.logvar."] = (
            f"club_{theirs}/{part}." for part in ("p_mu", "p_logvar"))
    return found


@pytest.fixture
def method(public):
    B, T, channels = public["audio"].shape
    D = public["out/a_gen"].shape[-1]
    shapes = {m: tuple(public[m].shape[1:]) for m in ("video", "audio", "text")}
    codes, width = len(public["encoder/Cross_quantizer_coarse.embedding"]), public["out/v_spe"].shape[-1]
    built = build("fcid", shapes, "official", dim=D, layers=1, codes=codes, specific_dim=width)
    for m, encoder in built.model.semantic.items():
        hidden = len(public[f"encoder/{m[0]}_self_att.encoder.layers.0.linear1.bias"])
        encoder.words = None  # word vectors go straight into the transformer
        encoder.temporal = TemporalEncoder(shapes[m][-1], D, 1, feedforward=hidden)
    for term, kind in (("club", ReleasedCLUB), ("coarse_club", ReleasedClipCLUB)):
        for name, q in built.terms[term].estimators.items():
            assert type(q) is kind
            public_name = {"timed": "audiovisual"}.get(name, name)
            first, last = (public[f"club_{public_name}/p_mu.{n}.weight"] for n in (0, 6))
            built.terms[term].estimators[name] = kind(first.shape[1], len(last), len(first))
    state, prefixes = {}, names()
    for key in built.state_dict():
        prefix = max((p for p in prefixes if key.startswith(p)), key=len, default=None)
        if prefix:
            state[key] = public[prefixes[prefix] + key.removeprefix(prefix)]
        else:
            assert key.startswith("model.codebook."), key
    built.double().load_state_dict(state, strict=False)
    book = built.model.codebook
    assert book.modalities == ("video", "audio", "text")
    for ours, theirs in (("embedding", "embedding"), ("weight", "ema_weight"), ("count", "ema_count")):
        getattr(book, ours).copy_(public[f"encoder/Cross_quantizer_coarse.{theirs}"])
    idle = public["encoder/Cross_quantizer_coarse.unactivated_count"]
    book.idle.copy_(idle.long().expand_as(book.idle))
    return built.eval()


def batch_of(public):
    found = {m: public[m] for m in M.values()}
    return found | {f"valid/{m}": torch.ones(x.shape[:2], dtype=torch.bool) for m, x in found.items()}


def test_one_step(public, method, monkeypatch):
    drawn = itertools.cycle(public[f"perm/{name}"] for name in ("video", "audio", "audiovisual", "text"))
    monkeypatch.setattr(losses, "shared_permutation", lambda n, device: next(drawn))
    cpc = type(method.terms["cpc"])
    step = int(public["cpc_t"])
    forward = next(cls for cls in cpc.__mro__ if cls is losses.ReleasedCrossCPC).forward
    monkeypatch.setattr(losses.ReleasedCrossCPC, "forward",
                        lambda self, z, valid, t=None: forward(self, z, valid, step))
    assert issubclass(cpc, CrossCPC)

    state = method.encode(batch_of(public))
    for letter, m in M.items():
        clip, general, specific = state.clips[m]
        close(clip, public[f"out/coarse_{letter}"])
        close(general, public[f"out/coarse_{letter}_gen"])
        close(specific, public[f"out/coarse_{letter}_spe"])
        close(state.quantized[m].straight, public[f"out/c_{letter}_vq"])
    close(state.specific["video"], public["out/v_spe"])
    close(state.pooled["video"], public["out/v_club"])
    found = method.losses(state)

    def total(term):
        return sum(value for key, value in found.items() if key.startswith(f"{term}/"))

    for term, theirs in (("rec", "fine_recon"), ("coarse_rec", "coarse_recon"), ("coarse", "infonce"), ("cpc", "cpc"),
                         ("commit", "commit")):
        close(total(term), public[f"loss/{theirs}"])
    close(total("cmcm"), public["loss/cmcm"], 1e-8)
    for key, theirs in (("club/video", "video"), ("club/audio", "audio"), ("coarse_club/timed", "audiovisual"),
                        ("coarse_club/text", "text")):
        close(found[key], public[f"loss/mi_{theirs}"])
        term, name = key.split("/")
        given = method.terms[term].pair(state, name)
        close(-method.terms[term].estimators[name].log_likelihood(*given), public[f"likelihood/{theirs}"])
    loss = sum(found.values())
    close(loss, public["loss/total"], 1e-8)

    loss.backward()
    parameters, prefixes, compared = dict(method.named_parameters()), names(), 0
    for key, parameter in parameters.items():
        prefix = max((p for p in prefixes if key.startswith(p)), key=len)
        theirs = prefixes[prefix] + key.removeprefix(prefix)
        if (gradient := public.get(f"grad/{theirs.removeprefix('encoder/')}")) is not None:
            close(parameter.grad, gradient, 1e-8)
            compared += 1
    assert compared == sum(key.startswith("grad/") for key in public)

    method.update(method.carry(state))
    book = method.model.codebook
    for ours, theirs in (("embedding", "embedding"), ("weight", "ema_weight"), ("count", "ema_count")):
        close(getattr(book, ours), public[f"after/{theirs}"], 1e-8)
    close(book.idle.amin(0), public["after/unactivated_count"])

    for m in ("audio", "video"):
        close(method.model.semantic[m](public[m]), public[f"probe/{m}_fine"])
        tokens = method.model.encode_modality(m, public[m])
        close(tokens.quantized, public[f"probe/{m}_second"], 1e-8)
        assert tokens.codes.tolist() == public[f"probe/{m}_second_codes"].tolist()
    words = method.model.encode_modality("text", public["text"])
    close(words.quantized, public["probe/text_clip"].unsqueeze(1).expand_as(words.quantized), 1e-8)
    assert words.codes[:, 0].tolist() == public["probe/text_clip_code"].tolist()
