"""The `released` arithmetic against numbers of the public implementation: 1e-9 in float64, module by module."""


import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cmg.methods.codebook.method import State
from cmg.metrics.codebook import perplexity
from cmg.models.semantic import TemporalEncoder
from cmg.models.specific import GridDecoder, VectorDecoder, VectorSpecific
from cmg.released.losses import ReleasedCLUB, ReleasedCodeMatching, ReleasedCommitment, ReleasedCrossCPC
from cmg.released.networks import ReleasedCodebook, ReleasedGridSpecific, SummedGrid
from support import DEVICE, FIXTURES


def fixture(name):
    """Arrays of a fixture as float64 tensors, and its `state/…` entries apart."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = {k: torch.from_numpy(file[k]).to(DEVICE) for k in file.files}
    state = {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}
    return {k: v for k, v in arrays.items() if not k.startswith("state/")}, state


def load(module, state, names):
    """Load `state` into a float64 module; names maps our parameter prefixes to the public ones."""
    own = {}
    for key in module.state_dict():
        prefix = max((p for p in names if key.startswith(p)), key=len)
        own[key] = state[names[prefix] + key.removeprefix(prefix)]
    module.double().load_state_dict(own, strict=True)
    return module.to(DEVICE).eval()


def close(actual, expected):
    assert_close(actual.double(), torch.as_tensor(expected, device=DEVICE).double(), rtol=1e-9, atol=1e-9)


def test_video_semantic_pool():
    data, state = fixture("video_semantic_pool")
    grid = data["video"].shape[2:4]
    pool = load(SummedGrid(16, grid.numel()), state, {"channel": "se_layer"})
    close(pool(data["video"]), data["out"])
    close(pool(data["video"].mean((2, 3))), data["out"])  # all that it reads


def test_temporal_encoder():
    data, state = fixture("temporal_encoder")
    encoder = load(TemporalEncoder(12, 8), state, {"project": "affine_matrix", "encoder": "encoder"})
    close(encoder(data["x"]), data["out"])
    close(encoder(data["x"], torch.ones(4, 10, dtype=torch.bool, device=DEVICE)), data["out"])


def test_video_specific_encoder():
    data, state = fixture("video_specific_encoder")
    names = {"convs": "conv_stack", "convs.5.conv3": "conv_stack.5.stack.0.res_block.1",
             "convs.5.conv1": "conv_stack.5.stack.0.res_block.3", "head": "feed_forward"}
    out_map, pooled = load(ReleasedGridSpecific(16, 24), state, names)(data["video"])
    close(out_map, data["out_map"])
    close(pooled, data["out_pooled"])


def test_audio_specific_encoder():
    data, state = fixture("audio_specific_encoder")
    out, pooled = load(VectorSpecific(12, 14), state, {"linear": "audio_linear"})(data["x"])
    close(out, data["out"])
    close(pooled, data["out"])


def test_video_decoder():
    data, state = fixture("video_decoder")
    block = "inverse_conv_block"
    names = {"code": "video_linear", "up1": f"{block}.0", "up2": f"{block}.2", "out": f"{block}.4",
             "residual.conv3": f"{block}.1.stack.0.res_block.1", "residual.conv1": f"{block}.1.stack.0.res_block.3"}
    out = load(GridDecoder(8, 24, 16), state, names)(data["code"], data["specific"])
    close(out, data["out"])
    close(torch.nn.functional.mse_loss(out, data["target"]), data["mse"])


def test_audio_decoder():
    data, state = fixture("audio_decoder")
    decoder = load(VectorDecoder(8, 14, 12), state, {"code": "audio_linear", "out": "audio_rec"})
    out = decoder(data["code"], data["specific"])
    close(out, data["out"])
    close(torch.nn.functional.mse_loss(out, data["target"]), data["mse"])


def test_club():
    data, state = fixture("club")
    club = load(ReleasedCLUB(8, 14, hidden=6), state, {"mean": "p_mu", "logvar": "p_logvar"})
    valid = torch.ones(4, 10, dtype=torch.bool, device=DEVICE)
    close(club.upper_bound(data["x"], data["y"], valid, data["perm"]), data["mi_upper_bound"])
    close(club.log_likelihood(data["x"], data["y"], valid), data["log_likelihood"])


@pytest.mark.parametrize("modalities", [("audio", "video"), ("audio", "video", "text")])
def test_cross_cpc(modalities):
    data, state = fixture("cross_cpc_av" if len(modalities) == 2 else "cross_cpc_avt")
    names = {f"context.{m}": f"{m}_ar_lstm" for m in modalities}
    names |= {f"predict.{m}": f"{m}_predictors" for m in modalities}
    cpc = load(ReleasedCrossCPC(modalities, 8), state, names)
    valid = {m: torch.ones(4, 10, dtype=torch.bool, device=DEVICE) for m in modalities}
    losses = cpc({m: data[m] for m in modalities}, valid, t=int(data["t"]))
    assert len(losses) == len(modalities) ** 2
    close(sum(losses.values()), data["nce"])


@pytest.mark.parametrize("modalities", [("audio", "video"), ("audio", "video", "text")])
def test_codebook_three_steps(modalities):
    """Commitment, L_cmcm, their gradient, straight-through output and every buffer over three training steps."""
    data, _ = fixture("codebook_av" if len(modalities) == 2 else "codebook_avt")
    book = ReleasedCodebook(modalities, 12, 8, mm_ema="aligned", reset="any").to(DEVICE)
    book.embedding.copy_(data["init/embedding"])
    book.weight.copy_(data["init/ema_weight"])
    book.count.copy_(data["init/ema_count"])
    close(book.idle.amin(0), data["init/unactivated_count"])
    valid = {m: torch.ones(4, 10, dtype=torch.bool, device=DEVICE) for m in modalities}
    for step in range(3):
        z = {m: data[f"step{step}/{m}/z"].clone().requires_grad_() for m in modalities}
        quantized = {m: book.quantize(z[m]) for m in modalities}
        state = State({}, valid, semantic=z, quantized=quantized)
        commit = ReleasedCommitment()(state)
        cmcm = sum(ReleasedCodeMatching()({m: q.distances for m, q in quantized.items()}, valid).values()) * 0.5
        (sum(commit.values()) + cmcm).backward()
        for m in modalities:
            close(commit[m], data[f"step{step}/{m}/commit"])
            close(quantized[m].straight, data[f"step{step}/{m}/quantized"])
            close(z[m].grad, data[f"step{step}/{m}/grad_of_commit_plus_cmcm"])
            counts = torch.bincount(quantized[m].codes.flatten(), minlength=12).double()
            close(perplexity(counts), data[f"step{step}/{m}/perplexity"])
        close(cmcm, data[f"step{step}/cmcm_loss"])
        # equal_num counts clips whose most frequent code is the same in all modalities
        modes = torch.stack([torch.nn.functional.one_hot(q.codes, 12).sum(1).argmax(1) for q in quantized.values()])
        assert int((modes == modes[0]).all(0).sum()) == int(data[f"step{step}/equal_num"])
        book.update({m: x.detach() for m, x in z.items()}, {m: q.codes for m, q in quantized.items()}, valid)
        for ours, public in (("embedding", "embedding"), ("weight", "ema_weight"), ("count", "ema_count")):
            close(getattr(book, ours), data[f"step{step}/after/{public}"])
        close(book.idle.amin(0), data[f"step{step}/after/unactivated_count"])
