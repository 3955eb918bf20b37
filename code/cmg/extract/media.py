"""Decode media files second by second with PyAV: frames of each second, sound of each second."""

import contextlib
import errno
import math
import os
import stat

import numpy as np
import torch

from cmg.errors import UserError
from cmg.files import own_fault, short_of_memory

try:
    import av
    import torchaudio.functional
except ImportError:  # an extra: captions alone can be extracted without it
    av = None

SAMPLE_RATE = 16_000  # Hz, mono: what every audio backbone gets
FRAMES_PER_SECOND = 16  # at most so many frames of a second, evenly chosen; more cost time and change little
PIXELS = 1 << 26  # of a frame, 8192 x 8192: twice those of 8K; a small file may claim what takes gigabytes to decode
DISPLAY_MATRIX = "DISPLAYMATRIX"
# What a decoder may know of damage (checksums, streams and lengths that cannot be) is an error and not concealed.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
CANCELLED = 1e-3  # of the loudest sample; a mean of channels that stays below is silence they do not have
SOUND_GAP = 0.05  # s; smaller jumps of time stamps are the container's rounding, not missing sound


class BadClip(Exception):
    """This clip cannot be used; the text says why. The run quarantines it and goes on."""


def covered_seconds(end, seconds):
    """How many of the first `seconds` seconds are real in a stream that ends at `end` (s).

    A last second counts if at least half of it is covered; the first one always does.
    """
    return min(max(1, math.floor(end + 0.5)), seconds)


def tracks(path) -> set:
    """What a file has: "frames", "sound", both or none of them.

    Raises
    ------
    BadClip : not a media file.
    """
    with _open(path) as container:
        found = {"frames": _pictures_of(container), "sound": container.streams.audio}
        return {source for source, streams in found.items() if streams}


def video_seconds(path, seconds, most=FRAMES_PER_SECOND):
    """Yield the frames of second 0, 1, … of a video, for as many of the first `seconds` seconds as it has.

    Second s has the frames with s <= pts < s + 1, at most `most` of them, evenly chosen: their time stamps count, not
    their number, whatever the frame rate does. A second without a frame of its own (a slide show) has the frame that
    was still on screen. Frames are turned and mirrored as the file says (telephones film sideways). Of several video
    tracks the first is read.

    Yields
    ------
    uint8 ndarray [n, H, W, 3], RGB

    Raises
    ------
    BadClip : not a media file, no video track, damaged.
    """
    with _open(path) as container:
        track = next(iter(_pictures_of(container)), None)
        if track is None:
            raise BadClip("no video track")
        size = track.codec_context
        if size.width * size.height > PIXELS:
            raise BadClip(f"frames of {size.width}x{size.height}; expected at most {PIXELS / 1e6:.0f} million pixels")
        yielded, own, last, end = 0, [], None, 0.0
        for frame, time in _frames(container, track, _origin(container)):
            second = min(math.floor(time), seconds)
            while yielded < second:
                yield _pictures(own or [last or frame], most)
                yielded, own = yielded + 1, []
            if second == seconds:
                return
            own.append(frame)
            last, end = frame, max(end, time + _length(frame, track))
        if last is None:
            raise BadClip("no frame could be decoded")
        while yielded < covered_seconds(end, seconds):
            yield _pictures(own or [last], most)
            yielded, own = yielded + 1, []


def audio_seconds(path, seconds):
    """The sound of a file at 16 kHz mono, cut into seconds, for as many of the first `seconds` seconds as it has.

    Channels are averaged. What is missing of a half-covered last second is silence. Of several audio tracks the first
    is read.

    Returns
    -------
    Tensor[n, 16000] float32

    Raises
    ------
    BadClip : not a media file, no audio track, damaged, channels whose mean is silent though they are not.
    """
    with _open(path) as container:
        if not container.streams.audio:
            raise BadClip("no audio track")
        to_float = av.AudioResampler(format="fltp")  # sample format only: the channels' mean is taken below
        sound, rate, cursor, loudest = None, 0, 0, 0.0
        for frame, time in _frames(container, container.streams.audio[0], _origin(container)):
            if sound is None:
                rate = frame.sample_rate  # the decoder's, which may be twice what the container says (HE-AAC)
                sound = np.zeros(seconds * rate, np.float32)
            if abs(time * rate - cursor) > SOUND_GAP * rate:
                cursor = round(time * rate)
            if cursor >= len(sound):
                break
            try:
                blocks = to_float.resample(frame)
            except ValueError:
                raise BadClip("the sound's format changes midway") from None
            for block in blocks:
                skip = max(0, -cursor)  # sound from before the clip's start
                channels = block.to_ndarray()[:, skip : len(sound) - cursor]  # [channels, n]
                loudest = max(loudest, np.abs(channels).max(initial=0.0))
                sound[cursor + skip : cursor + skip + channels.shape[1]] = channels.mean(axis=0)
                cursor += block.samples
    if cursor <= 0:
        raise BadClip("no sound could be decoded")
    if np.abs(sound).max() < CANCELLED * loudest:
        raise BadClip("the channels are in opposite phase, their mean is silent")
    wave = torchaudio.functional.resample(torch.from_numpy(sound), rate, SAMPLE_RATE)
    n = covered_seconds(cursor / rate, seconds)
    return wave[: n * SAMPLE_RATE].view(n, SAMPLE_RATE)


class Source:
    """A media file as PyAV reads it: through here, so that what a disk or a network refuses is told from damage.

    FFmpeg itself takes a read that failed for the file's end, or for damage, as the format has it.

    Attributes
    ----------
    error : the first OSError of reading, or None
    """

    def __init__(self, path):
        self.name, self.path, self.error = f"file:{path}", path, None
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
                raise BadClip("cannot be opened (not a file)")
            self.handle = open(path, "rb", buffering=0)
        except OSError as error:
            if own_fault(error, path):
                raise BadClip(f"cannot be opened ({error.strerror})") from None
            raise

    def read(self, n):
        return self._tried(self._read, n)

    def _read(self, n):
        content = self.handle.read(n)
        if content is None:  # how Python says it
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return content

    def seek(self, offset, whence=os.SEEK_SET):
        return self._tried(self.handle.seek, offset, whence)

    def tell(self):
        return self.handle.tell()

    def _tried(self, function, *args):
        try:
            return function(*args)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a damaged file leads to before its start
                raise
            error.filename = str(self.path)
            self.error = self.error or error
            raise


@contextlib.contextmanager
def _open(path):
    """The container in a file.

    Raises
    ------
    BadClip : FFmpeg cannot make anything of it.
    OSError : the file could not be read, which says nothing of the clip.
    """
    if av is None:
        raise UserError("reading media files needs PyAV and torchaudio: install this project with its extra [extract]")
    source, doing = Source(path), "opened"
    try:
        with source.handle, av.open(source, options=STRICT) as container:
            doing = "decoded"
            yield container
    except Exception as error:
        if source.error is None and isinstance(error, av.error.FFmpegError) and not short_of_memory(error):
            raise BadClip(f"cannot be {doing} ({error.strerror})") from None
        if source.error is None:
            raise
    if source.error is not None:  # also where FFmpeg took it for the end of the file
        raise source.error


def _pictures_of(container):
    """Video tracks. The picture on the sleeve of a music file is one to the container, but not to us."""
    return [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]


def _origin(container):
    """Start of the clip (s): transport streams and cut files do not start at zero."""
    return (container.start_time or 0) / av.time_base


def _frames(container, track, origin):
    """Decoded frames of one track with their time (s) since the clip's start."""
    track.codec_context.thread_count = 1  # the run is parallel over clips
    track.codec_context.options = STRICT | {"max_pixels": str(PIXELS)}  # a frame may be larger than its container says
    time = 0.0
    try:
        for frame in container.decode(track):
            if frame.is_corrupt:
                raise BadClip(f"{track.type} track is damaged (a frame is marked as corrupt)")
            if frame.time is not None:  # raw streams have no time stamps: frame follows frame
                time = frame.time - origin
            yield frame, time
            time += _length(frame, track)
    except av.error.FFmpegError as error:
        if short_of_memory(error):
            raise
        raise BadClip(f"{track.type} track is damaged ({error.strerror})") from None


def _length(frame, track):
    """How long a frame sounds or stays on screen (s)."""
    if track.type == "audio":
        return frame.samples / frame.sample_rate
    if frame.duration:
        return float(frame.duration * frame.time_base)
    return float(1 / track.average_rate) if track.average_rate else 0.0


def _pictures(frames, most):
    """At most `most` evenly chosen frames as uint8 ndarray [n, H, W, 3], of the first one's size, upright."""
    n = min(len(frames), most)
    chosen = [frames[(2 * i + 1) * len(frames) // (2 * n)] for i in range(n)]
    size = {"width": chosen[0].width, "height": chosen[0].height}
    pictures = np.stack([frame.reformat(format="rgb24", **size).to_ndarray() for frame in chosen])
    return _upright(pictures, chosen[0].side_data.get(DISPLAY_MATRIX))


def _upright(pictures, matrix):
    """Pictures [n, H, W, 3] in the nearest of the eight orientations to what the file says.

    matrix : 9 int32 (a, b, u, c, d, v, x, y, w), or None. The pixel at (x, y), y downwards, is shown at
        (a x + c y, b x + d y): turned, mirrored or both, as front cameras do.
    """
    if matrix is None:
        return pictures
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):  # rows are shown as columns
        pictures, across, down = pictures.swapaxes(1, 2), c, b
    if across < 0:
        pictures = pictures[:, :, ::-1]
    if down < 0:
        pictures = pictures[:, ::-1]
    return np.ascontiguousarray(pictures)
