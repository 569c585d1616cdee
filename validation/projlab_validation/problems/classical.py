"""Matrices that the literature keeps for what they do to algorithms.

Each has full row rank, so that b = A x, rounded, is consistent. ASNA is Higham, "Accuracy and
Stability of Numerical Algorithms", 2nd ed.; κ is that of equilibrated rows. Float32 comes where the
rank stays clear in it.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from projlab_validation.problems.builders import Rng, UnroundedSystem, family, solvable
from projlab_validation.problems.problem import Vector


def _hilbert(m: int, n: int) -> Vector:
    i, j = np.ogrid[1 : m + 1, 1 : n + 1]
    return 1.0 / (i + j - 1.0)


def _moments(points: Vector, m: int) -> UnroundedSystem:
    """Weights at these points that integrate 1, t, …, t^(m−1) over [0, 1], near equal ones."""
    powers = np.arange(m, dtype=np.float64)
    n = points.size
    return UnroundedSystem(points ** powers[:, None], 1 / (powers + 1), np.full(n, 1 / n))


def _pascal(m: int, n: int) -> Vector:
    return np.array([[float(math.comb(i + j, i)) for j in range(n)] for i in range(m)])


def _lauchli(m: int, mu: float) -> Vector:
    return np.hstack([np.ones((m, 1)), mu * np.eye(m)])


def hilbert_3x10(rng: Rng) -> UnroundedSystem:
    """Hilbert 1894: 1/(i + j − 1); ASNA section 28.1."""
    return solvable(rng, _hilbert(3, 10))


def hilbert_6x10(rng: Rng) -> UnroundedSystem:
    """Hilbert 1894: 1/(i + j − 1), κ near 2e6; ASNA section 28.1."""
    return solvable(rng, _hilbert(6, 10))


def hilbert_8x12(rng: Rng) -> UnroundedSystem:
    """Hilbert 1894: 1/(i + j − 1), κ near 1e9; ASNA section 28.1."""
    return solvable(rng, _hilbert(8, 12))


def vandermonde(_rng: Rng) -> UnroundedSystem:
    """Quadrature weights at equidistant points: Vandermonde rows (Gautschi 1975, on their κ)."""
    return _moments(np.linspace(0, 1, 12), 4)


def vandermonde_long(_rng: Rng) -> UnroundedSystem:
    """Quadrature weights at Chebyshev points, ten moments: κ near 4e6 (ASNA chapter 22)."""
    return _moments((1 + np.cos((2 * np.arange(20) + 1) * np.pi / 40)) / 2, 10)


def lauchli(rng: Rng) -> UnroundedSystem:
    """Läuchli 1961: rows (1, μ eᵢ) with μ = 2⁻⁸, exact in either dtype; κ near 2⁸ √m."""
    return solvable(rng, _lauchli(4, 2.0**-8))


def lauchli_steep(rng: Rng) -> UnroundedSystem:
    """Läuchli 1961: μ² = 2⁻⁵⁴ is lost beside 1, so A Aᵀ is singular as computed."""
    return solvable(rng, _lauchli(4, 2.0**-27))


def kahan(rng: Rng) -> UnroundedSystem:
    """Kahan 1966, θ = 1.2: columns of K as rows of norm one; pivoting does not see σ_min."""
    n, c, s = 30, math.cos(1.2), math.sin(1.2)
    K = s ** np.arange(n)[:, None] * (np.eye(n) - c * np.triu(np.ones((n, n)), 1))
    return solvable(rng, K.T)


def pascal_4x12(rng: Rng) -> UnroundedSystem:
    """Binomial coefficients C(i + j, i): integers that grow along the rows (ASNA section 28.4)."""
    return solvable(rng, _pascal(4, 12))


def pascal_8x12(rng: Rng) -> UnroundedSystem:
    """Binomial coefficients C(i + j, i), κ near 1e6 in integers (ASNA section 28.4)."""
    return solvable(rng, _pascal(8, 12))


def differences(rng: Rng) -> UnroundedSystem:
    """Second differences: banded, Toeplitz, κ of order m² (ASNA section 28.5)."""
    return solvable(rng, np.diff(np.eye(20), 2, axis=0))


def hadamard(rng: Rng) -> UnroundedSystem:
    """Four rows of a Hadamard matrix (Sylvester 1867): orthogonal, ±1, κ = 1."""
    return solvable(rng, scipy.linalg.hadamard(8)[:4].astype(np.float64))


FAMILY = family(
    "classical",
    (hilbert_3x10, vandermonde, lauchli, pascal_4x12, differences, hadamard),
    float64_only=(
        hilbert_6x10,
        hilbert_8x12,
        vandermonde_long,
        lauchli_steep,
        kahan,
        pascal_8x12,
    ),
)
