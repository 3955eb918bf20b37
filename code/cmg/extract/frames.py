"""`frames`: the pictures of a clip themselves, for methods that learn from raw clips."""

import numpy as np
import torch
from torchvision.transforms.v2.functional import resize


class Frames:
    """uint8 pictures of a second, evenly chosen. The whole frame is squeezed to the square, as for networks: a crop
    would lose what happens at its sides.

    side : of a picture. rate : pictures a second; a second of fewer frames shows some of them again.

    Example
    -------
    >>> Frames(side=32)([np.zeros((2, 120, 160, 3), np.uint8)]).shape
    (1, 32, 32, 3)
    """

    name = "frames"
    modality = "video"
    sha256 = ""
    expects = ()
    options = ("side", "rate")
    dtype = "uint8"

    def __init__(self, side=224, rate=1):
        self.side, self.rate, self.shape = side, rate, (side, side, 3)

    def __call__(self, steps):
        chosen = [frames[(2 * i + 1) * len(frames) // (2 * self.rate)] for frames in steps for i in range(self.rate)]
        return np.stack([self._squeezed(frame) for frame in chosen])  # (seconds · rate, side, side, 3)

    def _squeezed(self, frame):
        x = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
        return resize(x, [self.side, self.side], antialias=True).permute(1, 2, 0).numpy()
