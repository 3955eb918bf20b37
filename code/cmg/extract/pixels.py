"""`pixels`: a weight-free video backbone whose 7×7 map looks like that of a convolutional network."""

import math

import torch
import torch.nn.functional as F

GRID = 7
PATCH = 4  # a cell's own patch is 4×4 RGB
SIDE = GRID * PATCH  # of the picture that patches and view are taken from
ZOOM = 4  # the view may show a region this many times smaller than the frame without a loss
SPREAD = 2.0  # half the side of what the view shows, in standard deviations of where the edges are
ORIENTATIONS = 4  # of the edges in the view
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Pixels:
    """Each cell of the 7×7 grid carries its own patch and a small view of what the frame shows.

    The 4×4 RGB patch (48 values, -1 to 1) says what is at the cell. The view (196 values, the same in all cells) keeps
    the identity of what is shown when the grid is pooled, as the receptive field of VGG's pool5, larger than the
    frame, does. It looks at the square that holds the frame's edges (`region`): at all of a frame that is filled, and
    closely at a single thing that is small or at the side, so that its size and place do not matter. It is an edge
    view: the energy of brightness edges in 4 directions (a direction and its opposite apart) around each of 7×7
    places. A linear classifier tells handwritten digits apart better by these 196 values than by a 14×14 grey picture
    of the same length (a test compares them), because they change little when a stroke moves.

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
        fine = [torch.stack([shrink(frame) for frame in frames]).mean(dim=0) for frames in steps]
        x = torch.stack(fine) / 127.5 - 1  # (T, 3, 112, 112)
        t = len(x)
        patches = F.avg_pool2d(x, ZOOM).view(t, 3, GRID, PATCH, GRID, PATCH)
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(t, GRID, GRID, -1)  # (T, 7, 7, 48)
        grey = torch.einsum("tchw,c->thw", x, torch.tensor(LUMA))
        view = edges(look(grey, *region(grey))).reshape(t, 1, 1, -1).expand(t, GRID, GRID, -1)  # (T, 7, 7, 196)
        return torch.cat([patches, view], dim=-1).numpy()


def region(grey):
    """The square that holds the edges of pictures [T, 112, 112]: centre (x, y) [T, 2] and half its side [T].

    The frame is -1 to 1. The centre is where squared brightness differences have their mean, the half side is `SPREAD`
    standard deviations of the wider axis: all of a frame whose edges are everywhere (a uniform spread has a deviation
    of 0.58), never less than 1 / ZOOM, never beyond the frame. A frame without edges is looked at as a whole.
    """
    x = F.avg_pool2d(grey[:, None], 2)[:, 0]  # (T, 56, 56), which evens out the grain of a dark frame
    dx = x[:, 1:-1, 2:] - x[:, 1:-1, :-2]
    dy = x[:, 2:, 1:-1] - x[:, :-2, 1:-1]
    weight = dx**2 + dy**2 + 1e-9  # (T, 54, 54)
    weight = weight / weight.sum((1, 2), keepdim=True)
    side = x.shape[-1]
    place = (torch.arange(1, side - 1) + 0.5) * 2 / side - 1
    axes = torch.stack([weight.sum(1), weight.sum(2)], 1)  # (T, 2, 54), over x and over y
    centre = axes @ place  # (T, 2)
    deviation = (axes @ place**2 - centre**2).clamp_min(0).sqrt()
    half = (SPREAD * deviation.amax(1)).clamp(1 / ZOOM, 1)  # (T,)
    room = (1 - half)[:, None]
    return torch.maximum(torch.minimum(centre, room), -room), half


def look(grey, centre, half):
    """What lies in a square of pictures [T, 112, 112], as pictures [T, 28, 28]: of the whole frame, the block means."""
    scale = torch.diag_embed(half[:, None].expand(-1, 2))  # (T, 2, 2)
    grid = F.affine_grid(torch.cat([scale, centre[..., None]], 2), [len(grey), 1, *grey.shape[1:]], align_corners=False)
    near = F.grid_sample(grey[:, None], grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(near, ZOOM)[:, 0]


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


def shrink(frame):
    """uint8 ndarray [H, W, 3] -> Tensor[3, 112, 112], the mean of each area; frame by frame, as HD is large."""
    x = torch.from_numpy(frame).permute(2, 0, 1).contiguous().float()  # (3, H, W)
    return F.interpolate(x[None], size=(SIDE * ZOOM, SIDE * ZOOM), mode="area")[0]
