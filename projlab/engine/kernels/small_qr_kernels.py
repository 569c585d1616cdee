"""Setting up a small dense system in one call, compiled by numba when this module is imported.

Each rule stands in torch's operators too, which the tests hold this to: `equilibrate`,
`DenseRows.disjoint`, `householder` and `condition_bound`.

Reference: Golub and Van Loan, "Matrix Computations", 4th ed., algorithms 5.1.1 and 5.2.1, and
section 5.1.6 (the orthogonal factor from the last reflection to the first).
"""

import math
from typing import Any

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]  # exported at run time

from projlab.engine.kernels.numba_kernels import OPTIONS, pointer
from projlab.engine.kernels.triangle_kernels import solve


@njit(**OPTIONS)
def reflection(v: Any, k: int) -> float:
    """Replace v[k:] by beta and the rest of the vector u of I - tau u u', u[k] = 1; returns tau."""
    rest = 0.0
    for j in range(k + 1, len(v)):
        rest += v[j] * v[j]
    if rest == 0.0:
        return 0.0
    first = v[k]
    beta = -math.copysign(math.sqrt(first * first + rest), first)
    factor = 1.0 / (first - beta)
    for j in range(k + 1, len(v)):
        v[j] *= factor
    v[k] = beta
    return (beta - first) / beta  # type: ignore[no-any-return]  # numba's types


@njit(**OPTIONS)
def reflect(V: Any, k: int, i: int, tau: float) -> None:
    """Rows i and below by the reflection that row k holds: four at a time, which share it."""
    m, n = V.shape
    u = V[k, k + 1 :]
    while i + 4 <= m:
        p, q, r, s = V[i, k + 1 :], V[i + 1, k + 1 :], V[i + 2, k + 1 :], V[i + 3, k + 1 :]
        a, b, d, e = V[i, k], V[i + 1, k], V[i + 2, k], V[i + 3, k]
        for j in range(n - k - 1):
            uj = u[j]
            a += uj * p[j]
            b += uj * q[j]
            d += uj * r[j]
            e += uj * s[j]
        a, b, d, e = tau * a, tau * b, tau * d, tau * e
        for j in range(n - k - 1):
            uj = u[j]
            p[j] -= a * uj
            q[j] -= b * uj
            r[j] -= d * uj
            s[j] -= e * uj
        V[i, k] -= a
        V[i + 1, k] -= b
        V[i + 2, k] -= d
        V[i + 3, k] -= e
        i += 4
    while i < m:
        p = V[i, k + 1 :]
        a = V[i, k]
        for j in range(n - k - 1):
            a += u[j] * p[j]
        a *= tau
        for j in range(n - k - 1):
            p[j] -= a * u[j]
        V[i, k] -= a
        i += 1


@njit(**OPTIONS)
def shares(A: Any, kept: Any) -> bool:
    """Whether two of the rows with these numbers share a column."""
    for j in range(A.shape[1]):
        nonzero = 0
        for i in kept:
            nonzero += A[i, j] != 0
        if nonzero > 1:
            return True
    return False


@njit(**OPTIONS)
def scaled(A: Any, b: Any, V: Any, D: Any, f: Any, low: float, high: float) -> bool:
    """E = D A into V, D, and f = D b; whether norms were in the range of safe squares, f finite.

    A row of zeros is its own E.
    """
    m, n = A.shape
    for i in range(m):
        square = 0.0
        for j in range(n):
            square += float(A[i, j]) * float(A[i, j])
        norm = math.sqrt(square)
        if square == 0.0 and not A[i].any():
            norm = 1.0
        if not (low < norm and norm < high):
            return False
        mantissa, exponent = math.frexp(norm)
        factor = math.ldexp(1.0, -(exponent - (mantissa < math.sqrt(0.5))))
        D[i] = factor
        for j in range(n):
            V[i, j] = A.dtype.type(A[i, j] * factor)
        f[i] = A.dtype.type(b[i] * factor)
        if not math.isfinite(f[i]):
            return False
    return True


@njit(**OPTIONS)
def bounded(V: Any, X: Any) -> float:
    """The bound on kappa of R (r, r), whose transpose is V's lower triangle; its inverse into X."""
    square, inverted = 0.0, 0.0
    for i in range(len(X)):
        x = X[i]
        for k in range(i + 1):
            square += V[i, k] * V[i, k]
        x[i] = 1.0 / V[i, i]
        inverted += x[i] * x[i]
        for k in range(i - 1, -1, -1):
            total = 0.0
            for j in range(k + 1, i + 1):
                total += V[j, k] * x[j]
            x[k] = -total / V[k, k]
            inverted += x[k] * x[k]
    return math.sqrt(square) * math.sqrt(inverted)


@njit(**OPTIONS)
def reflected(V: Any, tau: Any, kept: Any, near: float) -> int:
    """Reflect rows one after the other; how many are kept, their numbers, and V's first rows.

    Left out is a row as near to the span of those before as `near`, squared, times the longest.
    """
    m, n = V.shape
    longest, r = 0.0, 0
    if near > 0.0:
        for i in range(m):
            longest = max(longest, squared(V[i], 0))
    for i in range(m):
        if near > 0.0 and (r == n or squared(V[i], r) <= near * longest):
            continue
        if r < i:
            for j in range(n):
                V[r, j] = V[i, j]
        kept[r] = i
        tau[r] = reflection(V[r], r)
        reflect(V, r, i + 1, tau[r])
        r += 1
    return r


@njit(**OPTIONS)
def squared(v: Any, k: int) -> float:
    """||v[k:]||^2."""
    total = 0.0
    for j in range(k, len(v)):
        total += v[j] * v[j]
    return total


@njit(**OPTIONS)
def factored(
    A: Any, b: Any, W: Any, R: Any, c: Any, D: Any, kept: Any, limits: Any
) -> tuple[int, float]:
    """W (r, n), R (r, r) and c of a `QRFactor` of r rows, for D b; r, and the bound on kappa.

    -1 where rows have to be looked at otherwise; R, c and W are not made where the bound is no
    proof. `kept` has the numbers of all rows, and of r of them in the end. The memory of R has room
    for m rows, as that of the others has. `limits` are those of norms, of the bound, and of a row
    that is left out where all have no such bound (see `reflected`; zero for none).
    """
    (m, n), (low, high, most, near) = A.shape, limits
    if not shares(A, kept):
        return -1, 0.0
    V, tau = np.empty((m, n)), np.empty(m)
    f = np.empty(m, A.dtype)
    if not scaled(A, b, V, D, f, low, high):
        return -1, 0.0
    r, bound = m, math.inf
    if m <= n:
        reflected(V, tau, kept, 0.0)
        bound = bounded(V, np.empty((m, m)))
    if not bound <= most and near > 0.0:
        scaled(A, b, V, D, f, low, high)
        r = reflected(V, tau, kept, near)
        if not shares(A, kept[:r]):
            return -1, 0.0
        bound = bounded(V, np.empty((r, r)))
    if not bound <= most:
        return r, bound
    R = R[: r * r].reshape((r, r))
    for i in range(r):
        for k in range(i):
            R[k, i], R[i, k] = V[i, k], 0.0
        R[i, i] = V[i, i]
        c[i] = f[kept[i]]
    solve(R, c[:r])
    for k in range(r - 1, -1, -1):
        reflect_formed(V[:r], k, tau[k])
    for i in range(r):
        for j in range(n):
            W[i, j] = V[i, j]
    return r, bound


@njit(**OPTIONS)
def reflect_formed(V: Any, k: int, tau: float) -> None:
    """Rows k and below of the orthogonal factor, of which those below are there already."""
    reflect(V, k, k + 1, tau)
    for j in range(k):
        V[k, j] = 0.0
    V[k, k] = 1.0 - tau
    for j in range(k + 1, V.shape[1]):
        V[k, j] *= -tau


@njit(**OPTIONS)
def float64(plan: int, low: float, high: float, most: float, near: float) -> tuple[int, float]:
    """`factored`, of what `small_qr.factored` put at the address."""
    p = carray(pointer(plan), 8, np.int64)
    m, n = p[6], p[7]
    found: tuple[int, float] = factored(
        carray(pointer(p[0]), (m, n), np.float64),
        carray(pointer(p[1]), (m,), np.float64),
        carray(pointer(p[2]), (m, n), np.float64),
        carray(pointer(p[3]), (m * m,), np.float64),
        carray(pointer(p[4]), (m,), np.float64),
        carray(pointer(p[5]), (m,), np.float64),
        carray(pointer(plan), (8 + m,), np.int64)[8:],
        (low, high, most, near),
    )
    return found


@njit(**OPTIONS)
def float32(plan: int, low: float, high: float, most: float, near: float) -> tuple[int, float]:
    """As `float64`."""
    p = carray(pointer(plan), 8, np.int64)
    m, n = p[6], p[7]
    found: tuple[int, float] = factored(
        carray(pointer(p[0]), (m, n), np.float32),
        carray(pointer(p[1]), (m,), np.float32),
        carray(pointer(p[2]), (m, n), np.float32),
        carray(pointer(p[3]), (m * m,), np.float32),
        carray(pointer(p[4]), (m,), np.float32),
        carray(pointer(p[5]), (m,), np.float32),
        carray(pointer(plan), (8 + m,), np.int64)[8:],
        (low, high, most, near),
    )
    return found
