"""The numba kernels of sums over both dimensions of a matrix, where numba is there and pays."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from projlab.engine.kernels import native
from projlab.numerics import tuning

Kernel = Callable[[int, int, int, int, int, bool], None]
"""`margin_kernels.float64` or `float32`."""


@cache
def kernel(dtype: torch.dtype) -> Kernel | None:
    """The kernel, compiled or loaded at the first call; None where numba is not there or fails."""
    found: Kernel | None = native.loaded(
        "margin_kernels", dtype, lambda function: function(0, 0, 0, 0, 0, True)
    )
    return found


def pay(matrix: Tensor) -> bool:
    """Whether the kernels are to be tried for a matrix (m, n), as the environment has it now."""
    return (
        matrix.dim() == 2
        and matrix.device.type == "cpu"
        and matrix.dtype in (torch.float64, torch.float32)
        and matrix.is_contiguous()
        and not matrix.is_neg()
        and matrix.numel() >= tuning.MARGINS
        and native.wanted()
    )


def add_up(matrix: Tensor, columns: Tensor, rows: Tensor) -> bool:
    """Sums of the columns and rows of (m, n) into memory for n and m; False where torch does it."""
    return _called(matrix, columns, rows, add=True)


def take_off(matrix: Tensor, columns: Tensor, rows: Tensor) -> bool:
    """Subtract n numbers from the columns and m from the rows; False where torch does it."""
    if not _called(matrix, columns, rows, add=False):
        return False
    increment_version(matrix)  # autograd's saved tensors see the change, as after any operator
    return True


def _called(matrix: Tensor, columns: Tensor, rows: Tensor, *, add: bool) -> bool:
    if native.recorded() or not (
        type(matrix) in native.PLAIN
        and matrix.is_cpu
        and matrix.dtype is columns.dtype
        and matrix.is_contiguous()
    ):
        return False
    compiled = kernel(matrix.dtype)
    if compiled is None:
        return False
    at, down, across = (t.data_ptr() for t in (matrix, columns, rows))
    if 0 in (at, down, across):
        return False
    m, n = matrix.shape
    compiled(at, down, across, m, n, add)
    return True
