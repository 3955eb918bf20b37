"""Semantic encoders Φ: what a clip means, per second, in a form that modalities can share.

Every Φ ends in the same temporal encoder (Linear to D, then a post-norm transformer over T); they differ in what
comes before it: video pools its H×W grid, text runs a biLSTM over its words, audio enters as it is.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.modalities import modality
from cmg.models.precision import recur


@dataclass(frozen=True)
class EncoderConfig(Config):
    """Semantic encoders Φ.

    Attributes
    ----------
    dim : D, width of the semantic vectors and codes
    layers : transformer layers of every Φ
    transformer : every modality its own transformer, or one that all share (see cmg/models/shared.py)
    input_dropout : share of feature channels hidden from Φ in training
    text_padding : whether text's biLSTM reads the zeros behind a short caption (released code)
    """

    dim: int = setting(256, whole(4, multiple_of=4))
    layers: int = setting(2, whole(1))
    transformer: str = setting("own", choices=("own", "shared"))
    input_dropout: float = setting(0.0, number(least=0, below=1))
    text_padding: str = setting("masked", choices=("masked", "read"))


class GridPooling(nn.Module):
    """Channel attention, then spatial attention, over the grid of a second: [B, T, H, W, C] -> [B, T, C].

    Parameters
    ----------
    channels : C. cells : H·W.
    hidden : width of the spatial attention's hidden space.
    """

    def __init__(self, channels, cells, hidden=64):
        super().__init__()
        self.channel = channel_attention(channels)
        self.cell = nn.Linear(channels, hidden)
        self.frame = nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, x):
        x = x.flatten(2, 3)  # (B, T, H·W, C)
        mean = x.mean(2)  # (B, T, C)
        gate = 1 + self.channel(mean)  # (B, T, C)
        frame = self.frame(mean * gate).unsqueeze(2)  # (B, T, 1, hidden)
        weight = self.score(torch.tanh(self.cell(x) + frame)).softmax(2)  # (B, T, H·W, 1)
        # a matrix product, so that no weighted copy of the grid is made
        return (weight.transpose(2, 3).to(x.dtype) @ x).squeeze(2) * gate


def channel_attention(channels):
    """Weights in 0..1 of the channels of a mean over the grid: [.., C] -> [.., C]."""
    squeezed = max(1, channels // 8)
    return nn.Sequential(
        nn.Linear(channels, squeezed, bias=False), nn.ReLU(),
        nn.Linear(squeezed, channels, bias=False), nn.Sigmoid(),
    )


class WordEncoder(nn.Module):
    """Trainable two-layer biLSTM over word embeddings: [B, L, X] -> [B, L, D]; Φ and Ψ of text both read it."""

    def __init__(self, in_dim, dim):
        super().__init__()
        self.lstm = nn.LSTM(in_dim, dim // 2, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x, valid=None):
        """valid : BoolTensor[B, L]: the words of a caption, then padding, which then changes no word's state. None: the
        way back begins in the padding, so that a word's state tells how much of it there is (the released code).

        As `pack_padded_sequence` would have it, but without the lengths on the host: each layer runs forwards over the
        captions and over the captions turned round.
        """
        if valid is None:
            return recur(self.lstm, x)[0]
        turned = turn(valid).unsqueeze(-1)  # (B, L, 1)
        layers = iter(self.lstm.all_weights)
        for forwards, backwards in zip(layers, layers):
            there = one_way(x, forwards)
            back = one_way(x.gather(1, turned.expand_as(x)), backwards)
            x = torch.cat([there, back.gather(1, turned.expand_as(back))], dim=-1)
        return x


def one_way(x, weights):
    """One LSTM layer in one direction: Tensor[B, L, X] -> [B, L, H], with one entry of `nn.LSTM.all_weights`."""
    def lstm(x):
        start = x.new_zeros(1, len(x), weights[1].shape[1])
        return torch.lstm(x, (start, start), weights, True, 1, 0.0, False, False, True)[0]

    return recur(lstm, x)


def turn(valid):
    """Positions that reverse the words of every caption and leave the padding behind them: LongTensor[B, L]."""
    position = torch.arange(valid.shape[1], device=valid.device)
    words = (valid * (position + 1)).amax(1, keepdim=True)  # (B, 1): up to the last one
    return torch.where(position < words, words - 1 - position, position)


class TemporalEncoder(nn.Module):
    """Linear to D, then a post-norm transformer over time without positional code: [B, T, C] -> [B, T, D]."""

    def __init__(self, in_dim, dim, layers=2, heads=4, feedforward=1024, dropout=0.1):
        super().__init__()
        self.project = nn.Linear(in_dim, dim)

        def layer():
            return nn.TransformerEncoderLayer(dim, heads, feedforward, dropout, batch_first=True)

        self.encoder = nn.TransformerEncoder(layer(), layers, enable_nested_tensor=False)
        self.encoder.layers = nn.ModuleList(layer() for _ in range(layers))  # drawn anew: the library clones one

    def forward(self, x, valid=None):
        """valid : BoolTensor[B, T] or None. Steps that are not valid are not attended to.

        A clip without a single valid step attends to all of them: its output is masked by every term, and an empty
        softmax would be nan.
        """
        padding = None if valid is None else ~valid & valid.any(1, keepdim=True)
        return self.encoder(self.project(x), src_key_padding_mask=padding)


class SemanticEncoder(nn.Module):
    """Φ of one modality: features of a clip to semantic vectors [B, T, D].

    Parameters
    ----------
    name : of the modality.
    shape : shape of one clip's features: (T, H, W, C) or (T, C).
    config : EncoderConfig
    pooling : class of what makes a vector of a grid.
    """

    def __init__(self, name, shape, config, pooling=GridPooling):
        super().__init__()
        width, dim = shape[-1], config.dim
        self.input_dropout, self.mask_words = config.input_dropout, config.text_padding == "masked"
        self.words = None if modality(name).timed else WordEncoder(width, dim)
        self.grid = pooling(width, shape[1] * shape[2]) if len(shape) == 4 else None
        self.temporal = TemporalEncoder(dim if self.words else width, dim, config.layers)

    def inputs(self, x, valid=None):
        """What Φ and Ψ both read: states of words, or else the features themselves."""
        return self.words(x, valid if self.mask_words else None) if self.words else x

    def forward(self, x, valid=None):
        """x : what `inputs` gives. Returns Tensor[B, T, D]."""
        if self.input_dropout and self.training:
            # One mask for all cells of a second: what every cell repeats would come through otherwise.
            keep = x.new_ones(*x.shape[:2], *([1] * (x.dim() - 3)), x.shape[-1])
            x = x * F.dropout(keep, self.input_dropout)
        return self.temporal(self.grid(x) if self.grid else x, valid)
