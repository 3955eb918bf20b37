"""Small media files of known content, and what extraction made of them."""

import struct
import wave
import zlib

import av
import numpy as np

from cmg.data.features import FeatureFile


def write_video(path, frames, fps, start=0, sound=None):
    """Lossless RGB video (FFV1 in Matroska), optionally with 16 kHz mono sound; `start` delays it by frames."""
    with av.open(str(path), "w") as box:
        video = box.add_stream("ffv1", rate=fps)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        track = box.add_stream("pcm_s16le", rate=16000, layout="mono") if sound is not None else None
        if track is not None:
            block = av.AudioFrame.from_ndarray(sound[None].astype(np.int16), format="s16", layout="mono")
            block.sample_rate, block.pts = 16000, 0
            box.mux(track.encode(block) + track.encode())
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            picture.pts = number + start
            box.mux(video.encode(picture))
        box.mux(video.encode())


def write_wav(path, sound, rate):
    """16-bit sound; float Tensor or array [n] or [n, channels] in [-1, 1]."""
    samples = np.asarray(sound)[:, None] if np.ndim(sound) == 1 else np.asarray(sound)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())


def levels(n, size=(28, 28)):
    """n grey frames, frame k of level k."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, *size, 3)).copy()


def tone(hertz, seconds, rate):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def rows_of(path):
    """A feature file as id -> modality -> (features, valid)."""
    file = FeatureFile(path)
    parts = {m: file.read(m, range(len(file.ids))) for m in file.modalities}
    return {name: {m: (x[i], valid[i]) for m, (x, valid) in parts.items()} for i, name in enumerate(file.ids)}


def write_dark_png(path, side):
    """A black picture of side x side pixels as a PNG of a few kilobytes, made row by row."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), bytes(1 + (side + 7) // 8)  # one bit a pixel
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
