"""Image backbones of the segmentation network: an image to four maps, from fine to coarse.

The published backbones start at a quarter of the image's side, and each map is half as large as the one before.
`lateral_std` is the standard deviation of the initial weights of the convolutions that read the maps. The benchmark's
0.01 gives values around 1 for maps of a few hundred channels. For a few dozen they would be close to 0, and TPAVI
would compare little but its biases.
"""

from pathlib import Path

import torch
from torch import nn

from cmg.data.tensors import check_sums
from cmg.errors import UserError


class ResNet50(nn.Module):
    """torchvision's ResNet-50: maps of 256, 512, 1024 and 2048 channels."""

    channels = (256, 512, 1024, 2048)
    lateral_std = 0.01

    def __init__(self, weights="none"):
        super().__init__()
        try:
            from torchvision.models import resnet50
        except ImportError:
            raise UserError("--backbone resnet50 needs torchvision: install this project with its extra [avs]") \
                from None

        net = _reaching(weights, lambda: resnet50(weights="IMAGENET1K_V1" if weights == "imagenet" else None))
        if weights not in ("none", "imagenet"):
            _load(net, weights)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, x):
        return _cascade(self.stem(x), self.stages)


class PvtV2B5(nn.Module):
    """timm's PVTv2-b5 (Wang et al. 2022), 82 M parameters: maps of 64, 128, 320 and 512 channels."""

    channels = (64, 128, 320, 512)
    lateral_std = 0.01

    def __init__(self, weights="none"):
        super().__init__()
        try:
            import timm
        except ImportError:
            raise UserError("--backbone pvt_v2_b5 needs timm: pip install timm, or this project with its extra [avs]"
                            ) from None
        # A file is given to timm as the place of its own weights, because it renames the published file's keys.
        file = {} if weights in ("none", "imagenet") else {"pretrained_cfg_overlay": {"file": str(_existing(weights))}}
        self.net = _reaching(weights, lambda: timm.create_model("pvt_v2_b5", pretrained=weights != "none",
                                                                features_only=True, **file))

    def forward(self, x):
        return self.net(x)


class Tiny(nn.Module):
    """A dozen narrow convolutions, 0.1 M parameters: for tests and for small data on a CPU.

    The maps have the image's own size, a quarter, an eighth and a sixteenth of its side: images are small here, and a
    stroke of three pixels has no outline at half its size.
    """

    channels = (16, 32, 48, 64)
    lateral_std = 0.05

    def __init__(self, weights="none"):
        super().__init__()
        if weights == "imagenet":
            raise UserError("--backbone-weights imagenet: the tiny backbone has none; expected none or a file")
        self.stem = _convolution(3, 16)
        self.stages = nn.ModuleList([
            _convolution(16, 16), nn.Sequential(_halving(16, 16), _halving(16, 32)), _halving(32, 48), _halving(48, 64),
        ])
        if weights != "none":
            _load(self, weights)

    def forward(self, x):
        return _cascade(self.stem(x), self.stages)


BACKBONES = {"pvt_v2_b5": PvtV2B5, "resnet50": ResNet50, "tiny": Tiny}


def _convolution(a, b, stride=1):
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())


def _halving(a, b):
    return nn.Sequential(_convolution(a, b, stride=2), _convolution(b, b))


def _cascade(x, stages):
    """The outputs of stages that follow each other, as a list."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def _existing(path):
    if not Path(path).is_file():
        raise UserError(f"--backbone-weights {path}: no such file; expected none, imagenet or a file of weights")
    return path


def _load(net, path):
    try:
        check_sums(_existing(path))
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except UserError:
        raise
    except Exception as error:  # torch reports a damaged or foreign file in many types
        raise UserError(f"--backbone-weights {path}: not weights of this backbone ({str(error).splitlines()[0][:100]})"
                        ) from None


def _reaching(weights, build):
    """Build a network whose weights may have to be downloaded."""
    try:
        return build()
    except Exception as error:  # a network fails in many types
        raise UserError(f"--backbone-weights {weights}: cannot be had ({str(error).splitlines()[0][:100]}); download "
                        "the file elsewhere and pass its path, or pass none") from None
