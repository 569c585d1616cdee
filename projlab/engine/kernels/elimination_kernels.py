"""The kernels of `projlab.engine.kernels.elimination`, compiled by numba when this is imported.

L D L' of a symmetric matrix, row by row: row k of L solves a triangular system with the rows
before it, whose nonzeros are the paths from the entries of row k to k in the elimination tree
(Davis, "Algorithm 849: a concise sparse Cholesky factorization package", ACM Trans. Math. Software
31 (2005)). Columns of L that lie under each other, a parent and its only difference the row of its
child, are taken four or two at a time: their rows are read once (supernodes; Ashcraft and Grimes,
ACM Trans. Math. Software 15 (1989)).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]  # exported at run time

from projlab.engine.kernels.numba_kernels import OPTIONS, pointer


@njit(**OPTIONS)
def symbolic(first: Any, rows: Any, most: int, parent: Any, count: Any) -> int:
    """Elimination tree and entries of each column of L below the diagonal; their sum, or -1.

    Of a symmetric matrix by columns (`first`, `rows`). It ends with -1 where there are more than
    `most`.
    """
    m = len(parent)
    seen = np.full(m, -1, np.int32)
    total = 0
    for k in range(m):
        parent[k], count[k], seen[k] = -1, 0, k
        for p in range(first[k], first[k + 1]):
            i = rows[p]
            if i < k:
                while seen[i] != k:
                    if parent[i] == -1:
                        parent[i] = k
                    count[i] += 1
                    total += 1
                    seen[i] = k
                    i = parent[i]
        if total > most:
            return -1
    return total


@njit(**OPTIONS)
def transposed(first: Any, cols: Any, values: Any, back: Any, rows: Any, entries: Any) -> None:
    """Compressed rows of the transpose, sorted, into the last three; `back` (n + 1,) is zeros."""
    m, n = len(first) - 1, len(back) - 1
    for p in range(first[m]):
        back[cols[p]] += 1
    start = 0
    for j in range(n):
        start, back[j] = start + back[j], start
    for i in range(m):
        for p in range(first[i], first[i + 1]):
            q = back[cols[p]]
            rows[q], entries[q] = i, values[p]
            back[cols[p]] = q + 1
    for j in range(n, 0, -1):
        back[j] = back[j - 1]
    back[0] = 0


@njit(**OPTIONS)
def gram_entries(first: Any, cols: Any, back: Any, rows: Any) -> int:
    """How many entries E E' has, its diagonal included, of compressed rows of E and of E'."""
    m, total = len(first) - 1, 0
    seen = np.full(m, -1, np.int32)
    for i in range(m):
        seen[i] = i
        total += 1
        for p in range(first[i], first[i + 1]):
            for q in range(back[cols[p]], back[cols[p] + 1]):
                if seen[rows[q]] != i:
                    seen[rows[q]] = i
                    total += 1
    return total


@njit(**OPTIONS)
def gram(
    first: Any,
    cols: Any,
    values: Any,
    back: Any,
    rows: Any,
    entries: Any,
    shift: float,
    g_first: Any,
    g_rows: Any,
    g_values: Any,
) -> None:
    """E E' + shift I by columns, the diagonal first in each (Gustavson, ACM TOMS 4 (1978))."""
    m, end = len(first) - 1, 0
    place = np.full(m, -1, np.int64)
    for i in range(m):
        begin = end
        g_first[i], place[i] = begin, begin
        g_rows[begin], g_values[begin] = i, shift
        end += 1
        for p in range(first[i], first[i + 1]):
            a = values[p]
            for q in range(back[cols[p]], back[cols[p] + 1]):
                k = rows[q]
                at = place[k]
                if at < begin:
                    place[k], g_rows[end], g_values[end] = end, k, a * entries[q]
                    end += 1
                else:
                    g_values[at] += a * entries[q]
    g_first[m] = end


@njit(**OPTIONS)
def permuted(
    first: Any, rows: Any, values: Any, order: Any, p_first: Any, p_rows: Any, p_values: Any
) -> None:
    """Row and column order[k] of a square matrix as row and column k."""
    m, end = len(order), 0
    place = np.empty(m, np.int32)
    for k in range(m):
        place[order[k]] = k
    for k in range(m):
        p_first[k] = end
        for p in range(first[order[k]], first[order[k] + 1]):
            p_rows[end], p_values[end] = place[rows[p]], values[p]
            end += 1
    p_first[m] = end


@njit(**OPTIONS)
def selected(
    first: Any, cols: Any, values: Any, order: Any, s_first: Any, s_cols: Any, s_values: Any
) -> None:
    """Compressed rows in another order."""
    end = 0
    for k in range(len(order)):
        s_first[k] = end
        for p in range(first[order[k]], first[order[k] + 1]):
            s_cols[end], s_values[end] = cols[p], values[p]
            end += 1
    s_first[len(order)] = end


@njit(**OPTIONS)
def widths(parent: Any, count: Any, width: Any) -> None:
    """How many columns are taken together, written at each of them: 4, 2 or 1."""
    m, j = len(count), 0
    while j < m:
        n = 1
        while (
            n < 4
            and j + n < m
            and parent[j + n - 1] == j + n
            and count[j + n - 1] == count[j + n] + 1
        ):
            n += 1
        n = 2 if n == 3 else n
        width[j : j + n] = n
        j += n


@njit(**OPTIONS)
def numeric(
    first: Any,
    rows: Any,
    values: Any,
    parent: Any,
    width: Any,
    Lp: Any,
    Li: Any,
    Lx: Any,
    D: Any,
) -> int:
    """L and D of the matrix by columns; -1, or the row whose pivot is zero or no number."""
    m = len(D)
    y = np.zeros(m)
    path, pattern = np.empty(m, np.int32), np.empty(m, np.int32)
    seen, held = np.full(m, -1, np.int32), np.zeros(m, np.int64)
    for k in range(m):
        top = m
        seen[k] = k
        for p in range(first[k], first[k + 1]):
            i = rows[p]
            if i <= k:
                y[i] += values[p]
                n = 0
                while seen[i] != k:
                    path[n] = i
                    n += 1
                    seen[i] = k
                    i = parent[i]
                while n > 0:
                    top -= 1
                    n -= 1
                    pattern[top] = path[n]
        d = y[k]
        y[k] = 0.0
        s = top
        while s < m:
            i = pattern[s]
            n = held[i]
            # the four stand one after another, and have met the same rows so far
            if (
                width[i] == 4
                and s + 3 < m
                and pattern[s + 1] == i + 1
                and pattern[s + 2] == i + 2
                and pattern[s + 3] == i + 3
                and n == held[i + 3] + 3
            ):
                p, q, r, t = Lp[i], Lp[i + 1], Lp[i + 2], Lp[i + 3]
                a = y[i]
                b = y[i + 1] - Lx[p] * a
                c = y[i + 2] - Lx[p + 1] * a - Lx[q] * b
                e = y[i + 3] - Lx[p + 2] * a - Lx[q + 1] * b - Lx[r] * c
                y[i], y[i + 1], y[i + 2], y[i + 3] = 0.0, 0.0, 0.0, 0.0
                p, q, r, n = p + 3, q + 2, r + 1, n - 3
                for o in range(n):
                    y[Li[t + o]] -= (Lx[p + o] * a + Lx[q + o] * b) + (
                        Lx[r + o] * c + Lx[t + o] * e
                    )
                d -= _kept(p + n, k, a, D[i], Li, Lx)
                d -= _kept(q + n, k, b, D[i + 1], Li, Lx)
                d -= _kept(r + n, k, c, D[i + 2], Li, Lx)
                d -= _kept(t + n, k, e, D[i + 3], Li, Lx)
                for j in range(i, i + 4):
                    held[j] += 1
                s += 4
                continue
            a = y[i]
            y[i] = 0.0
            p = Lp[i]
            for o in range(p, p + n):
                y[Li[o]] -= Lx[o] * a
            d -= _kept(p + n, k, a, D[i], Li, Lx)
            held[i] += 1
            s += 1
        D[k] = d
        if d == 0.0 or not np.isfinite(d):
            return k
    return -1


@njit(**OPTIONS)
def _kept(p: int, k: int, a: float, d: float, Li: Any, Lx: Any) -> float:
    """Write an entry of row k of L, and return what it takes from the pivot."""
    entry = a / d
    Li[p], Lx[p] = k, entry
    return entry * a


@njit(**OPTIONS)
def solve(Lp: Any, Li: Any, Lx: Any, D: Any, width: Any, x: Any) -> None:
    """L D L' y = x, in place."""
    m = len(D)
    j = 0
    while j < m:
        n = width[j]
        a = x[j]
        if n == 4:
            p, q, r, s = Lp[j], Lp[j + 1], Lp[j + 2], Lp[j + 3]
            b = x[j + 1] - Lx[p] * a
            c = x[j + 2] - Lx[p + 1] * a - Lx[q] * b
            d = x[j + 3] - Lx[p + 2] * a - Lx[q + 1] * b - Lx[r] * c
            x[j + 1], x[j + 2], x[j + 3] = b, c, d
            p, q, r = p + 3, q + 2, r + 1
            for o in range(Lp[j + 4] - s):
                x[Li[s + o]] -= (Lx[p + o] * a + Lx[q + o] * b) + (Lx[r + o] * c + Lx[s + o] * d)
        elif n == 2:
            p, q = Lp[j], Lp[j + 1]
            b = x[j + 1] - Lx[p] * a
            x[j + 1] = b
            p += 1
            for o in range(Lp[j + 2] - q):
                x[Li[q + o]] -= Lx[p + o] * a + Lx[q + o] * b
        else:
            for p in range(Lp[j], Lp[j + 1]):
                x[Li[p]] -= Lx[p] * a
        j += n
    while j > 0:
        n = width[j - 1]
        j -= n
        a = x[j] / D[j]
        if n == 4:
            p, q, r, s = Lp[j] + 3, Lp[j + 1] + 2, Lp[j + 2] + 1, Lp[j + 3]
            b, c, d = x[j + 1] / D[j + 1], x[j + 2] / D[j + 2], x[j + 3] / D[j + 3]
            for o in range(Lp[j + 4] - s):
                v = x[Li[s + o]]
                a -= Lx[p + o] * v
                b -= Lx[q + o] * v
                c -= Lx[r + o] * v
                d -= Lx[s + o] * v
            c -= Lx[r - 1] * d
            b -= Lx[q - 2] * c + Lx[q - 1] * d
            a -= Lx[p - 3] * b + Lx[p - 2] * c + Lx[p - 1] * d
            x[j + 1], x[j + 2], x[j + 3] = b, c, d
        elif n == 2:
            p, q = Lp[j] + 1, Lp[j + 1]
            b = x[j + 1] / D[j + 1]
            for o in range(Lp[j + 2] - q):
                v = x[Li[q + o]]
                a -= Lx[p + o] * v
                b -= Lx[q + o] * v
            a -= Lx[p - 1] * b
            x[j + 1] = b
        else:
            for p in range(Lp[j], Lp[j + 1]):
                a -= Lx[p] * x[Li[p]]
        x[j] = a


@njit(**OPTIONS)
def solve_four(Lp: Any, Li: Any, Lx: Any, D: Any, x: Any) -> None:
    """`solve` for the four columns of x (m, 4): L is read once for them."""
    m = len(D)
    for j in range(m):
        a, b, c, d = x[j, 0], x[j, 1], x[j, 2], x[j, 3]
        for p in range(Lp[j], Lp[j + 1]):
            i, v = Li[p], Lx[p]
            x[i, 0] -= v * a
            x[i, 1] -= v * b
            x[i, 2] -= v * c
            x[i, 3] -= v * d
    for j in range(m - 1, -1, -1):
        e = D[j]
        a, b, c, d = x[j, 0] / e, x[j, 1] / e, x[j, 2] / e, x[j, 3] / e
        for p in range(Lp[j], Lp[j + 1]):
            i, v = Li[p], Lx[p]
            a -= v * x[i, 0]
            b -= v * x[i, 1]
            c -= v * x[i, 2]
            d -= v * x[i, 3]
        x[j, 0], x[j, 1], x[j, 2], x[j, 3] = a, b, c, d


@njit(**OPTIONS)
def solve_all(Lp: Any, Li: Any, Lx: Any, D: Any, width: Any, x: Any) -> None:
    """`solve` for each row of x (k, m), in place."""
    m, j = len(D), 0
    together = np.empty((m if len(x) >= 4 else 0, 4))
    while j + 4 <= len(x):
        for i in range(m):
            for o in range(4):
                together[i, o] = x[j + o, i]
        solve_four(Lp, Li, Lx, D, together)
        for i in range(m):
            for o in range(4):
                x[j + o, i] = together[i, o]
        j += 4
    while j < len(x):
        solve(Lp, Li, Lx, D, width, x[j])
        j += 1


@njit(**OPTIONS)
def project(x: int, k: int, plan: int) -> None:
    """x -= E'(L D L')^-1 (E x + c) `passes` times, for k vectors at x; what is solved for adds up.

    At the other address is what `elimination.Projection` put there: E by rows, the factor, c (0 for
    none; the part for vector j begins at j * step), the sums (0 for none), and the sizes.
    """
    t = carray(pointer(plan), 16, np.int64)
    m, n, entries, held, passes, step = t[10], t[11], t[12], t[13], t[14], t[15]
    first, cols = carray(pointer(t[0]), m + 1, np.int32), carray(pointer(t[1]), entries, np.int32)
    values = carray(pointer(t[2]), entries, np.float64)
    Lp, Li = carray(pointer(t[3]), m + 1, np.int64), carray(pointer(t[4]), held, np.int32)
    Lx, D = carray(pointer(t[5]), held, np.float64), carray(pointer(t[6]), m, np.float64)
    width = carray(pointer(t[7]), m, np.int64)
    X = carray(pointer(x), (k, n), np.float64)
    y = np.empty(m)
    for i in range(k):
        v = X[i]
        c = carray(pointer(t[8]), (i * step + m) * (t[8] != 0), np.float64)
        total = carray(pointer(t[9]), (k * m) * (t[9] != 0), np.float64)
        for done in range(passes):
            for j in range(m):
                a = 0.0
                for p in range(first[j], first[j + 1]):
                    a += values[p] * v[cols[p]]
                y[j] = a
            if t[8] != 0:
                for j in range(m):
                    y[j] += c[i * step + j]
            solve(Lp, Li, Lx, D, width, y)
            for j in range(m):
                a = y[j]
                for p in range(first[j], first[j + 1]):
                    v[cols[p]] -= values[p] * a
            if t[9] != 0:
                for j in range(m):
                    total[i * m + j] = y[j] + (total[i * m + j] if done else 0.0)


@njit(**OPTIONS)
def opened(
    first: Any, cols: Any, values: Any, X: Any, lengths: Any, sizes: Any, norms: Any
) -> None:
    """Of random vectors, the rows of X but the last: their lengths, and |E| |x| row by row.

    And the norms of E's rows.
    """
    m, k = len(first) - 1, len(X) - 1
    for v in range(k):
        lengths[v] = _norm(X[v])
    for i in range(m):
        norms[i] = _norm(values[first[i] : first[i + 1]])
        for v in range(k):
            x, a = X[v], 0.0
            for p in range(first[i], first[i + 1]):
                a += abs(values[p] * x[cols[p]])
            sizes[v, i] = a


@njit(**OPTIONS)
def _norm(v: Any) -> float:
    a = 0.0
    for j in range(len(v)):
        a += v[j] * v[j]
    return math.sqrt(a)


@njit(**OPTIONS)
def _larger(a: float, b: float) -> float:
    """The maximum, NaN where either is."""
    return a if a > b or a != a else b  # the test for NaN


@njit(**OPTIONS)
def measured(
    E: Any, factor: Any, X: Any, f: Any, known: Any, step: Any, tiny: float
) -> tuple[float, float, float, float, int]:
    """The next step of X, and what it comes to: see `projlab.engine.corrections.Measured`.

    `E` has its rows' beginnings, columns and values, `factor` what `solve_all` takes, `known` what
    `opened` found.
    """
    first, cols, values = E
    Lp, Li, Lx, D, width = factor
    lengths, sizes, norms = known
    (k, n), m = X.shape, len(f)
    R = np.empty((k, m))
    size, left, off, worst = _norm(X[k - 1]), 0.0, 0.0, 0
    for i in range(m):
        for v in range(k):
            x, a = X[v], 0.0
            for p in range(first[i], first[i + 1]):
                a += values[p] * x[cols[p]]
            R[v, i] = a
            if v < k - 1:
                left = _larger(abs(a) / max(sizes[v, i], tiny), left)
        a = R[k - 1, i] - f[i]
        R[k - 1, i] = a
        here = _larger(abs(a) / max(norms[i] * size + abs(f[i]), tiny), off)
        if here != off and off == off:  # as above
            off, worst = here, i
    solve_all(Lp, Li, Lx, D, width, R)
    step[:] = 0.0
    for i in range(m):
        for v in range(k):
            y, a = step[v], R[v, i]
            for p in range(first[i], first[i + 1]):
                y[cols[p]] += values[p] * a
    moved, last = 0.0, 0.0
    for v in range(k - 1):
        moved = _larger(_norm(step[v]) / max(lengths[v], tiny), moved)
    for j in range(n):
        a = X[k - 1, j] - step[k - 1, j]
        last += a * a
    drift = _norm(step[k - 1]) / max(math.sqrt(last), tiny)
    return moved, drift, left, off, worst


class Kernels(NamedTuple):
    """What is compiled for float64."""

    transposed: Any
    gram_entries: Any
    gram: Any
    permuted: Any
    selected: Any
    symbolic: Any
    widths: Any
    numeric: Any
    solve_all: Any
    project: Any
    opened: Any
    measured: Any


float64 = Kernels(
    transposed,
    gram_entries,
    gram,
    permuted,
    selected,
    symbolic,
    widths,
    numeric,
    solve_all,
    project,
    opened,
    measured,
)
