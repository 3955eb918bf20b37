"""`pixels`: a weight-free video backbone whose 7×7 map looks like that of a convolutional network."""

import math

import torch
import torch.nn.functional as F

GRID = 7
PATCH = 4  # a cell's own patch is 4×4 RGB
ORIENTATIONS = 4  # of the edges in the view of the whole frame
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Pixels:
    """Each cell of the 7×7 grid carries its own patch and a small view of the whole frame.

    The 4×4 RGB patch (48 values, -1 to 1) says what is at the cell. The view (196 values, the same in all cells) keeps
    the identity of what is shown when the grid is pooled, as the receptive field of VGG's pool5, larger than the
    frame, does. It is an edge view: the energy of brightness edges in 4 directions (a direction and its opposite
    apart) around each of 7×7 places. A linear classifier tells handwritten digits apart better by these 196 values than
    by a 14×14 grey picture of the same length (a test compares them), for they change little when a stroke moves.

    Example
    -------
    >>> Pixels()([np.zeros((2, 120, 160, 3), np.uint8)]).shape
    (1, 7, 7, 244)
    """

    name = "pixels"
    modality = "video"
    sha256 = ""
    expects = ()
    shape = (GRID, GRID, 3 * PATCH * PATCH + GRID * GRID * ORIENTATIONS)

    def __call__(self, steps):
        small = [torch.stack([_shrink(frame) for frame in frames]).mean(dim=0) for frames in steps]
        x = torch.stack(small) / 127.5 - 1  # (T, 3, 28, 28)
        t = len(x)
        patches = x.view(t, 3, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 3, 5, 1)  # (T, 7, 7, 4, 4, 3)
        patches = patches.reshape(t, GRID, GRID, -1)  # (T, 7, 7, 48)
        view = edges(torch.einsum("tchw,c->thw", x, torch.tensor(LUMA)))
        view = view.reshape(t, 1, 1, -1).expand(t, GRID, GRID, -1)  # (T, 7, 7, 196)
        return torch.cat([patches, view], dim=-1).numpy()


def edges(grey):
    """Edge energies of pictures [T, 28, 28] by direction and place: [T, 4, 7, 7], about 0 to 1.

    Central differences; a gradient counts for direction d with the squared cosine of the angle between them, where
    that angle is below 90°. Places overlap: a pixel counts for the places around it by its distance (a triangle window
    of twice their spacing, as the bilinear vote of HOG), so that no stroke jumps from one to the next. The root evens
    out strong and faint edges.
    """
    dx = F.pad(grey[:, :, 2:] - grey[:, :, :-2], (1, 1))  # (T, 28, 28)
    dy = F.pad(grey[:, 2:] - grey[:, :-2], (0, 0, 1, 1))
    strength = torch.sqrt(dx**2 + dy**2)
    energy = []
    for d in range(ORIENTATIONS):
        angle = 2 * math.pi * d / ORIENTATIONS
        along = F.relu(math.cos(angle) * dx + math.sin(angle) * dy)  # |gradient| · cos, (T, 28, 28)
        energy.append(along**2 / strength.clamp_min(1e-6))
    energy = torch.stack(energy, 1)  # (T, 4, 28, 28)
    ramp = torch.arange(1, PATCH + 1) / (PATCH * (PATCH + 1))
    window = torch.cat([ramp, ramp.flip(0)])  # 2·PATCH values, sum 1
    window = torch.outer(window, window).expand(ORIENTATIONS, 1, -1, -1)
    return F.conv2d(energy, window, stride=PATCH, padding=PATCH // 2, groups=ORIENTATIONS).sqrt()


def _shrink(frame):
    """uint8 ndarray [H, W, 3] -> Tensor[3, 28, 28], each value the mean of its area; frame by frame, as HD is large."""
    x = torch.from_numpy(frame).permute(2, 0, 1).contiguous().float()  # (3, H, W)
    return F.interpolate(x[None], size=(GRID * PATCH, GRID * PATCH), mode="area")[0]
