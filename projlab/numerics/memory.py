"""Refuses a computation that cannot fit, before anything is allocated."""

import os

import torch

from projlab.errors import MemoryLimitError


def limit(device: torch.device) -> int:
    """Bytes that one factorisation may take: half of the device's memory, so that two fit."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 2
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # not every platform tells
        return 8 * 2**30


REMEDY = (
    "Split the constraint into independent blocks, or give rows that share no column, which need "
    "no dense matrix at all."
)


def require(needed: int, what: str, device: torch.device, remedy: str = REMEDY) -> None:
    """Raise `MemoryLimitError` when `what`, taking `needed` bytes, does not fit on `device`."""
    allowed = limit(device)
    if needed > allowed:
        raise MemoryLimitError(
            f"{what} needs {needed:,} bytes, more than the {allowed:,} bytes (half of the memory "
            f"of {device}) that one factorisation may take. {remedy}"
        )


def factorisation_bytes(m: int, n: int, dtype: torch.dtype, batch: int = 1) -> int:
    """Dense E, one orthonormal factor of its size, a copy in use, and four m x m workspaces."""
    k = min(m, n)
    return batch * dtype.itemsize * (3 * m * n + 4 * k * k)
