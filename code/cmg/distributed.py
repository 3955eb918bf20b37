"""One process or many (torchrun): the few collectives that training needs, identities when there is one process.

Several processes compute what one would have computed on the whole batch. Two conventions make it so:

* A loss on one rank is normalised such that the *mean over ranks* is the loss of the whole batch (`share` gives the
  denominators), and gradients are averaged over ranks.
* What compares clips with each other (negatives, moments over the batch) first gathers them from all ranks, with
  gradient: `gather`, `total`. Every rank holds an equal slice of the batch, in rank order.

Every rank must call these functions in the same order, whatever its data. Draws that all ranks must make alike (which
seconds, which clip a code is reset to) come from `shared_rand`, all others (dropout) from torch's own stream, which
differs between ranks.
"""

import math
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from cmg.errors import LostProcess, UserError

# Of an operator: torch.compile keeps every call, in the order of the program. Without it, it makes one draw of two of
# the same length, and may start collectives in an order of its own.
ORDERED = torch.library.EffectType.ORDERED

_shared = {}  # "cpu" or "cuda" -> torch.Generator; a process uses one card


def start(device_type, minutes):
    """Join the process group if torchrun, `srun` or `cmg.launch` started us; returns (rank, number of processes).

    minutes : that a collective waits for the others, until it takes one for lost. One may write a checkpoint meanwhile.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if size > 1 and not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=timedelta(minutes=minutes))
        except (RuntimeError, ValueError) as error:
            place = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
            raise UserError(f"process {rank} of {size}: the processes do not meet at {place} "
                            f"({str(error).splitlines()[0][:200]}); expected MASTER_ADDR, MASTER_PORT, RANK and "
                            "WORLD_SIZE of one run") from None
    return rank, size


def finish():
    """Leave the process group together: a rank that goes first can take the others' connections down."""
    if several():
        dist.barrier()
        dist.destroy_process_group()


def lost_a_process(error):
    """Whether a RuntimeError is what a collective raises when another process has died."""
    return several() and (isinstance(error, dist.DistError) or any(s in str(error) for s in ("gloo", "Gloo", "NCCL")))


def several():
    """Whether there is more than this one process."""
    return dist.is_available() and dist.is_initialized()


def world():
    """(rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if several() else (0, 1)


def choose_device(name):
    """`--device` as a torch.device: "auto", "cpu", "cuda" (this process's own card under torchrun) or "cuda:N"."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {name}: no CUDA device is available here, expected cpu")
        alone = torch.cuda.device_count() == 1  # as where Slurm shows every task its own card
        place = 0 if alone else int(os.environ.get("LOCAL_RANK", 0))
        device = torch.device("cuda", place if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


# -- draws that all ranks make alike ---------------------------------------------------------------------------------


def shared_generator(device):
    """The stream of shared draws on a device. A card has its own: numbers from the host would have to be waited for,
    and a CUDA graph would repeat those of the step that it recorded."""
    device = torch.device(device)
    if device.type not in _shared:
        _shared[device.type] = torch.Generator(device)
    return _shared[device.type]


@torch.library.custom_op("cmg::shared_rand", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _shared_rand(n: int, device: torch.device) -> torch.Tensor:  # an operator: torch.compile knows no generators
    return torch.rand(n, generator=shared_generator(device), dtype=torch.float64, device=device)


@_shared_rand.register_fake
def _(n, device):
    return torch.empty(n, dtype=torch.float64, device=device)


_shared_rand.register_effect(ORDERED)


def shared_rand(n, device):
    """n uniform numbers in [0, 1), float64 Tensor[n], the same on every rank as long as all of them draw alike."""
    return _shared_rand(n, device)


def shared_permutation(n, device):
    """A random order of 0 … n-1, the same on every rank."""
    return shared_rand(n, device).argsort()


def seed_shared(seed, step, device="cpu"):
    """Begin a step's shared draws: a function of (seed, step), so that a resumed run draws what it would have drawn."""
    shared_generator(device).manual_seed((seed * 1_000_003 + step) % 2**63)


# -- collectives -----------------------------------------------------------------------------------------------------
# Where there are several processes each is an operator. torch.compile would look into calls of torch.distributed, and
# trace them without their gradients; an operator it calls as it stands.


def gather(x):
    """Tensor[B, …] of every rank, one below the other: Tensor[size · B, …], with gradient."""
    return _all_gather(x) if several() else x


@torch.library.custom_op("cmg::all_gather", mutates_args=())
def _all_gather(x: torch.Tensor) -> torch.Tensor:
    everyone = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(everyone, x.contiguous())  # gloo takes the memory as it lies, whatever the strides
    return everyone


@torch.library.custom_op("cmg::reduce_scatter", mutates_args=())
def _reduce_scatter(x: torch.Tensor) -> torch.Tensor:
    """The sum over ranks of this rank's rows of Tensor[size · B, …]: Tensor[B, …]."""
    mine = x.new_empty(len(x) // dist.get_world_size(), *x.shape[1:])
    dist.reduce_scatter_tensor(mine, x.contiguous())
    return mine


@_all_gather.register_fake
def _(x):
    return x.new_empty(dist.get_world_size() * x.shape[0], *x.shape[1:])


@_reduce_scatter.register_fake
def _(x):
    return x.new_empty(x.shape[0] // dist.get_world_size(), *x.shape[1:])


for operator in (_all_gather, _reduce_scatter):
    operator.register_effect(ORDERED)
_all_gather.register_autograd(lambda ctx, gradient: _reduce_scatter(gradient))


def first_row(x):
    """Where this rank's rows begin in what `gather(x)` returns."""
    return world()[0] * len(x)


def total(x):
    """Sum over all ranks, with gradient; the argument stays as it is. Every rank must call it, always."""
    return _all_reduce(x) if several() else x


@torch.library.custom_op("cmg::all_reduce", mutates_args=())
def _all_reduce(x: torch.Tensor) -> torch.Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


@_all_reduce.register_fake
def _(x):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_all_reduce.register_effect(ORDERED)
_all_reduce.register_autograd(lambda ctx, gradient: _all_reduce(gradient))


def share(count):
    """What to divide a sum over this rank's `count` valid entries by, so that the mean over ranks is the batch's mean.

    That is the count of all ranks / number of ranks. It is at least what one entry gives, so an empty batch has mean 0.
    """
    count = total(count).clamp_min(1)
    return count / dist.get_world_size() if several() else count


def mean_over_ranks(values):
    """0-d tensors by name -> their means over ranks, without gradient, in one collective."""
    values = {name: value.detach() for name, value in values.items()}
    if not several():
        return values
    means = total(torch.stack(list(values.values()))) / dist.get_world_size()
    return dict(zip(values, means.unbind()))


def broadcast(tensor):
    """Rank 0's tensor on every rank, without gradient."""
    return _broadcast(tensor) if several() else tensor


@torch.library.custom_op("cmg::broadcast", mutates_args=())
def _broadcast(x: torch.Tensor) -> torch.Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.broadcast(x, 0)
    return x


@_broadcast.register_fake
def _(x):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_broadcast.register_effect(ORDERED)


@torch.no_grad()
def average_gradients(parameters):
    """Mean of the gradients over processes, in one flat collective.

    All ranks run the same program: a parameter that has no gradient here has none anywhere, and is left alone, as an
    optimiser would.
    """
    if several():
        _average([p.grad for p in parameters if p.grad is not None])


@torch.library.custom_op("cmg::average", mutates_args={"tensors"})
def _average(tensors: list[torch.Tensor]) -> None:
    flat = torch._utils._flatten_dense_tensors(tensors)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for x, mean in zip(tensors, torch._utils._unflatten_dense_tensors(flat, tensors)):
        x.copy_(mean)


def from_all(thing):
    """Every rank's `thing`, a small Python object, as a list in rank order. For setting up, too slow for a step."""
    if not several():
        return [thing]
    said = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(said, thing)
    except RuntimeError as error:
        if not lost_a_process(error):
            raise
        rank, size = world()
        raise LostProcess(f"process {rank} of {size}: another one was lost while data were opened") from None
    return said


class Vote:
    """What one of the processes wishes, known to all of them at the same call.

    Each call gives a wish, and returns the largest one of all at the call before; where there is one process, its own
    at once. The wishes travel between the hosts while the next step is computed: nobody waits for a card. `minutes` as
    in `start`. Every process must make it, call it and close it alike.
    """

    def __init__(self, minutes):
        wait = timedelta(minutes=minutes)
        self.group = dist.new_group(backend="gloo", timeout=wait) if several() else None
        self.wish, self.sent = torch.zeros(1, dtype=torch.int64), None

    def __call__(self, wish: int) -> int:
        if self.group is None:
            return wish
        self.close()
        found, self.wish = int(self.wish), torch.tensor([wish])
        self.sent = dist.all_reduce(self.wish, dist.ReduceOp.MAX, self.group, async_op=True)
        return found

    def close(self):
        """Wait for what is on its way."""
        if self.sent is not None:
            self.sent.wait()
            self.sent = None


def require_same(thing, message):
    """`UserError` in all processes where they do not hold the same small Python object. For setting up."""
    if len(set(from_all(thing))) > 1:
        raise UserError(message)


# -- memory that the processes of a machine share --------------------------------------------------------------------


def machine():
    """A text that is the same in all processes that see each other in /proc: those of one machine or container.

    On other systems than Linux it differs between all processes, because they cannot share memory in this way.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return f"process {world()[0]}"


def neighbours():
    """(place, number) among the ranks of this machine."""
    here = machine()
    ranks = [rank for rank, there in enumerate(from_all(here)) if there == here]
    return ranks.index(world()[0]), len(ranks)


def shared_empty(shape, dtype):
    """`torch.empty` in memory that all ranks of this machine map: each may write, and all see it.

    It is a file without a name, made by the machine's first rank: /dev/shm need have no room for it, and the system
    frees it with the last process that maps it, whatever ends that one.
    """
    here, file = machine(), os.memfd_create("cmg")
    files = from_all((here, f"/proc/{os.getpid()}/fd/{file}"))
    path, problem = next(path for there, path in files if there == here), None
    try:
        memory = torch.from_file(path, shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
    problem = next(filter(None, from_all(problem)), None)  # by now all have mapped it
    os.close(file)
    if problem:
        raise UserError(f"processes cannot share memory for features: {problem}; expected --cache disk")
    return memory
