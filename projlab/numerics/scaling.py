"""Exact scaling by powers of two, and widening to float64."""

import math
from functools import cache

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


def exact_power(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2**exponent, for exponents of numbers that are normal in `dtype`."""
    power = torch.from_numpy(np.ldexp(1.0, exponent.cpu().numpy()))
    return power.to(device=exponent.device, dtype=dtype)


@cache
def _normal_range(dtype: torch.dtype) -> tuple[float, float]:
    """Exponents of two that are normal numbers: from the first on, below the second."""
    info = torch.finfo(dtype)
    return math.log2(info.tiny), math.log2(info.max)


def scale(values: Tensor, exponent: Tensor) -> Tensor:
    """values * 2**exponent, exact short of overflow and underflow."""
    e, (lowest, highest) = exponent.cpu().numpy(), _normal_range(values.dtype)
    if e.size and lowest <= e.min() and e.max() < highest:
        return values * exact_power(exponent, values.dtype)
    first, second = power_of_two(exponent, values.dtype)
    return values * first * second


def widened(entries: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none (Apple's GPUs)."""
    return entries.cpu().double() if entries.device.type == "mps" else entries.double()
