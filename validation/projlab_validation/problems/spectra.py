"""Prescribed spectra: A = U diag(s) Vᵀ with s geometric from 1 to 1/κ, of full row rank.

Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 28.3 (``randsvd``, mode
3). U and V are Haar-distributed. A is rounded to the dtype; b = A x for a standard normal x, then
rounded: with full row rank any b is consistent. x₀ is standard normal. The factors come from
LAPACK, so another machine may build other last digits; the content hash tells.

Offered in float32 where the rank is clear (`rank_is_clear`), up to κ = 1e3, since at 1e6 float32's
rank is a matter of the cutoff. In float64 it is clear up to κ = 1e13; at 1e14 and 1e15, on the two
small shapes, it is ambiguous by definition, and what is asked of a variant is no more than
feasibility. A single row has κ = 1 whatever its scale; the largest shape, on which the solvers
spend most of their time, comes with every other κ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from projlab_validation.problems.problem import (
    Dtype,
    Family,
    Problem,
    rank_is_clear,
    rounded,
    seed_of,
)

CONDITIONS = ("1", "1e3", "1e6", "1e9", "1e12")
BEYOND = ("1e13", "1e14", "1e15")
SHAPES = {
    (1, 4): ("1",),
    (3, 10): CONDITIONS + BEYOND,
    (10, 20): CONDITIONS + BEYOND,
    (10, 100): CONDITIONS,
    (30, 60): CONDITIONS,
    (30, 100): CONDITIONS,
    (150, 400): CONDITIONS[::2],
}
"""Which condition numbers each shape (m, n) comes with."""


def _name(condition: str, m: int, n: int) -> str:
    return f"spectra_{condition}_{m}x{n}"


_PARAMETERS = {
    _name(condition, m, n): (float(condition), m, n)
    for (m, n), conditions in SHAPES.items()
    for condition in conditions
}


def _names(dtype: Dtype) -> tuple[str, ...]:
    return tuple(
        name
        for name, where in _PARAMETERS.items()
        if dtype == "float64" or rank_is_clear(*where, dtype)
    )


def haar(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """Orthonormal columns, uniformly distributed: QR of a Gaussian, diag(R) > 0 (Stewart 1980)."""
    Q, R = np.linalg.qr(rng.standard_normal((rows, columns)))
    return Q * np.sign(np.diag(R))


def with_spectrum(
    rng: np.random.Generator, spectrum: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """A (m, n) with these m singular values and random singular vectors."""
    m = len(spectrum)
    return (haar(rng, m, m) * spectrum) @ haar(rng, n, m).T


def _build(name: str, dtype: Dtype) -> Problem:
    condition, m, n = _PARAMETERS[name]
    seed = seed_of(name)
    rng = np.random.default_rng(seed)
    A = rounded(with_spectrum(rng, np.geomspace(1.0, 1.0 / condition, m), n), dtype)
    return Problem(
        name=name,
        group="spectra",
        A=A,
        b=rounded(A @ rng.standard_normal(n), dtype),
        x0=rounded(rng.standard_normal(n), dtype),
        dtype=dtype,
        seed=seed,
        reference="Higham 2002, section 28.3: randsvd, geometric spectrum",
    )


FAMILY = Family("spectra", _names, _build)
