"""Text's biLSTM: what padding may change and what not."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

from cmg.models.semantic import WordEncoder, turn

LENGTHS = torch.tensor([6, 4, 1, 3])


@pytest.fixture
def captions():
    """Words [4, 6, 5], 50 where there is none, and which exist [4, 6]."""
    torch.manual_seed(0)
    words, there = torch.randn(4, 6, 5), torch.arange(6) < LENGTHS[:, None]
    words[~there] = 50.0
    return words, there


def test_turning_reverses_words_and_leaves_padding():
    there = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    assert turn(there).tolist() == [[2, 1, 0, 3], [3, 2, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_masked_states_and_gradients_are_those_of_packed_sequences(captions):
    words, there = captions
    encoder, found = WordEncoder(5, 8), []
    packed = encoder.lstm(pack_padded_sequence(words, LENGTHS, batch_first=True, enforce_sorted=False))[0]
    for states in (encoder(words, there), pad_packed_sequence(packed, batch_first=True)[0]):
        encoder.zero_grad()
        states[there].square().sum().backward()
        found.append((states[there].detach(), [p.grad.clone() for p in encoder.parameters()]))
    assert_close(*found)
    assert all(g.abs().max() > 0 for g in found[0][1])


def test_padding_changes_no_word_unless_it_is_read(captions):
    words, there = captions
    encoder, other = WordEncoder(5, 8), words.masked_fill(~there[..., None], 0.0)
    assert torch.equal(encoder(words, there)[there], encoder(other, there)[there])
    assert (encoder(words) - encoder(other))[there].abs().max() > 0.01
    assert_close(encoder(words, torch.ones_like(there)), encoder(words))  # where every word exists, the library's
