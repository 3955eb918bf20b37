"""How public data sets name the clips that they cut from videos, and the captions of these.

All of them call a video by YouTube's 11 characters, each a letter, a digit, `-` or `_`, and append what was cut out:
nothing (AVE, the lists of VGGSound-AVEL40k and UCF101 ↔ VGGSound), a start in seconds, with or without zeros before it
(VGGSound, AudioCaps), or start and end, in seconds, whole or decimal (LLP, of AVVP), or in milliseconds (AVSBench).
Names of files have an ending as well. Every other name is a clip's own and says of no video: those of UCF101, HMDB51,
Clotho and MSR-VTT, the misspelt ones in LLP's times of events, and whatever a user calls a clip.
"""

import hashlib
import re

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")
SOUND_SUFFIXES = (".wav", ".mp3", ".flac", ".m4a", ".ogg", ".opus", ".aac")
SUFFIXES += SOUND_SUFFIXES
ENDING = re.compile(f"(?:{'|'.join(map(re.escape, SUFFIXES))})$", re.IGNORECASE)
CUT = re.compile(r"([\w-]{11})(?:_\d+(?:\.\d+)?){1,2}`?", re.ASCII)  # one name of the CMG lists ends in a backtick


def clip_of(name: str, clips=()) -> str:
    """The clip that a caption's id belongs to: the one of this name, if it is among `clips`.

    >>> clip_of("Santa Motor#3"), clip_of("-abc_000030"), clip_of("drone #3", {"drone #3"}), clip_of("drone #3#0")
    ('Santa Motor', '-abc_000030', 'drone #3', 'drone #3')
    """
    if name in clips:
        return name
    head, mark, tail = name.rpartition("#")
    return head if mark and tail.isdigit() else name


def video_of(name: str) -> str:
    """The video that a clip was cut from, or that a caption describes; the name itself where it says of no cut.

    >>> {video_of("-abc_de_f12" + cut) for cut in ("", "_30_40", "_30000_40000", "_30.000_40.000", "_000030", "_30",
    ...                                            ".mp4", "_000030.mp4", "_000010#2")}
    {'-abc_de_f12'}
    >>> video_of("3sr974a_5_0"), video_of("a_30_40"), video_of("avvp_val_000"), video_of("Santa Motor.wav#1")
    ('3sr974a_5_0', 'a_30_40', 'avvp_val_000', 'Santa Motor')
    """
    name = ENDING.sub("", clip_of(name))
    match = CUT.fullmatch(name)
    return match[1] if match else name


def from_videos(names, ids) -> list[bool]:
    """Which clips come from the same video as any of `ids`.

    >>> from_videos(["-abc_de_f12", "-abc_de_f12_40_50", "clip_7"], ["-abc_de_f12_000030"])
    [True, True, False]
    """
    known = set(map(video_of, ids))
    return [video_of(name) in known for name in names]


def place_of(name: str) -> float:
    """A number in [0, 1) that depends on the clip's video alone, to split a set by: clips of a video stay together, and
    none changes its part when others are added.

    >>> place_of("-abc_de_f12_30_40") == place_of("-abc_de_f12.mp4")
    True
    """
    return int.from_bytes(hashlib.sha256(video_of(name).encode()).digest()[:6], "big") / 2**48
