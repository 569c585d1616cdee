"""The kernels of `projlab.native`, compiled by numba when this module is imported.

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
    """x -= W'(W x + c), rows in groups of four, two and one: each group is read once."""
    m, n = W.shape
    zero = x.dtype.type(0)
    i = 0
    while i + 4 <= m:
        p, q, r, s = W[i], W[i + 1], W[i + 2], W[i + 3]
        a, b, d, e = zero, zero, zero, zero
        for j in range(n):
            xj = x[j]
            a += p[j] * xj
            b += q[j] * xj
            d += r[j] * xj
            e += s[j] * xj
        a += c[i]
        b += c[i + 1]
        d += c[i + 2]
        e += c[i + 3]
        for j in range(n):
            x[j] -= (a * p[j] + b * q[j]) + (d * r[j] + e * s[j])
        i += 4
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


@njit(**OPTIONS)
def project_all(x: Any, W: Any, c: Any, step: int, system: int) -> None:
    """Every x[i, j] onto the rows W[i], with the part of c that begins at i * system + j * step."""
    m = W.shape[1]
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            at = i * system + j * step
            project(x[i, j], W[i], c[at : at + m])


@njit(**OPTIONS)
def float64(x: int, W: int, c: int, B: int, k: int, m: int, n: int, step: int, system: int) -> None:
    """`project_all` of x (B, k, n) and W (B, m, n) at these addresses."""
    length = (B - 1) * system + (k - 1) * step + m
    project_all(
        carray(pointer(x), (B, k, n), np.float64),
        carray(pointer(W), (B, m, n), np.float64),
        carray(pointer(c), (length,), np.float64),
        step,
        system,
    )


@njit(**OPTIONS)
def float32(x: int, W: int, c: int, B: int, k: int, m: int, n: int, step: int, system: int) -> None:
    """As `float64`."""
    length = (B - 1) * system + (k - 1) * step + m
    project_all(
        carray(pointer(x), (B, k, n), np.float32),
        carray(pointer(W), (B, m, n), np.float32),
        carray(pointer(c), (length,), np.float32),
        step,
        system,
    )
