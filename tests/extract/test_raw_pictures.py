"""Raw clips as training data: `frames` and `melimage`, from media files to batches."""

import numpy as np
import pytest
import torch

from cmg.data.features import FeatureSet
from cmg.extract.__main__ import main
from cmg.extract.backbones import Choice, load_backbone
from cmg.extract.frames import Frames
from cmg.extract.melimage import MelImage, MelImage22k, MelImage44k, decibels
from cmg.training.batches import on_device
from support_media import levels, rows_of, tone, write_video


def test_frames_are_the_pictures_themselves():
    seconds = [np.random.default_rng(s).integers(0, 256, (4, 12, 12, 3), np.uint8) for s in range(2)]
    backbone = Frames(side=12, rate=2)
    x = backbone(iter(seconds))
    assert x.dtype == np.uint8 and x.shape == (4, 12, 12, 3)
    np.testing.assert_array_equal(x, np.concatenate([second[[1, 3]] for second in seconds]))
    once = Frames(side=12, rate=2)(iter([seconds[0][:1]]))  # of a second with one frame
    np.testing.assert_array_equal(once, seconds[0][[0, 0]])
    plain = Frames(side=8)(iter([np.full((3, 30, 50, 3), 77, np.uint8)]))
    assert plain.shape == (1, 8, 8, 3) and (plain == 77).all()


def test_frames_mirrored_by_a_view():
    """As sideways films come, in memory that does not run forward."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), np.uint8)[:, :, ::-1]
    np.testing.assert_array_equal(Frames(side=6)(iter([frames])), frames)


@pytest.mark.parametrize("kind, sampling, samples", [(MelImage, 16000, 16000), (MelImage22k, 22050, 114660),
                                                     (MelImage44k, 44100, 114688)])
def test_a_tone_is_one_band(kind, sampling, samples):
    """The loudest band is that whose centre on Slaney's scale is next to the tone: linear below 1 kHz."""
    backbone = kind(side=224)
    assert (backbone.samples, backbone.columns, backbone.sampling) == (samples, 224, sampling)
    x = backbone(torch.from_numpy(tone(700, 12, 16000)).float().view(12, 16000))
    assert x.shape == (12, 224, 224)
    top = 15 + 27 * np.log(sampling / 2 / 1000) / np.log(6.4)  # mel of half the sampling rate
    expected = 700 / (200 / 3) / (top / 225) - 1
    assert np.abs(x[6].argmax(1) - expected).max() <= 1
    assert x[6].max() > x[6].min() + 60


def test_released_pictures_in_numpy():
    """A column of melimage-44k by hand: Hann window, power, Slaney's bands, decibels."""
    rng = np.random.default_rng(0)
    backbone = MelImage44k(side=224)
    sound = torch.from_numpy(rng.normal(size=(6, 16000))).float() * 0.1
    x = backbone(sound)
    import torchaudio
    wave = torchaudio.functional.resample(sound.reshape(-1), 16000, 44100).double().numpy()
    start = round(2.5 * 44100) - 114688 // 2 + 100 * 512 - 1024  # step 2's middle, column 100, centred
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    power = np.abs(np.fft.rfft(wave[start : start + 2048] * window)) ** 2
    step = np.log(6.4) / 27

    def hertz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))

    edges = hertz(np.linspace(0, 15 + np.log(22.05) / step, 226))
    bins = np.arange(1025) * 44100 / 2048
    bands = np.stack([np.clip(np.minimum((bins - a) / (b - a), (c - bins) / (c - b)), 0, None) * 2 / (c - a)
                      for a, b, c in zip(edges, edges[1:], edges[2:])])
    quiet = x[2].max() - 80
    wanted = np.maximum(10 * np.log10(np.maximum(bands @ power, 1e-10)), quiet)
    np.testing.assert_allclose(x[2][100], wanted, atol=0.05)


def test_a_picture_looks_around_its_step_and_not_at_the_clip_s_end():
    """A click in second 7 of ten is in the picture's middle for step 7, on its right for step 6, nowhere for step 0."""
    sound = torch.zeros(10, 16000)
    sound[7, 8000] = 1.0
    x = MelImage22k(side=224)(sound)
    loud = x.mean(2)  # (10, columns)
    middle = 114660 / 2 / 512
    assert loud[7].argmax() == pytest.approx(middle, abs=2)
    assert loud[6].argmax() == pytest.approx(middle + 22050 / 512, abs=2)
    assert (x[0] == x[0].max()).all() and (x[9] > -100).any()
    own = MelImage(side=32, rate=2)(sound)
    assert own.shape == (20, 32, 32) and [i for i in range(20) if own[i].max() > -99] == [15]


def test_decibels():
    power = torch.tensor([[[1.0, 1e-3, 1e-30]], [[1e-12, 0, 0]]])
    torch.testing.assert_close(decibels(power), torch.tensor([[[0.0, -30, -80]], [[-100.0, -100, -100]]]))


@pytest.mark.parametrize("rate", [1, 2])
def test_from_media_to_batches(tmp_path, rate):
    """uint8 frames and float16 maps in one file, padded and marked, from every cache, under any number of processes."""
    (tmp_path / "clips").mkdir()
    for name, seconds in (("a", 3), ("b", 2)):
        sound = 20000 * tone(440, seconds, 16000)
        write_video(tmp_path / "clips" / f"{name}.mkv", 5 + levels(4 * seconds), fps=4, sound=sound)
    out = tmp_path / "raw.h5"
    main(["--videos", str(tmp_path / "clips"), "--video-backbone", "frames", "--audio-backbone", "melimage", "--side",
          "16", "--rate", str(rate), "--seconds", "3", "--workers", "0", "--out", str(out)])
    found = rows_of(out)
    x, valid = found["a"]["video"]
    assert x.dtype == np.uint8 and x.shape == (3 * rate, 16, 16, 3) and valid.all()
    assert x[:, 0, 0, 0].tolist() == ([7, 11, 15] if rate == 1 else [6, 8, 10, 12, 14, 16])
    x, valid = found["b"]["video"]
    assert valid.tolist() == [True] * 2 * rate + [False] * rate and (x[2 * rate :] == x[2 * rate - 1]).all()
    x, valid = found["b"]["audio"]
    assert x.dtype == np.float16 and x.shape == (3 * rate, 16, 16) and valid.sum() == 2 * rate
    for cache in ("host", "disk"):
        features = FeatureSet(out, cache=cache)
        assert features.kinds == {"video": "frames", "audio": "maps"}
        assert features.provenance["audio"].seconds_per_step == 1 / rate
        (batch,) = on_device(features, [[1, 0]], torch.device("cpu"))
        np.testing.assert_array_equal(batch["video"][0], found["b"]["video"][0])
        assert batch["video"].dtype == torch.uint8 and batch["audio"].dtype == torch.float32


@pytest.mark.parametrize("flags, said", [
    (["--side", "16"], "--side: things, cepstra have none; expected a backbone that makes pictures"),
    (["--rate", "2"], "--rate: things, cepstra have none"),
    (["--rate", "2", "--video-backbone", "frames"], "--rate: 2 steps a second of video, 1 steps a second of audio"),
    (["--side", "4", "--video-backbone", "frames"], "'4' is not a whole number of at least 8"),
])
def test_flags_that_do_not_fit(tmp_path, capsys, flags, said):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mkv", levels(4), fps=4)
    with pytest.raises(SystemExit) as stop:
        main(["--videos", str(tmp_path / "clips"), "--out", str(tmp_path / "x.h5"), "--workers", "0", *flags])
    assert stop.value.code == 2 and said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips"]


def test_pictures_by_name():
    assert load_backbone(Choice("video", "frames", side=32, rate=3)).shape == (32, 32, 3)
    assert load_backbone(Choice("audio", "melimage-22k")).shape == (224, 224)
