"""`melimage`: log-mel pictures of a clip's sound, for methods that read sound as they read frames.

    melimage        the sound of the step itself, as many bands and columns as the picture's side
    melimage-22k    5.20 s around the step's middle, 22.05 kHz, pre-emphasis 0.97, Hamming windows of 25 ms   (released)
    melimage-44k    2.60 s around the step's middle, 44.1 kHz, Hann windows of 2048 samples                   (released)

The released ones have windows of 2048 samples (46 and 93 ms) every 512, 224 mel bands and the first 224 columns, and
are brought to --side where that is another. Two of the released program's slips are not repeated: it always reads the
last seconds of a clip, and takes 20 log10 of a power, which doubles all decibels. Extraction reads sound at 16 kHz, so
that pictures of more hold nothing above 8 kHz.
"""

import torch
import torchaudio.functional
from torch.nn import functional as F
from torchaudio.transforms import MelSpectrogram

from cmg.extract.media import SAMPLE_RATE

BANDS, HOP, FFT = 224, 512, 2048  # of the released settings
LEAST, RANGE = 1e-10, 80.0  # power that counts as silence; decibels below a picture's loudest place that are kept


def decibels(power):
    """10 log10 of power [n, bands, columns], at most `RANGE` below the loudest of the same picture."""
    x = 10 * power.clamp_min(LEAST).log10()
    return torch.maximum(x, x.amax((1, 2), keepdim=True) - RANGE)


class MelImage:
    """Pictures [columns, bands] in decibels, `rate` of them a second; each looks at `seconds` around its step's middle,
    with silence beyond the clip's ends.

    Example
    -------
    >>> MelImage(side=32)(torch.zeros(3, 16000)).shape
    (3, 32, 32)
    """

    name = "melimage"
    modality = "audio"
    sha256 = ""
    expects = ()
    options = ("side", "rate")
    sampling, emphasis = SAMPLE_RATE, 0.0

    def __init__(self, side=224, rate=1):
        self.side, self.rate, self.shape = side, rate, (side, side)
        self.samples, self.columns, spectrum = self.setting()
        self.mel = MelSpectrogram(self.sampling, power=2, norm="slaney", mel_scale="slaney", pad_mode="constant",
                                  **spectrum)

    def setting(self):
        """(samples of a picture, columns, what torchaudio's MelSpectrogram needs to know)."""
        samples = SAMPLE_RATE // self.rate
        size = FFT if self.side > 96 else 1024  # a narrower band would lie between two frequencies
        spectrum = {"n_fft": size, "win_length": 400, "hop_length": max(1, samples // self.side), "n_mels": self.side}
        return samples, self.side, spectrum

    def __call__(self, steps):
        wave = torchaudio.functional.resample(steps.reshape(-1), SAMPLE_RATE, self.sampling)
        if self.emphasis:
            wave = torchaudio.functional.preemphasis(wave, self.emphasis)
        around = F.pad(wave, (self.samples // 2, self.samples))
        middles = [round((i + 0.5) * self.sampling / self.rate) for i in range(len(steps) * self.rate)]
        parts = torch.stack([around[middle : middle + self.samples] for middle in middles])  # (n, samples)
        x = decibels(self.mel(parts)[..., : self.columns])  # (n, bands, columns)
        if x.shape[1:] != self.shape:
            x = F.interpolate(x[:, None], self.shape, mode="bilinear", antialias=True)[:, 0]
        return x.mT.numpy()


class MelImage22k(MelImage):
    """The released setting of the retrieval data: 114 660 samples."""

    name = "melimage-22k"
    sampling, emphasis, seconds = 22050, 0.97, 5.2

    def setting(self):
        spectrum = {"n_fft": FFT, "win_length": round(0.025 * self.sampling), "hop_length": HOP, "n_mels": BANDS,
                    "window_fn": torch.hamming_window}
        return round(self.seconds * self.sampling), BANDS, spectrum


class MelImage44k(MelImage):
    """The released setting of the second loader: 114 660 samples, padded to 224 times 512."""

    name = "melimage-44k"
    sampling, seconds = 44100, 2.6

    def setting(self):
        return BANDS * HOP, BANDS, {"n_fft": FFT, "hop_length": HOP, "n_mels": BANDS}
