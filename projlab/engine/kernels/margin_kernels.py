"""Sums over both dimensions of a matrix in one read; compiled by numba when this is imported.

Columns are added up in pieces of `PIECE` rows and these in groups of `GROUP` rows, and rows in
pieces of `COLUMNS` columns, so that no sum has one long run of roundings, and that what a piece
adds to stays in the nearest cache.
"""

from typing import Any

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]  # exported at run time

from projlab.engine.kernels.numba_kernels import OPTIONS, pointer

PIECE = 32
GROUP = 16 * PIECE
COLUMNS = 1024


@njit(**OPTIONS)
def add_up(x: Any, down: Any, across: Any) -> None:
    """The sums of the columns and of the rows of x (m, n), into (n,) and (m,)."""
    m, n = x.shape
    zero = x.dtype.type(0)
    held = np.empty((2, min(n, COLUMNS)), x.dtype)
    for j in range(n):
        down[j] = zero
    for i in range(m):
        across[i] = zero
    for left in range(0, n, COLUMNS):
        right = min(left + COLUMNS, n)
        width = right - left
        part, group, total = held[0, :width], held[1, :width], down[left:right]
        for top in range(0, m, PIECE):
            bottom = min(top + PIECE, m)
            for j in range(width):
                part[j] = zero
            if top % GROUP == 0:
                for j in range(width):
                    group[j] = zero
            i = top
            while i + 4 <= bottom:
                p, q = x[i, left:right], x[i + 1, left:right]
                r, s = x[i + 2, left:right], x[i + 3, left:right]
                a, b, c, d = zero, zero, zero, zero
                for j in range(width):
                    pj, qj, rj, sj = p[j], q[j], r[j], s[j]
                    a += pj
                    b += qj
                    c += rj
                    d += sj
                    part[j] += (pj + qj) + (rj + sj)
                across[i] += a
                across[i + 1] += b
                across[i + 2] += c
                across[i + 3] += d
                i += 4
            while i < bottom:
                p = x[i, left:right]
                a = zero
                for j in range(width):
                    a += p[j]
                    part[j] += p[j]
                across[i] += a
                i += 1
            for j in range(width):
                group[j] += part[j]
            if bottom % GROUP == 0 or bottom == m:
                for j in range(width):
                    total[j] += group[j]


@njit(**OPTIONS)
def take_off(x: Any, down: Any, across: Any) -> None:
    """x_ij -= down_j + across_i, in place."""
    m, n = x.shape
    for i in range(m):
        row, a = x[i], across[i]
        for j in range(n):
            row[j] -= down[j] + a


@njit(**OPTIONS)
def float64(x: int, down: int, across: int, m: int, n: int, add: bool) -> None:
    """`add_up`, or else `take_off`, of what lies at these addresses."""
    parts = (
        carray(pointer(x), (m, n), np.float64),
        carray(pointer(down), (n,), np.float64),
        carray(pointer(across), (m,), np.float64),
    )
    if add:
        add_up(*parts)
    else:
        take_off(*parts)


@njit(**OPTIONS)
def float32(x: int, down: int, across: int, m: int, n: int, add: bool) -> None:
    """As `float64`."""
    parts = (
        carray(pointer(x), (m, n), np.float32),
        carray(pointer(down), (n,), np.float32),
        carray(pointer(across), (m,), np.float32),
    )
    if add:
        add_up(*parts)
    else:
        take_off(*parts)
