"""The mixer: which pixels of the input are of the first modality (frames), and which of the second (mel).

Two pictures of one size become one (section 2.2 of the system's description):

    image    one box for every frame position of a clip, pasted from one modality into the other (CutMix)
    video    one box for the whole clip
    pixel    single pixels, the same at all positions of a clip
    soft     λ·x + (1 - λ)·y, no pasting (mix-up)
    none     the first modality alone: what the released program computes in the modes image and pixel, whose result it
             overwrites

Every clip has draws of its own. The released program draws λ and the direction once a batch, and in mode image writes
the λ of the clipped box back for the next clip, so that boxes shrink along the batch (mean area 0.31 to 0.06 over
eight); here the share is taken from the pixels that were pasted, after clipping, and nothing reads it but the figures.
"""

from typing import NamedTuple

import torch

from cmg.methods.cmmixer.draws import own_draws

MODES = ("image", "video", "pixel", "soft", "none")


class Mixture(NamedTuple):
    """What was mixed.

    pictures : Tensor[B, P, C, H, W]. share : Tensor[B], how much of it is of the first modality: the mean over pixels.
    """

    pictures: torch.Tensor
    share: torch.Tensor


def boxes(lam, row, column, height, width):
    """CutMix's boxes: rows y0 … y1 and columns x0 … x1, the ends excluded; int64 tensors of the arguments' shape.

    Sides are those of the picture times √(1 - λ), rounded down; half of a side, rounded down again, lies on either side
    of the centre, so that an odd side loses a pixel. What is outside of the picture is cut off.

    lam : float64 Tensor, λ before clipping. row, column : int64 Tensors, the centre.
    """
    ratio = (1 - lam).sqrt()
    down, across = (height * ratio).long() // 2, (width * ratio).long() // 2
    return ((row - down).clamp(0, height), (row + down).clamp(0, height),
            (column - across).clamp(0, width), (column + across).clamp(0, width))


def inside(box, height, width):
    """Which pixels lie in boxes (y0, y1, x0, x1), each of shape S: BoolTensor[*S, H, W]."""
    y0, y1, x0, x1 = (edge[..., None] for edge in box)
    rows, columns = (torch.arange(n, device=y0.device) for n in (height, width))
    in_rows, in_columns = (rows >= y0) & (rows < y1), (columns >= x0) & (columns < x1)  # (*S, H), (*S, W)
    return in_rows[..., :, None] & in_columns[..., None, :]


def exact_map(draws, rate):
    """Exactly int(rate · H · W) True pixels, where the draws are smallest: float64 Tensor[B, H, W] -> BoolTensor."""
    flat = draws.flatten(1)
    place = flat.argsort(1).argsort(1)  # of every pixel among the sorted ones
    return (place < int(rate * flat.shape[1])).view(draws.shape)


def paste(first, second, from_second):
    """The first modality's pictures with the second's pixels where `from_second`, BoolTensor[B, P, H, W], says so."""
    return torch.where(from_second.unsqueeze(2), second, first)


def blend(first, second, lam):
    """λ·x + (1 - λ)·y; lam : Tensor that spreads over the pictures."""
    return lam * first + (1 - lam) * second


def draw_map(mode, clips, positions, height, width, rate, exact, device):
    """Which pixels come from the second modality, drawn for every clip: BoolTensor[B, P or 1, H, W].

    mode : "image", "video" or "pixel". rate, exact : of "pixel", the share of the second modality's pixels, and
        whether every clip has exactly that many.
    """
    if mode == "pixel":
        draws = own_draws(clips, height, width, device=device)
        return (exact_map(draws, rate) if exact else draws < rate).unsqueeze(1)
    frames = positions if mode == "image" else 1
    lam, row, column = own_draws(clips, 3, frames, device=device).unbind(1)  # λ ~ Beta(1, 1), which is uniform
    box = boxes(lam, (row * height).long(), (column * width).long(), height, width)
    into_second = own_draws(clips, 1, 1, 1, device=device) >= 0.5  # a clip's coin: what the box is pasted into
    return inside(box, height, width) ^ into_second


def mix(first, second, mode, rate=0.5, exact=True, alone=0.0):
    """Mix the pictures of two modalities, Tensor[B, P, C, H, W] each -> Mixture.

    alone : share of the clips that show one modality only, half of them the first and half the second, so that an
        encoder which is later given one modality has seen such clips.
    """
    B, P, _, H, W = first.shape
    device = first.device
    if mode == "none":
        return Mixture(first, torch.ones(B, dtype=first.dtype, device=device))
    which = own_draws(B, 1, 1, 1, device=device) if alone else None
    if mode == "soft":
        lam = own_draws(B, 1, 1, 1, 1, device=device)
        if alone:
            which = which.unsqueeze(-1)
            lam = torch.where(which < alone, (which < alone / 2).to(lam.dtype), lam)
        lam = lam.to(first.dtype)
        return Mixture(blend(first, second, lam), lam.flatten())
    from_second = draw_map(mode, B, P, H, W, rate, exact, device)
    if alone:
        from_second = torch.where(which < alone, which >= alone / 2, from_second)
    share = 1 - from_second.to(first.dtype).flatten(1).mean(1)
    return Mixture(paste(first, second, from_second), share)
