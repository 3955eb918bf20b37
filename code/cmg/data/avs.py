"""AVSBench S4 (single source; Zhou et al., ECCV 2022), read from the public folder as it is.

    FOLDER/s4_meta_data.csv                                          name,start_time,category,split (order counts)
    FOLDER/s4_data/visual_frames/<split>/<category>/<name>/<name>_{1..5}.png
    FOLDER/s4_data/gt_masks/<split>/<category>/<name>/<name>_{1..5}.png     train: only _1 exists
    FOLDER/s4_data/audio_wav/<split>/<category>/<name>.wav
    FOLDER/s4_data/audio_log_mel/<split>/<category>/<name>.pkl              a pickled Tensor[5, 1, 96, 64]

FOLDER may also be the one above, which holds it as `Single-source`. A mask's pixel is foreground where its grey value
is above 127. Every clip of the table must be complete: what is missing is an error that names the file.
"""

import csv
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from cmg.data.pickles import BadPickle, array_of
from cmg.errors import UserError

SPLITS = ("train", "val", "test")
SECONDS = 5  # of a clip: one frame each


class S4Clip(NamedTuple):
    """One row of the table; `start` is the clip's first second in its video, as written there."""

    name: str
    start: str
    category: str
    split: str


class S4Folder(NamedTuple):
    """The benchmark on disk: where its files are, its classes in order of appearance, the clips of each split."""

    data: Path
    classes: list[str]
    splits: dict[str, list[S4Clip]]

    def frame(self, clip, second) -> Path:
        """The picture of second 0..4."""
        return self._picture("visual_frames", clip, second)

    def mask(self, clip, second) -> Path:
        return self._picture("gt_masks", clip, second)

    def sound(self, clip) -> Path:
        return self.data / "audio_wav" / clip.split / clip.category / f"{clip.name}.wav"

    def log_mel(self, clip) -> Path:
        return self.data / "audio_log_mel" / clip.split / clip.category / f"{clip.name}.pkl"

    def _picture(self, kind, clip, second):
        return self.data / kind / clip.split / clip.category / clip.name / f"{clip.name}_{second + 1}.png"


def read_s4(folder) -> S4Folder:
    """Read the table of an AVSBench S4 folder and check that every clip's frames and masks exist.

    Raises
    ------
    UserError
        No table, a broken row, a name twice, an empty split, a missing frame or mask; the line names it.
    """
    table = next((path for path in (Path(folder) / below / "s4_meta_data.csv" for below in ("", "Single-source"))
                  if path.is_file()), None)
    if table is None:
        raise UserError(f"--annotations {folder}: no s4_meta_data.csv there; expected the folder of AVSBench S4")
    splits = {split: [] for split in SPLITS}
    seen = set()
    for line, fields in _rows(table):
        clip = S4Clip(*fields[:4])
        if clip.split not in splits:
            raise UserError(f"{line}: split {clip.split!r}; expected train, val or test")
        if not clip.name or not clip.category:
            raise UserError(f"{line}: empty name or category")
        if clip.name in seen:
            raise UserError(f"{line}: clip {clip.name} occurs twice")
        seen.add(clip.name)
        splits[clip.split].append(clip)
    for split, clips in splits.items():
        if not clips:
            raise UserError(f"{table}: the {split} split is empty; expected at least one clip")
    classes = list(dict.fromkeys(clip.category for split in SPLITS for clip in splits[split]))
    found = S4Folder(table.parent / "s4_data", classes, splits)
    for clip in (clip for split in SPLITS for clip in splits[split]):
        wanted = [found.frame(clip, second) for second in range(SECONDS)]
        wanted += [found.mask(clip, second) for second in range(masks_of(clip.split))]
        for path in wanted:
            if not path.is_file():
                raise UserError(f"{path}: no such file; {table.name} lists clip {clip.name} ({clip.split})")
    return found


def masks_of(split: str) -> int:
    """How many frames of a clip have a mask: the first one in training, all five otherwise."""
    return 1 if split == "train" else SECONDS


class S4Set(torch.utils.data.Dataset):
    """Frames and masks of a list of clips of one split.

    Parameters
    ----------
    folder : S4Folder
    clips : list of S4Clip
    size : side of the square that frames (bilinear) and masks (nearest) are brought to; both are left untouched
        where they have it already, as the public files do at 224.
    cache : True holds everything in memory, uint8: 1.1 MiB a clip at 224.

    Raises
    ------
    UserError
        A picture cannot be read, or a mask has not the size of its frame.
    """

    def __init__(self, folder: S4Folder, clips: list[S4Clip], size: int, cache=False):
        self.folder, self.clips, self.size = folder, clips, size
        self.cached = [self.read(clip) for clip in clips] if cache else None

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        """-> (frames uint8 Tensor[5, h, w, 3], masks bool Tensor[1 or 5, h, w], index)."""
        frames, masks = self.cached[index] if self.cached is not None else self.read(self.clips[index])
        return torch.from_numpy(frames), torch.from_numpy(masks), index

    def read(self, clip):
        """A clip as arrays: uint8 [5, h, w, 3] and bool [n, h, w]."""
        frames, masks, sizes = [], [], []
        for second in range(SECONDS):
            frame = _open(self.folder.frame(clip, second), "RGB")
            sizes.append(frame.size)
            frames.append(np.asarray(self._fit(frame, Image.Resampling.BILINEAR)))
        for second in range(masks_of(clip.split)):
            path = self.folder.mask(clip, second)
            mask = _open(path, "L")
            if mask.size != sizes[second]:
                raise UserError(f"{path}: mask of {mask.size[0]}x{mask.size[1]} pixels, its frame has "
                                f"{sizes[second][0]}x{sizes[second][1]}")
            masks.append(np.asarray(self._fit(mask, Image.Resampling.NEAREST)) > 127)
        return np.stack(frames), np.stack(masks)

    def _fit(self, image, how):
        return image if image.size == (self.size, self.size) else image.resize((self.size, self.size), how)


def read_log_mel(path):
    """The public folder's log-mel features of a clip, float32 Tensor[5, 1, 96, 64], without running pickled code.

    Raises
    ------
    UserError : missing, damaged, of another shape, or a pickle that names anything but what builds a tensor.
    """
    try:
        x = array_of(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except BadPickle as bad:
        raise UserError(f"{path}: not a pickled tensor ({bad})") from None
    if x.shape != (SECONDS, 1, 96, 64):
        raise UserError(f"{path}: {x.shape}; expected a tensor of shape ({SECONDS}, 1, 96, 64)")
    return torch.from_numpy(x).float()


def _open(path, mode):
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), \
                Image.open(path) as image:
            return image.convert(mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million"
        raise UserError(f"{path}: more than {most} pixels; expected a frame") from None
    except (OSError, SyntaxError, ValueError) as error:  # PIL's own words for damage, by the format
        raise UserError(f"{path}: not a readable picture ({str(error)[:80]})") from None


def _rows(table):
    """Rows below the header as (file and line, fields)."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = [(line, [field.strip() for field in row]) for line, row in enumerate(csv.reader(file), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: not a UTF-8 CSV file ({error})") from None
    if not rows or rows[0][1][2:4] != ["category", "split"]:
        raise UserError(f"{table}: header {','.join(rows[0][1]) if rows else 'missing'}; expected four columns, name, "
                        "start time, category and split, the last two under these names")
    for line, fields in rows[1:]:
        if len(fields) < 4:
            raise UserError(f"{table}, line {line}: {len(fields)} fields; expected 4")
        yield f"{table}, line {line}", fields
