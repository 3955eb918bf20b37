"""Rendered clips: the given folder's own renderer as a second implementation, and what files hold."""

import subprocess
import sys
import wave

import av
import numpy as np
import pytest
from PIL import Image

from cmg.data.compose import render
from cmg.data.compose.render import Folder, main
from support import CODE
from support_material import compositions


def test_clips_are_those_of_the_given_renderer(digits, monkeypatch):
    """To the bit: sound, frames and masks of the first rows of each kind and split."""
    monkeypatch.syspath_prepend(str(digits))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    given = __import__("render")
    bank, folder, seen = given.Bank(str(digits)), Folder(digits), {}
    for row in folder.rows():
        seen[row["kind"], row["split"]] = seen.get((row["kind"], row["split"]), 0) + 1
        if seen[row["kind"], row["split"]] <= 2:
            expected, found = given.render(bank, row, size=112, sr=16000), render.render(folder, row)
            assert np.array_equal(found.audio, expected["audio"]), row["id"]
            assert np.array_equal(found.frames, expected["frames"]), row["id"]
            assert np.array_equal(found.masks, expected["masks"]), row["id"]
    assert len(seen) == 10


def test_a_second_implementation_of_a_frame(composed):
    """Pixel by pixel: a photo covers its quarter, a drawn digit shines through the noise, a silent one has no mask."""
    for name in ("digits", "nature"):
        folder = Folder(composed[name])
        row = next(row for row in folder.rows() if row["kind"] == "avvp" and row["visual"])
        event = row["visual"][0]
        second, image, quarter = event["frames"][0]
        frame = render.render(folder, row).frames[second]
        picture = folder.images[image]
        for y, x in ((0, 0), (3, 50), (55, 55), (20, 31)):
            value = picture[y * len(picture) // 56, x * len(picture) // 56]
            shown = frame[quarter // 2 * 56 + y, quarter % 2 * 56 + x]
            if name == "nature":
                assert shown.tolist() == value.tolist()
            else:
                assert all(max(value, 0) <= s <= max(value, 11) for s in shown)
    folder = Folder(composed["digits"])
    row = next(row for row in folder.rows() if row["kind"] == "s4" and len(row["visual"]) == 2)
    mask = render.render(folder, row).masks[0]
    for event in row["visual"]:
        _, image, quarter = event["frames"][0]
        half = mask[quarter // 2 * 56 :, quarter % 2 * 56 :][:56, :56]
        expected = (folder.images[image] > 127).repeat(2, axis=0).repeat(2, axis=1)
        assert np.array_equal(half, expected * (not event.get("silent")))


def test_a_recording_sounds_where_its_row_says(composed):
    """Above the noise, from the second of a segment on and as long as the recording."""
    folder = Folder(composed["digits"])
    row = next(row for row in folder.rows() if row["kind"] == "ave" and 0 < row["start"])
    sound = render.render(folder, row).audio.reshape(10, 20, 800)  # 50 ms, as long as a recording here
    level = np.sqrt((sound**2).mean(axis=2))
    events = [range(event["onset"], event["offset"]) for event in row["audio"]]
    for second in range(10):
        assert (level[second, 0] > 0.1) == any(second in event for event in events)
        assert level[second, 2:19].max() < 0.01  # beside it the resampling rings


def test_a_folder_renders_itself_and_is_started_again(composed, tmp_path, monkeypatch):
    folder = composed["digits"]
    monkeypatch.setenv("PYTHONPATH", str(CODE))
    call = [sys.executable, folder / "render_media.py", tmp_path, "--limit", "1"]
    first = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    assert "10 clips, 3 ave, 3 avvp, 3 s4, 1 pretrain" in first
    path = tmp_path / "videos" / "pre_0000.mp4"
    with av.open(str(path)) as box:
        frames = [frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)]
    assert len(frames) == 20 and frames[0].shape == (112, 112, 3)
    row = next(row for row in compositions(folder) if row["id"] == "pre_0000")
    expected = render.render(Folder(folder), row).frames
    assert np.abs(frames[0].astype(float) - expected[0]).mean() < 12  # H.264 of noise
    with av.open(str(path)) as box:
        samples = sum(frame.samples for frame in box.decode(audio=0))
    assert 160_000 <= samples < 164_000
    s4 = tmp_path / "s4" / "s4_data"
    masks = [np.array(Image.open(s4 / f"gt_masks/val/zero/s4_val_000/s4_val_000_{n}.png")) for n in range(1, 6)]
    assert {*np.unique(masks)} == {0, 255} and masks[0].shape == (224, 224)
    assert len(list(s4.rglob("s4_train_000_*.png"))) == 5 + 1  # of training clips one mask
    with wave.open(str(s4 / "audio_wav/val/zero/s4_val_000.wav")) as file:
        assert (file.getframerate(), file.getnframes()) == (16000, 80000)
    path.write_bytes(b"kept")
    (tmp_path / "videos" / "ave_val_000.mp4").unlink()
    assert main([str(folder), str(tmp_path), "--limit", "1"]) is None
    assert path.read_bytes() == b"kept" and (tmp_path / "videos" / "ave_val_000.mp4").stat().st_size > 10_000


@pytest.mark.parametrize("argv, message", [
    (["nowhere", "out"], "meta.json: no such file; expected a folder of clips, with meta.json"),
    (["nowhere", "out", "--kinds", "x"], "--kinds: invalid choice: 'x'"),
    (["nowhere", "out", "--limit", "0"], "--limit: '0' is not a whole number of at least 1")])
def test_what_is_no_folder_of_clips_is_one_line(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(argv)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and message in line
