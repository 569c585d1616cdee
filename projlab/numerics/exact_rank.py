"""Exact rank of a matrix of floats, each taken as the rational number it is.

Gaussian elimination modulo a prime: the rank modulo p never exceeds the rational rank, and falls
short of it only when p divides every nonzero minor of that order. Two primes are used and the
larger rank taken; a wrong answer needs both to divide. Reference: von zur Gathen and Gerhard,
"Modern Computer Algebra", 3rd ed., section 5.5.
"""

import numpy as np
import numpy.typing as npt

PRIMES = (2147483629, 2147483587)
"""The two largest primes below 2**31 - 1, so that a product of two residues fits into int64.
Modulo 2**31 - 1 itself, 2**31 would pass for 1."""


def independent_rows(E: npt.NDArray[np.float64]) -> list[int]:
    """Indices of the first maximal set of linearly independent rows of E (m, n)."""
    return max((_pivot_rows(residues(E, p), p) for p in PRIMES), key=len)


def residues(E: npt.NDArray[np.float64], p: int) -> npt.NDArray[np.int64]:
    """Of floats, each the rational number it is, modulo p."""
    mantissa, exponent = np.frexp(E)
    integer = np.asarray(mantissa * 2.0**53, dtype=np.int64)
    shifts, inverse = np.unique(exponent.astype(np.int64) - 53, return_inverse=True)
    powers = np.array([pow(2, int(k) % (p - 1), p) for k in shifts], dtype=np.int64)
    return (integer % p) * powers[inverse].reshape(E.shape) % p


def _pivot_rows(rows: npt.NDArray[np.int64], p: int) -> list[int]:
    """Reduce the rows in order; a row that does not vanish is independent of those before it."""
    rows = rows.copy()
    kept = []
    for i in range(rows.shape[0]):
        nonzero = np.flatnonzero(rows[i])
        if not len(nonzero):
            continue
        kept.append(i)
        column = nonzero[0]
        pivot = rows[i] * pow(int(rows[i, column]), -1, p) % p
        below = i + 1 + np.flatnonzero(rows[i + 1 :, column])
        rows[below] = (rows[below] - rows[below, column, None] * pivot % p) % p
    return kept
