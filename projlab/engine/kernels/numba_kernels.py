"""The kernels of `projlab.engine.kernels.native`, compiled by numba when this module is imported.

Compiled once: numba keeps them in a cache on disk (`__pycache__` beside this file, or
NUMBA_CACHE_DIR). Addresses come in as integers, because unpacking arrays would take longer than a
small projection.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]  # exported at run time
from numba.extending import intrinsic

# sums in any order and fused products; NaN and infinities keep their meaning
OPTIONS: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    "nogil": True,
    "error_model": "numpy",
    "cache": True,
}


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:  # noqa: ARG001  # numba's signature
    """An address as the pointer that `carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), generate


pointer: Any = _pointer  # called without the typing context


@njit(**OPTIONS)
def project(x: Any, W: Any, c: Any) -> None:
    """x -= W'(W x + c), rows in groups of four, two and one: each group is read once.

    A group of four is taken off x in the loop that multiplies x by the next four, so that rows come
    from memory while others are used again: 206 us against 230 in two loops, at 500 x 2000.
    """
    m, n = W.shape
    zero = x.dtype.type(0)
    i = 0
    if i + 4 <= m:
        p, q, r, s = W[0], W[1], W[2], W[3]
        a, b, d, e = zero, zero, zero, zero
        for j in range(n):
            xj = x[j]
            a += p[j] * xj
            b += q[j] * xj
            d += r[j] * xj
            e += s[j] * xj
        a, b, d, e = a + c[0], b + c[1], d + c[2], e + c[3]
        i = 4
        while i + 4 <= m:
            t, u, v, w = W[i], W[i + 1], W[i + 2], W[i + 3]
            f, g, h, k = zero, zero, zero, zero
            for j in range(n):
                xj = x[j] - ((a * p[j] + b * q[j]) + (d * r[j] + e * s[j]))
                x[j] = xj
                f += t[j] * xj
                g += u[j] * xj
                h += v[j] * xj
                k += w[j] * xj
            a, b, d, e = f + c[i], g + c[i + 1], h + c[i + 2], k + c[i + 3]
            p, q, r, s = t, u, v, w
            i += 4
        for j in range(n):
            x[j] -= (a * p[j] + b * q[j]) + (d * r[j] + e * s[j])
    if i + 2 <= m:
        p, q = W[i], W[i + 1]
        a, b = zero, zero
        for j in range(n):
            xj = x[j]
            a += p[j] * xj
            b += q[j] * xj
        a += c[i]
        b += c[i + 1]
        for j in range(n):
            x[j] -= a * p[j] + b * q[j]
        i += 2
    if i < m:
        p = W[i]
        a = zero
        for j in range(n):
            a += p[j] * x[j]
        a += c[i]
        for j in range(n):
            x[j] -= a * p[j]


BEYOND_CACHE, SHORT_ROW, LONG_ROW, PAGE, LINE = 1 << 20, 1 << 12, 1 << 16, 1 << 12, 1 << 6
"""Bytes. Rows go by eight where all of W leaves a second-level cache and two groups stay in it.

At other lengths by four is as fast or faster; and where a row is a multiple of a page, sixteen rows
fall in one set of a first-level cache, which holds eight: 306 us against 186, at 480 x 2048.
"""


@njit(**OPTIONS)
def by_eight(W: Any) -> Any:
    """Whether `project_by_eight` is the faster one for rows W (m, n)."""
    row = W.shape[1] * W.itemsize
    beside = row % PAGE
    return (
        W.shape[0] * row > BEYOND_CACHE
        and SHORT_ROW < row <= LONG_ROW
        and LINE <= beside <= PAGE - LINE
    )


@njit(**OPTIONS)
def project_by_eight(x: Any, W: Any, c: Any) -> int:
    """`project` for groups of eight rows, of which it returns the rows that are done.

    More rows are on their way at a time: 151 us against 175 by four, at 480 x 2000.
    """
    m, n = W.shape
    zero = x.dtype.type(0)
    p, q, r, s, t, u, v, w = W[0], W[1], W[2], W[3], W[4], W[5], W[6], W[7]
    a, b, d, e, f, g, h, k = zero, zero, zero, zero, zero, zero, zero, zero
    i = 0
    while i + 8 <= m:
        P, Q, R, S = W[i], W[i + 1], W[i + 2], W[i + 3]
        T, U, V, Z = W[i + 4], W[i + 5], W[i + 6], W[i + 7]
        A, B, D, E, F, G, H, K = zero, zero, zero, zero, zero, zero, zero, zero
        for j in range(n):
            last = (a * p[j] + b * q[j]) + (d * r[j] + e * s[j])
            xj = x[j] - (last + ((f * t[j] + g * u[j]) + (h * v[j] + k * w[j])))
            x[j] = xj
            A += P[j] * xj
            B += Q[j] * xj
            D += R[j] * xj
            E += S[j] * xj
            F += T[j] * xj
            G += U[j] * xj
            H += V[j] * xj
            K += Z[j] * xj
        a, b, d, e = A + c[i], B + c[i + 1], D + c[i + 2], E + c[i + 3]
        f, g, h, k = F + c[i + 4], G + c[i + 5], H + c[i + 6], K + c[i + 7]
        p, q, r, s, t, u, v, w = P, Q, R, S, T, U, V, Z
        i += 8
    for j in range(n):
        last = (a * p[j] + b * q[j]) + (d * r[j] + e * s[j])
        x[j] -= last + ((f * t[j] + g * u[j]) + (h * v[j] + k * w[j]))
    return i


@njit(**OPTIONS)
def project_four(x: Any, W: Any, c: Any) -> None:
    """`project` for the four rows of x at once: a group of two rows of W is read once for them."""
    m, n = W.shape
    zero = x.dtype.type(0)
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    i = 0
    while i + 2 <= m:
        p, q = W[i], W[i + 1]
        a0, a1, a2, a3 = zero, zero, zero, zero
        b0, b1, b2, b3 = zero, zero, zero, zero
        for j in range(n):
            pj, qj = p[j], q[j]
            a0 += pj * x0[j]
            a1 += pj * x1[j]
            a2 += pj * x2[j]
            a3 += pj * x3[j]
            b0 += qj * x0[j]
            b1 += qj * x1[j]
            b2 += qj * x2[j]
            b3 += qj * x3[j]
        a, b = c[i], c[i + 1]
        a0, a1, a2, a3 = a0 + a, a1 + a, a2 + a, a3 + a
        b0, b1, b2, b3 = b0 + b, b1 + b, b2 + b, b3 + b
        for j in range(n):
            pj, qj = p[j], q[j]
            x0[j] -= a0 * pj + b0 * qj
            x1[j] -= a1 * pj + b1 * qj
            x2[j] -= a2 * pj + b2 * qj
            x3[j] -= a3 * pj + b3 * qj
        i += 2
    if i < m:
        p, a = W[i], c[i]
        a0, a1, a2, a3 = a, a, a, a
        for j in range(n):
            a0 += p[j] * x0[j]
            a1 += p[j] * x1[j]
            a2 += p[j] * x2[j]
            a3 += p[j] * x3[j]
        for j in range(n):
            x0[j] -= a0 * p[j]
            x1[j] -= a1 * p[j]
            x2[j] -= a2 * p[j]
            x3[j] -= a3 * p[j]


@njit(**OPTIONS)
def project_all(x: Any, W: Any, c: Any, step: int, system: int) -> None:
    """Every x[i, j] onto the rows W[i], with the part of c that begins at i * system + j * step."""
    m, eight = W.shape[1], by_eight(W[0])
    for i in range(x.shape[0]):
        j = 0
        if step == 0:
            while j + 4 <= x.shape[1]:
                project_four(x[i, j : j + 4], W[i], c[i * system : i * system + m])
                j += 4
        while j < x.shape[1]:
            at = i * system + j * step
            done = project_by_eight(x[i, j], W[i], c[at : at + m]) if eight else 0
            project(x[i, j], W[i, done:], c[at + done : at + m])
            j += 1


@njit(**OPTIONS)
def float64(x: int, k: int, plan: int) -> None:
    """`project_all` of k vectors a system at x, with what `native.plan` put at the other address.

    To pass three integers takes 0.1 us, to pass nine 0.4 us: a third of a small projection.
    """
    p = carray(pointer(plan), 7, np.int64)
    W, c, B, m, n, step, system = p[0], p[1], p[2], p[3], p[4], p[5], p[6]
    length = (B - 1) * system + (k - 1) * step + m
    project_all(
        carray(pointer(x), (B, k, n), np.float64),
        carray(pointer(W), (B, m, n), np.float64),
        carray(pointer(c), (length,), np.float64),
        step,
        system,
    )


@njit(**OPTIONS)
def float32(x: int, k: int, plan: int) -> None:
    """As `float64`."""
    p = carray(pointer(plan), 7, np.int64)
    W, c, B, m, n, step, system = p[0], p[1], p[2], p[3], p[4], p[5], p[6]
    length = (B - 1) * system + (k - 1) * step + m
    project_all(
        carray(pointer(x), (B, k, n), np.float32),
        carray(pointer(W), (B, m, n), np.float32),
        carray(pointer(c), (length,), np.float32),
        step,
        system,
    )
