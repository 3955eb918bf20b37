"""Frames as the input of an image network: squeezed to its square, scaled and normalised."""

import torch
from torchvision.transforms.v2.functional import InterpolationMode, resize


class NetworkInput:
    """uint8 ndarray [n, H, W, 3] -> float Tensor[n, 3, size, size] on the device.

    The whole frame is squeezed to the square, as the public AVE features were made: a crop would lose what happens at
    its sides. `mean` and `std` are those of the channels of pictures between 0 and 1.

    On a GPU nothing here waits for the computation under way: frames go there from pinned memory, and the constants are
    there already.
    """

    def __init__(self, size, mean, std, device, mode=InterpolationMode.BILINEAR):
        self.size, self.device, self.mode = size, device, mode
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))

    def __call__(self, frames):
        x = torch.from_numpy(frames)
        if self.device.type == "cuda":
            x = x.pin_memory()
        x = x.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # (n, 3, H, W)
        x = resize(x, [self.size, self.size], self.mode, antialias=True)
        return (x.float() / 255 - self.mean) / self.std
