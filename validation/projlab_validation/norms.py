"""The Euclidean norm at every size: an error below 1e-162 must not vanish when it is squared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import scipy.sparse as sp


def norm(v: NDArray[Any]) -> float:
    """‖v‖₂, scaled by a power of two so that squares neither overflow nor underflow."""
    v = np.asarray(v, dtype=np.float64)
    largest = float(np.max(np.abs(v), initial=0.0))
    if not 0.0 < largest < np.inf:  # nothing to scale: 0, infinite or NaN
        return largest
    exponent = int(np.frexp(largest)[1])
    return float(np.ldexp(np.linalg.norm(np.ldexp(v, -exponent)), exponent))


def row_norms(A: sp.csr_array) -> NDArray[np.float64]:
    """‖aᵢ‖₂ of every row, likewise."""
    stored = np.diff(A.indptr)
    norms = np.zeros(A.shape[0])
    held = np.flatnonzero(stored)
    if len(held):
        starts = A.indptr[held]
        exponents = np.frexp(np.maximum.reduceat(np.abs(A.data), starts))[1]
        scaled = np.ldexp(A.data, -np.repeat(exponents, stored[held]))
        norms[held] = np.ldexp(np.sqrt(np.add.reduceat(scaled**2, starts)), exponents)
    return norms
