"""Extraction from media files: decoded values, weight-free backbones, bad files, workers, resume after a kill."""

import csv
import os
import re
import signal
import subprocess
import sys

import av
import h5py
import numpy as np
import pytest
import torch

from cmg.data import shards
from cmg.data.features import FeatureFile
from cmg.data.progress import Progress
from cmg.extract import workers
from cmg.extract.__main__ import main
from cmg.extract.backbones import BACKBONES, Choice, load_backbone
from cmg.extract.cepstra import Cepstra
from cmg.extract.hashed import HashedWords
from cmg.extract.logmel import BINS, CENTRE, FLOOR, MELS, SPREAD, LogMel
from cmg.extract.media import BadClip, audio_seconds, video_seconds
from cmg.extract.pixels import Pixels, edges, region
from cmg.extract.shards import parts_of
from cmg.extract.things import Things
from cmg.files import locked
from support import CODE, failures
from support_media import levels, rows_of, tone, write_video, write_wav


def level_of(second):
    """The levels of the frames of one second."""
    return second[:, 0, 0, 0].tolist()


def same_content(first, second):
    """Whether two feature files hold the same data sets and attributes, bit by bit and in the same order."""
    with h5py.File(first) as a, h5py.File(second) as b:
        assert dict(a.attrs) == dict(b.attrs)
        names = []
        a.visititems(lambda name, x: names.append(name) if isinstance(x, h5py.Dataset) else None)
        return all(np.array_equal(a[name][()], b[name][()]) for name in names) and a.keys() == b.keys()


# --- decoding -----------------------------------------------------------------------------------------------------


def test_frames_of_each_second(tmp_path):
    write_video(tmp_path / "a.mkv", levels(10), fps=4)  # 2.5 s
    seconds = list(video_seconds(tmp_path / "a.mkv", 10))
    assert [level_of(second) for second in seconds] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert seconds[0].shape == (4, 28, 28, 3) and seconds[0].dtype == np.uint8
    assert len(list(video_seconds(tmp_path / "a.mkv", 2))) == 2  # longer clips are cut
    write_video(tmp_path / "b.mkv", levels(9), fps=4)  # a quarter of the third second: does not count
    assert len(list(video_seconds(tmp_path / "b.mkv", 10))) == 2


def test_sixteen_frames_of_a_second_are_evenly_chosen(tmp_path):
    write_video(tmp_path / "a.mkv", levels(60), fps=30)
    first, second = (level_of(frames) for frames in video_seconds(tmp_path / "a.mkv", 2))
    assert len(first) == 16 and set(np.diff(first)) == {1, 2} and first[0] == 0 and first[-1] >= 28
    assert second == [level + 30 for level in first]


def test_slide_show_holds_the_last_frame(tmp_path):
    with av.open(str(tmp_path / "slides.mkv"), "w") as box:
        video = box.add_stream("ffv1", rate=1)
        video.width, video.height, video.pix_fmt = 28, 28, "bgr0"
        for pts, frame in zip((0, 1, 4), levels(3), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            picture.pts = pts
            box.mux(video.encode(picture))
        box.mux(video.encode())
    assert [level_of(second) for second in video_seconds(tmp_path / "slides.mkv", 10)] == [[0], [1], [1], [1], [2]]
    assert [level_of(second) for second in video_seconds(tmp_path / "slides.mkv", 3)] == [[0], [1], [1]]


def test_late_picture_keeps_its_time(tmp_path):
    sound = np.zeros(3 * 16000)
    write_video(tmp_path / "a.mkv", levels(4), fps=2, start=2, sound=sound)
    assert [level_of(second) for second in video_seconds(tmp_path / "a.mkv", 10)] == [[0], [0, 1], [2, 3]]


def test_picture_that_changes_its_size(tmp_path):
    """Two transport streams one after the other, as a broadcast that switches: the first size is kept."""
    for name, size, level in (("a.ts", (64, 96), 50), ("b.ts", (32, 48), 200)):
        with av.open(str(tmp_path / name), "w") as box:
            video = box.add_stream("mpeg2video", rate=25)
            video.height, video.width, video.pix_fmt = *size, "yuv420p"
            for _ in range(25):
                grey = np.full((*size, 3), level, np.uint8)
                box.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            box.mux(video.encode())
    both = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "both.ts").write_bytes(both)
    (second,) = video_seconds(tmp_path / "both.ts", 2)  # the second one's time stamps start again
    assert second.shape == (16, 64, 96, 3)
    np.testing.assert_allclose(second.mean(axis=(1, 2, 3)), [50] * 8 + [200] * 8, atol=3)


def test_raw_stream_without_time_stamps(tmp_path):
    with av.open(str(tmp_path / "a.aac"), "w", format="adts") as box:
        track = box.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 32000, 1024):
            part = tone(440, 2, 16000)[None, start : start + 1024].astype(np.float32)
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="mono")
            block.sample_rate, block.pts = 16000, start
            box.mux(track.encode(block))
        box.mux(track.encode())
    sound = audio_seconds(tmp_path / "a.aac", 10)
    assert len(sound) == 2
    peaks = torch.fft.rfft(sound).abs().argmax(dim=1)  # 1 Hz a bin
    assert (peaks - 440).abs().max() <= 1


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
def test_sound_is_resampled_and_mixed_down(tmp_path, rate):
    left, right = tone(440, 2.5, rate), tone(880, 2.5, rate)
    write_wav(tmp_path / "a.wav", np.stack([left, right], axis=1), rate)
    sound = audio_seconds(tmp_path / "a.wav", 10)
    assert sound.shape == (3, 16000) and sound.dtype == torch.float32
    wanted = (tone(440, 3, 16000) + tone(880, 3, 16000)) / 2  # channels are averaged
    middle = slice(200, 39800)  # away from the resampler's edges
    np.testing.assert_allclose(sound.flatten()[middle], wanted[middle], atol=2e-3)
    assert sound[2, 8200:].abs().max() < 1e-3  # the missing half second is silence


def test_channels_in_opposite_phase_are_told(tmp_path):
    """Their mean is silence that nobody hears; silence itself, and what cancels in part, are sound like any other."""
    left, quiet = tone(440, 1, 16000), np.zeros(16000)
    write_wav(tmp_path / "a.wav", np.stack([left, -left], axis=1), 16000)
    with pytest.raises(BadClip, match="the channels are in opposite phase, their mean is silent"):
        audio_seconds(tmp_path / "a.wav", 1)
    write_wav(tmp_path / "b.wav", np.stack([left, -0.9 * left], axis=1), 16000)
    np.testing.assert_allclose(audio_seconds(tmp_path / "b.wav", 1)[0], 0.05 * left, atol=1e-4)
    write_wav(tmp_path / "c.wav", np.stack([quiet, quiet], axis=1), 16000)
    assert not audio_seconds(tmp_path / "c.wav", 1).any()


def test_tracks_that_are_not_there_or_damaged(tmp_path, digit_media):
    write_wav(tmp_path / "sound.wav", tone(440, 1, 16000), 16000)
    write_video(tmp_path / "mute.mkv", levels(4), fps=4)
    raw = (digit_media / "videos/pre_0000.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "holes.mp4").write_bytes(raw[:5000] + bytes(40000) + raw[45000:])
    write_wav(tmp_path / "empty.wav", np.zeros(0), 16000)
    for name, decode, reason in (
        ("sound.wav", video_seconds, "no video track"),
        ("mute.mkv", audio_seconds, "no audio track"),
        ("cut.mp4", audio_seconds, "cannot be opened"),
        ("holes.mp4", video_seconds, "damaged"),
        ("empty.wav", audio_seconds, "no sound could be decoded"),
    ):
        with pytest.raises(BadClip, match=reason):
            list(decode(tmp_path / name, 10))
    with pytest.raises(FileNotFoundError):  # it was there when the clips were listed: no fault of the clip's
        list(video_seconds(tmp_path / "gone.mp4", 10))


# --- backbones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality, name", [("video", "things"), ("audio", "cepstra"), ("text", "hash")])
def test_registry_is_what_it_says(modality, name):
    assert next(iter(BACKBONES[modality])) == name  # needs no weights, so it is the default
    backbone = load_backbone(Choice(modality, name))
    assert (backbone.modality, backbone.name, backbone.sha256) == (modality, name, "")
    steps = {
        "video": [np.zeros((2, 30, 40, 3), np.uint8)] * 3,
        "audio": torch.zeros(3, 16000),
        "text": ["one", "two", "three"],
    }[modality]
    x = backbone(steps)
    assert isinstance(x, np.ndarray) and x.shape == (3, *backbone.shape) and np.isfinite(x).all()


def test_pixels_of_a_red_video(tmp_path):
    red = np.zeros((2, 40, 60, 3), np.uint8)
    red[..., 0] = 255
    write_video(tmp_path / "a.mkv", red, fps=2)
    x = Pixels()(video_seconds(tmp_path / "a.mkv", 1))
    assert x.shape == (1, 7, 7, 244)
    patch, view = x[0, :, :, :48].reshape(7, 7, 16, 3), x[0, :, :, 48:]
    np.testing.assert_allclose(patch, np.broadcast_to([1.0, -1.0, -1.0], patch.shape), atol=1e-6)
    np.testing.assert_allclose(view, 0, atol=1e-6)  # nothing but the codec's rounding has an edge


def edges_by_hand(grey):
    """The edge view, pixel by pixel: [28, 28] -> [4, 7, 7]."""
    energy = np.zeros((4, 7, 7))
    for y in range(28):
        for x in range(28):
            dx = grey[y, x + 1] - grey[y, x - 1] if 0 < x < 27 else 0.0
            dy = grey[y + 1, x] - grey[y - 1, x] if 0 < y < 27 else 0.0
            for d, along in enumerate((dx, dy, -dx, -dy)):
                for row in range(7):
                    for column in range(7):
                        near = max(4.5 - abs(y - 4 * row - 1.5), 0) * max(4.5 - abs(x - 4 * column - 1.5), 0) / 400
                        if along > 0 and near > 0:
                            energy[d, row, column] += near * along**2 / np.hypot(dx, dy)
    return np.sqrt(energy)


def test_edges_tell_direction_and_place():
    """Brightness that steps up from left to right between columns 9 and 10: direction 0, third column of places.

    Columns 9 and 10 have a gradient of 2. Place 2 lies in their middle and counts 4/20 of each, its neighbours 1/20 of
    one; the first and the last row of places have 3/20 of their window outside the picture.
    """
    picture = torch.full((1, 28, 28), -1.0)
    picture[:, :, 10:] = 1.0
    view = edges(picture)[0]
    expected = torch.zeros(4, 7, 7)
    expected[0, :, 1:4] = torch.tensor([2 / 20, 2 * 8 / 20, 2 / 20])
    expected[0, [0, 6]] *= 17 / 20
    expected = expected.sqrt()
    torch.testing.assert_close(view, expected)
    torch.testing.assert_close(edges(picture.transpose(1, 2))[0], expected[[1, 0, 3, 2]].transpose(1, 2))


def test_pixels_against_block_means():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 56, 112, 3), dtype=np.uint8)
    x = Pixels()([frames, frames[:1]])
    small = frames.reshape(3, 28, 2, 28, 4, 3).mean(axis=(0, 2, 4)) / 127.5 - 1  # [28, 28, 3]
    view = edges_by_hand(small @ [0.299, 0.587, 0.114])
    for row, column in ((0, 0), (2, 5), (6, 6)):
        patch = small[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_allclose(x[0, row, column, :48], patch.ravel(), atol=1e-5)
        np.testing.assert_allclose(x[0, row, column, 48:], view.ravel(), atol=1e-4)
    single = frames[0].reshape(28, 2, 28, 4, 3).mean(axis=(1, 3)) / 127.5 - 1
    np.testing.assert_allclose(x[1, 3, 3, :48], single[12:16, 12:16].ravel(), atol=1e-5)


def test_the_view_looks_at_what_there_is():
    """A bright square: its outline's mean is its middle, and its edges deviate by sqrt(2/3) of half its side.

    Two of the four sides of length 2h lie at ±h of an axis, two spread evenly along it: (h² + h²/3) / 2 = 2h²/3.
    """
    grey = torch.full((4, 112, 112), -1.0)
    grey[0, 28:56, 56:84] = 1.0  # x 0 to 0.5, y -0.5 to 0: h = 0.25
    grey[1, :12, 100:] = 1.0  # small, in a corner
    grey[2, 6:-6, 6:-6] = 1.0  # fills the frame
    centre, half = region(grey)
    torch.testing.assert_close(centre[0], torch.tensor([0.25, -0.25]), atol=1e-4, rtol=0)
    assert abs(half[0] - 2 * 0.25 * (2 / 3) ** 0.5) < 0.02
    assert (centre[1].abs() + half[1] <= 1 + 1e-6).all() and half[1] == 0.25  # within the frame, not closer than that
    for whole in (2, 3):  # 3: no edges at all
        assert half[whole] == 1 and centre[whole].tolist() == [0, 0]


def test_size_and_place_do_not_matter_to_the_view():
    """A picture, and the same at half the size in each quarter of a dark frame."""
    rng = np.random.default_rng(0)
    thing = np.kron(rng.integers(0, 2, (4, 4)) * 255, np.ones((8, 8))).astype(np.uint8)
    frames = np.zeros((5, 1, 224, 224, 3), np.uint8)
    frames[0, 0, 32:160, 48:176] = np.kron(thing, np.ones((4, 4)))[..., None]
    for k, (y, x) in enumerate(((16, 24), (16, 136), (128, 24), (128, 136)), 1):
        frames[k, 0, y : y + 64, x : x + 64] = np.kron(thing, np.ones((2, 2)))[..., None]
    view = Pixels()(list(frames))[:, 0, 0, 48:]
    assert view.max() > 0.3
    np.testing.assert_allclose(view[1:], np.broadcast_to(view[:1], (4, 196)), atol=0.08)


def mel_edges():
    """Band edges in Hz, HTK's scale: band k rises from edge k to edge k + 1 and falls to edge k + 2."""
    mel = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7600 / 700), MELS + 2)
    return 700 * (10 ** (mel / 2595) - 1)


@pytest.mark.parametrize("hertz", [440, 1000, 3000])
def test_logmel_peaks_at_the_tone(hertz):
    x = LogMel()(torch.from_numpy(tone(hertz, 2, 16000)).float().view(2, 16000)).reshape(2, BINS, MELS)
    nearest = np.abs(mel_edges()[1:-1] - hertz).argmin()
    assert (np.abs(x.argmax(axis=-1) - nearest) <= 1).all()


def test_logmel_against_numpy():
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.normal(size=32000)).astype(np.float32)
    x = LogMel()(torch.from_numpy(sound).view(2, 16000)).reshape(2, BINS, MELS)
    padded = np.pad(sound, 256, mode="reflect")
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft([padded[k : k + 512] * window for k in range(0, 32000, 160)])) ** 2  # [200, 257]
    edges, hertz = mel_edges(), np.arange(257) * 16000 / 512
    rise = (hertz[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - hertz[:, None]) / np.diff(edges)[1:]
    mel = power @ np.maximum(0, np.minimum(rise, fall))  # [200, 64]
    wanted = (np.log(mel.reshape(2, BINS, 10, MELS).mean(axis=2) + FLOOR) - CENTRE) / SPREAD
    np.testing.assert_allclose(x, wanted, atol=1e-3)


def test_logmel_keeps_the_time_within_a_second():
    sound = torch.zeros(2, 16000)
    sound[1, 4800:6400] = torch.from_numpy(tone(1000, 0.1, 16000)).float()  # 300 to 400 ms of the second second
    x = LogMel()(sound).reshape(2, BINS, MELS)
    silence = (np.log(FLOOR) - CENTRE) / SPREAD
    np.testing.assert_allclose(x[0], silence, atol=1e-6)
    assert x[1].max(axis=-1).argmax() == 3
    np.testing.assert_allclose(x[1, [0, 1, 6, 9]], silence, atol=1e-6)


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path):
    """A folder of six short clips a … f (f has no picture) and captions for all but e."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate("abcde"):
        frames = rng.integers(0, 256, (4 + number, 28, 28, 3), dtype=np.uint8)
        sound = 8000 * rng.normal(size=(4 + number) * 8000).clip(-3, 3)
        write_video(folder / "deep" / f"{name}.mkv", frames, fps=2, sound=sound)
    write_wav(folder / "f.wav", tone(440, 2, 16000), 16000)
    (folder / "notes.txt").write_text("not a clip")
    captions = tmp_path / "captions.csv"
    captions.write_text('id,caption\nf,F\nd,one two three four five\nc,The C\na,"A, a"\nb,B!\n')
    return folder, captions


def extract(clips, out, *flags, modalities=("video", "audio", "text")):
    folder, captions = clips
    call = ["--videos", folder, "--captions", captions, "--modalities", *modalities, "--out", out]
    main([str(part) for part in (*call, "--seconds", 3, "--words", 4, "--workers", 0, *flags)])


def error_of(capsys, call):
    """The one line on stderr with which a call ends; its exit status is 2."""
    with pytest.raises(SystemExit) as caught:
        call()
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    return lines[-1]


def test_values_padding_and_bad_clips(clips, tmp_path, capsys):
    out = tmp_path / "out" / "set.h5"
    extract(clips, out)
    rows = rows_of(out)
    assert list(rows) == ["a", "b", "c", "d"]
    path = clips[0] / "deep" / "a.mkv"  # 2 s of 3
    video, real = rows["a"]["video"]
    wanted = Things()(video_seconds(path, 3)).astype(np.float16)
    assert video.dtype == np.float16 and real.tolist() == [True, True, False]
    np.testing.assert_array_equal(video, wanted[[0, 1, 1]])
    audio, real = rows["a"]["audio"]
    wanted = Cepstra()(audio_seconds(path, 3)).astype(np.float16)
    assert real.tolist() == [True, True, False]
    np.testing.assert_array_equal(audio, wanted[[0, 1, 1]])
    text, real = rows["a"]["text"]
    assert real.tolist() == [True, True, False, False] and not text[2:].any()
    np.testing.assert_array_equal(text[:2], HashedWords()(["a", "a"]).astype(np.float16))
    text, real = rows["d"]["text"]  # five words, four fit
    assert real.all()
    np.testing.assert_array_equal(text, HashedWords()(["one", "two", "three", "four"]).astype(np.float16))
    assert FeatureFile(out).attrs == {  # a word is no second, and backbones without weights have no precision
        "schema": 1, "source": f"{clips[0]} {clips[1]}",
        "backbone/video": "things", "sha256/video": "", "seconds_per_step/video": 1.0, "frames_per_second/video": 16,
        "backbone/audio": "cepstra", "sha256/audio": "", "seconds_per_step/audio": 1.0,
        "backbone/text": "hash", "sha256/text": ""}
    assert failures(out) == {
        "e": (str(clips[0] / "deep" / "e.mkv"), "text: no caption"),
        "f": (str(clips[0] / "f.wav"), "video: no video track"),
    }
    assert sorted(os.listdir(out.parent)) == ["set.h5", "set.h5.failed.csv"]  # no parts, no temporary files
    printed = capsys.readouterr()
    assert "4 clips (video 3x5x5x402, audio 3x260, text 4x300), 2 bad" in printed.out
    assert "bad clip f: video: no video track" in printed.err


def test_selection_list_file_and_text_alone(clips, tmp_path):
    extract(clips, tmp_path / "a.h5", "--select", "[ab]", "d", modalities=["audio"])
    assert list(rows_of(tmp_path / "a.h5")) == ["a", "b", "d"]
    assert not (tmp_path / "a.h5.failed.csv").exists()
    listed = tmp_path / "list.txt"
    listed.write_text("clips/f.wav\n\nclips/deep/b.mkv\nclips/gone.mp4\n")
    extract((listed, clips[1]), tmp_path / "b.h5", modalities=["audio"])
    assert list(rows_of(tmp_path / "b.h5")) == ["b", "f"]
    assert failures(tmp_path / "b.h5")["gone"][1] == "audio: cannot be opened (No such file or directory)"
    main(["--captions", str(clips[1]), "--modalities", "text", "--workers", "0", "--out", str(tmp_path / "c.h5")])
    assert {name: int(row["text"][1].sum()) for name, row in rows_of(tmp_path / "c.h5").items()} == {
        "a": 2, "b": 1, "c": 2, "d": 5, "f": 1
    }  # fmt: skip


@pytest.mark.slow
def test_digit_clips_end_to_end(digit_media, tmp_path):
    """Real H.264 and AAC, one damaged file among them, two processes: the same file as from one."""
    folder, captions = digit_media / "videos", digit_media / "annotations" / "pretrain_captions.csv"
    media = tmp_path / "media"
    media.mkdir()
    for path in folder.glob("pre_*.mp4"):
        (media / path.name).write_bytes(path.read_bytes())
    raw = (media / "pre_0002.mp4").read_bytes()
    (media / "pre_0002.mp4").write_bytes(raw[:20000])
    call = [sys.executable, "-m", "cmg.extract", "--videos", media, "--captions", captions]
    call += ["--modalities", "video", "audio", "text"]
    for processes, out in ((0, tmp_path / "a.h5"), (2, tmp_path / "b.h5")):
        done = subprocess.run(
            [str(part) for part in (*call, "--workers", processes, "--out", out)], env=environment(),
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "3 clips (video 10x5x5x402, audio 10x260, text 10x300), 1 bad" in done.stdout
    assert same_content(tmp_path / "a.h5", tmp_path / "b.h5")
    assert list(failures(tmp_path / "b.h5")) == ["pre_0002"]
    rows = rows_of(tmp_path / "a.h5")
    assert list(rows) == ["pre_0000", "pre_0001", "pre_0003"]
    spoken = dict(csv.reader(open(captions)))
    for name, row in rows.items():
        assert row["video"][1].all() and row["audio"][1].all()
        assert row["text"][1].sum() == min(len(spoken[name].split()), 10)
        assert np.abs(row["video"][0]).max() <= 2 and 0.5 < row["audio"][0].astype(np.float32).std() < 2


def environment():
    """The environment for a subprocess that must find the package as this one does."""
    return {**os.environ, "PYTHONPATH": f"{CODE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


KILLED = """
import os, signal, sys
from cmg.data import shards
from cmg.extract.__main__ import main
shards.SHARD = 1
whole = shards.Parts.flush
def flush(parts):  # two shards are on disk, the third clip is lost
    whole(parts) if len(parts.files) < 2 else os.kill(os.getpid(), signal.SIGKILL)
shards.Parts.flush = flush
main(sys.argv[1:])
"""


def test_resume_after_a_kill(clips, tmp_path, capsys):
    extract(clips, tmp_path / "whole" / "set.h5", modalities=["audio"])
    out = tmp_path / "set.h5"
    call = ["--videos", clips[0], "--modalities", "audio", "--seconds", 3, "--workers", 0, "--out", out]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, call)], env=environment(), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    parts = tmp_path / "set.h5.parts"
    assert [FeatureFile(path).ids for path in sorted(parts.glob("*.h5"))] == [["a"], ["b"]]
    assert not out.exists()
    (parts / "shard-000002.h5.tmp-1").write_text("what a kill may leave")
    (tmp_path / "set.h5.tmp-1").write_text("and what it may leave while it merges")

    with locked(parts):  # a second one at the same time would do the same clips, and then miss their shards
        busy = error_of(capsys, lambda: extract(clips, out, modalities=["audio"]))
    assert "set.h5.parts: another process is at work there" in busy
    other = error_of(capsys, lambda: extract(clips, out, "--seconds", "2", modalities=["audio"]))
    assert "set.h5.parts: unfinished extraction with other settings" in other and "--overwrite" in other
    # What the shards hold is not done again: these two clips could not be.
    for name in "ab":
        (clips[0] / "deep" / f"{name}.mkv").write_bytes(b"")
    capsys.readouterr()
    extract(clips, out, modalities=["audio"])
    assert "resuming: 2 of 6 clips are done" in capsys.readouterr().err
    assert same_content(out, tmp_path / "whole" / "set.h5")
    assert [path.name for path in tmp_path.glob("set.h5*")] == ["set.h5"]


def test_several_machines_extract_a_share_each(clips, tmp_path, capsys):
    """The file is that of one machine, bad clips included, also where one of three never came."""
    whole, out = tmp_path / "whole.h5", tmp_path / "set.h5"
    extract(clips, whole, modalities=["video"])
    for share in ("1/3", "3/3"):
        extract(clips, out, "--shard", share, modalities=["video"])
    assert not out.exists() and "the same command without --shard makes" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("set.h5*")) == ["set.h5.parts-1-of-3", "set.h5.parts-3-of-3"]
    with locked(tmp_path / "set.h5.parts-3-of-3"):
        busy = error_of(capsys, lambda: extract(clips, out, modalities=["video"]))
    assert "set.h5.parts-3-of-3: another process is at work there" in busy
    other = error_of(capsys, lambda: extract(clips, out, "--seconds", "2", modalities=["video"]))
    assert "unfinished extraction with other settings" in other
    extract(clips, out, modalities=["video"])
    done = len(FeatureFile(whole).ids) - sum(name in FeatureFile(whole).ids for name in sorted("abcdef")[1::3])
    assert f"resuming: {done} of 6 clips are done" in capsys.readouterr().err
    assert same_content(out, whole) and failures(out) == failures(whole)
    assert "f" in failures(out) and sorted(path.name for path in tmp_path.glob("set.h5*")) == [
        "set.h5", "set.h5.failed.csv"]


def test_many_shards_make_one_sorted_file(clips, tmp_path, monkeypatch):
    extract(clips, tmp_path / "a.h5", modalities=["audio"])
    monkeypatch.setattr(shards, "SHARD", 2)
    backwards = lambda jobs, *rest: reversed(list(workers.extract_all(jobs, *rest)))  # noqa: E731
    monkeypatch.setattr("cmg.extract.__main__.extract_all", backwards)
    extract(clips, tmp_path / "b.h5", modalities=["audio"])
    assert same_content(tmp_path / "a.h5", tmp_path / "b.h5")


def test_a_finished_file_is_not_overwritten_unasked(clips, tmp_path, capsys):
    out = tmp_path / "set.h5"
    extract(clips, out, "--select", "a", modalities=["audio"])
    before = out.read_bytes()
    assert f"--out {out}: exists already" in error_of(capsys, lambda: extract(clips, out, modalities=["audio"]))
    assert out.read_bytes() == before
    extract(clips, out, "--overwrite", "--select", "b", modalities=["audio"])
    assert list(rows_of(out)) == ["b"]


def test_overwrite_also_drops_an_unfinished_run_of_other_settings(clips, tmp_path, capsys):
    out = tmp_path / "set.h5"
    recipe = workers.Recipe((Choice("audio", "logmel"),), 2, 4)
    parts_of(out, recipe, {"source": "elsewhere"})
    extract(clips, out, "--overwrite", modalities=["audio"])
    assert len(rows_of(out)) == 6 and not (tmp_path / "set.h5.parts").exists()
    # But never a folder that is somebody else's.
    (tmp_path / "new.h5.parts").mkdir()
    (tmp_path / "new.h5.parts" / "thesis.tex").write_text("")
    for flags in ((), ("--overwrite",)):
        line = error_of(capsys, lambda flags=flags: extract(clips, tmp_path / "new.h5", *flags, modalities=["audio"]))
        assert "new.h5.parts: in the way" in line
    assert (tmp_path / "new.h5.parts" / "thesis.tex").exists()


def test_no_good_clip_at_all(clips, tmp_path, capsys):
    line = error_of(capsys, lambda: extract(clips, tmp_path / "a.h5", "--select", "f", modalities=["video"]))
    assert "none of the 1 clips could be read; reasons in" in line
    assert failures(tmp_path / "a.h5")["f"][1] == "video: no video track"
    assert not (tmp_path / "a.h5").exists() and not (tmp_path / "a.h5.parts").exists()


def test_features_that_are_not_finite_quarantine_the_clip(tmp_path):
    with av.open(str(tmp_path / "nan.wav"), "w") as box:
        track = box.add_stream("pcm_f32le", rate=16000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.full((1, 16000), np.nan, np.float32), format="flt", layout="mono")
        block.sample_rate, block.pts = 16000, 0
        box.mux(track.encode(block) + track.encode())
    job = workers.Job("nan", str(tmp_path / "nan.wav"), ())
    outcome = workers.Extractor(workers.Recipe((Choice("audio", "logmel"),), 1, 1))(job)
    assert outcome.reason == "audio: features are not finite"


def dying_on_b(recipe, device):
    """What takes its process down on one clip, as a decoder might."""
    return lambda job: os._exit(1) if job.id == "b" else workers.Outcome(job, {}, {}, "")


@pytest.mark.slow
def test_a_dying_decoder_costs_one_clip():
    jobs = [workers.Job(name, "", ()) for name in "abcd"]
    recipe = workers.Recipe((Choice("text", "hash"),), 1, 1)
    outcomes = {o.job.id: o.reason for o in workers.extract_all(jobs, recipe, 2, work=dying_on_b)}
    assert outcomes == {"a": "", "b": "the process that decoded it died (exit status 1)", "c": "", "d": ""}


@pytest.mark.parametrize(
    "flags, match",
    [
        (["--videos", "gone"], "--videos gone: no such folder or list"),
        (["--videos", "{empty}"], "no media files there"),
        (["--videos", "{twice}"], "id 'a' occurs twice: .*a.mkv and .*a.mp4"),
        (["--videos", "{clips}/f.wav"], "expected a folder, or a text file"),
        (["--select", "pre_*"], r"--select pre_\*: matches none of the 6 clips"),
        (["--captions", "gone.csv"], r"--captions gone.csv: cannot be read \(No such file"),
        (["--captions", "{columns}"], r"expected the columns id and caption, found \['name', 'text'\]"),
        (["--captions", "{repeats}", "--modalities", "text"], r"'a' occurs twice \(line 3\)"),
        (["--captions", "{nowhere}"], "none of its 1 ids is the name of a file, .*: captions have 'x', files 'a'"),
        (["--captions", "{clips}/f.wav"], "not a UTF-8 CSV file"),
        (["--captions", "{commas}"], "line 3 has more than 2 fields; expected id,caption, and commas .* within quotes"),
        (["--captions", "{nobody}"], "line 2 has no id"),
        (["--captions", "{unclosed}"], r"not a UTF-8 CSV file \(unexpected end of data\)"),
        (["--out", "{empty}"], "--out .*: is a folder"),
        (["--out", "{clips}/f.wav/set.h5"], r"cannot write \(Not a directory\)"),
        (["--seconds", "0"], "--seconds: '0' is not a whole number of at least 1"),
        (["--workers", "-1"], "--workers"),
        (["--video-backbone", "vgg"], r"--video-backbone vgg: expected one of .*mine.py\); did you mean vgg19\?"),
        (["--video-backbone", "vgg19"], "--video-weights: 0 given, vgg19 expects torchvision's"),
        (["--audio-weights", "a.pth"], "--audio-weights: 1 given, cepstra expects none: it has no weights"),
        (["--video-backbone", "vgg19", "--video-weights", "gone.pth"], "gone.pth: no such"),
        (["--modalities", "audio", "--text-weights", "a"], "--text-weights: text is not in --modalities"),
        (["--modalities", "audio", "--prompts", "a.csv"], "--prompts: text is not in --modalities"),
        (["--device", "cpu", "tpu"], "--device tpu: expected auto, cpu, cuda or cuda:N"),
        (["--second", "3"], "unrecognized arguments: --second"),
    ],
)  # fmt: skip
def test_wrong_calls_end_in_one_line(clips, tmp_path, capsys, flags, match):
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice" / "more").mkdir(parents=True)
    for name in ("a.mkv", "more/a.mp4"):
        (tmp_path / "twice" / name).touch()
    (tmp_path / "columns").write_text("name,text\n")
    (tmp_path / "repeats").write_text("id,caption\na,x\na,y\n")
    (tmp_path / "commas").write_text("id,caption\na,x\nb,a dog, barking\n")
    (tmp_path / "nowhere").write_text("id,caption\nx,y\n")
    (tmp_path / "nobody").write_text("id,caption\n,x\n")
    (tmp_path / "unclosed").write_text('id,caption\na,"x\nb,y\nc,z\n')  # all of the rest would be a's caption
    before = sorted(tmp_path.rglob("*"))
    names = ("empty", "twice", "columns", "repeats", "clips", "commas", "nobody", "nowhere", "unclosed")
    places = {name: tmp_path / name for name in names}
    flags = [flag.format(**places) for flag in flags]
    with pytest.raises(SystemExit) as caught:
        extract(clips, tmp_path / "set.h5", *flags)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(match, lines[0]), lines
    assert sorted(tmp_path.rglob("*")) == before


def test_progress_where_there_is_no_terminal(capsys, monkeypatch):
    """A line on stderr every so often, with the rate and the time left; the account in the end."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    progress = Progress(1240, 40, 2)
    for clock[0] in (130.0, 160.0):
        progress.finished(decode=1.5, forward=6.5)
    assert capsys.readouterr().err == ("resuming: 40 of 1240 clips are done\n"
                                       "clip 42 of 1240, 0.03 clips/s, 9 h 59 min left\n")
    assert str(progress) == "0.03 clips/s, 2 processes in 60.0 s: decode 3.0 s, forward 13.0 s, write 0.0 s " \
                            "(write: by the main process)"


def test_without_pyav(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cmg.extract.media.av", None)
    extract(clips, tmp_path / "text.h5", modalities=["text"])
    assert len(rows_of(tmp_path / "text.h5")) == 5
    line = error_of(capsys, lambda: extract(clips, tmp_path / "av.h5"))
    assert "needs PyAV and torchaudio: install this project with its extra [extract]" in line


@pytest.mark.parametrize("modalities, missing", [("text", "--captions"), ("video", "--videos")])
def test_what_a_modality_needs(capsys, modalities, missing):
    line = error_of(capsys, lambda: main(["--modalities", modalities, "--out", "x.h5"]))
    assert line.startswith("cmg.extract: error: " + missing)


def test_edge_view_beats_a_grey_view_of_its_length(digits):
    """What `Pixels` says of its view, on the digit images: a linear classifier, 1000 to fit and 1000 to judge."""
    from sklearn.linear_model import LogisticRegression

    with np.load(digits / "images_mnist.npz") as file:
        pictures, labels = torch.from_numpy(file["images"][:2000]).float() / 127.5 - 1, file["label"][:2000]
    views = {"edges": edges(pictures), "grey": torch.nn.functional.avg_pool2d(pictures[:, None], 2)}
    score = {}
    for name, view in views.items():
        x = view.flatten(1).numpy()
        assert x.shape[1] == 196
        score[name] = LogisticRegression(max_iter=500).fit(x[:1000], labels[:1000]).score(x[1000:], labels[1000:])
    assert score["edges"] > score["grey"] + 0.02, score


@pytest.mark.parametrize("backbone, shared", [(Pixels(), 48), (Things(), 14)])
def test_small_digits_are_read_like_large_ones(digits, backbone, shared):
    """The view's other claim: who learns from digits as large as the frame knows them in its quarters (chance 10 %)."""
    from sklearn.linear_model import LogisticRegression

    with np.load(digits / "images_mnist.npz") as file:
        pictures, labels = file["images"][:1200], file["label"][:1200]
    frames = np.zeros((1200, 1, 112, 112, 3), np.uint8)
    for i, picture in enumerate(pictures):
        if i < 1000:
            frames[i, 0] = np.kron(picture, np.ones((4, 4)))[..., None]
        else:
            y, x = 56 * (i // 2 % 2), 56 * (i % 2)
            frames[i, 0, y : y + 56, x : x + 56] = np.kron(picture, np.ones((2, 2)))[..., None]
    x = backbone(list(frames))[:, 0, 0, shared:]
    score = LogisticRegression(max_iter=500).fit(x[:1000], labels[:1000]).score(x[1000:], labels[1000:])
    assert score > 0.85, score


def test_slow_clips_are_written_one_by_one(tmp_path, monkeypatch):
    """Where a clip takes longer than a shard may wait, a kill costs no clip that was finished before."""
    monkeypatch.setattr(shards, "PATIENCE", 0)
    parts = parts_of(tmp_path / "a.h5", workers.Recipe((Choice("text", "hash"),), 1, 2), {})
    for name in "ab":
        text = {"text": np.zeros((2, 300), np.float16)}
        parts.add(workers.Outcome(workers.Job(name, "", ()), text, {"text": np.ones(2, bool)}, ""))
        assert FeatureFile(parts.files[-1].path).ids == [name]
