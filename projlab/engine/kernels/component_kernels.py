"""The kernel of `projlab.engine.kernels.components`, compiled by numba when this is imported.

Reference: Tarjan and van Leeuwen, "Worst-case analysis of set union algorithms", J. ACM 31 (1984)
(trees whose paths are halved).
"""

from typing import Any

import numpy as np
from numba import njit

from projlab.engine.kernels.numba_kernels import OPTIONS


@njit(**OPTIONS)
def _root(parent: Any, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(**OPTIONS)
def float64(rows: Any, cols: Any, of_row: Any, of_column: Any) -> int:
    """How many components the entries make, numbered as their first entries come.

    Into the last two, of -1, which rows and columns without entries keep.
    """
    m, n = len(of_row), len(of_column)
    parent, number = np.arange(m + n), np.full(m + n, -1, np.int64)
    for p in range(len(rows)):
        parent[_root(parent, m + cols[p])] = _root(parent, rows[p])
    count = 0
    for p in range(len(rows)):
        root = _root(parent, rows[p])
        if number[root] < 0:
            number[root] = count
            count += 1
        of_row[rows[p]] = of_column[cols[p]] = number[root]
    return count
