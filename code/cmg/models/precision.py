"""What a processor can compute in."""

from functools import cache

import torch


@cache
def computes_bf16() -> bool:
    """Whether this CPU multiplies in bf16. One that does not takes forty times as long for it as for float32."""
    return any(has is True for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)


def recur(lstm, x):
    """lstm(x): in float32 under bf16 on a CPU without it, for oneDNN then has no LSTM."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not computes_bf16():
        with torch.autocast("cpu", enabled=False):
            return lstm(x.float())
    return lstm(x)
