"""Pictures and sounds that are cut out of media files whose content is known."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from cmg.explore.snippets import COLUMNS, Cut, bars, cut, cut_all, mp3
from support_media import tone, write_video, write_wav


def decoded(content):
    with av.open(io.BytesIO(content)) as box:
        track = box.streams.audio[0]
        wave = np.concatenate([frame.to_ndarray()[0] for frame in box.decode(track)])
        return wave, track.rate


def test_a_strip_has_the_middle_picture_of_each_second(tmp_path):
    """Twelve seconds of two pictures, each second of its own grey and the second picture of it darker."""
    frames = np.zeros((24, 40, 60, 3), np.uint8)
    frames[::2], frames[1::2] = (np.arange(12) * 20)[:, None, None, None], 0
    frames[1::2] = frames[::2]
    write_video(tmp_path / "a.mkv", frames, 2)
    found = cut(Cut(7, str(tmp_path / "a.mkv"), "", 12, ()))
    strip = np.asarray(Image.open(io.BytesIO(found.strip)).convert("L"), int)
    assert (found.number, found.width, found.reasons) == (12, 1.5, ())
    assert strip.shape == (2 * 40, COLUMNS * 60)  # the last two seconds go on below
    for second in range(12):
        row, column = divmod(second, COLUMNS)
        assert abs(strip[row * 40 + 20, column * 60 + 30] - 20 * second) < 8


def test_large_pictures_become_small_and_keep_their_form(tmp_path):
    write_video(tmp_path / "a.mkv", np.full((1, 480, 640, 3), 99, np.uint8), 1)
    found = cut(Cut(0, str(tmp_path / "a.mkv"), "", 3, ()))
    assert Image.open(io.BytesIO(found.strip)).size == (128, 96) and found.width == pytest.approx(4 / 3)


def test_a_sound_is_a_second_of_mp3():
    wave, rate = decoded(mp3(tone(440, 1, 16000).astype(np.float32)))
    assert rate == 16000 and 0.95 < len(wave) / rate < 1.2
    peak = np.abs(np.fft.rfft(wave[2000:14000])).argmax() * rate / 12000
    assert abs(peak - 440) < 3 and 0.4 < np.abs(wave[4000:12000]).max() < 0.6


def test_the_wave_shows_how_loud_a_sound_is():
    assert bars(np.zeros(16000, np.float32)) == "0" * 24
    assert bars(np.repeat([0.0, 0.2, -0.1], 8000).astype(np.float32)) == "0" * 8 + "f" * 8 + "8" * 8


def test_sounds_of_seconds_that_are_asked_for(tmp_path):
    write_wav(tmp_path / "a.wav", np.concatenate([tone(300, 1, 16000), tone(2000, 1, 16000)]), 16000)
    found = cut(Cut(0, str(tmp_path / "a.wav"), "", 4, (1, 5)))
    assert [*found.sounds] == [1] and found.strip == b""  # there is no second 5
    assert found.reasons == ("pictures: no video track",)
    wave, rate = decoded(found.sounds[1][0])
    assert abs(np.abs(np.fft.rfft(wave[2000:14000])).argmax() * rate / 12000 - 2000) < 3


@pytest.mark.slow
def test_clips_are_read_by_processes_and_bad_ones_told(tmp_path):
    write_wav(tmp_path / "a.wav", tone(300, 1, 16000), 16000)
    (tmp_path / "b.mp4").write_bytes(b"no media")
    cuts = [Cut(n, str(tmp_path / name), "", 0, (0,)) for n, name in enumerate(("a.wav", "b.mp4", "gone.mp4"))]
    found = {one.clip: got for one, got in cut_all(cuts[:2], 2)}
    assert found[0].sounds.keys() == {0} and found[1].reasons[0].startswith("sounds: cannot be opened")
    assert found[0] == dict((one.clip, got) for one, got in cut_all(cuts[:2], 0))[0]
