"""Products with a sparse matrix and with its transpose, both kept by rows.

On the CPU scipy's, which read each row once and need no search for a kernel; on CUDA torch's.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics.fill import LARGEST_INDEX
from projlab.numerics.sparse_products import Compressed, both, compressed


class SparseMatrix:
    """E (m, n) in float64, from its entries sorted by row and then by column, none twice."""

    def __init__(self, rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.device = values.device
        if max(*shape, len(values)) > LARGEST_INDEX:
            raise InputError(
                f"a sparse matrix of {shape[0]:,} x {shape[1]:,} with {len(values):,} entries: "
                f"products number at most {LARGEST_INDEX:,} of each; split the constraint"
            )
        forward, back = both(rows, cols, values.double(), shape)
        on_host = self.device.type == "cpu"
        self.forward: Any = _scipy(forward) if on_host else forward
        self.back: Any = _scipy(back) if on_host else back

    @classmethod
    def on_host(cls, forward: Any, transposed: Callable[[Any], Any]) -> Self:
        """Of scipy's compressed rows, indices in 32 bits, and what transposes them."""
        made = cls.__new__(cls)
        made.shape, made.device = forward.shape, torch.device("cpu")
        made.forward, made.back = forward, transposed(forward)
        return made

    def times(self, x: Tensor) -> Tensor:
        """E x for vectors x (..., n) of float64."""
        return self._product(self.forward, x)

    def transposed_times(self, y: Tensor) -> Tensor:
        """E' y for vectors y (..., m) of float64."""
        return self._product(self.back, y)

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values, sorted by row."""
        if self.device.type != "cpu":
            forward: Compressed = self.forward
            return forward.entries()
        host = self.forward
        first, columns, values = map(torch.from_numpy, (host.indptr, host.indices, host.data))
        return Compressed(first, columns, values, self.shape).entries()

    def _product(self, matrix: Any, x: Tensor) -> Tensor:
        x = x.detach().resolve_neg()
        if self.device.type != "cpu":
            product: Tensor = matrix(x)
            return product
        flat = x.reshape(-1, matrix.shape[1])
        found = matrix @ flat[0].numpy() if len(flat) == 1 else (matrix @ flat.numpy().T).T
        return torch.from_numpy(found).reshape(*x.shape[:-1], matrix.shape[0])


def host_rows(rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]) -> Any:
    """scipy's compressed rows of entries on the CPU, sorted by row and then by column."""
    return _scipy(compressed(rows, cols, values.double(), shape))


def _scipy(matrix: Compressed) -> Any:
    from scipy.sparse import csr_array

    parts = matrix.values.numpy(), matrix.columns.numpy(), matrix.first.numpy()
    return csr_array(parts, shape=matrix.size)
