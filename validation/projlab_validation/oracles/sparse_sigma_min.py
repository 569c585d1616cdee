"""A proven lower bound on a smallest singular value through a sparse factor, from float64 alone.

Rump, "Verification of positive definiteness", BIT 46 (2006), with the a-priori bound of Gaussian
elimination (Higham, ASNA, theorem 9.3) in place of its trace: only entries of a row of the factor
are summed, so that a sparse factor errs little however many rows there are.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
from numpy.typing import NDArray

from projlab_validation.oracles.sigma_min import SLACK
from projlab_validation.oracles.sparse_factor import SymmetricFactor, factorised

U = float(np.finfo(np.float64).eps) / 2

SHARES = (0.9, 0.5, 0.1)
"""Of the estimate, tried as a shift one after the other."""

ITERATIONS = 300
"""Of Lanczos: the estimate decides which shift is tried, and proves nothing."""


def estimate(factor: SymmetricFactor) -> float:
    """The smallest eigenvalue of what was factored, to a hundredth or so, by Lanczos."""
    inverse = scipy.sparse.linalg.LinearOperator(
        (factor.size, factor.size), matvec=factor.solve, dtype=np.float64
    )
    return 1.0 / largest(inverse)


def largest(operator: scipy.sparse.linalg.LinearOperator) -> float:
    """The largest eigenvalue of a symmetric positive semidefinite operator, from below."""
    size = operator.shape[0]
    start = np.random.default_rng(0).standard_normal(size)
    if size == 1:
        return float(operator.matvec(np.ones(1))[0])
    try:
        values = scipy.sparse.linalg.eigsh(
            operator, k=1, which="LA", v0=start, tol=1e-4, maxiter=ITERATIONS,
            return_eigenvectors=False,
        )  # fmt: skip
    except scipy.sparse.linalg.ArpackNoConvergence:  # clustered: a few more digits cost too much
        for _ in range(ITERATIONS):
            start = operator.matvec(start / np.linalg.norm(start))
        return float(np.linalg.norm(start))
    return float(values[0])


def lower_bound(B: sp.csr_array, smallest: float) -> float:
    """s with 0 < s ≤ σ_min(B), given about σ_min(B)²; 0 without a proof.

    Let A = fl(B Bᵀ) and L U the factors of fl(A − c I), its rows and columns permuted alike, with
    D = diag(U) > 0. Then L D Lᵀ is positive definite, and

        B Bᵀ − c I − L D Lᵀ = (B Bᵀ − A) + (A − c I − fl(A − c I)) + (fl(A − c I) − L U) + L V

    with V = U − D Lᵀ. Row by row these are at most γ|B||B|ᵀ, u (|aᵢᵢ| + c), γ_k |L||U|, k the
    entries of that row of L and two for the reciprocal of the pivot, and |L||V|: the largest row
    sum δ bounds the norm of the symmetric left side, so that σ_min(B)² ≥ c − δ.
    """
    A = sp.csc_array(B @ B.T)
    size = abs(B)
    formed = _gamma(int(np.diff(B.indptr).max())) * (size @ (size.T @ np.ones(len(A.indptr) - 1)))
    for share in SHARES:
        c = share * smallest
        factor = factorised(A - c * sp.eye_array(A.shape[0], format="csc"))
        if factor is None:
            continue
        shifted = U * (abs(A.diagonal()) + 2 * c)
        defect = SLACK * float(np.max((formed + shifted)[factor.order] + _defect(factor)))
        if defect < c:
            return float(np.sqrt(c - defect) * (1 - 4 * U))
    return 0.0


def _defect(factor: SymmetricFactor) -> NDArray[np.float64]:
    """Row sums of bounds on |fl(A − c I) − L U| + |L V|, in the order of the factor."""
    L, upper = factor.L, factor.U
    entries = np.diff(sp.csr_array(L).indptr) + 2.0
    gamma = entries * U / (1 - entries * U)
    one = np.ones(factor.size)
    mirrored = sp.csr_array(L.T).multiply(upper.diagonal()[:, None]).tocsr()
    V = abs(upper - mirrored) + 2 * U * (abs(upper) + abs(mirrored))
    sums: NDArray[np.float64] = gamma * (abs(L) @ (abs(upper) @ one)) + abs(L) @ (V @ one)
    return sums


def _gamma(k: int) -> float:
    """γ_k = k u / (1 − k u) of float64 (ASNA, lemma 3.1)."""
    return k * U / (1 - k * U)
