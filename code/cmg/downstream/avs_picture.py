"""Masks drawn over frames, as one PNG."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from cmg.files import replacing

COLOURS = {"truth": (40, 200, 80), "own": (70, 130, 255), "target": (255, 90, 40)}
LABEL = 14  # pixels of the line of text above a clip's rows


def overlay(frames, masks, colour):
    """Colour the masks' pixels half. uint8 Tensor[T, h, w, 3], BoolTensor[T, h, w] -> uint8 Tensor[T, h, w, 3]."""
    tint = torch.tensor(colour, dtype=torch.float32)
    return torch.where(masks[..., None], 0.5 * frames + 0.5 * tint, frames.float()).round().to(torch.uint8)


def draw(path, clips, rows_of):
    """One block per clip: a line of text, then a row of its frames for each of its overlays.

    Parameters
    ----------
    path : PNG file to write, atomically.
    clips : list of lines of text, one a clip.
    rows_of : list, for each clip, of uint8 Tensor[T, h, w, 3].
    """
    seconds, height, width = rows_of[0][0].shape[:3]
    block = LABEL + height * len(rows_of[0])
    sheet = Image.new("RGB", (seconds * width, block * len(clips)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (text, rows) in enumerate(zip(clips, rows_of)):
        top = number * block
        pen.text((2, top + 1), text, fill="black")
        for row, frames in enumerate(rows):
            strip = frames.permute(1, 0, 2, 3).reshape(height, seconds * width, 3)  # (h, T·w, 3)
            sheet.paste(Image.fromarray(strip.numpy()), (0, top + LABEL + row * height))
    with replacing(path) as part:
        sheet.save(part, format="PNG")
    return Path(path)
