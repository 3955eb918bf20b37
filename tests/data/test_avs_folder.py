"""The public folder of AVSBench S4, read as it is."""

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cmg.data.avs import S4Clip, S4Folder, S4Set, read_log_mel, read_s4
from cmg.errors import UserError
from support import write_s4, write_s4_clip
from support_media import write_dark_png


@pytest.fixture(scope="module")
def s4(tmp_path_factory):
    return write_s4(tmp_path_factory.mktemp("s4") / "Single-source")


def test_the_folder_is_read_as_it_is(s4):
    folder = read_s4(s4)
    assert folder.classes == ["red_box", "blue-box"]
    assert {split: len(clips) for split, clips in folder.splits.items()} == {"train": 16, "val": 4, "test": 4}
    assert read_s4(s4.parent) == folder  # and from above
    train = S4Set(folder, folder.splits["train"], 32)
    frames, masks, index = train[3]
    assert frames.shape == (5, 32, 32, 3) and frames.dtype == torch.uint8 and index == 3
    assert masks.shape == (1, 32, 32) and masks.dtype == torch.bool and masks.sum() == 100
    red = S4Set(folder, folder.splits["train"], 32, cache=True)[0]
    assert bool((red[0][0, ..., 0][red[1][0]] == 230).all())  # the mask lies where the box is
    small = S4Set(folder, folder.splits["test"], 16)[0]
    assert small[0].shape == (5, 16, 16, 3) and small[1].shape == (5, 16, 16)
    assert 16 <= small[1][0].sum() <= 36


@pytest.mark.parametrize(("change", "message"), [
    (lambda f: f.unlink("visual_frames"), "train_1_3.png: no such file; s4_meta_data.csv lists clip train_1 (train)"),
    (lambda f: f.table(",0,red_box,train\n"), "line 2: empty name or category"),
    (lambda f: f.table("x,0,red_box,dev\n"), "line 2: split 'dev'; expected train, val or test"),
    (lambda f: f.table("x,0,red_box\n"), "line 2: 3 fields; expected 4"),
    (lambda f: f.table("train_0,0,red_box,train\ntrain_0,0,red_box,train\n"), "clip train_0 occurs twice"),
    (lambda f: f.table("train_0,0,red_box,train\n"), "the val split is empty"),
    (lambda f: f.table("", header="name,start,label,split"), "header name,start,label,split; expected four columns"),
])
def test_a_broken_folder_is_one_line(s4, tmp_path, change, message):
    class Copy:
        def table(self, text, header="name,start_time,category,split"):
            (tmp_path / "s4_meta_data.csv").write_text(f"{header}\n{text}")

        def unlink(self, kind):
            self.table((s4 / "s4_meta_data.csv").read_text().split("\n", 1)[1])
            for path in s4.glob("s4_data/*/*/*/*/*.png"):
                if path.name != "train_1_3.png" or kind not in path.parts:
                    copy = tmp_path / path.relative_to(s4)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.symlink_to(path)

    change(Copy())
    with pytest.raises(UserError) as caught:
        read_s4(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_mask_of_another_size_is_one_line(tmp_path):
    clip, frames = S4Clip("a", "0", "cat", "test"), np.zeros((5, 8, 8, 3), np.uint8)
    write_s4_clip(tmp_path, clip, frames, np.zeros((5, 8, 6), np.uint8), 100)
    with pytest.raises(UserError, match="a_1.png: mask of 6x8 pixels, its frame has 8x8"):
        S4Set(S4Folder(tmp_path / "s4_data", ["cat"], {}), [clip], 8)[0]
    (tmp_path / "s4_data/visual_frames/test/cat/a/a_1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="a_1.png: not a readable picture"):
        S4Set(S4Folder(tmp_path / "s4_data", ["cat"], {}), [clip], 8)[0]


def test_log_mel_is_read_without_running_code(tmp_path):
    x = torch.rand(5, 1, 96, 64)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(x))
    assert torch.equal(read_log_mel(path), x)

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="not a pickled tensor"):
        read_log_mel(path)
    assert not (tmp_path / "touched").exists()
    path.write_bytes(pickle.dumps(x[:3]))
    with pytest.raises(UserError, match=r"expected a tensor of shape \(5, 1, 96, 64\)"):
        read_log_mel(path)


@pytest.mark.parametrize("side", [10_000, 30_000])  # PIL warns of the one, and refuses the other
def test_a_picture_that_unpacks_to_gigabytes_is_one_line(s4, tmp_path, side):
    shutil.copytree(s4, tmp_path / "s4")
    folder = read_s4(tmp_path / "s4")
    path = folder.frame(folder.splits["train"][0], 0)
    write_dark_png(path, side)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: more than 89 million pixels; expected a frame$"):
        S4Set(folder, folder.splits["train"][:1], 32)[0]
