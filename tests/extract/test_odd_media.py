"""Videos as they come: what becomes of each is defined, and told in data/README.md."""

import csv
import struct

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cmg.data.features import FeatureFile
from cmg.extract.__main__ import main
from cmg.extract.backbones import Choice
from cmg.extract.media import BadClip, audio_seconds, video_seconds
from cmg.extract.workers import Extractor, Job, Recipe
from support_media import write_dark_png

LEVELS = (40, 80, 120, 160, 200, 240)


def write(path, pictures, sounds=(), clock=25, **options):
    """A file with tracks of MPEG-4 pictures and AAC sound.

    pictures : list of tracks, each a list of (time stamp in 1 / clock s, uint8 ndarray [H, W, 3]).
    sounds : list of tracks, each a float array in [-1, 1] at 16 kHz.
    """
    with av.open(str(path), "w", options=options) as box:
        films, tracks = [], []
        for frames in pictures:
            film = box.add_stream("mpeg4", rate=clock)
            film.height, film.width, film.pix_fmt = *frames[0][1].shape[:2], "yuv420p"
            film.bit_rate, film.gop_size = 4_000_000, 5
            films.append(film)
        for _ in sounds:
            tracks.append(box.add_stream("aac", rate=16000, layout="mono"))
        for film, frames in zip(films, pictures):
            for stamp, picture in frames:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = stamp
                box.mux(film.encode(frame))
            box.mux(film.encode())
        for track, sound in zip(tracks, sounds):
            for start in range(0, len(sound), 1024):
                part = np.ascontiguousarray(sound[None, start : start + 1024], np.float32)
                block = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                block.sample_rate, block.pts = 16000, start
                box.mux(track.encode(block))
            box.mux(track.encode())
    return path


def grey(level, height=48, width=64):
    return np.full((height, width, 3), level, np.uint8)


def steady(seconds, fps=5, level=None, clock=25):
    """Pictures of `seconds` seconds, second s in the s-th level."""
    return [(i * clock // fps, grey(level or LEVELS[i // fps])) for i in range(seconds * fps)]


def tone(hertz, seconds):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(seconds * 16000) / 16000)


def levels(path, seconds=10):
    """Mean level of each frame, second by second."""
    return [second.mean(axis=(1, 2, 3)).round(-1).astype(int).tolist() for second in video_seconds(path, seconds)]


def pitch(sound):
    return torch.fft.rfft(sound).abs().argmax(dim=1).tolist()  # 1 Hz a bin


def test_variable_frame_rate_goes_by_the_time_stamps(tmp_path):
    """Two seconds at 25 frames, then one picture a second: each second's frames are those that lie in it."""
    quick = [(i, grey(LEVELS[0] if i < 25 else LEVELS[1])) for i in range(50)]
    path = write(tmp_path / "a.mp4", [quick + [(50, grey(120)), (75, grey(160)), (115, grey(200))]])
    assert levels(path) == [[40] * 16, [80] * 16, [120], [160], [200]]
    assert levels(path, 3) == [[40] * 16, [80] * 16, [120]]
    assert [len(second) for second in video_seconds(path, 3, most=4)] == [4, 4, 1]


def show_as(path, matrix):
    """Write a display matrix (a, b, c, d) of whole numbers over the one in an MP4 file's header."""
    raw, one = path.read_bytes(), 1 << 16
    start = raw.index(struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30), raw.index(b"tkhd"))
    a, b, c, d = (round(x * one) for x in matrix)
    path.write_bytes(raw[:start] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + raw[start + 36 :])


def shown(picture, matrix):
    """The picture as ISO 14496-12 says: pixel by pixel, (x, y) goes to (a x + c y, b x + d y)."""
    a, b, c, d = matrix
    to = {(a * x + c * y, b * x + d * y): picture[y, x] for y, x in np.ndindex(*picture.shape[:2])}
    left, top = (min(place[axis] for place in to) for axis in (0, 1))
    width, height = (max(place[axis] for place in to) + 1 - start for axis, start in ((0, left), (1, top)))
    return np.array([[to[x + left, y + top] for x in range(width)] for y in range(height)])


ORIENTATIONS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", ORIENTATIONS, ids=str)
def test_pictures_are_turned_and_mirrored_as_the_file_says(tmp_path, matrix):
    """A telephone held upright writes pictures that lie on their side, a front camera mirrored ones, and how they are
    to be shown into the header."""
    picture = grey(20)
    picture[:16, :16], picture[:16, 48:], picture[32:, :16] = 220, 150, 90  # three corners, each of its own level
    path = write(tmp_path / "a.mp4", [[(i, picture) for i in range(25)]])
    (stored,) = video_seconds(path, 1)
    show_as(path, matrix)
    (second,) = video_seconds(path, 1)
    np.testing.assert_array_equal(second[[0, -1]], [shown(frame, matrix) for frame in stored[[0, -1]]])
    assert abs(stored[0].astype(int) - picture).mean() < 5


@pytest.mark.parametrize(("degrees", "mirror"), [(8, 1), (-30, 1), (80, 1), (95, -1), (178, -1)])
def test_a_slanted_picture_is_shown_in_the_nearest_orientation(tmp_path, degrees, mirror):
    picture = grey(20)
    picture[:16, :16] = 220
    path = write(tmp_path / "a.mp4", [[(i, picture) for i in range(25)]])
    (stored,) = video_seconds(path, 1)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    show_as(path, (mirror * cos, mirror * sin, -sin, cos))
    (second,) = video_seconds(path, 1)
    matrix = tuple(round(x) for x in (mirror * cos, mirror * sin, -sin, cos))
    np.testing.assert_array_equal(second[0], shown(stored[0], matrix))


def test_what_an_edit_list_cuts_off_is_not_seen(tmp_path):
    """A cut without encoding anew keeps the first second in the file, and says that the clip begins after it."""
    path = write(tmp_path / "a.mp4", [steady(4)], [np.concatenate([tone(440, 1), tone(880, 3)])])
    raw, at = bytearray(path.read_bytes()), -1
    for ticks in (12800, 16000):  # of a second, in the order of the tracks
        at = raw.index(b"elst", at + 1)
        duration, start = struct.unpack_from(">2i", raw, at + 12)  # the clip's in ms, the track's in its own ticks
        struct.pack_into(">2i", raw, at + 12, duration - 1000, start + ticks)
    path.write_bytes(raw)
    assert levels(path) == [[80] * 5, [120] * 5, [160] * 5]
    assert pitch(audio_seconds(path, 10)) == [880] * 3


def test_odd_sizes_and_ten_bits(tmp_path):
    """Sizes that chroma's half does not divide and more than eight bits are read as what they show."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as box:
        film = box.add_stream("ffv1", rate=5)
        film.width, film.height, film.pix_fmt = 37, 23, "yuv420p10le"
        for level in (40, 200):
            for number in range(5):
                frame = av.VideoFrame(37, 23, "yuv420p10le")
                for plane, value in zip(frame.planes, (round(64 + 876 * level / 255), 512, 512)):  # BT.601
                    plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
                frame.pts = number + 5 * (level == 200)
                box.mux(film.encode(frame))
        box.mux(film.encode())
    first, second = video_seconds(path, 2)
    assert first.shape == (5, 23, 37, 3)
    np.testing.assert_allclose(first, 40, atol=2)
    np.testing.assert_allclose(second, 200, atol=2)


def test_the_first_of_several_tracks_is_read(tmp_path):
    pictures = [steady(2, level=80), steady(2, level=200)]
    path = write(tmp_path / "a.mkv", pictures, [tone(440, 2), tone(880, 2)])
    with av.open(str(path)) as box:
        assert [len(box.streams.video), len(box.streams.audio)] == [2, 2]
    assert levels(path) == [[80] * 5] * 2
    assert pitch(audio_seconds(path, 10)) == [440, 440]


def extract_one(path, seconds):
    backbones = (Choice("video", "pixels"), Choice("audio", "logmel"))
    return Extractor(Recipe(backbones, seconds, 1))(Job("a", str(path), ()))


def test_clips_shorter_and_longer_than_asked_for(tmp_path):
    path = write(tmp_path / "a.mp4", [steady(4)], [tone(440, 4)])
    longer, shorter = extract_one(path, 3), extract_one(path, 6)
    for m in ("video", "audio"):
        assert longer.valid[m].tolist() == [True] * 3
        assert shorter.valid[m].tolist() == [True] * 4 + [False] * 2
        np.testing.assert_array_equal(shorter.features[m][4:], shorter.features[m][[3, 3]])
        np.testing.assert_array_equal(shorter.features[m][:2], longer.features[m][:2])


def test_sound_that_ends_before_the_picture(tmp_path):
    """Each modality has a length of its own; what is missing is marked."""
    outcome = extract_one(write(tmp_path / "a.mp4", [steady(4)], [tone(440, 2)]), 4)
    assert outcome.valid["video"].all() and outcome.valid["audio"].tolist() == [True, True, False, False]


def test_damage_is_a_bad_clip_unless_it_comes_too_late(tmp_path):
    path = write(tmp_path / "a.mp4", [steady(6)], [tone(440, 6)], movflags="+faststart")
    raw = path.read_bytes()
    with av.open(str(path)) as box:  # the first byte of the first picture after four seconds
        start = next(p.pos for p in box.demux(video=0) if p.is_keyframe and p.pts * p.time_base >= 4)
    path.write_bytes(raw[:start] + bytes(400) + raw[start + 400 :])
    with pytest.raises(BadClip, match="video track is damaged"):
        list(video_seconds(path, 6))
    assert levels(path, 3) == [[40] * 5, [80] * 5, [120] * 5]  # what is not needed is not read
    assert extract_one(path, 6).reason.startswith("video: video track is damaged")


def test_a_file_that_ends_too_early(tmp_path):
    """A Matroska file has no table that tells how long it should be: it is a shorter clip. In an MP4 the last packet is
    broken, which makes it a bad one; without its table, which some writers put last, nothing of it can be read."""
    cut = {}
    for name, options in (("a.mkv", {}), ("b.mp4", {"movflags": "+faststart"}), ("c.mp4", {})):
        path = write(tmp_path / name, [steady(6)], [tone(440, 6)], **options)
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])
        cut[name] = extract_one(path, 6)
    valid = cut["a.mkv"].valid
    assert not cut["a.mkv"].reason and valid["video"][0] and not valid["video"][5] and not valid["audio"][5]
    assert "damaged" in cut["b.mp4"].reason
    assert cut["c.mp4"].reason == "video: cannot be opened (Invalid data found when processing input)"


def test_whatever_a_decoder_throws_costs_one_clip(tmp_path, monkeypatch):
    def broken(path, seconds):
        raise MemoryError("a header that promises 2 TB")

    monkeypatch.setattr("cmg.extract.workers.audio_seconds", broken)
    outcome = extract_one(write(tmp_path / "a.mp4", [steady(1)], [tone(440, 1)]), 1)
    assert outcome.reason == "audio: cannot be decoded (MemoryError: a header that promises 2 TB)"
    assert outcome.features == {} and outcome.spent.decode > 0 and outcome.spent.forward > 0


def test_the_run_goes_on_past_a_clip_without_sound(tmp_path, capsys):
    folder, out = tmp_path / "clips", tmp_path / "a.h5"
    folder.mkdir()
    write(folder / "good.mp4", [steady(2)], [tone(440, 2)])
    write(folder / "mute.mp4", [steady(2)])
    main(["--videos", str(folder), "--seconds", "2", "--workers", "0", "--out", str(out)])
    assert FeatureFile(out).ids == ["good"]
    with open(f"{out}.failed.csv", newline="") as file:
        assert [(row["id"], row["reason"]) for row in csv.DictReader(file)] == [("mute", "audio: no audio track")]
    printed = capsys.readouterr().out
    assert "1 clips (video 2x5x5x402, audio 2x260), 1 bad" in printed
    assert "clips/s, 1 process in" in printed and "decode" in printed and "forward" in printed and "write" in printed
    main(["--videos", str(folder), "--seconds", "2", "--workers", "0", "--out", str(out), "--overwrite",
          "--modalities", "video"])
    assert FeatureFile(out).ids == ["good", "mute"]


def test_what_a_codec_knows_of_damage_makes_a_bad_clip(tmp_path):
    """A bit that turns in MPEG-4's pictures is noticed where what follows cannot be; concealed, it was one in 75."""
    generator = np.random.default_rng(0)
    noise = generator.integers(40, 170, (48, 64, 3)).astype(np.uint8)
    path = write(tmp_path / "a.mp4", [[(i * 5, np.roll(noise, i, 1)) for i in range(5)]])
    raw, refused = path.read_bytes(), 0
    assert [len(second) for second in video_seconds(path, 1)] == [5]
    with av.open(str(path)) as box:
        first = next(packet for packet in box.demux(video=0) if packet.size)
        start, end = first.pos, first.pos + first.size
    for place in generator.integers(start, end, 30):
        turned = bytearray(raw)
        turned[place] ^= 1 << generator.integers(8)
        path.write_bytes(turned)
        try:
            list(video_seconds(path, 1))
        except BadClip as bad:
            assert str(bad).startswith("video track is damaged (")
            refused += 1
    assert refused >= 8, refused


@pytest.mark.parametrize(("side", "told"), [(8193, r"^frames of 8193x8193; expected at most 67 million pixels$"),
                                            (30000, r"^video track is damaged \(Invalid data")])
def test_a_small_file_of_enormous_frames_is_a_bad_clip(tmp_path, side, told):
    write_dark_png(tmp_path / "a.mp4", side)  # FFmpeg goes by the content
    with pytest.raises(BadClip, match=told):
        list(video_seconds(tmp_path / "a.mp4", 1))


def test_a_frame_that_is_larger_than_its_file_says_is_damage(tmp_path):
    """Pictures one after the other: the second is not decoded, and the first alone is a clip."""
    for name, later in (("small", 64), ("large", 9000)):
        with open(tmp_path / f"{name}.mkv", "wb") as file:
            for side in (64, later):
                Image.new("L", (side, side)).save(file, "jpeg")
    assert next(video_seconds(tmp_path / "small.mkv", 1)).shape == (2, 64, 64, 3)
    with pytest.raises(BadClip, match="^video track is damaged"):
        list(video_seconds(tmp_path / "large.mkv", 1))
