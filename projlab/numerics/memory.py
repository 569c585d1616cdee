"""Refuses a computation that cannot fit, before anything is allocated."""

import os
from pathlib import Path

import torch

from projlab.errors import MemoryLimitError


def limit(device: torch.device) -> int:
    """Bytes that one factorisation may take.

    Half of the device's memory, so that two fit, and no more than is free now where that is told.
    """
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        # what torch holds and has given to nobody is free, too
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return min(int(whole) // 2, int(free) + int(held))
    try:
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # not every platform tells
        half = 8 * 2**30
    unused = available()
    return half if unused is None else min(half, unused)


_HEAD = 512
"""Bytes of what the kernel tells that hold its first lines, MemAvailable the third of them."""


def available(told: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of the host's memory that programs may take without swapping; None where not told."""
    try:  # no more than need be: a small system asks several times
        with told.open("rb", buffering=0) as file:
            _, _, rest = file.read(_HEAD).partition(b"MemAvailable:")
        return int(rest[:64].split(maxsplit=1)[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None


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
            f"of {device}, or what is free of it) that one factorisation may take. {remedy}"
        )


def factorisation_bytes(m: int, n: int, dtype: torch.dtype, batch: int = 1) -> int:
    """Dense E, one orthonormal factor of its size, a copy in use, and four m x m workspaces."""
    k = min(m, n)
    return batch * dtype.itemsize * (3 * m * n + 4 * k * k)
