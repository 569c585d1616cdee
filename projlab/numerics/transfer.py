"""Constants on their way to another device, without a wait for it.

A copy from memory that the host may page out waits for all that the device has been given to do;
one from pinned memory takes its turn (CUDA C++ Programming Guide, "Asynchronous Concurrent
Execution").
"""

import torch
from torch import Tensor


def sent(t: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """t on the device, and in a dtype; nothing waits where t is on the host."""
    t = t if dtype is None else t.to(dtype)
    if t.device == device or t.device.type != "cpu":
        return t.to(device)
    if device.type == "cuda":
        t = t.pin_memory()
    return t.to(device, non_blocking=True)


def capturing(device: torch.device) -> bool:
    """Whether what is done on the device now is recorded for a CUDA graph, and not done."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def reads_values(device: torch.device) -> bool:
    """Whether a value is at hand without waiting for the device."""
    return device.type == "cpu"
