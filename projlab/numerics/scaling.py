"""Exact scaling by powers of two, and widening to float64."""

import math

import numpy as np
import torch
from torch import Tensor


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two factors whose product is 2**exponent: one alone could over- or underflow.

    torch computes ldexp through pow, which need not be exact; numpy's is.
    """
    e = exponent.cpu().numpy()
    half = e // 2
    first, second = np.ldexp(1.0, half), np.ldexp(1.0, e - half)
    return (
        torch.from_numpy(first).to(device=exponent.device, dtype=dtype),
        torch.from_numpy(second).to(device=exponent.device, dtype=dtype),
    )


def scale(values: Tensor, exponent: Tensor) -> Tensor:
    """values * 2**exponent, exact short of overflow and underflow."""
    e, info = exponent.cpu().numpy(), torch.finfo(values.dtype)
    if e.size and math.log2(info.tiny) <= e.min() and e.max() < math.log2(info.max):
        factor = torch.from_numpy(np.ldexp(1.0, e))
        return values * factor.to(device=exponent.device, dtype=values.dtype)
    first, second = power_of_two(exponent, values.dtype)
    return values * first * second


def widened(entries: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none (Apple's GPUs)."""
    return entries.cpu().double() if entries.device.type == "mps" else entries.double()
