"""Every shape and sparsity that code has a special case for, or should have.

All are consistent: by full row rank, or with m > n by integer data.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from projlab_validation.problems.builders import (
    Rng,
    UnroundedSystem,
    family,
    gaussian,
    integers,
    solvable,
    solvable_in_integers,
)


def one_by_one(rng: Rng) -> UnroundedSystem:
    """One equation in one unknown: m = n = 1, and no x₀ changes the answer."""
    return integers(rng, 1, 1)


def one_by_two(rng: Rng) -> UnroundedSystem:
    """One row of two: a 1 × 1 Gram matrix, which broadcasting takes for a scalar."""
    return gaussian(rng, 1, 2)


def one_row(_rng: Rng) -> UnroundedSystem:
    """Thousand weights that sum to 1: a single row (Michelot 1986, onto the simplex's plane)."""
    weights = np.arange(1.0, 1001.0)
    return UnroundedSystem(np.ones((1, 1000)), np.ones(1), weights / weights.sum() + 2.0**-10)


def disjoint_rows(rng: Rng) -> UnroundedSystem:
    """Rows without a common column: the Gram matrix is diagonal (Dantzig and Van Slyke 1967)."""
    values = rng.standard_normal(12)
    return solvable(rng, np.kron(np.eye(4), np.ones(3)) * values)


def blocks(rng: Rng) -> UnroundedSystem:
    """Two independent systems, their columns interleaved (Dulmage and Mendelsohn 1958)."""
    A = scipy.linalg.block_diag(rng.standard_normal((2, 6)), rng.standard_normal((2, 6)))
    return solvable(rng, A[:, np.arange(12).reshape(2, 6).T.ravel()])


def fixed_entries(rng: Rng) -> UnroundedSystem:
    """Rows of the identity: entries of x that are given, in another order."""
    return solvable_in_integers(rng, np.eye(12)[[7, 2, 11, 0]])


def square(rng: Rng) -> UnroundedSystem:
    """m = n: the set is one point, whatever x₀; diagonal weight keeps κ modest (Varah 1975)."""
    return solvable(rng, rng.standard_normal((8, 8)) + 8 * np.eye(8))


def tall(rng: Rng) -> UnroundedSystem:
    """m > n, consistent, of full column rank: one point, A⁺ b (Penrose 1956)."""
    return integers(rng, 12, 4)


def wide(rng: Rng) -> UnroundedSystem:
    """n = 2000, m = 3: inner products long enough to be cut into blocks (ASNA section 3.1)."""
    return gaussian(rng, 3, 2000)


def larger(rng: Rng) -> UnroundedSystem:
    """40 × 60: more rows than LAPACK factors in one block (Anderson et al. 1999)."""
    return gaussian(rng, 40, 60)


def plain(rng: Rng) -> UnroundedSystem:
    """4 × 12 like many others here: what is kept from them is wrong for it (Edelman 1988)."""
    return gaussian(rng, 4, 12)


FAMILY = family(
    "shapes",
    (one_by_one, disjoint_rows, square, tall, wide, plain),
    float64_only=(one_by_two, one_row, blocks, fixed_entries, larger),
)
