"""Semantic encoders Φ: what a clip means, per second, in a form that modalities can share.

Every Φ ends in the same temporal encoder (Linear to D, then a post-norm transformer over T); they differ in what
comes before it: video pools its H×W grid, text runs a biLSTM over its words, audio enters as it is.
"""

import torch
from torch import nn
from torch.nn import functional as F


class GridPooling(nn.Module):
    """Channel attention, then spatial attention, over the grid of a second: [B, T, H, W, C] -> [B, T, C].

    Parameters
    ----------
    channels : C.
    cells : H·W.
    hidden : width of the spatial attention's hidden space.
    uniform : the released code takes a softmax over an axis of length one, so that every cell weighs 1 and the
        result is the *sum* over cells of the channel-attended grid; three linear layers are dead there. True
        reproduces those numbers (without the dead layers), and takes the mean over the grid, [B, T, C], as well: it
        reads nothing else. False attends over the H·W cells, as the paper says.
    """

    def __init__(self, channels, cells, hidden=64, uniform=False):
        super().__init__()
        squeezed = max(1, channels // 8)
        self.channel = nn.Sequential(
            nn.Linear(channels, squeezed, bias=False), nn.ReLU(),
            nn.Linear(squeezed, channels, bias=False), nn.Sigmoid(),
        )
        self.uniform, self.cells = uniform, cells
        if not uniform:
            self.cell = nn.Linear(channels, hidden)
            self.frame = nn.Linear(channels, hidden)
            self.score = nn.Linear(hidden, 1)

    def forward(self, x):
        if x.dim() == 5:
            x = x.flatten(2, 3)  # (B, T, H·W, C)
        mean = x.mean(2) if x.dim() == 4 else x  # (B, T, C)
        gate = 1 + self.channel(mean)  # (B, T, C)
        if self.uniform:
            return self.cells * mean * gate
        frame = self.frame(mean * gate).unsqueeze(2)  # (B, T, 1, hidden)
        weight = self.score(torch.tanh(self.cell(x) + frame)).softmax(2)  # (B, T, H·W, 1)
        # a matrix product, so that no weighted copy of the grid is made
        return (weight.transpose(2, 3).to(x.dtype) @ x).squeeze(2) * gate


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
            return self.lstm(x)[0]
        turned = turn(valid).unsqueeze(-1)  # (B, L, 1)
        layers = iter(self.lstm.all_weights)
        for forwards, backwards in zip(layers, layers):
            there = one_way(x, forwards)
            back = one_way(x.gather(1, turned.expand_as(x)), backwards)
            x = torch.cat([there, back.gather(1, turned.expand_as(back))], dim=-1)
        return x


def one_way(x, weights):
    """One LSTM layer in one direction: Tensor[B, L, X] -> [B, L, H], with one entry of `nn.LSTM.all_weights`."""
    start = x.new_zeros(1, len(x), weights[1].shape[1])
    return torch.lstm(x, (start, start), weights, True, 1, 0.0, False, False, True)[0]


def turn(valid):
    """Positions that reverse the words of every caption and leave the padding behind them: LongTensor[B, L]."""
    place = torch.arange(valid.shape[1], device=valid.device)
    words = (valid * (place + 1)).amax(1, keepdim=True)  # (B, 1): up to the last one
    return torch.where(place < words, words - 1 - place, place)


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
    modality : "video", "audio" or "text".
    shape : shape of one clip's features: (T, H, W, C) or (T, C).
    input_dropout : share of feature channels that a training step hides from Φ, drawn per second.
    mask_words : keep the padding of captions out of text's biLSTM.
    """

    def __init__(self, modality, shape, dim, layers=2, uniform_grid=False, input_dropout=0.0, mask_words=True):
        super().__init__()
        width = shape[-1]
        self.input_dropout, self.mask_words = input_dropout, mask_words
        self.words = WordEncoder(width, dim) if modality == "text" else None
        self.grid = GridPooling(width, shape[1] * shape[2], uniform=uniform_grid) if len(shape) == 4 else None
        self.temporal = TemporalEncoder(dim if self.words else width, dim, layers)

    def front(self, x, valid=None):
        """What Ψ reads as well: word states for text, the features themselves otherwise."""
        return self.words(x, valid if self.mask_words else None) if self.words else x

    def forward(self, x, valid=None):
        """x : the output of `front`. Returns Tensor[B, T, D]."""
        if self.input_dropout and self.training:
            # One mask for all cells of a second: what every cell repeats would come through otherwise.
            keep = x.new_ones(*x.shape[:2], *([1] * (x.dim() - 3)), x.shape[-1])
            x = x * F.dropout(keep, self.input_dropout)
        return self.temporal(self.grid(x) if self.grid else x, valid)
