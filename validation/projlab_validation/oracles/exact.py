"""Exact rational arithmetic (FLINT) on the floats taken as exact."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from flint import fmpq_mat, fmpz_mat
from numpy.typing import NDArray

from projlab_validation.norms import norm
from projlab_validation.oracles.answer import TWO_WORDS, Reference, two_words
from projlab_validation.oracles.system import FactoredSystem

if TYPE_CHECKING:
    from projlab_validation.oracles.sparse_system import SparseSystem

MAX_ROWS = 100
"""The solution has m times the bits of the Gram matrix, a few hundred: m⁴ operations and more."""


def solve(system: FactoredSystem) -> Reference | None:
    """x* = x₀ − E_Kᵀ (E_K E_Kᵀ)⁻¹ (E_K x₀ − f_K) for r independent rows K, checked on every row.

    None where that is not the definition's answer: the exact rank exceeds the numerical one, or a
    dependent row is not met exactly.
    """
    (m, n), r = system.E.shape, system.rank
    entries, e = integers(system.E.toarray())
    vectors, s = integers(np.concatenate([system.x0, system.f]))
    A = fmpz_mat(m, n, entries)  # 2ᵉ E
    x0 = fmpz_mat(n, 1, vectors[:n])  # 2ˢ x₀
    b = fmpz_mat(m, 1, [v << e for v in vectors[n:]])  # 2ᵉ⁺ˢ f
    if r < m and (A * A.transpose()).rank() > r:
        return None
    A_K = fmpz_mat(r, n, entries[: r * n])
    b_K = fmpz_mat(r, 1, b.entries()[:r])
    y: Any = (A_K * A_K.transpose()).solve(A_K * x0 - b_K)
    x = fmpq_mat(x0) - fmpq_mat(A_K.transpose()) * y  # 2ˢ x*
    if fmpq_mat(A) * x != fmpq_mat(b):
        return None
    return reference_of(system, ((int(v.p), int(v.q) << s) for v in x.entries()))


def reference_of(
    system: FactoredSystem | SparseSystem, fractions: Iterable[tuple[int, int]]
) -> Reference:
    """x* by its numerators and denominators, of a system whose exact rank is its numerical one."""
    high, low = two_words(fractions)
    return Reference(
        kind="exact",
        x_high=high,
        x_low=low,
        radius=TWO_WORDS,
        rank=system.rank,
        condition=system.condition,
        ambiguous=system.ambiguous(next_singular_value=0.0),
        consistent=True,
        x0_norm=norm(system.x0),
    )


def integers(values: NDArray[np.float64]) -> tuple[list[int], int]:
    """Integers p, row by row, and the smallest s ≥ 0 with values = p / 2ˢ."""
    ratios = [value.as_integer_ratio() for value in values.ravel().tolist()]
    s = max(q.bit_length() for _, q in ratios) - 1
    return [p << (s + 1 - q.bit_length()) for p, q in ratios], s
