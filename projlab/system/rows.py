"""The rows of a constraint, dense or as triplets, with the few operations the engine needs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics import memory
from projlab.numerics.scaling import scale


@dataclass(frozen=True)
class Dense:
    """Entries of shape (m, n) or (B, m, n)."""

    entries: Tensor
    reflectors: tuple[Tensor, Tensor] | None = None
    """Householder QR of the transpose in float64, as LAPACK leaves it, where the rank decision made
    it."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.entries.shape[-2], self.entries.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.entries.dtype

    @property
    def device(self) -> torch.device:
        return self.entries.device

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> "Dense":
        return Dense(self.entries.to(device=device, dtype=dtype))

    def to_dense(self) -> Tensor:
        return self.entries

    def matvec(self, x: Tensor) -> Tensor:
        """E x over the last dimension; x is (..., n), or (B, ..., n) for batched rows."""
        if self.entries.dim() == 2:
            return x @ self.entries.mT
        lead = x.shape[:-1]
        y: Tensor = x.reshape(lead[0], -1, x.shape[-1]) @ self.entries.mT
        return y.reshape(*lead, y.shape[-1])

    def row_max(self) -> Tensor:
        return torch.maximum(self.entries.amax(-1), -self.entries.amin(-1))

    def row_norms(self) -> Tensor:
        """2-norms; the caller scales first where squares could over- or underflow."""
        norms: Tensor = torch.linalg.vector_norm(self.entries, dim=-1)
        return norms

    def scale_rows(self, exponent: Tensor) -> "Dense":
        return Dense(scale(self.entries, exponent.unsqueeze(-1)))

    def select(self, keep: Tensor) -> "Dense":
        return Dense(self.entries[..., keep, :])

    def disjoint(self) -> bool:
        """Whether no two rows share a column; the first two tell in most systems."""
        first = self.entries[..., :2, :] != 0
        if self.shape[0] > 1 and bool(first.all(-2).any()):
            return False
        return self.overlap() is None

    def overlap(self) -> tuple[int, int, int] | None:
        """Two rows and a column they share, or None where no two rows share one."""
        nonzero = self.entries != 0
        shared = nonzero.sum(-2) > 1
        if nonzero.dim() == 3:
            shared = shared.any(0)
        if not bool(shared.any()):
            return None
        column = int(shared.nonzero()[0])
        hits = nonzero[..., column]
        if hits.dim() == 2:
            hits = hits[int((hits.sum(-1) > 1).nonzero()[0])]
        rows = hits.nonzero().flatten()
        return int(rows[0]), int(rows[1]), column


@dataclass(frozen=True)
class Triplets:
    """Nonzero entries sorted by row and column, no duplicates: O(nnz) memory."""

    rows: Tensor
    cols: Tensor
    values: Tensor
    shape: tuple[int, int]

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> "Triplets":
        return Triplets(
            self.rows.to(device=device),
            self.cols.to(device=device),
            self.values.to(device=device, dtype=dtype),
            self.shape,
        )

    def to_dense(self) -> Tensor:
        m, n = self.shape
        memory.require(
            memory.factorisation_bytes(m, n, self.dtype),
            f"a dense factorisation of the sparse {m} x {n} system",
            self.device,
        )
        dense = torch.zeros(m, n, dtype=self.dtype, device=self.device)
        dense[self.rows, self.cols] = self.values
        return dense

    def matvec(self, x: Tensor) -> Tensor:
        products = x[..., self.cols] * self.values
        zeros = torch.zeros(*x.shape[:-1], self.shape[0], dtype=products.dtype, device=x.device)
        return zeros.index_add(-1, self.rows, products)

    def row_max(self) -> Tensor:
        zeros = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        return zeros.scatter_reduce(0, self.rows, self.values.abs(), "amax")

    def row_norms(self) -> Tensor:
        zeros = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        return zeros.index_add(0, self.rows, self.values.square()).sqrt()

    def scale_rows(self, exponent: Tensor) -> "Triplets":
        values = scale(self.values, exponent[self.rows])
        return Triplets(self.rows, self.cols, values, self.shape)

    def select(self, keep: Tensor) -> "Triplets":
        position = torch.full((self.shape[0],), -1, dtype=torch.long, device=self.device)
        position[keep] = torch.arange(len(keep), device=self.device)
        rows = position[self.rows]
        kept = rows >= 0
        rows, cols, values = rows[kept], self.cols[kept], self.values[kept]
        order = torch.argsort(rows, stable=True)
        return Triplets(rows[order], cols[order], values[order], (len(keep), self.shape[1]))

    def disjoint(self) -> bool:
        return self.overlap() is None

    def overlap(self) -> tuple[int, int, int] | None:
        count = torch.bincount(self.cols, minlength=self.shape[1])
        shared = (count > 1).nonzero().flatten()
        if len(shared) == 0:
            return None
        column = int(shared[0])
        rows = self.rows[self.cols == column]
        return int(rows[0]), int(rows[1]), column


Matrix = Dense | Triplets


def triplets(rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]) -> Triplets:
    """Sum duplicate entries, drop explicit zeros, sort by row and column."""
    coo = torch.sparse_coo_tensor(
        torch.stack([rows, cols]), values, shape, check_invariants=True
    ).coalesce()
    (rows, cols), values = coo.indices(), coo.values()
    kept = values != 0
    return Triplets(rows[kept], cols[kept], values[kept], shape)


def is_scipy_sparse(A: Any) -> bool:
    """Whether A came from scipy.sparse, without importing scipy."""
    return type(A).__module__.startswith("scipy.sparse")


def from_scipy(A: Any) -> tuple[Tensor, Tensor, Any, tuple[int, int]]:
    """Indices and values of a scipy.sparse matrix or array of two dimensions."""
    if A.ndim != 2:
        raise InputError(f"A is a scipy.sparse array of shape {A.shape}; it must be (m, n)")
    coo = A.tocoo()
    return (
        torch.from_numpy(np.array(coo.row, dtype=np.int64)),
        torch.from_numpy(np.array(coo.col, dtype=np.int64)),
        coo.data,
        (int(A.shape[0]), int(A.shape[1])),
    )
