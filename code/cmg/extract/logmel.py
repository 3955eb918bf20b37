"""`logmel`: a weight-free audio backbone, log mel energies with their course within the second."""

import torch
import torchaudio.transforms

from cmg.extract.media import SAMPLE_RATE

MELS = 64
BINS = 10  # a second is ten time bins of 100 ms: the order of a word's sounds survives
HOP = 160  # 10 ms
WINDOW = 400  # 25 ms
# Chosen on AVE-style clips of spoken digits: of floors from 1e-5 to 1e-1 this one left the words easiest to tell apart
# by a linear classifier, and with it log energies had mean -5.2 and standard deviation 2.1.
FLOOR = 1e-3
CENTRE, SPREAD = -5.2, 2.1


def mel_spectrogram(hop):
    """Energies of 64 mel bands: Tensor[N] -> [64, 1 + N // hop], centred on 0, hop, 2 hop, … samples."""
    return torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE, n_fft=512, win_length=WINDOW, hop_length=hop, f_min=60.0, f_max=7600.0, n_mels=MELS)


class LogMel:
    """64 mel bands × 10 time bins of each second, as one vector of 640 values, time bin by time bin.

    Example
    -------
    >>> LogMel()(torch.zeros(3, 16000)).shape
    (3, 640)
    """

    name = "logmel"
    modality = "audio"
    sha256 = ""
    expects = ()
    shape = (BINS * MELS,)

    def __init__(self):
        self.mel = mel_spectrogram(HOP)

    def __call__(self, steps):
        n = len(steps)
        frames = SAMPLE_RATE // HOP // BINS  # frames of a time bin
        mel = self.mel(steps.reshape(-1))[:, : n * BINS * frames]  # (64, T * 100), centred on 0, 10, 20 … ms
        mel = mel.view(MELS, n, BINS, frames).mean(dim=-1)  # (64, T, 10)
        x = (torch.log(mel + FLOOR) - CENTRE) / SPREAD
        return x.permute(1, 2, 0).reshape(n, -1).numpy()  # (T, 10 * 64)
