"""HowTo100M-style features: the arithmetic against released values, the readers on folders and lists made here."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmg.data import howto
from cmg.data.howto import Speech, snapped, windows
from support import FIXTURES

with np.load(FIXTURES / "multisk_features.npz") as file:
    RELEASED = dict(file)
VIDEOS = sorted({name.split("/")[0] for name in RELEASED if name.endswith("/n_tokens")})
AUDIOS = sorted({name.split("/")[0] for name in RELEASED if name.endswith("/crop_cols")})
STRATEGIES = {"clip": "cut", "nearest": "nearest", "max_pool": "max-pool"}


def group(name):
    return {key.removeprefix(f"{name}/"): value for key, value in RELEASED.items() if key.startswith(f"{name}/")}


def padded(x, n):
    """Rows of zeros behind, and which rows are none."""
    return np.pad(x, ((0, n - len(x)), (0, 0))), np.arange(n) < len(x)


# Parity with the released code


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("video", VIDEOS)
def test_video_tokens_are_the_released_ones(video, strategy):
    given = group(video)
    n = int(given["n_tokens"])
    tokens, mask = padded(howto.video_tokens(given["f2d"], given["f3d"], n, STRATEGIES[strategy]), n)
    np.testing.assert_allclose(tokens, given[f"{strategy}/tokens"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(mask, given[f"{strategy}/mask"])


def test_a_whole_video_is_its_largest_values():
    given = group(VIDEOS[-1])
    tokens = howto.video_tokens(given["f2d"], given["f3d"], 1, "max-pool")
    np.testing.assert_allclose(tokens[0], RELEASED["video_pooled/tokens"], rtol=1e-6)
    assert RELEASED["video_pooled/mask"].tolist() == [1.0]


@pytest.mark.parametrize("audio", AUDIOS)
def test_frames_of_a_window_are_the_released_ones(audio):
    given, mel = group(audio), RELEASED["audio_mel"]
    (start, end), n = given["start_end"], int(given["n_frames"])
    assert howto.frames_between(mel, start, end, mel.shape[1]).shape == (len(mel), int(given["crop_cols"][0]))
    x = howto.frames_between(mel, start, end, n)
    assert x.shape[1] == given["used"]
    np.testing.assert_array_equal(x[:, 0], given["first_col"])
    np.testing.assert_array_equal(np.arange(n) < x.shape[1], given["mask"])
    maps = howto.audio_steps(x, n // howto.FRAMES)
    assert maps.shape == (-(-x.shape[1] // howto.FRAMES), howto.FRAMES, len(mel))
    flat = maps.reshape(-1, len(mel))
    np.testing.assert_array_equal(flat[: x.shape[1]], x.T)
    assert not flat[x.shape[1] :].any()


def test_times_of_frames_are_the_released_ones():
    assert [howto.frame_of(t) for t in RELEASED["time/seconds"]] == RELEASED["time/frames"].tolist()
    np.testing.assert_allclose([howto.seconds_of(int(n)) for n in RELEASED["time/frames_in"]],
                               RELEASED["time/seconds_out"], rtol=1e-12)


@pytest.mark.parametrize(("released", "whole"), [("default", False), ("accurate", True)])
def test_windows_of_features_are_the_released_ones(released, whole):
    given = group("slice")
    for k, times in enumerate(zip(given["start"], given["end"])):
        parts = [howto.rows_between(given[name], *times, fps, whole)
                 for name, fps in (("f2d", howto.FPS_2D), ("f3d", howto.FPS_3D))]
        n = len(given[f"{released}/mask"][k])
        tokens, mask = padded(howto.video_tokens(*parts, n), n)
        np.testing.assert_allclose(tokens, given[f"{released}/tokens"][k], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(mask, given[f"{released}/mask"][k])


def test_words_are_the_released_ones():
    assert [" ".join(howto.words_of(text)) for text in RELEASED["words/in"]] == RELEASED["words/out"].tolist()


def test_resampling_is_torch_s_nearest():
    """At every pair of lengths, also where the quotient in float32 falls to the other side of a whole number."""
    for t in range(1, 40):
        x = torch.arange(t, dtype=torch.float32)
        for n in range(1, 60):
            assert howto.resampled(x.numpy(), n).tolist() == F.interpolate(x[None, None], n)[0, 0].tolist()


# Windows


def speech(*times):
    start, end = np.array(times, float).T
    return Speech(start, end, [f"segment{k}" for k in range(len(times))])


def test_a_window_is_moved_to_speech_and_grows_to_the_nearer_side():
    said = speech((0, 3), (4, 6), (6.5, 9), (12, 20), (40, 41))
    assert snapped(5, 6, said, lambda n: n - 1, 8) == (0.0, 9.0, (1, 2, 0))  # 0.5 s after, then 1 s before, 3 s after
    assert snapped(5, 7, said, lambda n: n - 1, 3) == (4.0, 9.0, (2, 1))
    assert snapped(12, 20, said, lambda n: 0, 8) == (12.0, 20.0, (3,))
    assert snapped(40.5, 48, said, lambda n: 0, 8) == (12.0, 41.0, (4, 3))  # nothing comes after
    assert snapped(25, 33, said, lambda n: 0, 8) == (25, 33, ())  # nobody speaks
    assert snapped(3, 4, said, lambda n: 0, 8).segments == ()  # touching is no overlap
    assert snapped(0, 8, speech((1, 2)), lambda n: 0, 8) == (1.0, 2.0, (0,))  # there is no more


def test_windows_go_by_the_seed_and_lie_in_the_video():
    silent = Speech(np.zeros(0), np.zeros(0), [])
    found = windows(10, 100.0, silent, 8, (0, 7))
    assert len(found) == 10 and all(0 <= w.start <= 92 and w.end == w.start + 8 for w in found)
    assert found == sorted(found) == windows(10, 100.0, silent, 8, (0, 7)) != windows(10, 100.0, silent, 8, (1, 7))
    assert windows(10, 5.0, silent, 8, (0, 7)) == [(0, 5.0, ())]
    said = windows(50, 100.0, speech((10, 20), (70, 90)), 8, (0, 7))
    assert {w[:2] for w in said if w.segments} == {(10.0, 20.0), (70.0, 90.0)}  # each once
