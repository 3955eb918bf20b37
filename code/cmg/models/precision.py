"""What a processor can compute in."""

import torch


def has_bf16(capabilities) -> bool:
    """Whether a CPU multiplies in bf16, by `torch.cpu.get_capabilities()`. One that does not takes forty times as long
    for it as for float32."""
    return any(has is True for name, has in capabilities.items() if "bf16" in name)


CPU_HAS_BF16 = has_bf16(torch.cpu.get_capabilities())


def recur(lstm, x):
    """lstm(x): in float32 under bf16 on a CPU without it, for which oneDNN has no LSTM."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not CPU_HAS_BF16:
        with torch.autocast("cpu", enabled=False):
            return lstm(x.float())
    return lstm(x)
