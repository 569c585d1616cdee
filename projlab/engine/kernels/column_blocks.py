"""Products with a sparse matrix whose columns come in no order, by blocks of them.

By compressed rows each entry reads, or writes, a number of the long vector that lies anywhere. Of a
block of columns these lie in a second-level cache, and the short vector is read in order: at
3e5 x 1e6 with ten entries a row both products take 11 ms where scipy's take 16, and at 1.2e6 x 4e6
90 where those take 280.

Reference: Nishtala, Vuduc, Demmel and Yelick, "When cache blocking of sparse matrix vector multiply
works and why", Appl. Algebra Engrg. Comm. Comput. 18 (2007).
"""

from functools import cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from projlab.engine.kernels.native import loaded, wanted
from projlab.numerics import memory, tuning
from projlab.numerics.sparse_products import Compressed


@cache
def _kernels(dtype: torch.dtype) -> Any:
    return loaded("column_block_kernels", dtype, lambda found: _tried(found, dtype))


def _tried(kernels: Any, dtype: torch.dtype) -> None:
    first = torch.tensor([0, 1], dtype=torch.long, device="cpu")
    index = torch.zeros(1, dtype=torch.int32, device="cpu")
    one = torch.ones(1, dtype=dtype, device="cpu")
    blocks = _arranged(kernels, Compressed(first, index, one, (1, 1)), np.ones(1, np.int64))
    kernels.counted(index.numpy(), np.zeros(1, np.int64))
    kernels.times(*blocks, one.numpy(), one.numpy().copy())
    kernels.continued(*blocks, one.numpy(), one.numpy().copy(), 1.0)


def _arranged(kernels: Any, matrix: Compressed, count: Any) -> tuple[Any, Any, Any, Any]:
    """Where blocks begin; rows, columns within a block, and values of the entries."""
    first = np.append(0, np.cumsum(count))
    values, entries = matrix.values.numpy(), len(matrix.values)
    rows, places = np.empty(entries, np.int32), np.empty(entries, np.uint16)
    kept = np.empty_like(values)
    kernels.arranged(
        matrix.first.long().numpy(),
        matrix.columns.numpy(),
        values,
        first[:-1].copy(),
        rows,
        places,
        kept,
    )
    return first, rows, places, kept


class ColumnBlocks:
    """Products of one vector with a sparse matrix (m, n), and with its transpose, on the CPU."""

    def __init__(self, kernels: Any, matrix: Compressed, count: Any) -> None:
        self._kernels, self._size = kernels, matrix.size
        self._entries = _arranged(kernels, matrix, count)

    @classmethod
    def of(cls, matrix: Compressed) -> Self | None:
        """None where compressed rows are as fast, blocks have no room, or kernels are not there."""
        values, (_, n) = matrix.values, matrix.size
        if (
            n < tuning.MANY_COLUMNS
            or values.device.type != "cpu"
            or values.dtype not in (torch.float32, torch.float64)
            or matrix.columns.dtype != torch.int32
            or len(values) * (values.itemsize + 6) > memory.limit(values.device)
            or not wanted()
        ):
            return None
        kernels = _kernels(values.dtype)
        if kernels is None:
            return None
        count = np.zeros((n - 1 >> kernels.shift) + 1, np.int64)
        apart = kernels.counted(matrix.columns.numpy(), count)
        return cls(kernels, matrix, count) if 2 * apart > len(values) else None

    def times(self, x: Tensor) -> Tensor:
        """E x, of the shape of x but for its last dimension; x holds one vector."""
        found = x.new_zeros(*x.shape[:-1], self._size[0])
        self._kernels.times(*self._entries, _numbers(x), found.view(-1).numpy())
        return found

    def transposed_times(self, y: Tensor) -> Tensor:
        """E' y, as `times`."""
        none = y.new_zeros(*y.shape[:-1], self._size[1])
        return self.continued(y, none, y.new_zeros(()))[0]

    def continued(self, y: Tensor, x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """E' y - factor x, put where x lies, and its norm; both of one vector."""
        squares = self._kernels.continued(
            *self._entries, _numbers(y), x.view(-1).numpy(), float(factor)
        )
        return x, x.new_full(x.shape[:-1], squares**0.5)


def _numbers(x: Tensor) -> Any:
    """One vector, as kernels read it."""
    return x.detach().resolve_neg().reshape(-1).contiguous().numpy()
