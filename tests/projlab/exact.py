"""The exact answers: rational arithmetic on floats taken as the rationals they are.

Nothing here uses projlab. Vectors are lists of `fmpq`, sizes are those of a test.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from flint import fmpq, fmpq_mat

Vector = list[fmpq]


def rational(value: float) -> fmpq:
    return fmpq(*float(value).as_integer_ratio())


def vector(values: Any) -> Vector:
    """Of a one-dimensional tensor, array or list."""
    return [rational(v) for v in getattr(values, "tolist", lambda: values)()]


def matrix(values: Any) -> fmpq_mat:
    """Of a two-dimensional tensor, array or list."""
    rows = [vector(row) for row in values]
    width = len(rows[0]) if rows else len(values[0:1].T)
    return fmpq_mat(len(rows), width, [entry for row in rows for entry in row])


def times(M: fmpq_mat, v: Sequence[fmpq]) -> Vector:
    return (M * fmpq_mat(len(v), 1, list(v))).entries()


def solve(M: fmpq_mat, v: Sequence[fmpq]) -> Vector:
    return M.solve(fmpq_mat(len(v), 1, list(v))).entries()


def subtract(left: Sequence[fmpq], right: Sequence[fmpq]) -> Vector:
    return [p - q for p, q in zip(left, right, strict=True)]


def select(M: fmpq_mat, rows: Sequence[int]) -> fmpq_mat:
    n = M.ncols()
    return fmpq_mat(len(rows), n, [M[i, j] for i in rows for j in range(n)])


def independent_rows(M: fmpq_mat) -> list[int]:
    """The first maximal set of linearly independent rows."""
    if not M.nrows() or not M.ncols():
        return []
    reduced, rank = M.transpose().rref()
    return [next(j for j in range(M.nrows()) if reduced[i, j] != 0) for i in range(rank)]


def rank(M: fmpq_mat) -> int:
    return len(independent_rows(M))


def projection(
    A: fmpq_mat, b: Sequence[fmpq], x0: Sequence[fmpq], W: fmpq_mat | None = None
) -> Vector:
    """argmin (x - x0)' W (x - x0) over the least-squares solutions of A x = b, W the identity by
    default; these are the solutions where A x = b has any."""
    kept = independent_rows(A)
    if not kept:
        return list(x0)
    K = select(A, kept)
    # A = C K, and the least-squares solutions are those of K x = z for the z nearest to b
    C = A * K.transpose() * (K * K.transpose()).inv()
    z = solve(C.transpose() * C, times(C.transpose(), b))
    raised = K.transpose() if W is None else W.solve(K.transpose())
    y = solve(K * raised, subtract(times(K, x0), z))
    return subtract(x0, times(raised, y))


def multipliers(
    A: fmpq_mat, b: Sequence[fmpq], x0: Sequence[fmpq], W: fmpq_mat | None = None
) -> Vector:
    """y of the system (A W^-1 A') y = A x0 - b; A of full row rank."""
    raised = A.transpose() if W is None else W.solve(A.transpose())
    return solve(A * raised, subtract(times(A, x0), b))


def root(square: fmpq) -> float:
    """The square root of a rational, which may be far beyond the range of floats."""
    if square == 0:
        return 0.0
    p, q = int(square.p), int(square.q)
    half = (p.bit_length() - q.bit_length()) // 2
    scaled = square / fmpq(4) ** half
    return math.ldexp(math.sqrt(int(scaled.p) / int(scaled.q)), half)


def norm(v: Iterable[fmpq]) -> float:
    return root(sum((c * c for c in v), fmpq(0)))


def distance(x: Any, exact: Sequence[fmpq]) -> float:
    """||x - exact|| of a computed x; infinite where x is not finite."""
    values = x.tolist()
    if not all(math.isfinite(v) for v in values):
        return math.inf
    return norm(subtract(vector(values), exact))


def feasibility(A: Any, b: Any, x0: Any, x: Any) -> float:
    """max_i |A x - b|_i / (||a_i|| (||x|| + ||x0||) + |b_i|), what `feasibility_bound` bounds."""
    point, right = vector(x), vector(b)
    size = rational(norm(point)) + rational(norm(vector(x0)))
    worst = 0.0
    for i, row in enumerate(A):
        a = vector(row)
        residual = abs(sum((p * q for p, q in zip(a, point, strict=True)), -right[i]))
        scale = rational(norm(a)) * size + abs(right[i])
        worst = max(worst, float(residual / scale) if scale != 0 else float(residual != 0))
    return worst
