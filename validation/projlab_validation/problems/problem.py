"""What a problem is: A, b and x0, where they come from, and a hash of what they contain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Dtype = Literal["float64", "float32"]
DTYPES: tuple[Dtype, ...] = ("float64", "float32")
Vector = NDArray[np.float64]
Matrix = NDArray[np.float64] | sp.csr_array


@dataclass(frozen=True, eq=False)
class Problem:
    """Project x0 onto {x : A x = b}.

    Attributes
    ----------
    name, group
        How it is asked for; a name may exist in both dtypes.
    A, b, x0
        (m, n), (m,) and (n,), in float64 whatever `dtype` is: a float32 problem has entries that
        float32 represents exactly, so that every oracle takes the same numbers as exact.
    dtype
        In which the variants are to solve it.
    seed
        Of everything random in it.
    reference
        Where it comes from.
    consistent
        What the source claims; the oracles judge for themselves.
    row_names
        What the equations say, where that is known.
    stays_sparse
        Whether A is handed over sparse and never made dense, its entries in halves and in no order.
    """

    name: str
    group: str
    A: Matrix
    b: Vector
    x0: Vector
    dtype: Dtype
    seed: int
    reference: str
    consistent: bool = True
    row_names: tuple[str, ...] | None = None
    stays_sparse: bool = False

    @property
    def m(self) -> int:
        """Number of rows."""
        return int(self.A.shape[0])

    @property
    def n(self) -> int:
        """Number of columns."""
        return int(self.A.shape[1])

    @property
    def nnz(self) -> int:
        """Number of entries of A that are not zero."""
        return self.csr().nnz

    @property
    def rows_overlap(self) -> bool:
        """Whether some column has nonzeros in two rows or more."""
        counts = np.bincount(self.csr().indices, minlength=self.n)
        return bool(np.max(counts, initial=0) > 1)

    def csr(self) -> sp.csr_array:
        """A as a sparse matrix, without stored zeros."""
        A = sp.csr_array(self.A, copy=True)
        A.eliminate_zeros()
        return A

    def given(self) -> Matrix | sp.coo_array:
        """A as a variant or a subject gets it, but for the dtype."""
        return scattered(self.csr(), self.seed) if self.stays_sparse else self.A

    def meaning(self, right: Sequence[tuple[int, float]]) -> Problem:
        """The same problem with other right sides of these rows."""
        if not right:
            return self
        b = self.b.copy()
        for row, value in right:
            b[row] = value
        return replace(self, b=rounded(b, self.dtype))

    def dense(self) -> NDArray[np.float64]:
        """A as an array; allocates 8 m n bytes when A is sparse."""
        return self.A.toarray() if isinstance(self.A, sp.csr_array) else self.A

    @cached_property
    def content_hash(self) -> str:
        """First 16 hex digits of SHA-256 over shape, dtype and the bytes of A, b and x0.

        Dense and sparse storage of the same numbers hash alike.
        """
        A = self.csr()
        digest = hashlib.sha256(f"{A.shape} {self.dtype}".encode())
        for part in (A.data, A.indices, A.indptr, self.b, self.x0):
            wide = np.int64 if part.dtype.kind == "i" else np.float64
            digest.update(np.ascontiguousarray(part, dtype=wide).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Family:
    """A group of problems: `names` says which it offers in a dtype, `build` makes one of them."""

    group: str
    names: Callable[[Dtype], tuple[str, ...]]
    build: Callable[[str, Dtype], Problem]


def scattered(A: sp.csr_array, seed: int) -> sp.coo_array:
    """The same entries as COO, each in two halves, in no order: what duplicates add up to is A."""
    coo = A.tocoo()
    order = np.random.default_rng([seed, 5]).permutation(2 * coo.nnz)
    rows, columns = (np.tile(index, 2)[order] for index in coo.coords)
    return sp.coo_array((np.tile(coo.data / 2, 2)[order], (rows, columns)), shape=A.shape)


def seed_of(name: str) -> int:
    """A seed that depends on nothing but the problem's name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def rounded(values: Vector, dtype: Dtype) -> Vector:
    """``values`` rounded to ``dtype`` and stored in float64."""
    return values.astype(dtype).astype(np.float64)


def rank_is_clear(condition: float, m: int, n: int, dtype: Dtype) -> bool:
    """Whether the smallest singular value stands ten times above the cutoff of the numerical rank.

    The cutoff is max(m, n) eps σ_max, in float32 at most 5 √min(m, n) eps σ_max, so this reads
    κ max(m, n) eps ≤ 1/10. Beyond it the rank is ambiguous by definition, and there is no single
    answer to be right about.
    """
    of_shape: float = max(m, n)
    if np.dtype(dtype) == np.float32:
        of_shape = min(of_shape, 5 * min(m, n) ** 0.5)
    return bool(condition * of_shape * np.finfo(dtype).eps <= 0.1)
