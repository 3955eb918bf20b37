"""A card that is none: what a CUDA graph records and replays, on a CPU."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmg.training import graph
from support import DEVICE


class Tape(TorchDispatchMode):
    """Stands in for `torch.cuda.CUDAGraph`: records every operator and its tensors, and runs them again on the same
    tensors. As on a card, what Python decided while it was recorded (a learning rate, a draw, a step's number) is
    repeated, unless it is read from a tensor or from a generator."""

    def __init__(self):
        super().__init__()
        self.operators, self.replays = [], 0

    def register_generator_state(self, generator):
        assert isinstance(generator, torch.Generator)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operators.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        if self.replays == 1:
            return  # unlike a card's, this recording has run what it recorded
        for func, args, kwargs, out in self.operators:
            again = func(*args, **kwargs)
            if not func.is_view:
                for old, new in zip(tree_leaves(out), tree_leaves(again)):
                    if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


@pytest.fixture
def card(monkeypatch):
    """`torch.cuda`, as far as a graph needs it, on a CPU; on a card nothing is replaced."""
    if DEVICE != "cpu":
        yield
        return

    @contextmanager
    def recording(tape, stream, capture_error_mode):
        with tape:
            yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(graph, "cuda", SimpleNamespace(
        Stream=lambda device: stream, current_stream=lambda device: stream, stream=lambda s: nullcontext(),
        CUDAGraph=Tape, graph=recording))
    with torch.backends.mkldnn.flags(enabled=False):  # its LSTM keeps what backward needs only where autograd watches
        yield
