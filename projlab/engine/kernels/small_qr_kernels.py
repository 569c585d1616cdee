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
def reflect(V: Any, k: int, tau: float) -> None:
    """The rows below row k by the reflection that row k holds: four at a time, which share it."""
    m, n = V.shape
    u, i = V[k, k + 1 :], k + 1
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
def shares(A: Any) -> bool:
    """Whether two rows share a column."""
    for j in range(A.shape[1]):
        nonzero = 0
        for i in range(A.shape[0]):
            nonzero += A[i, j] != 0
        if nonzero > 1:
            return True
    return False


@njit(**OPTIONS)
def scaled(A: Any, b: Any, V: Any, D: Any, f: Any, low: float, high: float) -> bool:
    """E = D A into V, D, and f = D b; whether norms were in the range of safe squares, f finite."""
    m, n = A.shape
    for i in range(m):
        square = 0.0
        for j in range(n):
            square += float(A[i, j]) * float(A[i, j])
        norm = math.sqrt(square)
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
    """The bound on kappa of R, whose transpose is V's lower triangle, by its inverse, into X."""
    m = V.shape[0]
    square, inverted = 0.0, 0.0
    for i in range(m):
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
def factored(A: Any, b: Any, W: Any, R: Any, c: Any, D: Any, limits: Any) -> float:
    """W and R of a `QRFactor`, its c for D b, D of the equilibration; returns the bound on kappa.

    -1 where rows have to be looked at otherwise, and W is not made where the bound is no proof.
    """
    (m, n), (low, high, most) = A.shape, limits
    if not shares(A):
        return -1.0
    V, X = np.empty((m, n)), np.empty((m, m))
    tau = np.empty(m)
    if not scaled(A, b, V, D, c, low, high):
        return -1.0
    for k in range(m):
        tau[k] = reflection(V[k], k)
        reflect(V, k, tau[k])
    bound: float = bounded(V, X)
    if not bound <= most:
        return bound
    for i in range(m):
        for k in range(i):
            R[k, i], R[i, k] = V[i, k], 0.0
        R[i, i] = V[i, i]
    solve(R, c)
    for k in range(m - 1, -1, -1):
        reflect_formed(V, k, tau[k])
    for i in range(m):
        for j in range(n):
            W[i, j] = V[i, j]
    return bound


@njit(**OPTIONS)
def reflect_formed(V: Any, k: int, tau: float) -> None:
    """Rows k and below of the orthogonal factor, of which those below are there already."""
    reflect(V, k, tau)
    for j in range(k):
        V[k, j] = 0.0
    V[k, k] = 1.0 - tau
    for j in range(k + 1, V.shape[1]):
        V[k, j] *= -tau


@njit(**OPTIONS)
def float64(plan: int, low: float, high: float, most: float) -> float:
    """`factored`, of what `small_qr.factored` put at the address."""
    p = carray(pointer(plan), 8, np.int64)
    m, n = p[6], p[7]
    bound: float = factored(
        carray(pointer(p[0]), (m, n), np.float64),
        carray(pointer(p[1]), (m,), np.float64),
        carray(pointer(p[2]), (m, n), np.float64),
        carray(pointer(p[3]), (m, m), np.float64),
        carray(pointer(p[4]), (m,), np.float64),
        carray(pointer(p[5]), (m,), np.float64),
        (low, high, most),
    )
    return bound


@njit(**OPTIONS)
def float32(plan: int, low: float, high: float, most: float) -> float:
    """As `float64`."""
    p = carray(pointer(plan), 8, np.int64)
    m, n = p[6], p[7]
    bound: float = factored(
        carray(pointer(p[0]), (m, n), np.float32),
        carray(pointer(p[1]), (m,), np.float32),
        carray(pointer(p[2]), (m, n), np.float32),
        carray(pointer(p[3]), (m, m), np.float32),
        carray(pointer(p[4]), (m,), np.float32),
        carray(pointer(p[5]), (m,), np.float32),
        (low, high, most),
    )
    return bound
