"""How public data sets name the clips that they cut from videos, and the captions of these."""

import re

# VGGSound and AudioCaps append a start to a video's 11 characters, AVSBench and AVVP both times, AVVP also to others.
CUT = re.compile(r"(.{11})_\d+(?:\.\d+)?(?:_\d+(?:\.\d+)?)?|(.+)_\d+(?:\.\d+)?_\d+(?:\.\d+)?")


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

    >>> [video_of(name) for name in ("-abc_def123_000030", "-abc_def123_10000_15000", "-abc_def123_000010#2")]
    ['-abc_def123', '-abc_def123', '-abc_def123']
    >>> video_of("AP0061o0Nvk_101.8_111.8"), video_of("-a_b_0_10"), video_of("avvp_val_000"), video_of("clip_7")
    ('AP0061o0Nvk', '-a_b', 'avvp_val_000', 'clip_7')
    """
    match = CUT.fullmatch(clip_of(name))
    return match[1] or match[2] if match else clip_of(name)


def from_videos(names, ids) -> list[bool]:
    """Which clips come from the same video as any of `ids`, or are one of them.

    >>> from_videos(["-abc_def123", "-abc_def123_40_50", "clip_7"], ["-abc_def123_000030"])
    [True, True, False]
    """
    known = {*ids, *map(video_of, ids)}
    return [name in known or video_of(name) in known for name in names]
