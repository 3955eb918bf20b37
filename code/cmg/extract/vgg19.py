"""`vgg19`: the paper's video backbone, the last pooling layer of VGG-19."""

import torch
import torchvision

from cmg.extract.pictures import NetworkInput
from cmg.extract.weights import build, identity

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB


class VGG19:
    """`pool5` of VGG-19 (Simonyan and Zisserman 2015): 7×7 cells of 512 channels, averaged over a second's frames.

    As the public features were made, but with torchvision's weights and their preprocessing. Copies of the AVE scripts
    use those of Keras, which take BGR pictures without scaling: the two sets of features are not interchangeable.

    Example
    -------
    >>> VGG19(("random:0",))([np.zeros((2, 120, 160, 3), np.uint8)]).shape
    (1, 7, 7, 512)
    """

    name = "vgg19"
    modality = "video"
    shape = (7, 7, 512)
    expects = ("torchvision's vgg19-*.pth, or random:SEED",)

    def __init__(self, weights, device="cpu", precision="fp32"):
        self.device, self.precision = torch.device(device), precision
        net = build(lambda: torchvision.models.vgg19().features, weights[0], "features.", ignored=("classifier.",))
        self.net = net.to(self.device, memory_format=torch.channels_last)
        self.prepare = NetworkInput(SIZE, MEAN, STD, self.device)
        self.weights = weights

    @property
    def sha256(self):
        return identity(self.weights[0])

    @torch.inference_mode()
    def __call__(self, steps):
        maps = []
        # Nothing is read back before the end: on a GPU the next second is decoded while this one is computed.
        for frames in steps:
            x = self.prepare(frames)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                x = self.net(x.to(memory_format=torch.channels_last))  # (n, 512, 7, 7)
            maps.append(x.float().mean(dim=0).permute(1, 2, 0))
        return torch.stack(maps).cpu().numpy()
