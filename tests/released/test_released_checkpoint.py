"""Checkpoints in the public layout: every published key and shape, the codes, and the way back."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import cmg
from cmg import pretrain
from cmg.data.features import FeatureWriter
from cmg.errors import UserError
from cmg.released import checkpoints as released
from cmg.training import checkpoint
from support import FIXTURES

PUBLISHED = json.loads((FIXTURES / "official_checkpoint_keys.json").read_text())
BIG = 600_000  # elements; a larger tensor is one number, stretched: its file takes no space


def random_public(kind):
    """A randomly weighted checkpoint of exactly the published keys and shapes, float64."""
    generator = torch.Generator().manual_seed(3)
    content = {}
    for group, keys in PUBLISHED[kind].items():
        if group == "_other_top_level_keys":
            content |= {name: {} for name in keys} | {"epoch": 3, "total_step": 1200}
            continue
        content[group] = {}
        for key, shape in keys.items():
            count = 1 if math.prod(shape) > BIG else math.prod(shape)
            value = torch.randn(count, generator=generator).double() / shape[-1] ** 0.5
            value += 1 if ".norm" in key and key.endswith("weight") else 0  # or every step would choose one code
            content[group][key] = value.expand(math.prod(shape)).view(shape) if count == 1 else value.view(shape)
    book = content["Encoder_parameters"]
    book["Cross_quantizer.embedding"] *= 16  # as large as what a LayerNorm puts out, so that many codes are used
    book["Cross_quantizer.unactivated_count"] = torch.arange(400.0, dtype=torch.float64) - 1
    return content


@pytest.fixture(scope="module")
def public():
    return random_public("AVT")


@pytest.fixture(scope="module")
def file(public, tmp_path_factory):
    path = tmp_path_factory.mktemp("public") / "DCID-model-3.pt"
    torch.save(public, path)
    return path


def temporal(p, m, x):
    """The public transformer, written out: x [B, T, C] -> [B, T, 256]."""
    def of(key):
        return p[f"{m}_self_att.{key}"]

    x = x @ of("affine_matrix.weight").t() + of("affine_matrix.bias")
    for i in range(2):
        layer = f"encoder.layers.{i}."
        q, k, v = (x @ of(layer + "self_attn.in_proj_weight").t() + of(layer + "self_attn.in_proj_bias")).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (4, 64)).transpose(1, 2) for y in (q, k, v))  # (B, 4, T, 64)
        y = ((q @ k.transpose(2, 3) / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = y @ of(layer + "self_attn.out_proj.weight").t() + of(layer + "self_attn.out_proj.bias")
        x = F.layer_norm(x + y, (256,), of(layer + "norm1.weight"), of(layer + "norm1.bias"))
        y = torch.relu(x @ of(layer + "linear1.weight").t() + of(layer + "linear1.bias"))
        y = y @ of(layer + "linear2.weight").t() + of(layer + "linear2.bias")
        x = F.layer_norm(x + y, (256,), of(layer + "norm2.weight"), of(layer + "norm2.bias"))
    return x


def public_semantic(content, m, x):
    p = content["Encoder_parameters"]
    if m == "video":
        mean = x.mean((2, 3))
        squeezed = torch.relu(mean @ p["video_semantic_encoder.se_layer.0.weight"].t())
        gate = torch.sigmoid(squeezed @ p["video_semantic_encoder.se_layer.2.weight"].t())
        x = (x * (1 + gate)[:, :, None, None]).sum((2, 3))  # the softmax over one cell is 1: a sum
    if m == "text":
        lstm = torch.nn.LSTM(768, 128, 2, batch_first=True, bidirectional=True).double()
        lstm.load_state_dict(content["Text_ar_lstm_parameters"])
        x = lstm(x)[0]
    return temporal(p, m, x)


@pytest.mark.parametrize("m, shape", [("video", (2, 10, 7, 7, 512)), ("audio", (8, 10, 128)), ("text", (8, 10, 768))])
def test_codes_are_those_of_the_public_arithmetic(public, file, m, shape):
    model = cmg.load_pretrained(file)
    assert model.modalities == ("audio", "video", "text") and not model.training
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tokens = model.encode(**{m: x})
    with torch.no_grad():
        z = public_semantic(public, m, x)
    book = public["Encoder_parameters"]["Cross_quantizer.embedding"]
    codes = (z.unsqueeze(2) - book).square().sum(-1).argmin(-1)
    assert_close(tokens.semantic, z, rtol=1e-9, atol=1e-9)
    assert torch.equal(tokens.codes, codes) and len(codes.unique()) > 3
    assert torch.equal(tokens.quantized, book[codes])
    half = model.encode_modality(m, x.float())  # what feature files hold
    assert half.codes.shape == codes.shape and half.semantic.dtype == torch.float64


@pytest.mark.parametrize("kind", ["AV", "AVT"])
def test_every_published_key_and_shape_is_known(kind):
    """On the meta device, so that the 0.9 GB are not made."""
    shapes = {"video": (10, 7, 7, 512), "audio": (10, 128)} | ({"text": (10, 768)} if kind == "AVT" else {})
    ours, names, unmodelled = released.expected(shapes, released.official_options())
    known = {public: list(ours[own]) for own, public in names.items()} | {k: list(s) for k, s in unmodelled.items()}
    known[released.COUNTER] = [400]
    groups = {g: keys for g, keys in PUBLISHED[kind].items() if g != "_other_top_level_keys"}
    assert known == {f"{group}/{key}": shape for group, keys in groups.items() for key, shape in keys.items()}
    left = {key for key in ours if key not in names}
    assert left == {f"model.codebook.{name}" for name in ("idle", "usage", "skipped", "revived")}


def test_round_trip_is_exact_but_for_what_no_output_reads(public):
    back = released.to_public(released.from_public(public, "a.pt"), "a.pt")
    assert (back["epoch"], back["total_step"]) == (3, 1200)
    _, _, unmodelled = released.expected({"video": (10, 7, 7, 512), "audio": (10, 128), "text": (10, 768)},
                                         released.official_options())
    for group in released.GROUPS + released.TEXT_GROUPS:
        assert back[group].keys() == public[group].keys()
        for key, value in back[group].items():
            original = public[group][key]
            assert value.dtype == torch.float64
            expected = torch.zeros_like(original) if f"{group}/{key}" in unmodelled else original
            assert torch.equal(value, expected), key
    assert len(unmodelled) == 6 + 3 * 12 + 3 * 4


def test_command_converts_there_and_back(tmp_path):
    source, ours, theirs = tmp_path / "DCID-model-2.pt", tmp_path / "ours.pt", tmp_path / "theirs.pt"
    content = random_public("AV")
    torch.save(content, source)
    released.main([str(source), str(ours)])
    read = checkpoint.read(ours)
    assert read["shapes"] == {"video": [10, 7, 7, 512], "audio": [10, 128]} and read["pretrain_ids"] == []
    x = torch.randn(2, 10, 128)
    first, second = (cmg.load_pretrained(path).encode(audio=x).codes for path in (ours, source))
    assert torch.equal(first, second)
    released.main([str(ours), str(theirs)])
    again = torch.load(theirs, weights_only=True)
    key = "conv_stack.0.weight"
    assert torch.equal(again["Encoder_parameters"][f"Video_encoder.{key}"],
                       content["Encoder_parameters"][f"Video_encoder.{key}"])


@pytest.mark.parametrize("change, message", [
    (lambda c: c["Encoder_parameters"].update(extra=torch.zeros(1)), "unknown key 'Encoder_parameters/extra'"),
    (lambda c: c.update(Extra={}), "unknown entry 'Extra'"),
    (lambda c: c["CPC_parameters"].pop("video_predictors.0.bias"), "missing key 'CPC_parameters/video_pred"),
    (lambda c: c.pop("CPC_parameters"), "missing entry 'CPC_parameters'"),
    (lambda c: c["Encoder_parameters"].pop("Cross_quantizer.embedding"), "missing key"),
    (lambda c: c["Encoder_parameters"].update({"Audio_encoder.audio_linear.bias": torch.zeros(3)}), "has shape"),
    (lambda c: c["Encoder_parameters"].update({"Cross_quantizer.unactivated_count": torch.full((400,), 0.5)}), "whole"),
])
def test_anything_else_is_refused_in_one_line(public, change, message):
    content = {group: dict(value) if isinstance(value, dict) else value for group, value in public.items()}
    change(content)
    with pytest.raises(UserError, match=message) as error:
        released.from_public(content, "theirs.pt")
    assert "\n" not in str(error.value) and str(error.value).startswith("theirs.pt: ")


@pytest.mark.parametrize("groups, times", [(["Encoder_parameters"], 1), (released.GROUPS + released.TEXT_GROUPS, 2)])
def test_modules_saved_under_data_parallel_are_the_same_modules(public, groups, times):
    wrapped = public | {group: {"module." * times + key: value for key, value in public[group].items()}
                        for group in groups}
    ours, same = (released.from_public(content, "theirs.pt") for content in (public, wrapped))
    for part in ("model", "rest"):
        assert ours[part].keys() == same[part].keys()
        assert all(torch.equal(value, same[part][key]) for key, value in ours[part].items())
    half = public["CPC_parameters"] | {"module.video_predictors.0.bias": torch.zeros(1)}
    with pytest.raises(UserError, match="unknown key 'CPC_parameters/module.video_pred"):
        released.from_public(public | {"CPC_parameters": half}, "theirs.pt")


def test_inference_part_alone_cannot_be_exported(public):
    content = released.from_public(public, "a.pt")
    del content["rest"]
    with pytest.raises(UserError, match="only Φ and the codebook"):
        released.to_public(content, "best.pt")


@pytest.mark.parametrize("modalities", [("video", "audio"), ("video", "audio", "text")])
def test_a_run_of_any_size_goes_to_their_format_and_back(tmp_path, modalities):
    """Two steps with `--preset official` on features and with a Ψ that are not of the published sizes."""
    shapes = {"video": (10, 7, 7, 8), "audio": (10, 6), "text": (10, 5)}
    x = {m: np.random.default_rng(0).normal(size=(8, *shapes[m])) for m in modalities}
    with FeatureWriter(tmp_path / "a.h5", {m: shapes[m] for m in modalities}, {"seconds_per_step": 1.0}) as writer:
        writer.append([f"clip_{i}" for i in range(8)], x)
    run, theirs = tmp_path / "run", tmp_path / "DCID-model-0.pt"
    pretrain.main(["--data", str(tmp_path / "a.h5"), "--out", str(run), "--preset", "official", "--specific-dim", "12",
                   "--codes", "16", "--dim", "32", "--batch-size", "4", "--max-steps", "2", "--device", "cpu"])
    released.main([str(run / "latest.pt"), str(theirs)])
    written = torch.load(theirs, weights_only=True)
    for group, keys in PUBLISHED["AVT" if "text" in modalities else "AV"].items():
        if not group.startswith("_"):
            assert written[group].keys() == keys.keys()
    ours, back = checkpoint.build_model(checkpoint.read(run / "latest.pt")).double(), cmg.load_pretrained(theirs)
    assert checkpoint.read(theirs)["args"]["specific_dim"] == 12
    for m in modalities:
        features = torch.from_numpy(x[m])
        first, second = (model.encode(**{m: features}) for model in (ours, back))
        assert torch.equal(first.codes, second.codes) and torch.equal(first.semantic, second.semantic)
