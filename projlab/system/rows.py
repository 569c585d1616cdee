"""The rows of a system behind one interface, dense or sparse."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics import memory
from projlab.numerics.double_double import Pair, dense_product, sparse_product
from projlab.numerics.precision import set_up
from projlab.numerics.scaling import scale
from projlab.numerics.transfer import sent
from projlab.system.inputs import require_finite, to_tensor


class Rows(ABC):
    """Rows A (m, n), or (B, m, n) for B systems of one shape. Nothing changes them in place.

    Vectors x are (..., n) and y (..., m), with B in front where the rows are batched. What an
    implementation cannot do it refuses with an error; all have `matvec` and `rmatvec`.
    """

    sparse: ClassVar[bool]
    """Whether zeros are left out."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n), of one system."""

    @property
    def batch(self) -> int | None:
        """B for batched rows, otherwise None."""
        return None

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the entries."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Of the entries."""

    @property
    @abstractmethod
    def nnz(self) -> int:
        """How many entries are stored."""

    @abstractmethod
    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Self:
        """The same rows, rounded to another dtype or on another device."""

    @abstractmethod
    def to_dense(self) -> Tensor:
        """The entries, (m, n) or (B, m, n); `MemoryLimitError` where factoring them cannot fit."""

    @abstractmethod
    def as_tensor(self) -> Tensor:
        """The entries as they are stored: strided, or sparse COO."""

    @abstractmethod
    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and value of the nonzero entries, sorted by row and then by column.

        Of a batch those that are nonzero in any system, with values (B, nnz).
        """

    def element(self, i: int) -> "Rows":
        """System i of a batch; the rows themselves where there is none."""
        return self

    @abstractmethod
    def matvec(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def rmatvec(self, y: Tensor) -> Tensor:
        """A' y."""

    @abstractmethod
    def matvec_pair(self, x: Pair) -> Pair:
        """A x for x (n,) or (k, n), in twice the precision of float64; not batched."""

    @abstractmethod
    def rmatvec_pair(self, y: Pair) -> Pair:
        """A' y for y (m,) or (k, m), in twice the precision of float64; not batched."""

    @abstractmethod
    def abs(self) -> Self:
        """|A|, entry by entry."""

    @abstractmethod
    def scale_rows(self, exponent: Tensor) -> Self:
        """Each row times 2**exponent, exactly; exponent is (m,) or (B, m)."""

    @abstractmethod
    def multiply_rows(self, factor: Tensor) -> Self:
        """Each row times its factor, a power of two; factor is (m,) or (B, m)."""

    @abstractmethod
    def divide_columns(self, d: Tensor) -> Self:
        """Column j divided by d_j, d (n,)."""

    @abstractmethod
    def select(self, keep: Tensor) -> Self:
        """The rows with these numbers (k,), in this order."""

    @abstractmethod
    def row_max(self) -> Tensor:
        """Largest magnitude of each row."""

    @abstractmethod
    def row_norms(self) -> Tensor:
        """2-norms; the caller scales first where squares could over- or underflow."""

    @abstractmethod
    def overlap(self) -> tuple[int, int, int] | None:
        """Two rows and a column they share, or None where no two rows share one."""

    def disjoint(self) -> bool:
        """Whether no two rows share a column."""
        return self.overlap() is None


def _placed(t: Tensor, device: torch.device | None, dtype: torch.dtype | None = None) -> Tensor:
    return t.to(dtype or t.dtype) if device is None else sent(t, device, dtype)


@dataclass(frozen=True)
class DenseRows(Rows):
    """Every entry stored, (m, n) or (B, m, n)."""

    entries: Tensor
    sparse = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.entries.shape[-2], self.entries.shape[-1]

    @property
    def batch(self) -> int | None:
        return self.entries.shape[0] if self.entries.dim() == 3 else None

    @property
    def dtype(self) -> torch.dtype:
        return self.entries.dtype

    @property
    def device(self) -> torch.device:
        return self.entries.device

    @property
    def nnz(self) -> int:
        return self.entries.numel()

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> "DenseRows":
        entries = _placed(self.entries, device, dtype)
        return self if entries is self.entries else DenseRows(entries)

    def to_dense(self) -> Tensor:
        return self.entries

    def as_tensor(self) -> Tensor:
        return self.entries

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        nonzero = self.entries != 0
        i, j = (nonzero if self.batch is None else nonzero.any(0)).nonzero(as_tuple=True)
        return i, j, self.entries[..., i, j]

    def element(self, i: int) -> "DenseRows":
        return self if self.batch is None else DenseRows(self.entries[i])

    def matvec(self, x: Tensor) -> Tensor:
        return self._product(x, self.entries.mT)

    def rmatvec(self, y: Tensor) -> Tensor:
        return self._product(y, self.entries)

    def _product(self, vectors: Tensor, matrix: Tensor) -> Tensor:
        if self.batch is None:
            return vectors @ matrix
        lead = vectors.shape[:-1]
        product: Tensor = vectors.reshape(lead[0], -1, vectors.shape[-1]) @ matrix
        return product.reshape(*lead, product.shape[-1])

    def matvec_pair(self, x: Pair) -> Pair:
        return dense_product(self.entries, x)

    def rmatvec_pair(self, y: Pair) -> Pair:
        return dense_product(self.entries.mT, y)

    def abs(self) -> "DenseRows":
        return DenseRows(self.entries.abs())

    def scale_rows(self, exponent: Tensor) -> "DenseRows":
        return DenseRows(scale(self.entries, exponent.unsqueeze(-1)))

    def multiply_rows(self, factor: Tensor) -> "DenseRows":
        return DenseRows(self.entries * factor.unsqueeze(-1))

    def divide_columns(self, d: Tensor) -> "DenseRows":
        return DenseRows(self.entries / d)

    def select(self, keep: Tensor) -> "DenseRows":
        return DenseRows(self.entries[..., keep, :])

    def row_max(self) -> Tensor:
        return torch.maximum(self.entries.amax(-1), -self.entries.amin(-1))

    def row_norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.entries, dim=-1)
        return norms

    def overlap(self) -> tuple[int, int, int] | None:
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

    def disjoint(self) -> bool:
        # a few entries tell of most dense systems, the first two rows of most others
        if self.entries.dim() == 2 and any(
            map(all, zip(*self.entries[:2, :2].tolist(), strict=True))
        ):
            return self.shape[0] < 2
        first = self.entries[..., :2, :] != 0
        if self.shape[0] > 1 and bool(first.all(-2).any()):
            return False
        return super().disjoint()


@dataclass(frozen=True)
class StoredRows(Rows):
    """Nonzero entries only, sorted by row and column, no duplicates: O(nnz) memory."""

    rows: Tensor
    cols: Tensor
    values: Tensor
    """(k,), or (B, k) for B systems of one pattern."""
    size: tuple[int, int]
    sparse = True

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def nnz(self) -> int:
        return self.values.numel()

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Self:
        return replace(
            self,
            rows=_placed(self.rows, device),
            cols=_placed(self.cols, device),
            values=_placed(self.values, device, dtype),
        )

    def to_dense(self) -> Tensor:
        (m, n), B = self.size, self.batch
        systems = "" if B is None else f"{B} systems of "
        memory.require(
            memory.factorisation_bytes(m, n, self.dtype, B or 1),
            f"a dense factorisation of the sparse {systems}{m} x {n} system",
            self.device,
        )
        lead = () if B is None else (B,)
        dense = torch.zeros(*lead, m, n, dtype=self.dtype, device=self.device)
        dense[..., self.rows, self.cols] = self.values
        return dense

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.rows, self.cols, self.values

    def matvec(self, x: Tensor) -> Tensor:
        return self._product(x, self.cols, self.rows, self.size[0])

    def rmatvec(self, y: Tensor) -> Tensor:
        return self._product(y, self.rows, self.cols, self.size[1])

    def _product(self, vectors: Tensor, source: Tensor, target: Tensor, length: int) -> Tensor:
        values = self.values
        if self.batch is not None:
            values = values.reshape(len(values), *[1] * (vectors.dim() - 2), values.shape[1])
        products = vectors[..., source] * values
        return products.new_zeros(*products.shape[:-1], length).index_add(-1, target, products)

    def abs(self) -> Self:
        return self._with(self.values.abs())

    def scale_rows(self, exponent: Tensor) -> Self:
        return self._with(scale(self.values, exponent[..., self.rows]))

    def multiply_rows(self, factor: Tensor) -> Self:
        return self._with(self.values * factor[..., self.rows])

    def divide_columns(self, d: Tensor) -> Self:
        return self._with(self.values / d[self.cols])

    def _with(self, values: Tensor) -> Self:
        return replace(self, values=values)

    def select(self, keep: Tensor) -> Self:
        position = torch.full((self.size[0],), -1, dtype=torch.long, device=self.device)
        position[keep] = torch.arange(len(keep), device=self.device)
        rows = position[self.rows]
        kept = (rows >= 0).nonzero().flatten()
        kept = kept[torch.argsort(rows[kept], stable=True)]
        return replace(
            self,
            rows=rows[kept],
            cols=self.cols[kept],
            values=self.values[..., kept],
            size=(len(keep), self.size[1]),
        )

    def row_max(self) -> Tensor:
        where = self.rows.expand(self.values.shape)
        return self._zeros(0).scatter_reduce(-1, where, self.values.abs(), "amax")

    def row_norms(self) -> Tensor:
        return self._zeros(0).index_add(-1, self.rows, self.values.square()).sqrt()

    def _zeros(self, dim: int) -> Tensor:
        """(m,) or (n,), for every system."""
        return self.values.new_zeros(*self.values.shape[:-1], self.size[dim])

    def overlap(self) -> tuple[int, int, int] | None:
        nonzero = (self.values != 0).long()
        count = self._zeros(1).long().index_add(-1, self.cols, nonzero)
        shared = (count.reshape(-1, self.size[1]) > 1).nonzero()
        if len(shared) == 0:
            return None
        system, column = shared[0].tolist()
        stored = nonzero.reshape(-1, len(self.rows))[system] > 0
        rows = self.rows[stored & (self.cols == column)]
        return int(rows[0]), int(rows[1]), column

    def disjoint(self) -> bool:
        # of more entries than columns, two are in one; a batch stores zeros
        if self.batch is None and len(self.values) > self.size[1]:
            return False
        return super().disjoint()


@dataclass(frozen=True)
class SparseRows(StoredRows):
    """Those of one system."""

    def as_tensor(self) -> Tensor:
        return torch.sparse_coo_tensor(
            torch.stack([self.rows, self.cols]),
            self.values,
            self.size,
            device=self.device,
            is_coalesced=True,
            check_invariants=False,
        )

    def matvec_pair(self, x: Pair) -> Pair:
        return sparse_product(self.values, self.cols, self.rows, self.size[0], x)

    def rmatvec_pair(self, y: Pair) -> Pair:
        return sparse_product(self.values, self.rows, self.cols, self.size[1], y)


@dataclass(frozen=True)
class SparseBatch(StoredRows):
    """Those of B systems, in one pattern: what is nonzero in any of them is stored for all."""

    @property
    def batch(self) -> int:
        return len(self.values)

    def as_tensor(self) -> Tensor:
        return batch_tensor(torch.stack([self.rows, self.cols]), self.values, self.size)

    def element(self, i: int) -> SparseRows:
        return _nonzero(self.rows, self.cols, self.values[i], self.size)

    def matvec_pair(self, x: Pair) -> Pair:
        raise NotImplementedError("of one system at a time: element(i)")

    def rmatvec_pair(self, y: Pair) -> Pair:
        raise NotImplementedError("of one system at a time: element(i)")


def batch_tensor(
    indices: Tensor, values: Tensor, size: tuple[int, int], *, in_order: bool = True
) -> Tensor:
    """The sparse COO tensor (B, m, n) of values (B, k) in one pattern (2, k)."""
    B, k = values.shape
    system = torch.arange(B, device=values.device).repeat_interleave(k)
    return torch.sparse_coo_tensor(
        torch.cat([system.unsqueeze(0), indices.repeat(1, B)]),
        values.flatten(),
        (B, *size),
        device=values.device,
        is_coalesced=in_order or None,
        check_invariants=False,
    )


def one_pattern(coo: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (2, k), in order, and values (B, k) of a coalesced tensor (B, m, n).

    Zeros where a system does not store what another one does. The values are differentiable. Of one
    system (m, n) its own, (2, k) and (k,).
    """
    if coo.dim() == 2:
        return coo.indices(), coo.values()
    (B, _, n), (system, i, j) = coo.shape, coo.indices()
    if coo.is_meta:  # as many entries as there would be in one pattern
        k = coo.values().numel() // max(B, 1)
        return coo.indices()[1:, :k], coo.values()[: B * k].reshape(B, k)
    places, position = torch.unique(i * n + j, return_inverse=True)
    memory.require(
        B * len(places) * coo.dtype.itemsize,
        f"the values of {B} sparse systems in the pattern of all of them",
        coo.device,
        "Give systems that store the same entries, or a few of them at a time.",
    )
    values = coo.values().new_zeros(B, len(places)).index_put((system, position), coo.values())
    return torch.stack([places // n, places % n]), values


def sparse_rows(rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseRows:
    """From entries in any order: duplicates are summed, zeros dropped, the rest is sorted."""
    further = (rows[1:] == rows[:-1]) & (cols[1:] > cols[:-1])
    if bool((further | (rows[1:] > rows[:-1])).all()):  # as compressed rows come: nothing to sort
        return _nonzero(rows, cols, values, shape)
    indices = torch.stack([rows, cols])
    coo = torch.sparse_coo_tensor(
        indices, values, shape, device=values.device, check_invariants=True
    ).coalesce()
    rows, cols = coo.indices()
    return _nonzero(rows, cols, coo.values(), shape)


def sparse_batch(rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseBatch:
    """From values (B, k) in one sorted pattern, less what is zero in all systems."""
    if not values.is_meta:
        kept = (values != 0).any(0)
        rows, cols, values = rows[kept], cols[kept], values[:, kept]
    return SparseBatch(rows, cols, values, shape)


def _nonzero(rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseRows:
    """From the parts of a coalesced COO tensor, which may store zeros."""
    if not values.is_meta:
        kept = values != 0
        if not bool(kept.all()):
            rows, cols, values = rows[kept], cols[kept], values[kept]
    return SparseRows(rows, cols, values, shape)


SPARSE = frozenset(
    {torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}
)
"""Layouts of sparse tensors."""


def as_rows(A: Any) -> Rows:
    """Rows as they are, or a copy of whatever else `AffineConstraint` takes as A."""
    if isinstance(A, Rows):
        return A
    sparse = isinstance(A, Tensor) and A.layout in SPARSE
    if not (sparse or is_scipy_sparse(A)):
        return _dense(A)
    # what no transform can watch is made outside them: they take no sparse tensor apart
    transformed = torch._C._are_functorch_transforms_active()
    with set_up() if transformed else nullcontext():
        if sparse:
            return _sparse(A)
        if A.ndim == 3:
            return _sparse(_batch_from_scipy(A))
        rows, cols, entries, shape = from_scipy(A)
        return sparse_rows(rows, cols, _stored(entries, shape), shape)


def coalesced(A: Tensor) -> Tensor:
    """Sparse A (m, n) or (B, m, n) of any layout as COO, duplicates summed; refused by name."""
    wanted = A.dim() in (2, 3) and A.dense_dim() == 0
    if wanted and A.is_meta:  # nothing to convert, and torch converts nothing there
        k = (A._values() if A.layout is torch.sparse_coo else A.values()).numel()
        none = torch.empty(A.dim(), k, dtype=torch.long, device=A.device)
        values = torch.empty(k, dtype=A.dtype, device=A.device)
        return torch.sparse_coo_tensor(
            none, values, A.shape, device=A.device, is_coalesced=True, check_invariants=False
        )
    coo = A.to_sparse_coo().coalesce() if wanted else A
    if not wanted or coo.sparse_dim() != coo.dim():
        raise InputError(
            f"A is a sparse tensor of shape {tuple(A.shape)}, {A.dense_dim()} of its dimensions "
            "dense; it must be (m, n) or (B, m, n), with none"
        )
    return coo


def _sparse(A: Tensor) -> StoredRows:
    A = A.detach()
    coo, shape = coalesced(A.clone() if A.is_inference() else A), (A.shape[-2], A.shape[-1])
    _require_columns(A.shape)
    indices, values = one_pattern(coo)
    values = _stored(values, A.shape)
    rows, cols = indices.clone() if coo.dim() == 2 else indices  # no memory of the caller's
    return (_nonzero if coo.dim() == 2 else sparse_batch)(rows, cols, values, shape)


def _stored(values: Any, shape: Sequence[int]) -> Tensor:
    """The values of sparse rows of that shape, checked."""
    _require_columns(shape)
    tensor = to_tensor(values, "A")
    require_finite(tensor, "A's stored values")
    return tensor


def _dense(A: Any) -> DenseRows:
    tensor = to_tensor(A, "A")
    if tensor.dim() == 1:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() not in (2, 3):
        raise InputError(
            f"A has shape {tuple(tensor.shape)}; it must be (m, n), (n,) for one row, or (B, m, n)"
        )
    _require_columns(tensor.shape)
    require_finite(tensor, "A")
    return DenseRows(tensor.contiguous())


def _require_columns(shape: Sequence[int]) -> None:
    if shape[-1] == 0 or (len(shape) == 3 and shape[0] == 0):
        raise InputError(
            f"A has shape {tuple(shape)}; it must have at least one column, "
            "and a batch at least one system"
        )


def is_scipy_sparse(A: Any) -> bool:
    """Whether A came from scipy.sparse, without importing scipy."""
    return type(A).__module__.startswith("scipy.sparse")


def from_scipy(A: Any) -> tuple[Tensor, Tensor, Any, tuple[int, int]]:
    """Indices and values of a scipy.sparse matrix or array of two dimensions."""
    if A.ndim != 2:
        raise InputError(
            f"A is a scipy.sparse array of shape {A.shape}; it must be (m, n), or (B, m, n) where "
            "batches are taken"
        )
    (m, n), (rows, cols, values) = A.shape, _entries(A)
    if len(values) and (min(rows.min(), cols.min()) < 0 or rows.max() >= m or cols.max() >= n):
        raise InputError(
            f"A is a scipy.sparse {A.format} of shape {A.shape} that stores entries outside it"
        )
    return (
        torch.from_numpy(np.array(rows, dtype=np.int64)),
        torch.from_numpy(np.array(cols, dtype=np.int64)),
        values,
        (int(m), int(n)),
    )


def _entries(A: Any) -> tuple[Any, Any, Any]:
    """Row, column and value of what a scipy.sparse matrix stores."""
    _require_pointers(A)
    if A.format in ("csr", "csc"):  # a fifth of the time that scipy takes
        k = int(A.indptr[-1])
        major = np.repeat(np.arange(len(A.indptr) - 1), np.diff(A.indptr))
        minor, values = A.indices[:k], A.data[:k]
        if len(values) == k:
            return (major, minor, values) if A.format == "csr" else (minor, major, values)
        why = f"{k} column or row numbers and {len(values)} values"
    else:
        try:
            coo = A.tocoo()
        except (ValueError, IndexError) as error:
            why = str(error)
        else:
            return coo.row, coo.col, coo.data
    raise InputError(f"A is a scipy.sparse {A.format} whose parts do not fit together: {why}")


def _require_pointers(A: Any) -> None:
    """Raise `InputError` for row or column pointers by which scipy reads past its arrays."""
    if A.format not in ("csr", "csc", "bsr"):
        return
    major = A.shape[A.format == "csc"] // (A.blocksize[0] if A.format == "bsr" else 1)
    p = A.indptr
    fits = len(p) == major + 1 and p[0] == 0 and p[-1] <= len(A.indices)
    if not fits or bool((p[1:] < p[:-1]).any()):
        raise InputError(
            f"A is a scipy.sparse {A.format} whose indptr is none of {major + 1} numbers that "
            f"grow from 0 to at most {len(A.indices)}"
        )


def _batch_from_scipy(A: Any) -> Tensor:
    """A scipy.sparse array (B, m, n) as a sparse tensor."""
    coo = A.tocoo()
    indices = torch.from_numpy(np.stack(coo.coords).astype(np.int64))
    values = to_tensor(coo.data, "A")
    return torch.sparse_coo_tensor(
        indices, values, A.shape, device=values.device, check_invariants=True
    )


def diagonal(d: Tensor) -> SparseRows:
    """The diagonal matrix of d (n,), which may hold zeros."""
    i = torch.arange(len(d), device=d.device)
    return SparseRows(i, i, d, (len(d), len(d)))
