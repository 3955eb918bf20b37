"""Pictures and sounds of clips for a page: a strip with a picture of every second, and single seconds as MP3.

Pictures are WebP and sounds MP3, which every browser of the last years shows and plays.
"""

import io
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from cmg import processes
from cmg.errors import UserError
from cmg.extract.media import SAMPLE_RATE, BadClip, audio_seconds, av, video_seconds

HEIGHT, WIDEST = 96, 192  # pixels of a picture, at most
COLUMNS = 10  # of a strip; more seconds go on below
QUALITY = 72  # of WebP
BIT_RATE = 32_000
BARS, LEVELS = 24, 15  # of the wave that is drawn for a sound; levels are written as one hexadecimal digit
FADE = 80  # samples, 5 ms: a cut would click


class Cut(NamedTuple):
    """What is wanted of a clip.

    clip : its number. pictures : how many seconds of pictures. sounds : seconds of which the sound is wanted.
    """

    clip: int
    path: str
    sound: str
    pictures: int
    sounds: tuple[int, ...]


class Snippets(NamedTuple):
    """strip : bytes of the WebP, b"" for none. width, number : of a picture, and of pictures. sounds : second -> bytes
    of the MP3 and its wave. reasons : what could not be read, and why."""

    strip: bytes = b""
    width: int = 0
    number: int = 0
    sounds: dict = {}
    reasons: tuple[str, ...] = ()


def cut_all(cuts, workers):
    """Yield (Cut, Snippets) of each, in the order they finish, by so many processes; 0: in this one."""
    if av is None:
        raise UserError("--videos: reading media files needs PyAV: pip install av pillow, or this project with its "
                        "extra [extract]")
    if "libmp3lame" not in av.codecs_available:
        raise UserError("--videos: this PyAV has no MP3 encoder (libmp3lame); expected one of PyAV's own wheels")
    if workers == 0:
        yield from ((one, cut(one)) for one in cuts)
        return
    for one, found in processes.each(cuts, [_work] * min(workers, len(cuts))):
        yield one, Snippets(reasons=(f"the process that read it died ({found.how})",)) \
            if isinstance(found, processes.Died) else found


def _work():
    torch.set_num_threads(1)
    return cut


def cut(one: Cut) -> Snippets:
    """The pictures and sounds of a clip; what cannot be read has a reason instead."""
    found, reasons = {}, []
    for what, wanted, make in (("pictures", one.pictures, partial(_strip, one.path, one.pictures)),
                               ("sounds", one.sounds, partial(_sounds, one.sound or one.path, one.sounds))):
        try:
            found |= make() if wanted else {}
        except BadClip as bad:
            reasons.append(f"{what}: {bad}")
    return Snippets(**found, reasons=tuple(reasons))


def _strip(path, seconds):
    """The middle picture of each second, side by side, COLUMNS in a row."""
    from PIL import Image  # of the extra [extract]

    pictures = [Image.fromarray(frames[0]) for frames in video_seconds(path, seconds, most=1)]
    width, height = pictures[0].size
    scale = min(1, HEIGHT / height, WIDEST / width)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    strip = Image.new("RGB", (width * min(COLUMNS, len(pictures)), height * -(-len(pictures) // COLUMNS)))
    for number, picture in enumerate(pictures):
        strip.paste(picture.resize((width, height), Image.Resampling.LANCZOS),
                    (number % COLUMNS * width, number // COLUMNS * height))
    content = io.BytesIO()
    strip.save(content, "WEBP", quality=QUALITY, method=6)
    return {"strip": content.getvalue(), "width": width / height, "number": len(pictures)}


def _sounds(path, seconds):
    wave = audio_seconds(path, max(seconds) + 1).numpy()  # [n, 16000]
    return {"sounds": {s: (mp3(wave[s]), bars(wave[s])) for s in seconds if s < len(wave)}}


def mp3(wave) -> bytes:
    """A sound, float32 [n] at 16 kHz, as MP3."""
    wave = np.clip(wave, -1, 1)
    ramp = np.linspace(0, 1, FADE, dtype=np.float32)
    wave[:FADE] *= ramp
    wave[-FADE:] *= ramp[::-1]
    content = io.BytesIO()
    with av.open(content, "w", format="mp3") as box:
        track = box.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono", bit_rate=BIT_RATE)
        block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = SAMPLE_RATE, 0
        box.mux([*track.encode(block), *track.encode()])
    return content.getvalue()


def bars(wave) -> str:
    """How loud a sound is over its course, a hexadecimal digit for each of `BARS` parts, the loudest f.

    >>> bars(np.linspace(0, 0.5, 240, dtype=np.float32))
    '111223344556678899aabccdef'
    """
    loud = np.array([np.abs(part).max() for part in np.array_split(wave, BARS)])
    return "".join(f"{level:x}" for level in np.rint(loud / max(loud.max(), 1e-3) * LEVELS).astype(int))
