"""The numba kernel that sets up a small dense system, where numba is there and pays."""

from array import array
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from projlab.engine.kernels import native
from projlab.numerics import tuning

Kernel = Callable[[int, float, float, float, float], tuple[int, float]]
"""`small_qr_kernels.float64` or `float32`."""


class SmallQR(NamedTuple):
    """D A = R'W with W W' = I, D powers of two, and what setting up needs besides."""

    bound: float
    """On kappa of the kept rows of D A; where it exceeds what was allowed, or is NaN, nothing else
    is set."""
    W: Tensor
    """(r, n)."""
    R: Tensor
    """(r, r)."""
    c: Tensor
    """(r,), -R^-T D b."""
    D: Tensor
    """(m,)."""
    kept: Tensor | None
    """(r,) ascending, the rows that are not left out; None for all."""
    kernel: native.NativeRows
    """That projects onto W."""


@cache
def kernel(dtype: torch.dtype) -> Kernel | None:
    """The kernel, compiled or loaded at the first call; None where numba is not there or fails."""

    def tried(function: Any) -> None:
        made = array("q", [0] * 8)
        function(made.buffer_info()[0], 0.0, 0.0, 0.0, 0.0)

    found: Kernel | None = native.loaded("small_qr_kernels", dtype, tried)
    return found


@cache
def _solving(dtype: torch.dtype) -> Callable[[int, int, int], None] | None:
    """`triangle_kernels.float64` or `float32`, as `kernel`."""
    found: Callable[[int, int, int], None] | None = native.loaded(
        "triangle_kernels", dtype, lambda function: function(0, 0, 0)
    )
    return found


def right_side(R: Tensor, f: Tensor) -> Tensor | None:
    """-R^-T f to the bits that `factored` has, for one f (m,) of constants; None where torch is to.

    R (m, m) is upper triangular.
    """
    if not (
        type(f) in native.PLAIN
        and f.dim() == 1
        and f.is_cpu
        and not f.is_neg()
        and f.dtype is R.dtype
        and R.is_contiguous()
        and not (f.requires_grad and torch.is_grad_enabled())
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not native.recorded()
        and native.wanted()
    ):
        return None
    compiled = None if native.kernel(R.dtype) is None else _solving(R.dtype)
    if compiled is None:
        return None
    c = f.clone(memory_format=torch.contiguous_format)
    compiled(R.data_ptr(), c.data_ptr(), len(c))
    return c


def factored(
    A: Tensor, b: Tensor, norms: tuple[float, float], condition: float, near: float = 0.0
) -> SmallQR | None:
    """The QR of rows A (m, n) equilibrated, and what is proven of it; None where torch does it.

    Also where the rows share no column, or one of their norms is not between `norms`; or where D b
    overflows. `condition` is how large the bound may be. Rows are left out whose squared distance
    from the span of those before is at most `near`, relative to the longest; m <= n without.
    """
    if not (
        type(A) in native.PLAIN
        and A.dim() == 2
        and A.is_cpu
        and not (A.is_neg() or b.is_neg())
        and (A.dtype is torch.float64 or A.dtype is torch.float32)
        and b.dtype is A.dtype
        and tuning.small_set_up(*A.shape)
        and not native.recorded()
        and native.wanted()
    ):
        return None
    # where numba fails, the kernel that projects has said so
    projects = native.kernel(A.dtype)
    compiled = None if projects is None else kernel(A.dtype)
    if projects is None or compiled is None:
        return None
    m, n = A.shape
    W, R, c, D = torch.empty_like(A), A.new_empty((m, m)), torch.empty_like(b), torch.empty_like(b)
    try:  # functorch's wrappers have no memory, or one at zero
        addresses = [t.data_ptr() for t in (A, b, W, R, c, D)]
    except RuntimeError:
        return None
    if 0 in addresses:
        return None
    plan = array("q", [*addresses, m, n, *range(m)])  # the numbers of the rows that are kept
    r, bound = compiled(plan.buffer_info()[0], *norms, condition, near)
    if r <= 0:
        return None
    if r == m:
        return SmallQR(bound, W, R, c, D, None, native.NativeRows(W, projects))
    W, R = W[:r], R.view(-1)[: r * r].view(r, r)
    kept = torch.tensor(plan[8 : 8 + r], dtype=torch.long, device=A.device)
    return SmallQR(bound, W, R, c[:r], D, kept, native.NativeRows(W, projects))
