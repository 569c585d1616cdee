"""Sums within bounds in training, vector by vector in place; compiled by numba when first called.

Each is Newton's method for the multiplier t of sum_j x_j = r, as in
`projlab.engine.polyhedra.threshold`, whose docstring names its sources. Loops are written so that
they become vector instructions: everything of one type, selections in place of branches, counts in
floating point. Entries keep their precision, and sums are in float64.

Bounds are arrays, or one number each for all entries: a pass over 1e5 entries in float32 takes
35 us then, and 97 with arrays.

`face` holds a number for each entry: one where it is held to its lower bound, two to its upper one,
three where these are the same; where it is not held, zero, and minus one on a bound.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from projlab.engine.kernels.numba_kernels import OPTIONS

SHARED_OUT = 2.0**-10
"""How much of a sum may be left to be shared out among its entries afterwards."""


def _row(bound: Any, i: Any) -> Any:
    """Of vector i: the bounds of all of them are (k, n), (1, n), or a number."""
    raise NotImplementedError("compiled by numba")


def _at(bound: Any, j: Any) -> Any:
    """Of entry j, from what `_row` gives."""
    raise NotImplementedError("compiled by numba")


def _number(bound: Any, _: Any) -> Any:
    return bound


def _of_rows(bound: Any, i: Any) -> Any:
    return bound[min(i, bound.shape[0] - 1)]


def _of_entries(bound: Any, j: Any) -> Any:
    return bound[j]


@overload(_row, strict=False)
def _row_of(bound: Any, _: Any) -> Any:
    return _number if isinstance(bound, types.Float) else _of_rows


@overload(_at, strict=False)
def _entry_of(bound: Any, _: Any) -> Any:
    return _number if isinstance(bound, types.Float) else _of_entries


@njit(**OPTIONS)
def _moving(row: Any, point: Any, low: Any, high: Any, s: Any) -> Any:
    """The sum of row + s where that may be, of how many, and the sizes of all.

    Minus it is a direction: it may not be above zero at a lower bound, nor below at an upper one.
    """
    over, slope, size = 0.0, 0.0, 0.0
    zero, inf = row.dtype.type(0), row.dtype.type(np.inf)
    for j in range(row.shape[0]):
        v = row[j] + s
        most = zero if point[j] <= _at(low, j) else inf
        least = zero if point[j] >= _at(high, j) else -inf
        c = max(v, least)
        c = min(c, most)
        over += c
        slope += 1.0 if c == v else 0.0
        size += abs(v)
    return over, slope, size


@njit(**OPTIONS)
def _moving_beside(row: Any, point: Any, low: Any, high: Any, face: Any, s: Any) -> Any:
    """As `_moving`, of entries that are not held."""
    over, slope, size = 0.0, 0.0, 0.0
    zero, inf = row.dtype.type(0), row.dtype.type(np.inf)
    for j in range(row.shape[0]):
        v = row[j] + s
        most = zero if point[j] <= _at(low, j) else inf
        least = zero if point[j] >= _at(high, j) else -inf
        most = most if face[j] <= zero else zero
        least = least if face[j] <= zero else zero
        c = max(v, least)
        c = min(c, most)
        over += c
        slope += 1.0 if c == v else 0.0
        size += abs(v)
    return over, slope, size


@njit(**OPTIONS)
def _reaches(row: Any, size: Any) -> bool:
    """Whether an entry's absolute value is that much, or more; a maximum is no vector's work."""
    count = 0
    for j in range(row.shape[0]):
        count += abs(row[j]) >= size
    return count > 0


@njit(**OPTIONS)
def _within(row: Any, low: Any, high: Any, face: Any, s: Any) -> Any:
    """The sum of row - s within its bounds, how many entries move, and sizes before and within."""
    over, slope, size, kept = 0.0, 0.0, 0.0, 0.0
    zero, one = row.dtype.type(0), row.dtype.type(1)
    for j in range(row.shape[0]):
        v = row[j] - s
        # what is held goes between two bounds that are the same
        least = _at(high, j) if face[j] > one else _at(low, j)
        most = _at(low, j) if face[j] == one else _at(high, j)
        c = max(v, least)
        c = min(c, most)
        over += c
        free = 1.0 if face[j] <= zero else 0.0
        slope += free if c == v else 0.0
        size += abs(v)
        kept += abs(c)
    return over, slope, size, kept


@njit(**OPTIONS)
def _step(row: Any, point: Any, low: Any, high: Any, face: Any, given: bool, s: Any) -> None:
    """Row + s where that may be and zero elsewhere, in place; and what is held, unless given."""
    zero, one, two = row.dtype.type(0), row.dtype.type(1), row.dtype.type(2)
    n = row.shape[0]
    if given:
        for j in range(n):
            v = row[j] + s
            v = zero if (v > zero) & (point[j] <= _at(low, j)) else v
            v = zero if (v < zero) & (point[j] >= _at(high, j)) else v
            row[j] = zero if face[j] > zero else v
        return
    for j in range(n):
        v = row[j] + s
        v = zero if (v > zero) & (point[j] <= _at(low, j)) else v
        v = zero if (v < zero) & (point[j] >= _at(high, j)) else v
        row[j] = v
        f = one if point[j] <= _at(low, j) else zero
        f = f + two if point[j] >= _at(high, j) else f
        f = -one if (v != zero) & (f > zero) else f
        face[j] = f


@njit(**OPTIONS)
def _clamped(row: Any, low: Any, high: Any, face: Any, s: Any) -> Any:
    """Row - s within its bounds, in place; its sum then."""
    one, total = row.dtype.type(1), 0.0
    for j in range(row.shape[0]):
        least = _at(high, j) if face[j] > one else _at(low, j)
        most = _at(low, j) if face[j] == one else _at(high, j)
        c = max(row[j] - s, least)
        c = min(c, most)
        row[j] = c
        total += c
    return total


@njit(**OPTIONS)
def _cone(
    g: Any, x: Any, lb: Any, ub: Any, face: Any, given: bool, noise: float, steps: int
) -> bool:
    """-g onto the tangent cone of {sum x = r, lb <= x <= ub} at x, in place of g, negated.

    g, x and face (k, n); lb and ub as `_row` takes them. Face is written, and with `given` read:
    these entries are fixed. False, and that row not written, where Newton's method does not end.
    """
    for i in range(g.shape[0]):
        row, point, held = g[i], x[i], face[i]
        low, high = _row(lb, i), _row(ub, i)
        t, ended, s = 0.0, False, g.dtype.type(0)
        for _ in range(steps):
            s = g.dtype.type(t)
            if given:
                over, slope, size = _moving_beside(row, point, low, high, held, s)
            else:
                over, slope, size = _moving(row, point, low, high, s)
            if not np.isfinite(size):
                return False
            if slope == 0:
                # no entry moves at s, and so the sum stays as it is
                ended = True
                break
            t = s - over / slope
            if abs(over) <= noise * (slope * abs(t) + size):
                s, ended = g.dtype.type(t), True
                break
        if not ended:
            return False
        if given and _reaches(row, g.dtype.type(abs(s) / noise)):
            # of momenta what rounding alone would move stays: an entry without any gradient has no
            # second moment, and noise over that is a step of any length
            s = g.dtype.type(0)
        _step(row, point, low, high, held, given, s)
    return True


@njit(**OPTIONS)
def _onto(x: Any, lb: Any, ub: Any, face: Any, right: Any, noise: float, steps: int) -> bool:
    """x (k, n) onto {sum x = right, lb <= x <= ub} in place, entries of `face` on their bound.

    `right` ends as the sums that rounding left. False, and that row not written, where Newton's
    method does not end, or entries are so much larger than the sum that their precision cannot
    hold it.
    """
    for i in range(x.shape[0]):
        row, held, r = x[i], face[i], right[i]
        low, high = _row(lb, i), _row(ub, i)
        t, ended, s, off, kept = 0.0, False, x.dtype.type(0), 0.0, 0.0
        for _ in range(steps):
            s = x.dtype.type(t)
            over, slope, size, kept = _within(row, low, high, held, s)
            if not np.isfinite(size) or slope == 0:
                return False
            off = abs(over - r)
            t = s + (over - r) / slope
            if off <= noise * (slope * abs(t) + size + abs(r)):
                s, ended = x.dtype.type(t), True
                break
        if not ended or off > SHARED_OUT * (kept + abs(r)):
            return False
        right[i] = _clamped(row, low, high, held, s)
    return True


@njit(**OPTIONS)
def _box_cone(g: Any, x: Any, lb: Any, ub: Any, face: Any, given: bool) -> None:
    """As `_cone`, of bounds alone."""
    for i in range(g.shape[0]):
        low, high = _row(lb, i), _row(ub, i)
        _step(g[i], x[i], low, high, face[i], given, g.dtype.type(0))


@njit(**OPTIONS)
def _box(x: Any, lb: Any, ub: Any, face: Any) -> None:
    """x (k, n) within its bounds in place, entries of `face` on theirs."""
    for i in range(x.shape[0]):
        low, high = _row(lb, i), _row(ub, i)
        _clamped(x[i], low, high, face[i], x.dtype.type(0))


float64: Any = (_cone, _onto, _box_cone, _box)
float32: Any = float64
