"""Products with a sparse matrix and with its transpose, both kept by rows.

On the CPU scipy's, which read each row once and need no search for a kernel; on CUDA torch's.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics.fill import LARGEST_INDEX


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
        order = torch.argsort(cols, stable=True)
        forward = _compressed(rows, cols, values.double(), shape)
        back = _compressed(cols[order], rows[order], values[order].double(), shape[::-1])
        make = _scipy if self.device.type == "cpu" else _torch
        self.forward, self.back = make(*forward), make(*back)

    def times(self, x: Tensor) -> Tensor:
        """E x for vectors x (..., n) of float64."""
        return self._product(self.forward, x)

    def transposed_times(self, y: Tensor) -> Tensor:
        """E' y for vectors y (..., m) of float64."""
        return self._product(self.back, y)

    def _product(self, matrix: Any, x: Tensor) -> Tensor:
        flat = x.detach().reshape(-1, matrix.shape[1])
        if self.device.type != "cpu":
            found: Tensor = (matrix @ flat.mT).mT
        elif len(flat) == 1:
            found = torch.from_numpy(matrix @ flat[0].numpy())
        else:
            found = torch.from_numpy((matrix @ flat.numpy().T).T)
        return found.reshape(*x.shape[:-1], matrix.shape[0])


Compressed = tuple[Tensor, Tensor, Tensor, tuple[int, int]]


def _compressed(rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, ...]) -> Compressed:
    """Where each row begins, columns and values, with indices of 32 bits."""
    start = torch.zeros(shape[0] + 1, dtype=torch.int32, device=rows.device)
    start[1:] = torch.cumsum(torch.bincount(rows, minlength=shape[0]), 0)
    return start, cols.int(), values, (shape[0], shape[1])


def _scipy(start: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]) -> Any:
    from scipy.sparse import csr_array

    return csr_array((values.numpy(), cols.numpy(), start.numpy()), shape=shape)


def _torch(start: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]) -> Any:
    with warnings.catch_warnings():  # torch warns of its being new
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            start, cols, values, shape, device=values.device, check_invariants=False
        )


def column_counts(cols: Tensor, n: int) -> Any:
    """(n,) numpy: entries of each column."""
    return np.bincount(cols.cpu().numpy(), minlength=n)
