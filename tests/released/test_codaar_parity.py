"""CoDAAR's blocks under the released arithmetic against numbers of the public implementation, over updates and a reset.
"""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cmg.methods.codebook.baseline import Reconstruction
from cmg.methods.codebook.codaar import BlockCommitment
from cmg.methods.codebook.method import State
from cmg.metrics.codebook import perplexity
from cmg.models.specific import VectorDecoder
from cmg.models.unified import UnifiedModel
from cmg.released import networks
from cmg.released.losses import ReleasedCodeMatching
from cmg.released.networks import ReleasedBlockCodebook
from support import FIXTURES

CASES = {"codaar_av": ("video", "audio"), "codaar_avt": ("video", "audio", "text")}


def read(name):
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def close(found, expected, tolerance=1e-9):
    assert_close(found.double(), torch.as_tensor(expected).double(), rtol=tolerance, atol=tolerance)


def public_state(data, prefix, modalities):
    """Buffers under a prefix, by our names."""
    return {"embedding": data[f"{prefix}/embedding"], "weight": data[f"{prefix}/ema_weight"],
            "count": torch.stack([data[f"{prefix}/ema_count_{m[0]}"] for m in modalities], 1)}


def made(data, prefix, modalities):
    size, width = data[f"{prefix}/embedding"].shape
    book = ReleasedBlockCodebook(modalities, size, width // len(modalities), mm_ema="aligned", reset="any")
    for name, value in public_state(data, prefix, modalities).items():
        getattr(book, name).copy_(value)
    book.idle.copy_(data[f"{prefix}/unactivated_count"].long().expand_as(book.idle))
    return book


def valid_of(z):
    return {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in z.items()}


def step(book, z):
    valid = valid_of(z)
    quantized = book.quantize_all(z, valid)
    book.update({m: x.detach() for m, x in z.items()}, {m: q.codes for m, q in quantized.items()}, valid)


@pytest.mark.parametrize("name, modalities", CASES.items())
def test_steps(name, modalities):
    """Tokens, losses, gradients and every buffer, step by step."""
    data = read(name)
    book = made(data, "init", modalities)
    steps = sorted({key.split("/")[0] for key in data if key.startswith("step")})
    assert len(steps) > 2
    for at in steps:
        z = {m: data[f"{at}/z/{m}"].clone().requires_grad_() for m in modalities}
        valid = valid_of(z)
        quantized = book.quantize_all(z, valid)
        commit = BlockCommitment(book, 0.5)(State({}, valid, semantic=z, quantized=quantized))
        cmcm = 0.5 * sum(ReleasedCodeMatching()({m: q.distances for m, q in quantized.items()}, valid).values())
        read_out = sum((data[f"{at}/weight/{m}"] * quantized[m].straight).sum() for m in modalities)
        (sum(commit.values()) + cmcm + read_out).backward()
        for m, q in quantized.items():
            close(q.straight, data[f"{at}/full_{m}"])
            close(q.vectors[..., book.columns(m)], data[f"{at}/half_{m}"])
            close(commit[m], data[f"{at}/commit_{m}"])
            close(z[m].grad, data[f"{at}/grad/{m}"], 1e-7)
            close(perplexity(torch.bincount(q.codes.flatten(), minlength=book.size).double()), data[f"{at}/perp_{m}"])
        close(cmcm, data[f"{at}/cmcm"], 1e-8)
        modes = torch.stack([torch.nn.functional.one_hot(q.codes, book.size).sum(1).argmax(1)
                             for q in quantized.values()])
        assert int((modes == modes[0]).all(0).sum()) == int(data[f"{at}/equal"])
        book.update({m: x.detach() for m, x in z.items()}, {m: q.codes for m, q in quantized.items()}, valid)
        for buffer, value in public_state(data, f"{at}/after", modalities).items():
            close(getattr(book, buffer), value, 1e-8)
        close(book.idle.amin(0), data[f"{at}/after/unactivated_count"])


@pytest.mark.parametrize("name, modalities", CASES.items())
def test_reset_and_its_end(name, modalities, monkeypatch):
    """A row that was idle for long is a near-copy of another for one step; the next one brings back what it was."""
    data = read(name)
    book, code = made(data, "reset/before", modalities), int(data["reset/code"])

    def drawn(allowed, n):
        return allowed.nonzero()[:, 0][data["reset/drawn_index"]].expand(n)

    monkeypatch.setattr(networks, "sample", drawn)
    noise = torch.special.ndtr(data["reset/noise"])
    monkeypatch.setattr(networks, "shared_rand", lambda n, device: noise.repeat(n // len(noise)))
    step(book, {m: data[f"reset/z/{m}"] for m in modalities})
    close(book.embedding, data["reset/after/embedding"], 1e-8)
    close(book.weight, data["reset/after/ema_weight"], 1e-8)
    close(book.idle.amin(0), data["reset/after/unactivated_count"])
    assert int(book.revived) == 1 and book.idle[:, code].max() == 0
    before = book.embedding[code].clone()
    step(book, {m: data[f"next/z/{m}"] for m in modalities})
    close(book.embedding, data["next/after/embedding"], 1e-8)
    close((book.embedding[code] - before).norm(), data["next/replaced_row_moved_by"], 1e-8)
    for m in modalities:
        found = book.quantize(data[f"probe/z/{m}"], m).vectors
        close(found, data[f"probe/full/{m}"], 1e-8)
        close(found[..., book.columns(m)], data[f"probe/half/{m}"], 1e-8)


def test_decoder():
    """A row comes down to D before the decoder of every method."""
    data = read("codaar_metrics")
    state = {key.removeprefix("decoder/state/"): x for key, x in data.items() if key.startswith("decoder/state/")}
    dim, width = state["audio_linear_1.weight"].shape
    channels = len(state["audio_rec.bias"])
    model = UnifiedModel.__new__(UnifiedModel)
    torch.nn.Module.__init__(model)
    model.modalities, model.shapes, model.input_shapes = ("audio",), {"audio": (4, channels)}, {"audio": (4, channels)}
    model.codebook = torch.nn.Module()
    model.codebook.embedding = torch.zeros(5, width)
    specific = torch.nn.ModuleDict({"audio": torch.nn.Linear(1, 1)})
    specific["audio"].out_dim = data["decoder/specific"].shape[-1]
    term = Reconstruction(model, specific, dim).double()
    assert isinstance(term.decoders["audio"], VectorDecoder)
    names = {"reduce.audio": "audio_linear_1", "decoders.audio.code": "audio_linear", "decoders.audio.out": "audio_rec"}
    term.load_state_dict({key: state[names[key.rpartition(".")[0]] + "." + key.rpartition(".")[2]]
                          for key in term.state_dict()})
    found = term.decoders["audio"](term.reduce["audio"](data["decoder/full"]), data["decoder/specific"])
    close(found, data["decoder/out"])
