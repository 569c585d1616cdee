"""Rank-deficient systems, consistent and not: the rank is exact by construction.

Rows are duplicates and integer combinations of small integer rows, and b is made by the same, so
that consistency is exact in either dtype too; `decimals` alone is redundant up to a rounding, as
data is. The inconsistent ones miss by far more than rounding. GVL is Golub and Van Loan, "Matrix
Computations", 4th ed.; Andersen is "Finding all linearly dependent rows in large-scale linear
programming" (1995).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from projlab_validation.problems.builders import (
    Rng,
    UnroundedSystem,
    family,
    integers,
    solvable_in_integers,
)
from projlab_validation.problems.problem import Vector


def _combined(system: UnroundedSystem, mix: Vector) -> UnroundedSystem:
    """The rows that ``mix`` makes of those of a consistent system."""
    return replace(system, A=mix @ system.A, b=mix @ system.b)


def _contradicted(system: UnroundedSystem, row: int) -> UnroundedSystem:
    """The same rows, one of them moved away from what the others say."""
    return replace(system, b=system.b + np.eye(system.b.size)[row], consistent=False)


def _transport(sources: int, sinks: int) -> Vector:
    """Row sums, then column sums, of a table that is stored by rows."""
    return np.vstack(
        [
            np.kron(np.eye(sources), np.ones(sinks)),
            np.kron(np.ones(sources), np.eye(sinks)),
        ]
    )


def duplicates(rng: Rng) -> UnroundedSystem:
    """Two rows twice, one of them times −2: rank 4 of 6 (redundant rows: Andersen 1995)."""
    return _combined(integers(rng, 4, 12), np.vstack([np.eye(4), np.diag([0, 1, -2, 0])[1:3]]))


def combinations(rng: Rng) -> UnroundedSystem:
    """More rows than columns: 12 integer combinations, rank 5 of 8 columns (Andersen 1995)."""
    return _combined(integers(rng, 5, 8), np.vstack([np.eye(5), rng.integers(-2, 3, (7, 5))]))


def zero_rows(rng: Rng) -> UnroundedSystem:
    """Rows 0 = 0 between the others: no norm to divide by (van der Sluis 1969)."""
    return _combined(integers(rng, 4, 12), np.insert(np.eye(4), [0, 2], 0.0, axis=0))


def one_direction(rng: Rng) -> UnroundedSystem:
    """Four multiples of one row: rank one, σ₂ = 0 (GVL section 5.4.1, numerical rank)."""
    return _combined(integers(rng, 1, 12), np.array([[1.0], [-3.0], [4.0], [0.5]]))


def magic(rng: Rng) -> UnroundedSystem:
    """Dürer's magic square, 1514: 4 × 4, rank 3, so that m = n is not one point."""
    square = [[16, 3, 2, 13], [5, 10, 11, 8], [9, 6, 7, 12], [4, 15, 14, 1]]
    return solvable_in_integers(rng, np.array(square, dtype=np.float64))


def transport(rng: Rng) -> UnroundedSystem:
    """Row and column sums of a 2 × 6 table: rank 7 of 8 (Hitchcock 1941, transportation)."""
    return solvable_in_integers(rng, _transport(2, 6))


def flow(rng: Rng) -> UnroundedSystem:
    """Flow in a complete directed graph of 4 nodes: rank 3 of 4 (Kirchhoff 1847)."""
    edges = np.array([(i, j) for i in range(4) for j in range(4) if i != j])
    nodes = np.eye(4)
    return solvable_in_integers(rng, (nodes[edges[:, 0]] - nodes[edges[:, 1]]).T)


def decimals(rng: Rng) -> UnroundedSystem:
    """Tenths whose last row is the sum of the others in decimals, off by a rounding in binary."""
    whole = _combined(integers(rng, 3, 12), np.vstack([np.eye(3), np.ones(3)]))
    return replace(whole, A=whole.A / 10, b=whole.b / 10)


def contradicting_duplicates(rng: Rng) -> UnroundedSystem:
    """`duplicates` with another right-hand side for one of them: no solution."""
    return _contradicted(duplicates(rng), 4)


def contradicting_combination(rng: Rng) -> UnroundedSystem:
    """`combinations` with one right-hand side moved: no solution, and 12 rows to blame."""
    return _contradicted(combinations(rng), 6)


def contradicting_zero_row(rng: Rng) -> UnroundedSystem:
    """A row 0 = 1 among sound ones: no solution, whatever the others say."""
    return _contradicted(zero_rows(rng), 0)


def contradicting_transport(rng: Rng) -> UnroundedSystem:
    """`transport` with more supply than demand: no solution, and no two rows contradict."""
    return _contradicted(transport(rng), 0)


FAMILY = family(
    "deficient",
    (
        duplicates,
        combinations,
        zero_rows,
        magic,
        transport,
        decimals,
        contradicting_duplicates,
    ),
    float64_only=(
        one_direction,
        flow,
        contradicting_combination,
        contradicting_zero_row,
        contradicting_transport,
    ),
)
