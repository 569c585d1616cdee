"""Products with a sparse matrix and its transpose by compressed rows of both: gathers, no scatter.

torch's own kernels take them, MKL's on a CPU. Two copies of the entries, with indices of 32 bits
where these suffice, move fewer bytes a product than one copy read both ways.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Self

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
