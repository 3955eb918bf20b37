"""`cepstra`: against a second implementation, and what a shift in time leaves as it is."""

import numpy as np
import pytest
import torch
from scipy.fft import dct

from cmg.extract.cepstra import CEPSTRA, Cepstra
from cmg.extract.logmel import CENTRE, FLOOR, SPREAD


@pytest.fixture(scope="module")
def backbone():
    return Cepstra()


def burst(start, seconds=1, seed=0):
    """Two tones one after the other, 120 ms each, at a place of every second."""
    rng, time = np.random.default_rng(seed), np.arange(1920) / 16000
    sound = 1e-4 * rng.standard_normal((seconds, 16000))
    tones = np.concatenate([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 1760 * time)])
    sound[:, start : start + len(tones)] += 0.3 * tones
    return torch.from_numpy(sound).float()


def test_against_numpy(backbone):
    sound = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 16000)) * np.linspace(0, 0.2, 16000)).float()
    found = backbone(sound).astype(np.float64)
    mel = backbone.mel(sound.reshape(-1))[:, :200].T.double().numpy().reshape(2, 100, 64)
    plain = dct((np.log(mel + FLOOR) - CENTRE) / SPREAD, norm="ortho", axis=2)[..., :CEPSTRA]
    weights = np.minimum(np.arange(1, CEPSTRA + 1) / 8, 2)
    for second, own in enumerate(found):
        x = plain[second] * weights
        expected = [x.mean(0), 2 * x.std(0, ddof=1), x.max(0), x.min(0)]
        size = np.abs(np.fft.fft(plain[second] - plain[second].mean(0), axis=0)) / 10
        for low, high in ((1, 2), (2, 4), (4, 8), (8, 16), (16, 33)):
            expected.append(np.log(size[low:high].mean(0) + 0.05) + 1)
        energy = mel[second].sum(1) - mel[second].sum(1).min()
        first = round(float((energy * np.arange(100)).sum() / energy.sum())) - 30
        frames = x[np.arange(first, first + 60) % 100]
        expected += [frames[part : part + 15].mean(0) for part in (0, 15, 30, 45)]
        np.testing.assert_allclose(own, np.concatenate(expected), atol=2e-3)


def test_where_in_the_second_a_sound_begins_does_not_matter(backbone):
    early, late = backbone(burst(3200))[0], backbone(burst(8000))[0]
    turned = backbone(burst(3200).flip(1))[0]  # the two tones the other way round
    move = np.abs(late - early).reshape(13, CEPSTRA).max(1)
    assert move.max() < 0.6  # noise, of which nothing but the extremes tells
    course = np.abs(turned - early).reshape(13, CEPSTRA)[9:]
    assert course.max() > 3  # but the order does
    logs = [np.log(backbone.mel(burst(start).reshape(-1)).sum(0).numpy() + FLOOR) for start in (3200, 8000)]
    assert np.abs(logs[0] - logs[1]).max() > 3  # what does not matter is a difference


def test_silence_and_seconds_of_their_own(backbone):
    silence = backbone(torch.zeros(2, 16000))
    assert np.isfinite(silence).all() and np.abs(silence[0] - silence[1]).max() < 1e-5
    assert np.abs(silence[0].reshape(13, CEPSTRA)[1]).max() < 1e-5  # nothing varies
    both = backbone(torch.cat([torch.zeros(1, 16000), burst(6000)]))
    assert np.abs(both[1] - backbone(burst(6000))[0]).max() < 0.05  # a neighbour reaches 12 ms into it
