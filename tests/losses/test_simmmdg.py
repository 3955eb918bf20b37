"""SimMMDG's losses against the public implementation's numbers, and by loops where clips lack a modality."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cmg.losses.supcon import clip_supcon
from cmg.methods.codebook.simmmdg import HalvesDistance, Translation
from support import FIXTURES

with np.load(FIXTURES / "simmmdg.npz") as file:
    PUBLIC = {key: torch.from_numpy(file[key]) for key in file.files}


def close(found, expected):
    assert_close(found.double(), expected.double(), rtol=1e-9, atol=1e-9)


def state_of(vectors):
    """Clips of one step."""
    return SimpleNamespace(semantic={m: x.unsqueeze(1) for m, x in vectors.items()},
                           valid={m: torch.ones(len(x), 1, dtype=torch.bool) for m, x in vectors.items()})


@pytest.mark.parametrize("modalities", [("video", "audio"), ("video", "audio", "text")])
def test_supcon_is_the_public_one(modalities):
    """The public gradients are those of unit vectors; here a vector is brought to length 1 within the loss, which takes
    away what points along it."""
    unit = {m: torch.nn.functional.normalize(PUBLIC[f"projected/{m}"], dim=-1) for m in modalities}
    vectors = {m: x.clone().requires_grad_() for m, x in unit.items()}
    loss = clip_supcon(vectors, {m: torch.ones(len(x), dtype=torch.bool) for m, x in vectors.items()})
    name = f"contrast/unsupervised/{len(modalities)}"
    close(loss, PUBLIC[name])
    loss.backward()
    for m in modalities:
        gradient = PUBLIC[f"{name}/grad/{m}"]
        close(vectors[m].grad, gradient - (gradient * unit[m]).sum(-1, keepdim=True) * unit[m])


def test_distance_and_translation_are_the_public_ones():
    vectors = {m: PUBLIC[f"embedding/{m}"] for m in ("video", "audio")}
    close(sum(HalvesDistance()(state_of(vectors)).values()), PUBLIC["distance"])
    term = Translation(("video", "audio"), vectors["video"].shape[1]).double()
    for ours, theirs in (("video_audio", "v2a"), ("audio_video", "a2v")):
        term.maps[ours] = torch.nn.Linear(*PUBLIC[f"translation/{theirs}/weight"].T.shape).double()
        term.maps[ours].load_state_dict({part: PUBLIC[f"translation/{theirs}/{part}"] for part in ("weight", "bias")})
    found = term(state_of(vectors))
    close(2 * found["v2a"], PUBLIC["translation/video_to_audio"])
    close(2 * found["a2v"], PUBLIC["translation/audio_to_video"])
    close(sum(found.values()), PUBLIC["translation/mean"])


def test_supcon_by_loops():
    torch.manual_seed(0)
    modalities, B = ("audio", "video", "text"), 4
    vectors = {m: torch.randn(B, 5, dtype=torch.float64) for m in modalities}
    exists = {m: torch.ones(B, dtype=torch.bool) for m in modalities}
    exists["text"][1] = exists["video"][1] = False  # clip 1 has audio alone
    exists["text"][2] = False
    points = {(m, b): x[b] / x[b].norm() for m, x in vectors.items() for b in range(B) if exists[m][b]}
    values = []
    for (m, b), x in points.items():
        rivals = {key: x @ y / 0.1 for key, y in points.items() if key != (m, b)}
        own = [score for (n, c), score in rivals.items() if c == b]
        if own:
            values.append(torch.stack([*rivals.values()]).logsumexp(0) - sum(own) / len(own))
    close(clip_supcon(vectors, exists), 0.1 / 0.07 * sum(values) / len(values))
