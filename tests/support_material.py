"""What clips of a folder are made of, by content."""

import hashlib
import json

import numpy as np


class Bank:
    """Recordings and images of a folder of clips, by what they hold."""

    def __init__(self, folder):
        meta = json.loads((folder / "meta.json").read_text())
        sound = np.load(folder / meta["audio_file"])
        self.sound, self.offsets = sound["audio"], sound["offsets"]
        self.images = np.load(folder / meta["image_file"])["images"]

    def material(self, rows):
        """Hashes of all that clips are made of."""
        takes = {segment[1] for row in rows for event in row["audio"] for segment in event["segments"]}
        images = {frame[1] for row in rows for event in row["visual"] for frame in event["frames"]}
        pieces = [self.sound[self.offsets[i]:self.offsets[i + 1]] for i in takes] + [self.images[i] for i in images]
        return {hashlib.sha256(piece.tobytes()).digest() for piece in pieces}


def compositions(folder):
    return [json.loads(line) for line in (folder / "compositions.jsonl").read_text().splitlines()]
