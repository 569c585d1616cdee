"""The equations as the oracles see them: equilibrated and factored, rank and consistency decided.

Written from the definitions and not with the engine, which it is there to check: E has its rows
scaled by powers of two to norms near 1, and its rank is the number of singular values above
max(m, n) eps σ₁; for data in float32, which is exact in the float64 that it is analysed in, above
ten times what rounding of its entries can do, u ‖E‖_F ≤ u √min(m, n) σ₁.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from projlab_validation.norms import row_norms
from projlab_validation.problems import Problem

Array = NDArray[np.float64]

AMBIGUITY = 10.0
"""The rank is ambiguous where a cutoff this many times smaller or larger would change it."""


class RankedSystem(ABC):
    """What a rank and a choice of independent rows say, however they were found.

    The first r rows of E (m, n) are independent, and E[r:] ≈ Wᵀ E[:r] for W (r, m − r).
    """

    E: sp.csr_array
    f: Array
    eps: float
    rank: int
    W: Any

    @property
    @abstractmethod
    def extremes(self) -> tuple[float, float]:
        """σ₁ and σ_r of E."""

    @abstractmethod
    def gram_inverse(self, v: Array) -> Array:
        """(E_r E_rᵀ)⁻¹ v for E_r = E[:r]; v: (r,) or (r, k)."""

    @abstractmethod
    def dependent_inverse(self, v: Array) -> Array:
        """(I + WᵀW)⁻¹ v, v: (m − r,)."""

    @property
    def cutoff(self) -> float:
        """Singular values at or below it count as zero; see the function."""
        return cutoff(self.extremes[0], self.E.shape, self.eps)

    @property
    def condition(self) -> float:
        """σ₁/σ_r."""
        largest, smallest = self.extremes
        return largest / smallest

    def ambiguous(self, next_singular_value: float) -> bool:
        """Whether a factor of ten in the cutoff would change the rank.

        ``next_singular_value`` is σ_{r+1} by better means than float64's SVD, whose rounding would
        make exact duplicates ambiguous. Up to eps σ₁ it is what rounding the entries of A makes.
        """
        largest, smallest = self.extremes
        noise = self.eps * largest
        return bool(
            smallest <= AMBIGUITY * self.cutoff
            or next_singular_value > max(self.cutoff / AMBIGUITY, noise)
        )

    @cached_property
    def consistent(self) -> bool:
        """Whether no row of the least-squares residual at rank r exceeds rounding.

        That is 8 max(m, n) u (‖aᵢ‖ ‖x̂‖ + |bᵢ|). With h = (I + WᵀW)⁻¹ (f_D − Wᵀ f_K) the residual is
        [−W; I] h, and x̂ is the shortest solution of E_K x = f_K + W h. For data in float32, whether
        no redundant row misses its combination by more than rounding of the entries of all its rows
        explains, 4 u Σⱼ |wⱼ| (‖aⱼ‖ ‖x̂‖ + |bⱼ|).
        """
        r, W = self.rank, self.W
        if r == self.E.shape[0]:
            return True
        mismatch = self.f[r:] - W.T @ self.f[:r]
        h = self.dependent_inverse(mismatch)
        residual = np.concatenate([-(W @ h), h])
        solution = self.E[:r].T @ self.gram_inverse(self.f[:r] + W @ h)
        scale = row_norms(self.E) * np.linalg.norm(solution) + np.abs(self.f)
        if _is_coarse(self.eps):
            explained = 2 * self.eps * (scale[r:] + abs(W).T @ scale[:r])
            return bool(np.all(np.abs(mismatch) <= explained))
        return bool(np.all(np.abs(residual) <= 4 * max(self.E.shape) * self.eps * scale))


@dataclass(frozen=True, eq=False)
class FactoredSystem(RankedSystem):
    """E x = f with independent rows first, and the QR decomposition that found them.

    Attributes
    ----------
    E, f, x0
        (m, n), (m,), (n,): no row of E is zero. The first r rows span the others to the cutoff.
    eps
        2u of the problem's dtype.
    singular_values
        Of E, descending, as computed in float64.
    rank
        r: the number of singular values above `cutoff`.
    R
        (r, r), upper triangular: E[:r]ᵀ = Q R.
    W
        (r, m − r): E[r:] ≈ Wᵀ E[:r].
    """

    E: sp.csr_array
    f: Array
    x0: Array
    eps: float
    singular_values: Array
    rank: int
    R: Array
    W: Array

    @property
    def extremes(self) -> tuple[float, float]:
        """See `RankedSystem`."""
        return float(self.singular_values[0]), float(self.singular_values[self.rank - 1])

    @property
    def gap(self) -> float:
        """σ_r/σ_{r+1} as computed, which rounding keeps finite; inf at full row rank."""
        rest = self.singular_values[self.rank :]
        return float(self.singular_values[self.rank - 1] / rest[0]) if np.any(rest) else np.inf

    def gram_inverse(self, v: Array) -> Array:
        """(E_r E_rᵀ)⁻¹ v by the triangular factor of E_r = E[:r]; v: (r,) or (r, k)."""
        return scipy.linalg.solve_triangular(
            self.R, scipy.linalg.solve_triangular(self.R, v, trans="T")
        )

    def dependent_inverse(self, v: Array) -> Array:
        """(I + WᵀW)⁻¹ v."""
        cross = np.eye(self.W.shape[1]) + self.W.T @ self.W
        return np.asarray(np.linalg.solve(cross, v), dtype=np.float64)


def equations(problem: Problem, *, equilibrate: bool) -> tuple[sp.csr_array, Array]:
    """A and b without rows of zeros; equilibrated by the powers of two nearest 1/‖aᵢ‖₂, exactly."""
    A = problem.csr()
    rows = np.flatnonzero(np.diff(A.indptr))
    A, b = A[rows], problem.b[rows]
    if not equilibrate:
        return A, b
    shift = -np.rint(np.log2(row_norms(A))).astype(int)
    data = np.ldexp(A.data, np.repeat(shift, np.diff(A.indptr)))
    return sp.csr_array((data, A.indices, A.indptr), shape=A.shape), np.ldexp(b, shift)


def cutoff(largest: float, shape: tuple[int, int], eps: float) -> float:
    """max(m, n) eps σ₁, for data coarser than float64 at most 10 u √min(m, n) σ₁."""
    of_shape: float = max(shape)
    if _is_coarse(eps):
        of_shape = min(of_shape, 5 * min(shape) ** 0.5)
    return of_shape * eps * largest


def _is_coarse(eps: float) -> bool:
    return bool(eps > np.finfo(np.float64).eps)


def factor(
    E: sp.csr_array, f: Array, x0: Array, eps: float, *, rank: int | None = None
) -> FactoredSystem:
    """QR with column pivoting of a dense Eᵀ, 2 m² n flops; the rank is found unless given.

    The singular values are those of the triangular factor: as accurate, and cheaper where n > m.
    """
    triangle, order = scipy.linalg.qr(
        E.toarray().T, mode="r", pivoting=True, overwrite_a=True, check_finite=False
    )
    triangle = triangle[: min(E.shape)]
    singular_values = scipy.linalg.svdvals(triangle, check_finite=False)
    if rank is None:
        largest = float(singular_values[0])
        rank = int(np.sum(singular_values > cutoff(largest, E.shape, eps)))
    R = triangle[:rank, :rank].copy()
    W = scipy.linalg.solve_triangular(R, triangle[:rank, rank:])
    return FactoredSystem(E[order], f[order], x0, eps, singular_values, rank, R, W)
