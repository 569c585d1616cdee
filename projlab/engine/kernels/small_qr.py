"""The numba kernel that sets up a small dense system, where numba is there and pays."""

from array import array
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from projlab.engine.kernels import native
from projlab.numerics import tuning

Kernel = Callable[[int, float, float, float], float]
"""`small_qr_kernels.float64` or `float32`."""


class SmallQR(NamedTuple):
    """D A = R'W with W W' = I, D powers of two, and what setting up needs besides."""

    bound: float
    """On kappa of D A; where it exceeds what was allowed, or is NaN, nothing else is set."""
    W: Tensor
    R: Tensor
    f: Tensor
    """D b."""
    D: Tensor
    """(m,)."""


@cache
def kernel(dtype: torch.dtype) -> Kernel | None:
    """The kernel, compiled or loaded at the first call; None where numba is not there or fails."""

    def tried(function: Any) -> None:
        made = array("q", [0] * 8)
        function(made.buffer_info()[0], 0.0, 0.0, 0.0)

    found: Kernel | None = native.loaded("small_qr_kernels", dtype, tried)
    return found


def factored(A: Tensor, b: Tensor, norms: tuple[float, float], condition: float) -> SmallQR | None:
    """The QR of rows A (m, n) equilibrated, and what is proven of it; None where torch does it.

    Also where the rows share no column, or one of their norms is not between `norms`; or where D b
    overflows. `condition` is how large the bound may be.
    """
    if not (
        type(A) in native.PLAIN
        and A.dim() == 2
        and A.is_cpu
        and (A.dtype is torch.float64 or A.dtype is torch.float32)
        and b.dtype is A.dtype
        and tuning.small_set_up(*A.shape)
        and not native.recorded()
        and native.wanted()
    ):
        return None
    # where numba fails, the kernel that projects has said so
    compiled = None if native.kernel(A.dtype) is None else kernel(A.dtype)
    if compiled is None:
        return None
    (m, n), dtype = A.shape, A.dtype
    W, R, f, D = (torch.empty(s, dtype=dtype, device="cpu") for s in ((m, n), (m, m), (m,), (m,)))
    try:  # functorch's wrappers have no memory, or one at zero
        addresses = [t.data_ptr() for t in (A, b, W, R, f, D)]
    except RuntimeError:
        return None
    if 0 in addresses:
        return None
    plan = array("q", [*addresses, m, n])
    bound = compiled(plan.buffer_info()[0], *norms, condition)
    return None if bound < 0 else SmallQR(bound, W, R, f, D)
