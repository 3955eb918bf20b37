"""`vggish`: the paper's audio backbone, AudioSet's VGGish, on a log-mel spectrogram of the same arithmetic.

Every second is encoded by itself. Of its 98 windows of 25 ms (every 10 ms, none beyond the second) the first 96 are the
example, so that the last 25 ms of a second are not used: this is how the public AVE features were made.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchaudio.transforms import Spectrogram

from cmg.errors import UserError
from cmg.extract.media import SAMPLE_RATE
from cmg.extract.weights import build, identity
from cmg.files import sha256

WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, the next power of two
MELS, LOW, HIGH = 64, 125.0, 7500.0  # bands, Hz
FRAMES = 96  # of an example
OFFSET = 0.01  # under the logarithm
EMBEDDING = 128
BOUND = 2.0  # whitened embeddings are clipped to ±2 and quantised to 0 … 255


class LogMel(nn.Module):
    """Log-mel magnitudes as VGGish was trained on: Tensor[n, 16000] -> Tensor[n, 96, 64].

    log(mel + 0.01) of the magnitude, not the power, of windows that are not centred; a periodic Hann window; triangles
    that are straight lines over mel (1127 ln(1 + f / 700)), where torchaudio's own are straight over Hz.
    """

    def __init__(self):
        super().__init__()
        self.spectrogram = Spectrogram(FFT, WINDOW, HOP, power=1.0, center=False)
        self.register_buffer("bands", mel_bands().float())

    def forward(self, x):
        # torchaudio puts the window into the middle of a stretch of FFT samples; its magnitude is the same anywhere.
        side = (FFT - WINDOW) // 2
        magnitude = self.spectrogram(F.pad(x, (side, side)))  # (n, 257, 98)
        return torch.log(magnitude.transpose(1, 2) @ self.bands + OFFSET)[:, :FRAMES]


def mel_bands():
    """Weights of the FFT's bins in the mel bands: float64 Tensor[257, 64]; the constant (bin 0) is in none."""
    hertz = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    mel = 1127 * torch.log1p(hertz / 700)  # (257,)
    low, high = (1127 * np.log1p(edge / 700) for edge in (LOW, HIGH))
    edges = torch.linspace(low, high, MELS + 2, dtype=torch.float64)
    rise = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    bands = torch.minimum(rise, fall).clamp_min(0)
    bands[0] = 0
    return bands


class Network(nn.Module):
    """VGGish (Hershey et al. 2017) with the layer names of the public PyTorch weights: [n, 1, 96, 64] -> [n, 128]."""

    def __init__(self):
        super().__init__()
        layers, width = [], 1
        for size in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool"):
            if size == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(width, size, 3, padding=1), nn.ReLU()]
                width = size
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(6 * 4 * 512, 4096), nn.ReLU(),
            nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, EMBEDDING), nn.ReLU(),
        )

    def forward(self, x):
        x = self.features(x)  # (n, 512, 6, 4)
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))  # channels last, as the weights come from there


class VGGish:
    """VGGish embeddings [T, 128] of each second, after the last ReLU, as the public AVE features are.

    Example
    -------
    >>> VGGish(("random:0",))(torch.zeros(3, 16000)).shape
    (3, 128)
    """

    name = "vggish"
    modality = "audio"
    shape = (EMBEDDING,)
    expects = ("torchvggish's vggish-*.pth, or random:SEED",)

    def __init__(self, weights, device="cpu", precision="fp32"):
        self.device, self.precision = torch.device(device), precision
        self.log_mel = LogMel().to(self.device)
        self.net = build(Network, weights[0]).to(self.device)
        self.weights = weights

    @property
    def sha256(self):
        return identity(self.weights[0])

    @torch.inference_mode()
    def __call__(self, steps):
        x = self.log_mel(steps.to(self.device))[:, None]  # (T, 1, 96, 64)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = self.net(x)
        return x.float().cpu().numpy()


class VGGishPCA(VGGish):
    """VGGish embeddings as AudioSet released its own: whitened by PCA, clipped, whole numbers 0 to 255."""

    name = "vggish-pca"
    expects = (*VGGish.expects, "AudioSet's vggish_pca_params.npz")

    def __init__(self, weights, device="cpu", precision="fp32"):
        super().__init__(weights, device, precision)
        try:
            with np.load(weights[1], allow_pickle=False) as file:
                self.axes, self.means = file["pca_eigen_vectors"], file["pca_means"].reshape(-1)
        except Exception as error:  # numpy reports what is no archive of arrays in many types
            raise UserError(f"weights {weights[1]}: not AudioSet's PCA parameters ({type(error).__name__})") from None
        if self.axes.shape != (EMBEDDING, EMBEDDING) or self.means.shape != (EMBEDDING,):
            raise UserError(f"weights {weights[1]}: pca_eigen_vectors {self.axes.shape} and pca_means "
                            f"{self.means.shape}, expected {EMBEDDING} x {EMBEDDING} and {EMBEDDING}")

    @property
    def sha256(self):
        return f"{super().sha256} {sha256(self.weights[1])}"

    def __call__(self, steps):
        x = (super().__call__(steps) - self.means) @ self.axes.T
        return np.round((x.clip(-BOUND, BOUND) + BOUND) * (255 / (2 * BOUND)))
