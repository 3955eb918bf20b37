"""Clips of a folder as sound and frames, and as media files in the layouts of the public data sets.

    python -m cmg.data.compose.render FOLDER OUT --kinds pretrain ave avvp s4

FOLDER is a folder of clips (see `cmg.data.compose`); its own `render_media.py` does the same. Writes

    OUT/videos/<id>.mp4           H.264 and AAC, of the kinds pretrain, ave and avvp
    OUT/annotations/              the files of FOLDER/ann
    OUT/s4/s4_meta_data.csv, OUT/s4/s4_data/{visual_frames,gt_masks,audio_wav}/<split>/<category>/…    of the kind s4

Files that are there are kept, and a file appears when it is complete, so that an interrupted call is started again.
"""

import math
import shutil
import wave
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly
from tqdm import tqdm

from cmg.cli import Parser, command, require_folder, whole
from cmg.errors import UserError
from cmg.files import parse_json, read_text, replacing

try:
    import av
    from PIL import Image
except ImportError:  # an extra: rows can be composed without them
    av = Image = None

KINDS = ("pretrain", "ave", "avvp", "s4")
NOISE = 10 ** (-55 / 20)  # deviation of the noise below all sound; full scale is 1
DARK = 12  # levels of the noise behind all pictures
INK = 127  # a brighter pixel of a drawn digit is its stroke
SAMPLE_RATE = 16_000  # Hz, of the media
SIZE, S4_SIZE = 112, 224  # pixels, height and width
FPS = 2  # frames of a second, all alike
S4_FRAMES = 5  # of a clip, a second each


class Clip(NamedTuple):
    """A row as sound and pictures."""

    audio: np.ndarray  # [T · SAMPLE_RATE] float32 in [-1, 1]
    frames: np.ndarray  # [T, size, size, 3] uint8
    masks: np.ndarray  # [T, size, size] uint8, 1 where a drawn digit sounds; none of photos


class Folder:
    """The material and the rows of a folder of clips."""

    def __init__(self, path):
        self.path = Path(path)
        meta = parse_json(read_text(self.path / "meta.json", "a folder of clips, with meta.json"))
        self.classes, self.sample_rate = meta["classes"], meta["sample_rate"]
        with np.load(self.path / meta["audio_file"]) as file:
            self.sound, self.offsets = file["audio"].reshape(-1), file["offsets"]
        with np.load(self.path / meta["image_file"]) as file:
            self.images = file["images"]

    def rows(self):
        lines = read_text(self.path / "compositions.jsonl", "a row of JSON for every clip").splitlines()
        return [parse_json(line) for line in lines]

    def recording(self, index, start, length):
        """`length` seconds of a recording from `start` on, as far as it goes; float32."""
        whole_ = self.sound[self.offsets[index] : self.offsets[index + 1]]
        rate = self.sample_rate
        return whole_[int(start * rate) : int((start + length) * rate)].astype(np.float32) / 32768


def render(folder, row, size=SIZE) -> Clip:
    """A row of `Folder.rows` as a `Clip`; its noise is drawn from its id."""
    rng = np.random.default_rng(zlib.crc32(row["id"].encode()))
    seconds = row["seconds"]
    sound = rng.standard_normal(seconds * folder.sample_rate).astype(np.float32) * NOISE
    for event in row["audio"]:
        for at, recording, start, length in event["segments"]:
            room = sound[int(at * folder.sample_rate) :]
            piece = folder.recording(recording, start, length)[: len(room)]
            room[: len(piece)] += piece
    frames = rng.integers(0, DARK, (seconds, size, size, 3), dtype=np.int64).astype(np.uint8)
    masks = np.zeros((seconds, size, size), np.uint8)
    for event in row["visual"]:
        for second, image, quarter in event["frames"]:
            _draw(frames[second], masks[second], folder.images[image], quarter, not event.get("silent"))
    sound = np.clip(sound, -1, 1)
    if folder.sample_rate != SAMPLE_RATE:
        common = math.gcd(SAMPLE_RATE, folder.sample_rate)
        sound = resample_poly(sound, SAMPLE_RATE // common, folder.sample_rate // common).astype(np.float32)
    return Clip(sound, frames, masks)


def _draw(frame, mask, image, quarter, sounds):
    """Put an image into a frame: all of it (quarter -1), or one quarter. Digits shine through, photos cover."""
    size = len(frame) if quarter < 0 else len(frame) // 2
    top, left = (0, 0) if quarter < 0 else (quarter // 2 * size, quarter % 2 * size)
    nearest = np.arange(size) * len(image) // size
    image = image[nearest][:, nearest]
    place = np.s_[top : top + size, left : left + size]
    if image.ndim == 3:
        frame[place] = image
        return
    np.maximum(frame[place], image[..., None], out=frame[place])
    if sounds:
        mask[place] |= image > INK


def write_mp4(path, clip):
    """One clip as a file; PyAV is needed."""
    with av.open(str(path), "w", format="mp4") as box:
        video = box.add_stream("libx264", rate=FPS)
        video.height, video.width, video.pix_fmt = *clip.frames.shape[1:3], "yuv420p"
        video.options = {"crf": "20", "preset": "veryfast"}
        sound = box.add_stream("aac", rate=SAMPLE_RATE)
        sound.layout = "mono"
        for frame in clip.frames.repeat(FPS, axis=0):
            box.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        box.mux(video.encode())
        for start in range(0, len(clip.audio), 1024):
            block = av.AudioFrame.from_ndarray(clip.audio[None, start : start + 1024], format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, start
            box.mux(sound.encode(block))
        box.mux(sound.encode())


def write_wav(path, sound):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sound * 32767).astype("<i2").tobytes())


def write_s4(root, row, folder):
    """A clip in S4's folders: a frame a second, masks of it (of training clips only the first), sound last."""
    place, name = f"{row['split']}/{row['category']}", row["id"]
    done = root / "audio_wav" / place / f"{name}.wav"
    if done.exists():
        return
    clip = render(folder, row, S4_SIZE)
    for number in range(S4_FRAMES):
        pictures = {"visual_frames": clip.frames[number]}
        if row["split"] != "train" or number == 0:
            pictures["gt_masks"] = clip.masks[number] * 255
        for kind, picture in pictures.items():
            with replacing(root / kind / place / name / f"{name}_{number + 1}.png") as unfinished:
                Image.fromarray(picture).save(unfinished, format="png")
    with replacing(done) as unfinished:
        write_wav(unfinished, clip.audio)


def parser():
    parser = Parser(prog="cmg.data.compose.render", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="folder of clips")
    parser.add_argument("out", metavar="OUT", help="folder for the media")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="which clips")
    parser.add_argument("--limit", type=whole(1), default=None, metavar="N",
                        help="at most so many clips of each kind and split (default: all)")
    return parser


@command
def main(argv=None):
    args = parser().parse_args(argv)
    require_folder(args.out, "OUT")
    if av is None:
        raise UserError("media files need PyAV and Pillow: install this project with its extra [extract]")
    folder, out = Folder(args.folder), Path(args.out)
    for path in sorted((folder.path / "ann").iterdir()):
        kept = out / ("s4" if path.name.startswith("s4_") else "annotations") / path.name
        with replacing(kept) as unfinished:
            shutil.copyfile(path, unfinished)
    seen, chosen = Counter(), []
    for row in folder.rows():
        seen[row["kind"], row["split"]] += 1
        if row["kind"] in args.kinds and (args.limit is None or seen[row["kind"], row["split"]] <= args.limit):
            chosen.append(row)
    for row in tqdm(chosen, unit="clip", leave=False, disable=None):
        path = out / "videos" / f"{row['id']}.mp4"
        if row["kind"] == "s4":
            write_s4(out / "s4" / "s4_data", row, folder)
        elif not path.exists():
            with replacing(path) as unfinished:
                write_mp4(unfinished, render(folder, row))
    print(f"{out}: {len(chosen)} clips, "
          + ", ".join(f"{n} {kind}" for kind, n in Counter(row["kind"] for row in chosen).items()))


if __name__ == "__main__":
    main()
