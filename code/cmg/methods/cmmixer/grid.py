"""From a clip's pictures to patches and back, and where a patch stands."""

import torch


def fold(pictures):
    """The pictures of a clip as one wide picture, [B, P, C, H, W] -> [B, C, H, W·P].

    Column w·P + p is column w of position p: where the patch is at least P wide it holds all positions of a few
    columns, a tube through time and not a piece of one picture.
    """
    return pictures.permute(0, 2, 3, 4, 1).flatten(3)


def unfold(picture, positions):
    """The inverse of `fold`: [B, C, H, W·P] -> [B, P, C, H, W]."""
    B, C, H, wide = picture.shape
    return picture.reshape(B, C, H, wide // positions, positions).permute(0, 4, 1, 2, 3)


def patchify(picture, patch):
    """Patches row by row, in a patch (row, column, channel): [B, C, h·p, w·p] -> [B, h·w, p·p·C]."""
    B, C, H, W = picture.shape
    x = picture.reshape(B, C, H // patch, patch, W // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, (H // patch) * (W // patch), patch * patch * C)


def unpatchify(patches, patch, rows):
    """The inverse of `patchify` for a grid of that many rows, square or not: [B, h·w, p·p·C] -> [B, C, h·p, w·p]."""
    B, L, size = patches.shape
    columns, channels = L // rows, size // patch**2
    x = patches.reshape(B, rows, columns, patch, patch, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, channels, rows * patch, columns * patch)


def angles(place, size):
    """[sin(p·ω) | cos(p·ω)], ω_i = 10000^(-i / (size/2)): float64 Tensor[L] -> Tensor[L, size]."""
    omega = 10000 ** -(torch.arange(size // 2, dtype=torch.float64) / (size / 2))
    angle = place.outer(omega)
    return torch.cat([angle.sin(), angle.cos()], 1)


def positions_on(rows, columns, dim):
    """Fixed sin-cos positions of a grid's patches with a row of zeros in front, for the class token: float64
    [1 + rows·columns, dim]. The first half tells the column, the second the row. (The released program takes the table
    of a square grid, which has the same number of patches and another geometry.)"""
    y, x = torch.meshgrid(torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64),
                          indexing="ij")
    table = torch.cat([angles(x.flatten(), dim // 2), angles(y.flatten(), dim // 2)], 1)
    return torch.cat([table.new_zeros(1, dim), table])
