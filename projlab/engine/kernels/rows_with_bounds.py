"""The numba kernel for one row with bounds, where numba is there and pays."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.engine.kernels.native import PLAIN, loaded, wanted

LONGEST = 4096
"""Entries at most: serial sums of more would gather too many roundings."""
FEWEST = 2
"""Vectors at least: torch searches one alone, and leaves entries out as it goes."""


@cache
def kernel(dtype: torch.dtype) -> Any:
    """The kernel, compiled or loaded at the first call; None where numba is not there or fails."""
    return loaded("threshold_kernels", dtype)


def project(
    x: Tensor,
    a: Tensor,
    right: Tensor,
    lb: Tensor,
    ub: Tensor,
    *,
    inequality: bool,
    ahead: bool,
    noise: float,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Projections (k, n), multipliers (k,), and which are done; None where torch does it."""
    k, n = x.shape
    if (
        type(x) not in PLAIN
        or x.device.type != "cpu"
        or x.dtype not in (torch.float64, torch.float32)
        or not (k >= FEWEST and 0 < n <= LONGEST)
        or not wanted()
    ):
        return None
    compiled = kernel(x.dtype)
    if compiled is None:
        return None
    own = lb.dim() > 1 or ub.dim() > 1
    shape = (k, n) if own else (1, n)
    bounds = [t.double().expand(shape).contiguous().numpy() for t in (lb, ub)]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    multipliers = torch.empty(k, dtype=torch.float64, device="cpu")
    done = np.empty(k, dtype=np.bool_)
    compiled(
        x.contiguous().resolve_neg().numpy(),
        a.double().contiguous().numpy(),
        *bounds,
        right.double().reshape(k).contiguous().numpy(),
        inequality,
        ahead,
        noise,
        steps,
        out.numpy(),
        multipliers.numpy(),
        done,
    )
    return out, multipliers, torch.from_numpy(done)
