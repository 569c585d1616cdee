"""The search for an active set in one call, compiled by numba when this is imported.

What `projlab.engine.polyhedra.search` and `face` do in torch's operators, whose docstrings name the
sources, is done here vector by vector: the tests hold one to the other. Rows lie in the order in
which their Gram matrix is best eliminated, by rows and by columns, nonzeros only; the pattern of
the factor is that of all rows, and those that are not active are rows of the unit matrix in it.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]  # exported at run time

from projlab.engine.kernels.elimination_kernels import numeric, solve
from projlab.engine.kernels.faces import SLOTS
from projlab.engine.kernels.numba_kernels import OPTIONS, pointer

INNER: dict[str, Any] = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Not called from Python: to unpack so many arrays would take as long to compile as to use them."""

STRICT: dict[str, Any] = {name: value for name, value in INNER.items() if name != "fastmath"}
"""Where the order of operations is what makes them exact."""


class Matrix(NamedTuple):
    """M by rows and by columns, its equations, and the pattern of M M' and its factor."""

    first: Any
    """(m + 1,)."""
    cols: Any
    values: Any
    back: Any
    """(n + 1,)."""
    rows: Any
    entries: Any
    equation: Any
    """(m,)."""
    g_first: Any
    """(m + 1,) of the upper triangle of M M' by columns."""
    g_rows: Any
    parent: Any
    width: Any
    Lp: Any
    full: Any
    """Whether every entry is stored."""


class Factor(NamedTuple):
    """L D L', and memory for the matrix that it is of."""

    Li: Any
    Lx: Any
    D: Any
    G: Any
    line: Any
    """(m,) zeros."""


class Problem(NamedTuple):
    """One vector, its right sides (m,) and its bounds (n,)."""

    x0: Any
    right: Any
    lb: Any
    ub: Any


class Limits(NamedTuple):
    """Thresholds, whose derivations stand in `projlab.tolerance` and `search`."""

    noise: float
    u: float
    contracting: float
    large: float
    shift: float
    first: float
    growth: float
    largest: float
    loose: float
    ratio: float
    gram: float
    boundary: float
    close: float


class Place(NamedTuple):
    """Memory for a point: w (n,), x = w within the bounds, and the gradient (m,) there."""

    w: Any
    x: Any
    gradient: Any


class Sides(NamedTuple):
    """A face: which variables are at which bound, (n,), and which rows are active, (m,)."""

    low: Any
    high: Any
    active: Any


@njit(**INNER)
def times(M: Any, x: Any, out: Any) -> None:
    """M x."""
    first, cols, values, n = M.first, M.cols, M.values, len(x)
    for i in range(len(out)):
        a = 0.0
        if M.full:
            row = values[i * n : (i + 1) * n]
            for j in range(n):
                a += row[j] * x[j]
        else:
            for p in range(first[i], first[i + 1]):
                a += values[p] * x[cols[p]]
        out[i] = a


@njit(**INNER)
def subtracted(M: Any, y: Any, w: Any) -> None:
    """w -= M'y, which is summed first: w is rounded once, not for each row."""
    first, cols, values, n = M.first, M.cols, M.values, len(w)
    pull = np.zeros(n)
    for i in range(len(y)):
        a = y[i]
        if a == 0.0:
            continue
        if M.full:
            row = values[i * n : (i + 1) * n]
            for j in range(n):
                pull[j] += a * row[j]
        else:
            for p in range(first[i], first[i + 1]):
                pull[cols[p]] += a * values[p]
    for j in range(n):
        w[j] -= pull[j]


@njit(**INNER)
def sizes(M: Any, y: Any, out: Any) -> None:
    """|M|'|y|."""
    first, cols, values = M.first, M.cols, M.values
    out[:] = 0.0
    for i in range(len(y)):
        a = y[i]
        if a == 0.0:
            continue
        for p in range(first[i], first[i + 1]):
            out[cols[p]] += abs(a * values[p])


@njit(**INNER)
def norm(v: Any) -> float:
    """Of what is finite in v."""
    a = 0.0
    for i in range(len(v)):
        a += v[i] * v[i] if np.isfinite(v[i]) else 0.0
    return np.sqrt(a)  # type: ignore[no-any-return]  # numba's types


@njit(**STRICT)
def exactly(M: Any, v: Any, y: Any, w: Any) -> None:
    """w = v - M'y in twice the precision.

    Reference: Ogita, Rump and Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26
    (2005).
    """
    splitter = 134217729.0
    for j in range(len(v)):
        high, low = v[j], 0.0
        for p in range(M.back[j], M.back[j + 1]):
            a, b = -M.entries[p], y[M.rows[p]]
            product = a * b
            c, d = splitter * a, splitter * b
            a_high, b_high = c - (c - a), d - (d - b)
            a_low, b_low = a - a_high, b - b_high
            rest = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
            total = high + product
            t = total - high
            low += ((high - (total - t)) + (product - t)) + rest
            high = total
        w[j] = high + low


@njit(**INNER)
def gathered(M: Any, weights: Any, active: Any, shift: Any, F: Any) -> None:
    """The upper triangle of M diag(weights) M' + diag(shift) into F.G, ones where not active."""
    line, weighted = F.line, np.empty(len(weights) if M.full else 0)
    for k in range(len(line)):
        begin, end = M.g_first[k], M.g_first[k + 1]
        if not active[k]:
            for q in range(begin, end):
                F.G[q] = 1.0 if M.g_rows[q] == k else 0.0
            continue
        if M.full:
            _full_line(M, weights, k, weighted, line)
        else:
            for p in range(M.first[k], M.first[k + 1]):
                j = M.cols[p]
                a = M.values[p] * weights[j]
                if a != 0.0:
                    for q in range(M.back[j], M.back[j + 1]):
                        i = M.rows[q]
                        if i > k:
                            break
                        line[i] += a * M.entries[q]
        for q in range(begin, end):
            i = M.g_rows[q]
            F.G[q] = (line[i] if active[i] else 0.0) + (shift[k] if i == k else 0.0)
            line[i] = 0.0


@njit(**INNER)
def _full_line(M: Any, weights: Any, k: int, weighted: Any, line: Any) -> None:
    """Row k of the upper triangle, of stored rows of n entries: four of them at a time."""
    n, values = len(weights), M.values
    for j in range(n):
        weighted[j] = weights[j] * values[k * n + j]
    i = 0
    while i <= k:
        p = values[i * n : (i + 1) * n]
        if i + 3 > k:
            a = 0.0
            for j in range(n):
                a += weighted[j] * p[j]
            line[i] = a
            i += 1
            continue
        q, r = values[(i + 1) * n : (i + 2) * n], values[(i + 2) * n : (i + 3) * n]
        s = values[(i + 3) * n : (i + 4) * n]
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for j in range(n):
            w = weighted[j]
            a += w * p[j]
            b += w * q[j]
            c += w * r[j]
            d += w * s[j]
        line[i], line[i + 1], line[i + 2], line[i + 3] = a, b, c, d
        i += 4


@njit(**INNER)
def factored(M: Any, weights: Any, active: Any, shift: Any, F: Any) -> None:
    """F of M diag(weights) M' + diag(shift) on active rows.

    The shift grows where rounding made the matrix indefinite, as in `systems`.
    """
    gathered(M, weights, active, shift, F)
    growing = 2.0**-40
    while True:
        good = numeric(M.g_first, M.g_rows, F.G, M.parent, M.width, M.Lp, F.Li, F.Lx, F.D) < 0
        for i in range(len(F.D)):
            good = good and F.D[i] > 0
        if good or growing > 1:
            return
        for k in range(len(F.D)):
            for q in range(M.g_first[k], M.g_first[k + 1]):
                if M.g_rows[q] == k:
                    F.G[q] += growing
        growing *= 16


@njit(**INNER)
def solved(M: Any, F: Any, r: Any, y: Any) -> None:
    """y, the shifted Gram matrix's solution for r."""
    put(r, y)
    solve(M.Lp, F.Li, F.Lx, F.D, M.width, y)


@njit(**INNER)
def put(v: Any, into: Any) -> None:
    """A vector written over another: a slice would take four seconds longer to compile."""
    for i in range(len(v)):
        into[i] = v[i]


@njit(**INNER)
def same(one: Any, other: Any) -> bool:
    """Whether two faces are one."""
    for i in range(len(one.active)):
        if one.active[i] != other.active[i]:
            return False
    for j in range(len(one.low)):
        if one.low[j] != other.low[j] or one.high[j] != other.high[j]:
            return False
    return True


@njit(**INNER)
def copied(one: Any, into: Any) -> None:
    """A face written over another."""
    for j in range(len(one.low)):
        into.low[j], into.high[j] = one.low[j], one.high[j]
    put(one.active, into.active)


@njit(**INNER)
def left(M: Any, P: Any, face: Any, w: Any, x: Any, residual: Any) -> None:
    """x, which is w where free, and what it leaves of M x = right on active rows."""
    for j in range(len(w)):
        x[j] = P.lb[j] if face.low[j] else (P.ub[j] if face.high[j] else w[j])
    times(M, x, residual)
    for i in range(len(residual)):
        residual[i] = residual[i] - P.right[i] if face.active[i] else 0.0


@njit(**INNER)
def corrected(M: Any, F: Any, P: Any, face: Any, limits: Any, passes: int, y: Any, at: Any) -> bool:
    """`face.corrected`: y, and w of `at`; whether corrections came to rest."""
    n, m = len(P.x0), len(y)
    w, x, residual, noise = at.w, at.x, at.gradient, limits.noise
    step, pull, reach = np.empty(m), np.empty(n), np.empty(n)
    put(P.x0, w)
    subtracted(M, y, w)
    long, before, resting = norm(P.x0), np.inf, False
    for _ in range(passes):
        left(M, P, face, w, x, residual)
        start, total = norm(x) + long, 0.0
        for i in range(m):
            if not abs(residual[i]) > noise * (start + 2 * abs(P.right[i])):
                residual[i] = 0.0
            total += residual[i] * residual[i]
        total = np.sqrt(total)
        resting = total == 0
        if resting or not total < limits.contracting * before:
            break
        before = total
        solved(M, F, residual, step)
        for i in range(m):
            y[i] += step[i]
        subtracted(M, step, w)
    _stationary(M, F, P, face, limits, y, at)
    for _ in range(2):
        left(M, P, face, w, x, residual)
        solved(M, F, residual, step)
        pull[:] = 0.0
        subtracted(M, step, pull)
        sizes(M, y, reach)
        quiet = True
        for j in range(n):
            quiet = quiet and abs(pull[j]) <= 4 * noise * (long + reach[j])
        if quiet:
            for i in range(m):
                y[i] += step[i]
        for j in range(n):
            if quiet or not (face.low[j] or face.high[j]):
                w[j] += pull[j]
    return resting


@njit(**INNER)
def _stationary(M: Any, F: Any, P: Any, face: Any, limits: Any, y: Any, at: Any) -> None:
    """`face._stationary`: w again, in twice the precision, where terms of M'y cancel."""
    largest, terms, point = 0.0, 0.0, 0.0
    sizes(M, y, at.x)
    for j in range(len(P.x0)):
        terms = max(terms, at.x[j])
        largest, point = max(largest, abs(P.x0[j])), max(point, abs(at.w[j]))
    if not terms > limits.large * (largest + point):
        return
    exactly(M, P.x0, y, at.w)
    step = np.empty(len(y))
    for _ in range(2):
        left(M, P, face, at.w, at.x, at.gradient)
        solved(M, F, at.gradient, step)
        subtracted(M, step, at.w)


@njit(**INNER)
def holds(M: Any, P: Any, face: Any, limits: Any, y: Any, at: Any) -> bool:
    """Whether the signs of a polished face are right; x of `at` is the answer, w the point."""
    noise, m = limits.noise, len(y)
    sizes(M, y, at.x)
    for j in range(len(P.x0)):
        w, low, high = at.w[j], P.lb[j], P.ub[j]
        if face.high[j]:
            wrong = high - w
        elif face.low[j]:
            wrong = w - low if low < high else 0.0
        else:
            wrong = max(low - w, w - high)
        if not wrong <= noise * (abs(P.x0[j]) + at.x[j]):
            return False
        at.x[j] = low if face.low[j] else (high if face.high[j] else w)
    # what is left of corrections is rounding of rounding of x0
    long, largest = norm(at.x) + noise * norm(P.x0), 0.0
    for j in range(len(P.x0)):
        at.x[j] = min(max(at.x[j], P.lb[j]), P.ub[j])
    times(M, at.x, at.gradient)
    for i in range(m):
        largest = max(largest, abs(y[i]))
    for i in range(m):
        if not M.equation[i]:
            if at.gradient[i] - P.right[i] > noise * (long + abs(P.right[i])):
                return False
            if y[i] < -noise * largest:
                return False
    for i in range(m):
        if not M.equation[i]:
            y[i] = max(y[i], 0.0)
    return True


@njit(**INNER)
def polished(
    M: Any, F: Any, kept: Any, P: Any, face: Any, limits: Any, passes: int, y: Any, at: Any
) -> Any:
    """`face.polish`: whether the face holds; then y is its multipliers, and x of `at` the answer.

    F is the factor of the face `kept`, and is made anew for another one.
    """
    m = len(y)
    if not same(kept, face):
        weights, shift = np.empty(len(P.x0)), np.full(m, limits.shift)
        for j in range(len(weights)):
            weights[j] = 0.0 if face.low[j] or face.high[j] else 1.0
        factored(M, weights, face.active, shift, F)
        copied(face, kept)
    for i in range(m):
        if not face.active[i]:
            y[i] = 0.0
    resting: bool = corrected(M, F, P, face, limits, passes, y, at)
    return resting and holds(M, P, face, limits, y, at)


@njit(**INNER)
def reached(M: Any, P: Any, y: Any, center: Any, sigma: float, at: Any) -> float:
    """w and x of y into `at`, and the dual's value, less the proximal term."""
    value = 0.0
    put(P.x0, at.w)
    subtracted(M, y, at.w)
    for j in range(len(P.x0)):
        w = at.w[j]
        x = min(max(w, P.lb[j]), P.ub[j])
        value += 0.5 * (x - P.x0[j]) * (x - P.x0[j]) + (P.x0[j] - w) * x
        at.x[j] = x
    away = 0.0
    for i in range(len(y)):
        if y[i] != 0.0:
            value -= y[i] * P.right[i]
        away += (y[i] - center[i]) * (y[i] - center[i])
    return value - away / (2 * sigma)


@njit(**INNER)
def looked(M: Any, P: Any, y: Any, center: Any, sigma: float, at: Any, face: Any) -> float:
    """The gradient into `at`, the face there, and the norm of the gradient's active part."""
    times(M, at.x, at.gradient)
    total = 0.0
    for i in range(len(y)):
        at.gradient[i] -= P.right[i] + (y[i] - center[i]) / sigma
        face.active[i] = M.equation[i] or y[i] > 0 or at.gradient[i] > 0
        if face.active[i]:
            total += at.gradient[i] * at.gradient[i]
    for j in range(len(P.x0)):
        w, low, high = at.w[j], P.lb[j], P.ub[j]
        face.low[j] = w <= low or low == high
        face.high[j] = w >= high and not face.low[j]
    return np.sqrt(total)  # type: ignore[no-any-return]  # numba's types


class Iterate(NamedTuple):
    """Where an interior point stands: x, zl and zu (n,), t and y (m,), and the bounds there are."""

    x: Any
    zl: Any
    zu: Any
    t: Any
    y: Any
    has_low: Any
    has_high: Any
    fixed: Any


class Direction(NamedTuple):
    """A step of each, the gaps to the bounds, 1 where there is none, and the method's weights."""

    dx: Any
    dzl: Any
    dzu: Any
    dt: Any
    dy: Any
    low: Any
    high: Any
    weights: Any
    ratio: Any
    dual: Any
    primal: Any


@njit(**INNER)
def started(M: Any, P: Any, S: Any, gradient: Any) -> float:
    """The first iterate; returns a size of the problem (`interior._scale`)."""
    scale = 0.0
    for i in range(len(P.right)):
        scale = max(scale, abs(P.right[i]))
    for j in range(len(P.x0)):
        low, high = P.lb[j], P.ub[j]
        S.fixed[j] = low == high
        S.has_low[j] = np.isfinite(low) and not S.fixed[j]
        S.has_high[j] = np.isfinite(high) and not S.fixed[j]
        scale = max(scale, abs(P.x0[j]))
        scale = max(scale, abs(low) if np.isfinite(low) else 0.0)
        scale = max(scale, abs(high) if np.isfinite(high) else 0.0)
    scale = scale if scale > 0 else 1.0
    for j in range(len(P.x0)):
        low, high = P.lb[j], P.ub[j]
        both = S.has_low[j] and S.has_high[j]
        room = min(scale, (high - low) / 4) if both else scale
        x = max(P.x0[j], low + room) if S.has_low[j] else P.x0[j]
        x = min(x, high - room) if S.has_high[j] else x
        S.x[j] = low if S.fixed[j] else x
        S.zl[j], S.zu[j] = scale * S.has_low[j], scale * S.has_high[j]
    times(M, S.x, gradient)
    for i in range(len(P.right)):
        equation = M.equation[i]
        S.t[i] = 0.0 if equation else max(P.right[i] - gradient[i], scale)
        S.y[i] = 0.0 if equation else scale
    return scale


@njit(**INNER)
def gaps(M: Any, P: Any, S: Any, D: Any) -> float:
    """The gaps, and the mean of the products that shall vanish."""
    total, count = 0.0, 0
    for j in range(len(P.x0)):
        D.low[j] = S.x[j] - P.lb[j] if S.has_low[j] else 1.0
        D.high[j] = P.ub[j] - S.x[j] if S.has_high[j] else 1.0
        total += D.low[j] * S.zl[j] + D.high[j] * S.zu[j]
        count += S.has_low[j] + S.has_high[j]
    for i in range(len(P.right)):
        if not M.equation[i]:
            total += S.t[i] * S.y[i]
            count += 1
    return total / max(count, 1)


@njit(**INNER)
def remainders(M: Any, P: Any, S: Any, D: Any) -> float:
    """What is left of the dual and the primal equations, into D; the sum of their norms."""
    put(S.x, D.dual)
    for i in range(len(P.right)):
        D.dy[i] = -S.y[i]
    subtracted(M, D.dy, D.dual)
    for j in range(len(P.x0)):
        left = D.dual[j] - P.x0[j] - S.zl[j] + S.zu[j]
        D.dual[j] = 0.0 if S.fixed[j] else left
    times(M, S.x, D.primal)
    for i in range(len(P.right)):
        D.primal[i] += S.t[i] - P.right[i]
    total: float = norm(D.dual) + norm(D.primal)
    return total


@njit(**INNER)
def directed(
    M: Any, F: Any, S: Any, D: Any, centered: bool, target: float, r: Any, q: Any, v: Any
) -> None:
    """`interior._Direction`, of -products, or where `centered` of target - products - their change.

    r (3, m) and q (4, n) are memory, and v (m,).
    """
    n, m = len(S.x), len(S.y)
    put(D.dt, r[0])
    put(D.dy, r[1])
    for j in range(n):
        cl, cu = -D.low[j] * S.zl[j], -D.high[j] * S.zu[j]
        if centered:
            cl, cu = cl + target - D.dx[j] * D.dzl[j], cu + target + D.dx[j] * D.dzu[j]
        cl, cu = cl if S.has_low[j] else 0.0, cu if S.has_high[j] else 0.0
        q[1, j], q[2, j] = cl, cu
        q[0, j] = -D.dual[j] + cl / D.low[j] - cu / D.high[j]
        q[3, j] = D.weights[j] * q[0, j]
    times(M, q[3], v)
    for i in range(m):
        ct = 0.0
        if not M.equation[i]:
            ct = -S.t[i] * S.y[i]
            if centered:
                ct += target - r[0, i] * r[1, i]
            ct /= S.y[i]
        r[0, i] = ct
        r[2, i] = v[i] + D.primal[i] + ct
    solved(M, F, r[2], D.dy)
    for _ in range(2):  # what the shift left
        for j in range(n):
            q[3, j] = 0.0
        subtracted(M, D.dy, q[3])
        for j in range(n):
            q[3, j] *= D.weights[j]
        times(M, q[3], v)
        for i in range(m):
            r[1, i] = r[2, i] + v[i] - D.ratio[i] * D.dy[i]
        solved(M, F, r[1], v)
        for i in range(m):
            D.dy[i] += v[i]
    for j in range(n):
        q[3, j] = q[0, j]
    subtracted(M, D.dy, q[3])
    for j in range(n):
        dx = D.weights[j] * q[3, j]
        D.dx[j] = dx
        D.dzl[j] = (q[1, j] - S.zl[j] * dx) / D.low[j]
        D.dzu[j] = (q[2, j] + S.zu[j] * dx) / D.high[j]
    for i in range(m):
        D.dt[i] = 0.0 if M.equation[i] else r[0, i] - D.ratio[i] * D.dy[i]


@njit(**INNER)
def within(value: float, step: float, length: float) -> float:
    """The length, or the longest step that leaves a value positive."""
    return min(length, -value / step) if step < 0 else length


@njit(**INNER)
def lengths(M: Any, S: Any, D: Any) -> Any:
    """The longest steps, of at most one, of the primal and of the dual part."""
    p, d = 1.0, 1.0
    for j in range(len(S.x)):
        if S.has_low[j]:
            p, d = within(D.low[j], D.dx[j], p), within(S.zl[j], D.dzl[j], d)
        if S.has_high[j]:
            p, d = within(D.high[j], -D.dx[j], p), within(S.zu[j], D.dzu[j], d)
    for i in range(len(S.y)):
        if not M.equation[i]:
            p, d = within(S.t[i], D.dt[i], p), within(S.y[i], D.dy[i], d)
    return p, d


@njit(**INNER)
def centering(M: Any, S: Any, D: Any, mu: float) -> float:
    """The product that a corrected step aims at."""
    p, d = lengths(M, S, D)
    after, count = 0.0, 0
    for j in range(len(S.x)):
        if S.has_low[j]:
            after += (D.low[j] + p * D.dx[j]) * (S.zl[j] + d * D.dzl[j])
            count += 1
        if S.has_high[j]:
            after += (D.high[j] - p * D.dx[j]) * (S.zu[j] + d * D.dzu[j])
            count += 1
    for i in range(len(S.y)):
        if not M.equation[i]:
            after += (S.t[i] + p * D.dt[i]) * (S.y[i] + d * D.dy[i])
            count += 1
    share = after / max(count, 1) / max(mu, 1e-300)
    share = min(max(share, 0.0), 1.0)
    return mu * share * share * share


@njit(**INNER)
def stepped(S: Any, D: Any, length: float) -> bool:
    """A step taken, where it is of numbers."""
    total = 0.0
    for j in range(len(S.x)):
        total += abs(D.dx[j]) + abs(D.dzl[j]) + abs(D.dzu[j])
    for i in range(len(S.y)):
        total += abs(D.dt[i]) + abs(D.dy[i])
    if not np.isfinite(total):
        return False
    for j in range(len(S.x)):
        S.x[j] += length * D.dx[j]
        S.zl[j] += length * D.dzl[j]
        S.zu[j] += length * D.dzu[j]
    for i in range(len(S.y)):
        S.t[i] += length * D.dt[i]
        S.y[i] += length * D.dy[i]
    return True


class Out(NamedTuple):
    """Where x, multipliers and active rows of a vector are, these in the system's order."""

    x: Any
    y: Any
    active: Any
    order: Any
    counts: Any
    """Factorisations, Newton steps and interior steps."""


@njit(**INNER)
def written(out: Any, x: Any, y: Any, active: Any) -> None:
    """An answer, or where a search ended."""
    put(x, out.x)
    for i in range(len(y)):
        out.y[out.order[i]], out.active[out.order[i]] = y[i], active[i]


@njit(**INNER)
def rows_at(t: Any) -> Any:
    """The rows at these addresses, the factor of the face that was tried last, and that face."""
    m, n, nnz, held, entries = t[0], t[1], t[2], t[3], t[4]
    M = Matrix(
        carray(pointer(t[10]), m + 1, np.int32),
        carray(pointer(t[11]), nnz, np.int32),
        carray(pointer(t[12]), nnz, np.float64),
        carray(pointer(t[13]), n + 1, np.int32),
        carray(pointer(t[14]), nnz, np.int32),
        carray(pointer(t[15]), nnz, np.float64),
        carray(pointer(t[16]), m, np.bool_),
        carray(pointer(t[17]), m + 1, np.int32),
        carray(pointer(t[18]), entries, np.int32),
        carray(pointer(t[19]), m, np.int32),
        carray(pointer(t[20]), m, np.int64),
        carray(pointer(t[21]), m + 1, np.int64),
        t[5] != 0,
    )
    factor = Factor(
        carray(pointer(t[22]), held, np.int32),
        carray(pointer(t[23]), held, np.float64),
        carray(pointer(t[24]), m, np.float64),
        np.empty(entries),
        np.zeros(m),
    )
    kept = Sides(
        carray(pointer(t[25]), n, np.bool_),
        carray(pointer(t[26]), n, np.bool_),
        carray(pointer(t[27]), m, np.bool_),
    )
    return M, factor, kept


@njit(**INNER)
def problem_at(t: Any) -> Any:
    """The vector, its multipliers and its face, with rows in the order they have here."""
    m, n = t[0], t[1]
    order, counts = carray(pointer(t[28]), m, np.int64), carray(pointer(t[9]), 3, np.int64)
    right, y, active = np.empty(m), np.empty(m), np.empty(m, np.bool_)
    out = Out(
        carray(pointer(t[31]), n, np.float64),
        carray(pointer(t[33]), m, np.float64),
        carray(pointer(t[38]), m, np.bool_),
        order,
        counts,
    )
    given = carray(pointer(t[32]), m, np.float64)
    for i in range(m):
        right[i], y[i], active[i] = given[order[i]], out.y[order[i]], out.active[order[i]]
    P = Problem(
        carray(pointer(t[30]), n, np.float64),
        right,
        carray(pointer(t[34]), n, np.float64),
        carray(pointer(t[35]), n, np.float64),
    )
    face = Sides(carray(pointer(t[36]), n, np.bool_), carray(pointer(t[37]), n, np.bool_), active)
    return P, y, face, out


@njit(**INNER)
def limits_at(t: Any) -> Any:
    """The thresholds."""
    s = carray(pointer(t[29]), 13, np.float64)
    return Limits(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12])


@njit(**OPTIONS)
def by_newton(plan: int) -> int:
    """`search._State`, step by step, of what `faces.Faces` put at the address.

    1 where a face holds, whose projection is written then; else 0, and written is where the search
    ended. If asked to it tries the face first that is there; after no steps nothing is written.
    """
    t = carray(pointer(plan), SLOTS, np.int64)
    m, n, steps, passes = t[0], t[1], t[6], t[7]
    M, F, kept = rows_at(t)
    P, y, face, out = problem_at(t)
    limits, close = limits_at(t), np.empty(m)
    at = Place(np.empty(n), np.empty(n), np.empty(m))
    other = Place(np.empty(n), np.empty(n), np.empty(m))
    put(y, close)
    if t[8] != 0:
        out.counts[0] += 1
        if polished(M, F, kept, P, face, limits, passes, close, other):
            written(out, other.x, close, face.active)
            return 1
    if steps == 0:
        return 0
    own = Factor(F.Li, np.empty(len(F.Lx)), np.empty(m), F.G, F.line)
    seen = Sides(np.ones(n, np.bool_), np.ones(n, np.bool_), np.ones(m, np.bool_))
    tried = Sides(np.ones(n, np.bool_), np.ones(n, np.bool_), np.ones(m, np.bool_))
    weights, shift = np.empty(n), np.empty(m)
    center, direction, trial = y.copy(), np.empty(m), np.empty(m)
    sigma, stuck, right = limits.first, False, norm(P.right)
    value = reached(M, P, y, center, sigma, at)
    for _ in range(steps):
        out.counts[1] += 1
        total = looked(M, P, y, center, sigma, at, face)
        moved = 0.0
        for i in range(m):
            moved += (y[i] - center[i]) * (y[i] - center[i])
        moved = np.sqrt(moved) / sigma
        inner = (
            total <= limits.loose * moved or total <= limits.noise * (norm(at.x) + right) or stuck
        )
        due = (inner or same(face, seen)) and not same(face, tried)
        copied(face, seen)
        if due:
            out.counts[0] += 1
            put(y, close)
            if polished(M, F, kept, P, face, limits, passes, close, other):
                written(out, other.x, close, face.active)
                return 1
            copied(face, tried)
        if inner:
            put(y, center)
            sigma = min(sigma * limits.growth, limits.largest)
            value = reached(M, P, y, center, sigma, at)
            looked(M, P, y, center, sigma, at, face)
        for j in range(n):
            weights[j] = 0.0 if face.low[j] or face.high[j] else 1.0
        for i in range(m):
            shift[i] = 1 / sigma
            trial[i] = at.gradient[i] if face.active[i] else 0.0
        factored(M, weights, face.active, shift, own)
        out.counts[0] += 1
        solved(M, own, trial, direction)
        length, stuck = 1.0, True
        for _ in range(30):
            gain = 0.0
            for i in range(m):
                trial[i] = y[i] + length * direction[i]
                if not M.equation[i]:
                    trial[i] = max(trial[i], 0.0)
                if trial[i] != y[i]:
                    gain += (trial[i] - y[i]) * at.gradient[i]
            there = reached(M, P, trial, center, sigma, other)
            if there >= value + 1e-4 * gain - 4 * limits.u * abs(value):
                put(trial, y)
                put(other.w, at.w)
                put(other.x, at.x)
                value, stuck = there, False
                break
            length /= 2
    looked(M, P, y, center, sigma, at, face)
    written(out, at.x, y, face.active)
    return 0


@njit(**OPTIONS)
def by_interior(plan: int) -> int:
    """`search.Search._interior`, as `by_newton`.

    2 where it ended on a face that is still to be polished by a factorisation that decides the
    rank.
    """
    t = carray(pointer(plan), SLOTS, np.int64)
    m, n, steps, passes = t[0], t[1], t[6], t[7]
    M, F, kept = rows_at(t)
    P, _, face, out = problem_at(t)
    limits, at = limits_at(t), Place(np.empty(n), np.empty(n), np.empty(m))
    own = Factor(F.Li, np.empty(len(F.Lx)), np.empty(m), F.G, F.line)
    wide, tall = np.empty((9, n)), np.empty((6, m))
    S = Iterate(
        wide[0], wide[1], wide[2], tall[0], tall[1],
        np.empty(n, np.bool_), np.empty(n, np.bool_), np.empty(n, np.bool_),
    )  # fmt: skip
    D = Direction(
        wide[3], wide[4], wide[5], tall[2], tall[3], wide[6], wide[7], wide[8], tall[4],
        np.empty(n), tall[5],
    )  # fmt: skip
    r, q, v, shift = np.empty((3, m)), np.empty((4, n)), np.empty(m), np.empty(m)
    every, close = np.ones(m, np.bool_), np.empty(m)
    seen = Sides(np.ones(n, np.bool_), np.ones(n, np.bool_), np.ones(m, np.bool_))
    tried = Sides(np.ones(n, np.bool_), np.ones(n, np.bool_), np.ones(m, np.bool_))
    scale, insist = started(M, P, S, at.gradient), False
    mu = gaps(M, P, S, D)
    remainders(M, P, S, D)
    for _ in range(steps):
        out.counts[0] += 1
        out.counts[2] += 1
        for j in range(n):
            weight = 1.0 / (1.0 + S.zl[j] / D.low[j] + S.zu[j] / D.high[j])
            D.weights[j] = 0.0 if S.fixed[j] else weight
        for i in range(m):
            D.ratio[i] = 0.0 if M.equation[i] else min(S.t[i] / S.y[i], limits.ratio)
            shift[i] = D.ratio[i] + limits.gram
        factored(M, D.weights, every, shift, own)
        for centered in (False, True):
            target = centering(M, S, D, mu) if centered else 0.0
            directed(M, own, S, D, centered, target, r, q, v)
        p, d = lengths(M, S, D)
        broken = not stepped(S, D, limits.boundary * min(p, d))
        mu = gaps(M, P, S, D)
        for j in range(n):
            face.low[j] = (S.has_low[j] and S.zl[j] > D.low[j]) or S.fixed[j]
            face.high[j] = S.has_high[j] and S.zu[j] > D.high[j] and not face.low[j]
        for i in range(m):
            face.active[i] = M.equation[i] or S.y[i] > S.t[i]
        ended = broken or not mu > (limits.u * scale) * (limits.u * scale)
        rest = remainders(M, P, S, D)
        near = rest <= limits.close * scale and mu <= limits.close * scale * scale
        due = (ended or same(face, seen)) and near and not same(face, tried)
        copied(face, seen)
        if due:
            out.counts[0] += 1
            put(S.y, close)
            if polished(M, F, kept, P, face, limits, passes, close, at):
                written(out, at.x, close, face.active)
                return 1
            copied(face, tried)
            insist = ended
        if ended:
            break
    for j in range(n):
        at.x[j] = min(max(S.x[j], P.lb[j]), P.ub[j])
    written(out, at.x, S.y, face.active)
    return 2 if insist else 0


class Kernels(NamedTuple):
    """What is compiled for float64, each at its first call."""

    by_newton: Any
    by_interior: Any


float64 = Kernels(by_newton, by_interior)
