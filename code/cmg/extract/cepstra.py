"""`cepstra`: a weight-free audio backbone that says what a second sounds like, how it varies, and in which order.

Mel cepstra (Davis and Mermelstein 1980), 20 a frame of 10 ms, told in three ways:

    spread    mean, deviation, largest and smallest of each coefficient over the second: what is stationary, as rain is
    rhythm    log magnitudes of each coefficient's modulations, in octaves from 1 to 33 Hz (the modulation spectrum,
              Hermansky 1998), which do not say when in the second a sound begins
    course    means of four stretches of 150 ms around the middle of the second's energy: the order within a word

Chosen by linear readers of single seconds on the validation splits of two sets (docs/front_end.md): a band's mean is
what rain is, and in words it is the room and the speaker, so that what serves one set can ruin another.
"""

import math

import torch
import torchaudio.functional as F

from cmg.extract.logmel import CENTRE, FLOOR, MELS, SPREAD, mel_spectrogram
from cmg.extract.media import SAMPLE_RATE

CEPSTRA = 20
FRAMES = 100  # of a second
OCTAVES = (1, 2, 4, 8, 16, 33)  # Hz, ends of the bands of modulations
FAINT = 0.05  # of a modulation, about what silence has
STRETCH, STRETCHES = 15, 4  # frames
# Deviations of cepstra fall about as 1 / (k + 1), from 8 at k = 0; these weights bring most of them to about 1.
WEIGHTS = (torch.arange(1.0, CEPSTRA + 1) / 8).clamp(max=2)


class Cepstra:
    """Spread (4 × 20 values), rhythm (5 × 20) and course (4 × 20) of each second's mel cepstra, as one vector of 260.

    Example
    -------
    >>> Cepstra()(torch.zeros(3, 16000)).shape
    (3, 260)
    """

    name = "cepstra"
    modality = "audio"
    sha256 = ""
    expects = ()
    shape = ((4 + len(OCTAVES) - 1 + STRETCHES) * CEPSTRA,)

    def __init__(self):
        self.mel = mel_spectrogram(SAMPLE_RATE // FRAMES)
        self.cosines = F.create_dct(CEPSTRA, MELS, norm="ortho")  # (64, 20)

    def __call__(self, steps):
        n = len(steps)
        mel = self.mel(steps.reshape(-1))[:, : n * FRAMES].T.reshape(n, FRAMES, MELS)
        x = self.cepstra(mel)  # (T, 100, 20)
        least, most = x.aminmax(dim=1)
        spread = [x.mean(1), 2 * x.std(1), most, least]
        return torch.cat([*spread, rhythm(x / WEIGHTS), self.course(mel)], dim=1).numpy()  # (T, 260)

    def cepstra(self, mel):
        """Energies [T, 100, 64] -> liftered cepstra [T, 100, 20]."""
        return (torch.log(mel + FLOOR) - CENTRE) / SPREAD @ self.cosines * WEIGHTS

    def course(self, mel):
        """Energies [T, 100, 64] -> [T, 80], the stretches one after the other."""
        energy = mel.sum(2)
        energy = energy - energy.amin(1, keepdim=True)
        middle = (energy * torch.arange(FRAMES)).sum(1) / energy.sum(1).clamp_min(1e-9)  # (T,), in frames
        first = middle.round().long() - STRETCH * STRETCHES // 2
        frames = (first[:, None] + torch.arange(STRETCH * STRETCHES)) % FRAMES  # (T, 60): a second is read as a ring
        x = self.cepstra(mel.gather(1, frames[..., None].expand(-1, -1, MELS)))
        return x.view(len(x), STRETCHES, STRETCH, CEPSTRA).mean(2).flatten(1)


def rhythm(x):
    """Cepstra [T, 100, 20] -> [T, 100], band by band."""
    size = torch.fft.rfft(x - x.mean(1, keepdim=True), dim=1).abs() / math.sqrt(x.shape[1])  # (T, 51, 20), from 0 Hz
    bands = [size[:, low:high].mean(1) for low, high in zip(OCTAVES, OCTAVES[1:])]
    return torch.log(torch.cat(bands, dim=1) + FAINT) + 1
