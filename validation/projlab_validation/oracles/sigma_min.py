"""A proven lower bound on a smallest singular value, from float64 alone."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

SLACK = 1.0 + 1e-6
"""Covers the rounding of a norm: a sum of N ≤ 1e9 squares is off by N u ≤ 2e-7 relatively."""


def lower_bound(B: sp.csr_array, R: NDArray[np.float64]) -> float:
    """s with 0 < s ≤ σ_min(B), given B (r, n) and R (r, r) with Bᵀ ≈ Q R; 0 without a proof.

    Let S approximate R⁻¹ and Y = BᵀS. If Y has full rank, S is invertible, any v is S w for some w,
    and ‖Bᵀv‖ = ‖Y w‖ ≥ σ_min(Y) ‖w‖ ≥ σ_min(Y) ‖v‖ / ‖S‖. The computed Ŷ is within
    ε = γ_k ‖|B|ᵀ|S|‖ of Y, k the most entries in a column of B, and σ_min(Ŷ)² ≥ 1 − α with
    α = ‖I − fl(ŶᵀŶ)‖ + γ_n ‖Ŷ‖² (ASNA, (3.5) and (3.13), for sums in any order). Hence

        σ_min(B) ≥ (√(1 − α) − ε) / ‖S‖,

    with Frobenius norms throughout, and barring underflow. S may be any matrix whatever: a poor one
    only makes α ≥ 1 or the bound small.
    """
    r, n = B.shape
    S, singular = scipy.linalg.lapack.dtrtri(R)
    if singular:
        return 0.0
    Y = B.T @ S
    most = int(np.bincount(B.indices).max())
    epsilon = SLACK * _gamma(most) * np.linalg.norm(abs(B).T @ np.abs(S))
    gram = Y.T @ Y
    gram[np.diag_indices(r)] -= 1.0
    alpha = SLACK * (np.linalg.norm(gram) + _gamma(n) * np.linalg.norm(Y) ** 2)
    if not alpha < 1.0:
        return 0.0
    return max(0.0, float((np.sqrt(1.0 - alpha) - epsilon) / (SLACK * np.linalg.norm(S))))


def _gamma(k: int) -> float:
    """γ_k = k u / (1 − k u) of float64 (ASNA, lemma 3.1)."""
    ku = k * float(np.finfo(np.float64).eps) / 2
    return ku / (1 - ku)
