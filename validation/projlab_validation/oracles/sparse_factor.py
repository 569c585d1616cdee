"""A sparse symmetric factor for the oracles: SuperLU in symmetric mode, on the diagonal.

Independent of the engine's own. Li, "An overview of SuperLU", ACM TOMS 31 (2005); the order is
minimum degree on A + Aᵀ (Liu 1985).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SymmetricFactor:
    """A positive definite matrix with rows and columns in `order` is L U, L unit triangular."""

    lu: Any

    @property
    def size(self) -> int:
        """Number of rows."""
        return int(self.lu.shape[0])

    @cached_property
    def L(self) -> sp.csc_array:  # noqa: N802  the matrix of the formula
        """The lower triangle, ones on its diagonal."""
        return sp.csc_array(self.lu.L)

    @cached_property
    def U(self) -> sp.csr_array:  # noqa: N802
        """The upper triangle, the pivots on its diagonal."""
        return sp.csr_array(self.lu.U)

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Which row of the matrix each row of the factor is."""
        return np.argsort(self.lu.perm_r)

    @cached_property
    def pivots(self) -> Array:
        """The pivot of each row of the matrix."""
        pivots: Array = self.U.diagonal()[self.lu.perm_r]
        return pivots

    def solve(self, v: Array) -> Array:
        """The inverse applied to v (m,) or (m, k)."""
        solution: Array = self.lu.solve(np.ascontiguousarray(v))
        return solution


def factorised(A: sp.csc_array) -> SymmetricFactor | None:
    """The factor of a symmetric matrix; None where it is not positive definite to rounding."""
    try:
        lu = scipy.sparse.linalg.splu(
            sp.csc_matrix(A),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # a pivot is exactly zero
        return None
    if not np.array_equal(lu.perm_r, lu.perm_c):  # it left the diagonal
        return None
    factor = SymmetricFactor(lu)
    return factor if np.all(factor.pivots > 0) else None
