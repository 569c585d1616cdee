"""Products with a sparse matrix and with its transpose, by compressed rows.

On CUDA by torch's kernels, with two copies of the entries, so that nothing is scattered. On a CPU
by scipy's, with one, which is read by rows both ways: at 3e5 x 1e6 with ten entries a row the two
products take 7 to 12 ms, and with two copies, by scipy or by MKL through torch, 11 to 16. Indices
have 32 bits where these suffice.
"""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Compressed:
    """Compressed rows of a matrix (m, n)."""

    first: Tensor
    """(m + 1,) where each row begins."""
    columns: Tensor
    values: Tensor
    size: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        """The matrix times each x (..., n)."""
        with warnings.catch_warnings():  # torch calls the layout a beta, once a process
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            matrix = torch.sparse_csr_tensor(
                self.first,
                self.columns,
                self.values,
                self.size,
                device=self.values.device,
                check_invariants=False,
            )
        if x.dim() == 1:
            return matrix @ x
        flat = x.reshape(-1, x.shape[-1])
        product = matrix @ flat[0] if len(flat) == 1 else (matrix @ flat.mT).mT.contiguous()
        return product.reshape(*x.shape[:-1], self.size[0])

    @cached_property
    def _on_host(self) -> Any:
        from scipy.sparse import csr_array

        parts = self.values.numpy(), self.columns.numpy(), self.first.numpy()
        return csr_array(parts, shape=self.size)

    def times_on_host(self, x: Tensor, *, transposed: bool = False) -> Tensor:
        """The matrix, or its transpose, times each x (..., n), by scipy on the CPU."""
        matrix = self._on_host.T if transposed else self._on_host
        flat = x.detach().resolve_neg().reshape(-1, x.shape[-1]).numpy()
        found = matrix @ flat[0] if len(flat) == 1 else np.ascontiguousarray((matrix @ flat.T).T)
        return torch.from_numpy(found).reshape(*x.shape[:-1], matrix.shape[0])

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values, sorted by row."""
        count = self.first.long().diff()
        rows = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        return rows, self.columns.long(), self.values

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(
            self,
            first=self.first.to(device),
            columns=self.columns.to(device),
            values=self.values.to(device),
        )


def compressed(rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Compressed:
    """From entries sorted by row."""
    few = max(*size, len(values)) <= torch.iinfo(torch.int32).max
    index = torch.int32 if few else torch.int64
    count = torch.bincount(rows, minlength=size[0])
    first = torch.cat([count.new_zeros(1), torch.cumsum(count, 0)])
    return Compressed(first.to(index), columns.to(index), values, size)


def both(
    rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]
) -> tuple[Compressed, Compressed]:
    """A matrix and its transpose, from entries sorted by row and column."""
    order = torch.argsort(columns, stable=True)
    turned = compressed(columns[order], rows[order], values[order], (size[1], size[0]))
    return compressed(rows, columns, values, size), turned
