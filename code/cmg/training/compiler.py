"""`--compile`: a function becomes one graph, on any device and with any number of processes."""

import torch
from torch.backends import mkldnn


def compiled(function, backend="inductor"):
    """`torch.compile` without graph breaks: what cannot be traced is an error, not slower.

    Collectives and shared draws are operators that the compiler calls and does not look into. Whether there are several
    processes is decided when the function is traced, at its first call: the process group must exist by then.

    backend : name of a backend of torch.compile.
    """
    torch._dynamo.config.allow_rnn = True
    return torch.compile(function, backend=without_onednn(torch._dynamo.lookup_backend(backend)), fullgraph=True)


def without_onednn(backend):
    """A backend that traces LSTMs as they are trained. On a CPU torch 2.11 takes oneDNN's layer for every LSTM whose
    input needs no gradient, the first of a network among them, and cannot keep what its backward pass needs."""
    def trace(graph, inputs):
        was, mkldnn.enabled = mkldnn.enabled, False
        try:
            return backend(graph, inputs)
        finally:
            mkldnn.enabled = was

    return trace
