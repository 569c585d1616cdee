"""Sums within bounds in training, vector by vector in place; compiled by numba when imported.

Each is Newton's method for the multiplier t of sum_j x_j = r, as in
`projlab.engine.polyhedra.threshold`, whose docstring names its sources. Loops are written so that
they become vector instructions: entries of one type, selections in place of branches, counts in
floating point. Entries keep their precision, and sums are in float64.
"""

from typing import Any

import numpy as np
from numba import njit

from projlab.engine.kernels.numba_kernels import OPTIONS


def _cone(
    g: Any, x: Any, lb: Any, ub: Any, face: Any, given: bool, noise: float, steps: int
) -> bool:
    """-g onto the tangent cone of {sum x = r, lb <= x <= ub} at x, in place of g, negated.

    g, x (k, n), lb and ub (k, n) or (1, n), face (k, n): written, the bounds that entries are held
    to (one: the lower, two: the upper); with `given`, read: these entries are fixed. False, and
    that row not written, where Newton's method does not end.
    """
    k, n = g.shape
    # g + t is to stay within these
    least, most = np.empty_like(g[0]), np.empty_like(g[0])
    zero, inf = g.dtype.type(0), g.dtype.type(np.inf)
    for i in range(k):
        row, point, held = g[i], x[i], face[i]
        low, high = lb[min(i, lb.shape[0] - 1)], ub[min(i, ub.shape[0] - 1)]
        for j in range(n):
            most[j] = zero if point[j] <= low[j] else inf
            least[j] = zero if point[j] >= high[j] else -inf
        if given:
            for j in range(n):
                most[j] = zero if held[j] != 0 else most[j]
                least[j] = zero if held[j] != 0 else least[j]
        total, count, size = 0.0, 0.0, 0.0
        for j in range(n):
            v = row[j]
            free = (most[j] > 0) & (least[j] < 0)
            size += v * v
            total += v if free else zero
            count += 1.0 if free else 0.0
        if not np.isfinite(size):
            return False
        size = np.sqrt(size)
        still = False
        if count == 0:
            # where all may move to one side only, and the sum may not change, none does
            up, down = False, False
            for j in range(n):
                down |= most[j] > 0
                up |= least[j] < 0
            still = not (up and down)
        t = -total / count if count > 0 else 0.0
        ended = still
        for _ in range(steps):
            if ended:
                break
            over, slope, s = 0.0, 0.0, g.dtype.type(t)
            for j in range(n):
                v = row[j] + s
                c = least[j] if v < least[j] else v
                c = most[j] if c > most[j] else c
                over += c
                slope += 1.0 if c == v else 0.0
            if slope == 0:
                break
            t = s - over / slope
            ended = abs(over) <= noise * slope * (abs(t) + size)
        if not ended:
            return False
        s = g.dtype.type(t)
        for j in range(n):
            v = row[j] + s
            c = least[j] if v < least[j] else v
            c = most[j] if c > most[j] else c
            row[j] = zero if still else c
        if not given:
            for j in range(n):
                low_end = 1 if (most[j] == 0) & (row[j] == 0) else 0
                held[j] = low_end | (2 if (least[j] == 0) & (row[j] == 0) else 0)
    return True


def _onto(x: Any, lb: Any, ub: Any, face: Any, right: Any, noise: float, steps: int) -> bool:
    """x (k, n) onto {sum x = right, lb <= x <= ub} in place, entries of `face` on their bound.

    False, and that row not written, where Newton's method does not end.
    """
    k, n = x.shape
    least, most = np.empty_like(x[0]), np.empty_like(x[0])
    for i in range(k):
        row, held, r = x[i], face[i], right[i]
        low, high = lb[min(i, lb.shape[0] - 1)], ub[min(i, ub.shape[0] - 1)]
        for j in range(n):
            least[j] = high[j] if held[j] == 2 else low[j]
            most[j] = low[j] if (held[j] & 1) != 0 else high[j]
        total, count, size, fixed = 0.0, 0.0, 0.0, 0.0
        for j in range(n):
            v = row[j]
            free = most[j] > least[j]
            total += v if free else least[j]
            size += v * v
            count += 1.0 if free else 0.0
        if not np.isfinite(size + total):
            return False
        size = np.sqrt(size)
        t = (total - r) / count if count > 0 else 0.0
        ended = count == 0
        for _ in range(steps):
            if ended:
                break
            over, slope, s = 0.0, 0.0, x.dtype.type(t)
            for j in range(n):
                v = row[j] - s
                c = least[j] if v < least[j] else v
                c = most[j] if c > most[j] else c
                over += c
                slope += 1.0 if (c == v) & (most[j] > least[j]) else 0.0
            if slope == 0:
                break
            t = s + (over - r) / slope
            ended = abs(over - r) <= noise * (slope * abs(t) + size + abs(r))
        if not ended:
            return False
        s = x.dtype.type(t)
        for j in range(n):
            v = row[j] - s
            c = least[j] if v < least[j] else v
            row[j] = most[j] if c > most[j] else c
    return True


def _box_cone(g: Any, x: Any, lb: Any, ub: Any, face: Any, given: bool) -> None:
    """As `_cone`, of bounds alone."""
    k, n = g.shape
    zero = g.dtype.type(0)
    for i in range(k):
        row, point, held = g[i], x[i], face[i]
        low, high = lb[min(i, lb.shape[0] - 1)], ub[min(i, ub.shape[0] - 1)]
        if given:
            for j in range(n):
                row[j] = zero if held[j] != 0 else row[j]
        for j in range(n):
            # minus it is a direction: it may not be above zero at the lower bound
            v = row[j]
            c = zero if (point[j] <= low[j]) & (v > zero) else v
            row[j] = zero if (point[j] >= high[j]) & (v < zero) else c
        if not given:
            for j in range(n):
                low_end = 1 if (point[j] <= low[j]) & (row[j] == 0) else 0
                held[j] = low_end | (2 if (point[j] >= high[j]) & (row[j] == 0) else 0)


def _box(x: Any, lb: Any, ub: Any, face: Any) -> None:
    """x (k, n) clamped to its bounds in place, entries of `face` on theirs."""
    k, n = x.shape
    for i in range(k):
        row, held = x[i], face[i]
        low, high = lb[min(i, lb.shape[0] - 1)], ub[min(i, ub.shape[0] - 1)]
        for j in range(n):
            v = row[j]
            c = low[j] if v < low[j] else v
            c = high[j] if c > high[j] else c
            c = low[j] if held[j] == 1 else c
            row[j] = high[j] if held[j] >= 2 else c


_CONE = (
    "boolean({0}[:,::1], {0}[:,::1], {0}[:,::1], {0}[:,::1], uint8[:,::1], boolean, float64, int64)"
)
_ONTO = "boolean({0}[:,::1], {0}[:,::1], {0}[:,::1], uint8[:,::1], float64[::1], float64, int64)"
_BOX_CONE = (
    "void({0}[:,::1], {0}[:,::1], {0}[:,::1], {0}[:,::1], uint8[:,::1], boolean)"
)
_BOX = "void({0}[:,::1], {0}[:,::1], {0}[:,::1], uint8[:,::1])"


def _compiled(dtype: str) -> tuple[Any, ...]:
    kernels = ((_CONE, _cone), (_ONTO, _onto), (_BOX_CONE, _box_cone), (_BOX, _box))
    return tuple(njit(types.format(dtype), **OPTIONS)(kernel) for types, kernel in kernels)


float64: Any = _compiled("float64")
float32: Any = _compiled("float32")
