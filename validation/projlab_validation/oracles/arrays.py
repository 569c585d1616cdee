"""Arrays of balls (Arb): numpy object arrays, and a sparse matrix that multiplies them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from flint import arb, arb_mat
from numpy.typing import NDArray

Balls = Any
"""A numpy array of `arb`; numpy's types cannot say so."""

ball: Callable[..., Balls] = np.frompyfunc(arb, 1, 1)
"""Floats as balls without radius, elementwise."""

middle: Callable[..., Balls] = np.frompyfunc(arb.mid, 1, 1)
"""Midpoints, as balls without radius."""

_float = np.frompyfunc(float, 1, 1)
_magnitude = np.frompyfunc(arb.abs_upper, 1, 1)
_is_zero = np.frompyfunc(arb.is_zero, 1, 1)


def nearest(v: Balls) -> NDArray[np.float64]:
    """Midpoints rounded to float64."""
    return np.asarray(_float(v), dtype=np.float64)


def nonzero(v: Balls) -> NDArray[np.bool_]:
    """False where an entry is exactly zero; a ball that merely contains zero is not."""
    return ~np.asarray(_is_zero(v), dtype=bool)


def norm(v: Balls) -> arb:
    """An upper bound on the Euclidean or Frobenius norm."""
    size: Balls = _magnitude(v)
    return arb((size * size).sum()).sqrt().upper()


def product(P: Balls, v: Balls) -> Balls:
    """P v for a dense P (p, q) and v (q,) or (q, k)."""
    if v.ndim == 1 or not v.size:
        return P @ v
    entries = (arb_mat(P.tolist()) * arb_mat(v.tolist())).entries()  # far faster than objects
    return np.array(entries, dtype=object).reshape(P.shape[0], v.shape[1])


class SparseBalls:
    """A sparse float64 matrix (m, n), taken as exact, that multiplies arrays of balls."""

    def __init__(self, A: sp.csr_array) -> None:
        self.shape = A.shape
        self.rows, self.columns = A.tocoo().coords
        self.entries = ball(A.data)

    def __matmul__(self, x: Balls) -> Balls:
        """A x for x (n,) or (n, k)."""
        return self._accumulate(self.rows, self.columns, x, self.shape[0])

    def adjoint(self, y: Balls) -> Balls:
        """Aᵀ y for y (m,) or (m, k)."""
        return self._accumulate(self.columns, self.rows, y, self.shape[1])

    def _accumulate(self, target: Any, source: Any, v: Balls, size: int) -> Balls:
        out = np.full((size, *v.shape[1:]), arb(0), dtype=object)
        if v.ndim == 2:
            for column in range(v.shape[1]):
                out[:, column] = self._accumulate(target, source, v[:, column], size)
            return out
        used = nonzero(v)[source]
        np.add.at(out, target[used], self.entries[used] * v[source[used]])
        return out
