"""The kernels of `projlab.engine.kernels.column_blocks`, compiled by numba."""

from typing import Any, NamedTuple

from numba import njit

from projlab.engine.kernels.numba_kernels import OPTIONS

SHIFT = 15
"""Two to this many columns a block: 128 or 256 KB of x, half of the smallest second-level cache. At
3e5 x 1e6 two to the 14th to 16th are within 5 %, to the 17th it is 1.4 times slower."""


@njit(**OPTIONS)
def counted(columns: Any, count: Any) -> int:
    """Adds up the entries of each block, and returns how many have the one before elsewhere."""
    apart, last = 0, -1
    for p in range(len(columns)):
        b = columns[p] >> SHIFT
        count[b] += 1
        apart += b != last
        last = b
    return apart


@njit(**OPTIONS)
def arranged(
    first: Any, columns: Any, values: Any, at: Any, rows: Any, places: Any, kept: Any
) -> None:
    """Entries by compressed rows as entries by blocks, by rows in each, from `at` on each."""
    for i in range(len(first) - 1):
        for p in range(first[i], first[i + 1]):
            b = columns[p] >> SHIFT
            o = at[b]
            at[b] = o + 1
            rows[o], places[o], kept[o] = i, columns[p] - (b << SHIFT), values[p]


@njit(**OPTIONS)
def times(first: Any, rows: Any, places: Any, values: Any, x: Any, y: Any) -> None:
    """y += E x, of entries by blocks."""
    for b in range(len(first) - 1):
        part = x[b << SHIFT :]
        for o in range(first[b], first[b + 1]):
            y[rows[o]] += values[o] * part[places[o]]


@njit(**OPTIONS)
def continued(
    first: Any, rows: Any, places: Any, values: Any, y: Any, x: Any, factor: float
) -> float:
    """x = E' y - factor x, of entries by blocks, and the sum of the squares of that.

    Each block of x is read and written once, while it is in the cache.
    """
    total = 0.0
    for b in range(len(first) - 1):
        part = x[b << SHIFT : (b + 1) << SHIFT]
        for j in range(len(part)):
            part[j] *= -factor
        for o in range(first[b], first[b + 1]):
            part[places[o]] += values[o] * y[rows[o]]
        for j in range(len(part)):
            total += part[j] * part[j]
    return total


class Kernels(NamedTuple):
    """For either dtype."""

    counted: Any
    arranged: Any
    times: Any
    continued: Any
    shift: int


float32 = float64 = Kernels(counted, arranged, times, continued, SHIFT)
