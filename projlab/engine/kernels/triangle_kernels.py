"""Solving with a small triangle, compiled by numba when this module is imported.

Reference: Golub and Van Loan, "Matrix Computations", 4th ed., algorithm 3.1.3 (by columns).
"""

from typing import Any

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]  # exported at run time

from projlab.engine.kernels.numba_kernels import OPTIONS, pointer


@njit(**OPTIONS)
def solve(R: Any, c: Any) -> None:
    """-R^-T c in the place of c, R upper triangular; no entry is a sum whose order is left open."""
    m = len(c)
    for i in range(m):
        c[i] = -c[i]
    for i in range(m):
        ci = c[i] / R[i, i]
        c[i] = ci
        for j in range(i + 1, m):
            c[j] -= R[i, j] * ci


@njit(**OPTIONS)
def float64(R: int, c: int, m: int) -> None:
    """`solve`, of R (m, m) and c (m,) at these addresses."""
    solve(carray(pointer(R), (m, m), np.float64), carray(pointer(c), (m,), np.float64))


@njit(**OPTIONS)
def float32(R: int, c: int, m: int) -> None:
    """As `float64`."""
    solve(carray(pointer(R), (m, m), np.float32), carray(pointer(c), (m,), np.float32))
