"""Frames as the input of an image network: squeezed to its square, scaled and normalised."""

import torch
from torchvision.transforms.v2.functional import InterpolationMode, normalize, resize


def network_input(frames, size, mean, std, device, mode=InterpolationMode.BILINEAR):
    """uint8 ndarray [n, H, W, 3] -> float Tensor[n, 3, size, size] on the device.

    The whole frame is squeezed to the square, as the public AVE features were made: a crop would lose what happens at
    its sides. `mean` and `std` are those of the channels of pictures between 0 and 1.
    """
    x = torch.from_numpy(frames)
    if device.type == "cuda":
        x = x.pin_memory()  # or the copy would wait for the computation under way, and decoding with it
    x = x.to(device, non_blocking=True).permute(0, 3, 1, 2)  # (n, 3, H, W)
    x = resize(x, [size, size], mode, antialias=True)
    return normalize(x.float() / 255, mean, std)
