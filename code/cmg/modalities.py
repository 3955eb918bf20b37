"""The modalities, and how pairs of them are called in losses, metrics and TensorBoard."""

from itertools import combinations

MODALITIES = ("video", "audio", "text")


def pairs(modalities):
    """Unordered pairs of names, each with the key that its figures carry.

    >>> pairs(["audio", "video", "text"])
    [('audio', 'video', 'av'), ('audio', 'text', 'at'), ('video', 'text', 'vt')]
    """
    return [(a, b, f"{a[0]}{b[0]}") for a, b in combinations(modalities, 2)]
