"""A training step as a CUDA graph: recorded once, then started as a whole.

At the published sizes a step is thousands of operators, most of them small; Python starts them one by one, a graph all
with one call. What is recorded are addresses: a replay reads and writes the same tensors, whatever Python would have
decided meanwhile. So batch and learning rate are written into tensors that the graph reads, and random numbers come
from generators on the card that the graph knows.
"""

import torch
from torch import cuda

from cmg.distributed import shared_generator

WARM_UP = 3  # steps before the recording, in which optimisers make their state and libraries choose their kernels


class StepGraph:
    """A function of a batch that becomes a graph after `WARM_UP` calls.

    Parameters
    ----------
    step : function of a dict of tensors, always of the same shapes; reads nothing back to the host.
    optimizers : those that it calls; their rates become tensors on the device, see `cmg.optimisation.set_rate`.
    device : the card.

    What a call returns lies in the graph's own memory, and the next call overwrites it.
    """

    def __init__(self, step, optimizers, device):
        self.step, self.device, self.calls, self.graph = step, device, 0, None
        # Warm-up and recording share a stream: autograd adds a gradient on the stream that its parameter was first
        # used on, and a recording must not leave its own.
        self.stream = cuda.Stream(device)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group.update(capturable=True, lr=torch.tensor(float(group["lr"]), device=device))

    def __call__(self, batch):
        self.calls += 1
        if self.calls <= WARM_UP:
            here = cuda.current_stream(self.device)
            self.stream.wait_stream(here)
            with cuda.stream(self.stream):
                found = self.step(batch)
            here.wait_stream(self.stream)
            return found
        if self.graph is None:
            self.record(batch)
        for name, x in batch.items():
            self.inputs[name].copy_(x)
        self.graph.replay()
        return self.outputs

    def record(self, batch):
        self.inputs = {name: x.clone() for name, x in batch.items()}
        self.graph = cuda.CUDAGraph()
        self.graph.register_generator_state(shared_generator(self.device))
        # "thread_local": another thread may be copying the next batch to the card meanwhile.
        with cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.outputs = self.step(self.inputs)


def load_optimizer(optimizer, content):
    """`load_state_dict`, rates aside: the checkpoint's run may have been a graph where this one is not."""
    kept = ("lr", "capturable", "lr_factor")
    own = [{name: group[name] for name in kept if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(content)
    for group, mine in zip(optimizer.param_groups, own):
        group.update(mine)
