"""`pixels`: a weight-free video backbone whose 7×7 map looks like that of a convolutional network."""

import torch
import torch.nn.functional as F

GRID = 7
PATCH = 4  # a cell's own patch is 4×4 RGB
VIEW = 14  # the whole frame, in grey, is 14×14
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Pixels:
    """Each cell of the 7×7 grid carries its own patch and a small view of the whole frame.

    The 4×4 RGB patch (48 values) says what is at the cell; the 14×14 grey view (196 values, the same in all cells)
    keeps the identity of what is shown when the grid is pooled, as the receptive field of VGG's pool5, larger than
    the frame, does. Values in [-1, 1].

    Example
    -------
    >>> Pixels()([np.zeros((2, 120, 160, 3), np.uint8)]).shape
    (1, 7, 7, 244)
    """

    name = "pixels"
    modality = "video"
    sha256 = ""
    shape = (GRID, GRID, 3 * PATCH * PATCH + VIEW * VIEW)

    def __call__(self, steps):
        small = [torch.stack([_shrink(frame) for frame in frames]).mean(dim=0) for frames in steps]
        x = torch.stack(small) / 127.5 - 1  # (T, 3, 28, 28)
        t = len(x)
        patches = x.view(t, 3, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 3, 5, 1)  # (T, 7, 7, 4, 4, 3)
        patches = patches.reshape(t, GRID, GRID, -1)  # (T, 7, 7, 48)
        grey = torch.einsum("tchw,c->thw", x, torch.tensor(LUMA))  # (T, 28, 28)
        view = F.interpolate(grey[:, None], size=(VIEW, VIEW), mode="area")  # (T, 1, 14, 14)
        view = view.reshape(t, 1, 1, -1).expand(t, GRID, GRID, -1)  # (T, 7, 7, 196)
        return torch.cat([patches, view], dim=-1).numpy()


def _shrink(frame):
    """uint8 ndarray [H, W, 3] -> Tensor[3, 28, 28], each value the mean of its area; frame by frame, as HD is large."""
    x = torch.from_numpy(frame).permute(2, 0, 1).contiguous().float()  # (3, H, W)
    return F.interpolate(x[None], size=(GRID * PATCH, GRID * PATCH), mode="area")[0]
