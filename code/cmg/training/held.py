"""No checkpoint builds more than it holds: a number in its settings costs nothing, what is built by it time and memory.

`torch.load` takes no more memory than the file has; a depth or a width that was mutated, or that somebody set, would.
"""

import math

from torch.utils._python_dispatch import TorchDispatchMode

TIMES, ROOM = 8, 1 << 24  # values that may be made while a model is built, of those that it holds: times and plus
CALLS, MORE = 32, 4096  # operators, of the tensors that it holds: times and plus


class Bounded(TorchDispatchMode):
    """While this is entered, `RuntimeError` once more tensors were made, or of more values, than a state dict explains.

    Each tensor that an operator makes counts, a copy as well; what is changed in place, or seen in another shape, does
    not. What is asked for by its size is refused before there is memory for it.
    """

    def __init__(self, state):
        super().__init__()
        self.held = sum(value.numel() for value in state.values())
        self.left, self.calls = TIMES * self.held + ROOM, CALLS * len(state) + MORE

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        sizes = args[0] if args and isinstance(args[0], list | tuple) else ()
        if sizes and all(isinstance(n, int) for n in sizes) and math.prod(sizes) > self.left:
            self.refuse()
        made = operator(*args, **(kwargs or {}))
        if not (operator._schema.is_mutable or operator.is_view):
            for one in made if isinstance(made, list | tuple) else (made,):
                self.left -= one.numel() if hasattr(one, "numel") else 0
        self.calls -= 1
        if min(self.left, self.calls) < 0:
            self.refuse()
        return made

    def refuse(self):
        raise RuntimeError(f"they ask for far more than the {self.held} values that it holds")
