"""Rows and columns of very different size or nearly one direction, and the ends of the range.

Row scaling leaves the affine set alone and must change nothing; entries of 1e±150 are the largest
and smallest whose squares are still normal numbers. All have full row rank, b = A x rounded.
GVL is Golub and Van Loan, "Matrix Computations", 4th ed.
"""

from __future__ import annotations

import numpy as np

from projlab_validation.problems.builders import Rng, UnroundedSystem, family, gaussian, solvable
from projlab_validation.problems.problem import Vector


def _scaled(system: UnroundedSystem, rows: Vector | float) -> UnroundedSystem:
    factors = np.broadcast_to(rows, system.b.shape)
    return UnroundedSystem(system.A * factors[:, None], system.b * factors, system.x0)


def _parallel(rng: Rng, apart: float) -> UnroundedSystem:
    A = rng.standard_normal((3, 10))
    return solvable(rng, np.vstack([A, A + apart * rng.standard_normal((3, 10))]))


def rows_1e8(rng: Rng) -> UnroundedSystem:
    """Rows times 1e±8: row scaling leaves the set alone (van der Sluis 1969, on equilibration)."""
    return _scaled(gaussian(rng, 6, 20), np.array([1e8, 1e-8, 1.0, 1e8, 1e-8, 1.0]))


def rows_graded(rng: Rng) -> UnroundedSystem:
    """Rows from 1 down to 1e-15, as elimination leaves them (Stewart 1998, on grading)."""
    return _scaled(gaussian(rng, 6, 20), np.geomspace(1, 1e-15, 6))


def rows_1e150(rng: Rng) -> UnroundedSystem:
    """Rows of 1e150 and 1e-150 in turn: their product is no number (Blue 1978, on norms)."""
    return _scaled(gaussian(rng, 4, 12), np.array([1e150, 1e-150, 1e150, 1e-150]))


def columns_graded(rng: Rng) -> UnroundedSystem:
    """Columns from 1 down to 1e-6, as units mix: no row scaling mends it (van der Sluis 1969)."""
    return solvable(rng, rng.standard_normal((4, 12)) * np.geomspace(1, 1e-6, 12))


def all_tiny(rng: Rng) -> UnroundedSystem:
    """All of A and b times 2⁻⁴⁰: an absolute cutoff takes it for zero (GVL section 5.4.1)."""
    return _scaled(gaussian(rng, 4, 12), 2.0**-40)


def all_1e150(rng: Rng) -> UnroundedSystem:
    """All of A and b times 1e150: a sum of squared residuals overflows (Blue 1978)."""
    return _scaled(gaussian(rng, 4, 12), 1e150)


def all_1e_minus_150(rng: Rng) -> UnroundedSystem:
    """All of A and b times 1e-150: a product of two squares underflows to 0 (Blue 1978)."""
    return _scaled(gaussian(rng, 4, 12), 1e-150)


def entries_1e150(rng: Rng) -> UnroundedSystem:
    """Entries of every size from 1e-150 to 1e150; the largest of each row in its own column."""
    A = rng.standard_normal((4, 12)) * 10.0 ** rng.uniform(-150, 149, (4, 12))
    A[:, :4] = np.where(np.eye(4) == 1, 1e150, A[:, :4])
    return solvable(rng, A)


def parallel_rows(rng: Rng) -> UnroundedSystem:
    """Rows that differ by 2⁻⁸: κ near 1e3 at unit scale (Läuchli 1961, in the rows)."""
    return _parallel(rng, 2.0**-8)


def parallel_rows_close(rng: Rng) -> UnroundedSystem:
    """Rows that differ by 2⁻²⁴: κ near 1e8, whose square A Aᵀ cannot hold (Läuchli 1961)."""
    return _parallel(rng, 2.0**-24)


FAMILY = family(
    "scaling",
    (rows_1e8, rows_graded, columns_graded, all_tiny, parallel_rows),
    float64_only=(rows_1e150, all_1e150, all_1e_minus_150, entries_1e150, parallel_rows_close),
)
