"""Exact rational arithmetic on a sparse system, by lifting a floating-point factor.

Wan, "An algorithm to solve integer linear systems exactly using numerical methods", J. Symbolic
Computation 41 (2006): digits of the solution of an integer system are found by a float64 factor,
a few at a time, while its residual is kept exactly in integers; a rational number of small enough
denominator is then the one that the digits belong to. What is found is checked in integers, so that
neither the factor nor the number of digits has to be trusted.
"""

from __future__ import annotations

from fractions import Fraction
from math import log2
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from projlab_validation.norms import row_norms
from projlab_validation.oracles.answer import Reference
from projlab_validation.oracles.exact import integers, reference_of
from projlab_validation.oracles.sparse_ball import Decided
from projlab_validation.oracles.sparse_system import SparseSystem

Integers = Any
"""A numpy array of Python's integers; numpy's types cannot say so."""

DIGITS = 2**14
"""Bits that the digits of y may take; the solution may take fewer than Hadamard's bound allows."""

WORK = 1e8
"""The same times the entries of E: both are a second's worth of Python's integers."""

GUARD = 64
"""Bits to spare: digits that end in as many zeros by chance would be one case in 2⁶⁴."""

CLEAR = 6
"""Bits that a digit of the factor keeps clear of its error."""


class IntegerRows:
    """A sparse matrix of integers, 2ᵉ A for A (m, n) in float64."""

    def __init__(self, A: sp.csr_array) -> None:
        self.shape = A.shape
        self.rows, self.columns = A.tocoo().coords
        whole, self.exponent = integers(A.data)
        self.entries: Integers = np.array(whole, dtype=object)

    def __matmul__(self, x: Integers) -> Integers:
        """A x for x (n,)."""
        return _sums(self.rows, self.entries * x[self.columns], self.shape[0])

    def adjoint(self, y: Integers) -> Integers:
        """Aᵀ y for y (m,)."""
        return _sums(self.columns, self.entries * y[self.rows], self.shape[1])


def solve(decided: Decided) -> Reference | None:
    """x* = x₀ − E_Kᵀ (E_K E_Kᵀ)⁻¹ (E_K x₀ − f_K), checked on every row.

    None where it takes too many digits, or is not the definition's answer: rows depend on others
    but for a rounding, so that the exact rank exceeds the numerical one, or are not met exactly.
    """
    system = decided.system
    if decided.dependence.N != 0:
        return None
    r, n = system.rank, system.E.shape[1]
    A = IntegerRows(system.E)
    kept = system.E[:r]
    bits = 2 * (A.exponent * r + float(np.sum(np.log2(row_norms(kept)))))  # Hadamard's bound
    if bits > 4 * DIGITS:
        return None
    vectors, s = integers(np.concatenate([system.x0, system.f]))
    x0: Integers = np.array(vectors[:n], dtype=object)  # 2ˢ x₀
    b: Integers = np.array([v << A.exponent for v in vectors[n:]], dtype=object)  # 2ᵉ⁺ˢ f
    found = lifted(system, A, (A @ x0 - b)[:r], int(bits))
    if found is None:
        return None
    y, d = found
    x = d * x0 - A.adjoint(np.concatenate([y, np.zeros(len(b) - r, dtype=object)]))  # d 2ˢ x*
    if np.any(A @ x != d * b):
        return None
    return reference_of(system, ((int(v), d << s) for v in x))


def lifted(
    system: SparseSystem, A: IntegerRows, g: Integers, bits: int
) -> tuple[Integers, int] | None:
    """Integers y and d > 0 with A_K A_Kᵀ y = d g, checked; None where the factor is too far off.

    With Y ≈ 2ᵗ y/d and R = 2ᵗ g − A_K A_Kᵀ Y a step shifts both by q bits and adds what the factor
    makes of R. Digits are doubled until they determine d.
    """
    r, m = system.rank, A.shape[0]
    q = int(46 - CLEAR - 2 * log2(system.largest / system.smallest_kept))
    if q < CLEAR:
        return None
    rest: Integers = np.zeros(m - r, dtype=object)

    def gram(v: Integers) -> Integers:
        return (A @ A.adjoint(np.concatenate([v, rest])))[:r]

    Y: Integers = np.zeros(r, dtype=object)
    R, t = g, 0
    enough, most = 4 * GUARD, 2 * (bits + GUARD) + max(int(v).bit_length() for v in g)
    most = int(min(most, DIGITS, WORK / len(A.entries)))
    while True:
        digits = _digits(system, R, A.exponent)
        Y, R = Y + digits, R - gram(digits)
        if t >= min(enough, most):
            y, d = _rational(Y, t)
            if d and not np.any(gram(y) != d * g):
                return y, d
            if t >= most:
                return None
            enough *= 2
        Y, R, t = Y * 2**q, R * 2**q, t + q


def _digits(system: SparseSystem, R: Integers, exponent: int) -> Integers:
    """(A_K A_Kᵀ)⁻¹ R to the nearest integers, as far as float64 goes; A = 2ᵉ E."""
    shift = max(0, max(int(v).bit_length() for v in R) - 900)
    solution = system.gram_inverse(np.array([float(int(v) >> shift) for v in R]))
    scale = shift - 2 * exponent
    if scale <= 0:
        return np.array([int(v) for v in np.rint(np.ldexp(solution, scale))], dtype=object)
    return np.array([int(v) << scale for v in np.rint(solution)], dtype=object)


def _rational(Y: Integers, t: int) -> tuple[Integers, int]:
    """Integers y and a common denominator d with y/d ≈ Y/2ᵗ; d = 0 where there is none small."""
    d, one, near = 1, 1 << t, 1 << max(t // 2 - GUARD, 1)
    for v in Y:
        off = (d * int(v)) % one
        if min(off, one - off) * near > one:  # not yet an integer
            d *= Fraction(off, one).limit_denominator(near).denominator
        if d > near:
            return Y, 0
    half = one >> 1
    return np.array([(d * int(v) + half) >> t for v in Y], dtype=object), d


def _sums(target: NDArray[np.integer], terms: Integers, size: int) -> Integers:
    out: Integers = np.zeros(size, dtype=object)
    np.add.at(out, target, terms)
    return out
