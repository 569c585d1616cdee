"""One row with bounds, vector by vector in the nearest cache; compiled by numba when imported.

The method is `projlab.engine.polyhedra.threshold`'s, whose docstring names its sources. Entries of
float32 are worked in float64 and rounded once.
"""

from typing import Any

import numpy as np
from numba import njit

from projlab.engine.kernels.numba_kernels import OPTIONS


def _project(
    x: Any,
    a: Any,
    lb: Any,
    ub: Any,
    right: Any,
    inequality: bool,
    ahead: bool,
    noise: float,
    steps: int,
    out: Any,
    multipliers: Any,
    done: Any,
) -> None:
    """Vectors x (k, n); lb and ub (1, n) or (k, n); what is not `done` within `steps` is not set.

    `ahead`: weights above zero and lower bounds alone, so that no term exceeds what is shared out.
    """
    k, n = x.shape
    shared = lb.shape[0] == 1
    squares, floor = 0.0, 0.0
    for j in range(n):
        squares += a[j] * a[j]
    if ahead and shared:
        for j in range(n):
            floor += a[j] * lb[0, j]
    for i in range(k):
        point, low, high, b = x[i], lb[0 if shared else i], ub[0 if shared else i], right[i]
        total, largest = 0.0, 0.0
        for j in range(n):
            total += a[j] * point[j]
            largest = max(largest, abs(point[j] / a[j]) if a[j] != 0 else 0.0)
        t = (total - b) / squares
        if ahead and shared:
            spare = b - floor
            for j in range(n):
                t = max(t, (a[j] * (point[j] - low[j]) - spare) / (a[j] * a[j]))
        if inequality:
            t = max(t, 0.0)
        left, end = (0.0 if inequality else -np.inf), np.inf
        done[i] = False
        for _ in range(steps):
            over, slope = -b, 0.0
            for j in range(n):
                v = point[j] - t * a[j]
                c = min(max(v, low[j]), high[j])
                over += a[j] * c
                slope += a[j] * a[j] if c == v else 0.0
            if over >= 0:
                left = t
            if over <= 0:
                end = t
            if slope == 0:
                done[i] = over == 0
                break
            newton = t + over / slope
            if abs(newton - t) <= noise * (abs(t) + largest) or (
                inequality and t == 0 and over <= 0
            ):
                done[i] = True
                break
            if not left < newton < end:
                break
            t = newton
        if not done[i]:
            continue
        over, slope = -b, 0.0
        for j in range(n):
            v = point[j] - t * a[j]
            c = min(max(v, low[j]), high[j])
            over += a[j] * c
            slope += a[j] * a[j] if c == v else 0.0
        further = over / slope if slope > 0 and not (inequality and t <= 0) else 0.0
        for j in range(n):
            v = point[j] - t * a[j]
            c = min(max(v, low[j]), high[j])
            if c == v:
                c = min(max(v - further * a[j], low[j]), high[j])
            out[i, j] = c
        multipliers[i] = t + further


_SIGNATURE = (
    "void({0}[:,::1], float64[::1], float64[:,::1], float64[:,::1], float64[::1], boolean, "
    "boolean, float64, int64, {0}[:,::1], float64[::1], boolean[::1])"
)
float64: Any = njit(_SIGNATURE.format("float64"), **OPTIONS)(_project)
float32: Any = njit(_SIGNATURE.format("float32"), **OPTIONS)(_project)
