"""ResDAVEnet over log-mel maps (Harwath et al., ECCV 2018; Hsu et al., ICLR 2020), MultiSK's front for audio.

Convolutions over time alone: the first takes all mel bands of a frame at once, and every stage halves the number of
frames.
"""

from dataclasses import dataclass

import torch
from torch import nn

from cmg.cli import whole
from cmg.configs import Config, setting
from cmg.distributed import several, total, world
from cmg.errors import UserError

KERNEL = 9  # frames


@dataclass(frozen=True)
class MelFrontConfig(Config):
    """Convolutions over log-mel maps.

    Attributes
    ----------
    mel_widths : channels of the first convolution and of every stage
    mel_blocks : residual blocks of every stage
    """

    mel_widths: list = setting((64, 64, 96, 128, 160, 192, 256), whole(1), several=True)
    mel_blocks: list = setting((1, 1, 1, 1, 1, 1), whole(1), several=True)

    def __post_init__(self):
        super().__post_init__()
        if len(self.mel_widths) != len(self.mel_blocks) + 1:
            raise UserError(f"--mel-widths: {len(self.mel_widths)} numbers for the {len(self.mel_blocks)} stages of "
                            f"--mel-blocks; expected {len(self.mel_blocks) + 1}")

    @property
    def frames(self):
        """Frames of a token."""
        return 2 ** len(self.mel_blocks)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the moments of the whole batch, over all processes."""

    def forward(self, x):
        if not (self.training and several()):
            return super().forward(x)
        count = world()[1] * x.numel() // x.shape[1]  # ranks hold equal slices
        mean = total(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = (variance * count / (count - 1)).to(self.running_var.dtype)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def along_time(channels, width, kernel, stride=1):
    return nn.Conv2d(channels, width, (1, kernel), (1, stride), (0, kernel // 2), bias=False)


class TimeBlock(nn.Module):
    """relu(skip(x) + norm2(conv2(relu(norm1(conv1(x)))))); the first of a stage takes every second frame."""

    def __init__(self, channels, width, first):
        super().__init__()
        stride = 2 if first else 1
        self.conv1, self.norm1 = along_time(channels, width, KERNEL, stride), BatchNorm(width)
        self.conv2, self.norm2 = along_time(width, width, KERNEL), BatchNorm(width)
        self.skip = nn.Sequential(along_time(channels, width, 1, stride), BatchNorm(width)) if first else nn.Identity()

    def forward(self, x):
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.skip(x) + self.norm2(self.conv2(inner)))


class MelFront(nn.Module):
    """Spectrogram to tokens: [B, M, frames] -> [B, frames / 2^stages, width], rounded up.

    bands : M. config : MelFrontConfig.
    """

    def __init__(self, bands, config):
        super().__init__()
        widths = config.mel_widths
        self.stem, self.norm = nn.Conv2d(1, widths[0], (bands, 1), bias=False), BatchNorm(widths[0])
        stages = []
        for channels, width, blocks in zip(widths, widths[1:], config.mel_blocks):
            stages += [TimeBlock(width if b else channels, width, not b) for b in range(blocks)]
        self.blocks = nn.Sequential(*stages)
        self.width = widths[-1]

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x.unsqueeze(1))))  # (B, width, 1, frames)
        return self.blocks(x).squeeze(2).transpose(1, 2)
