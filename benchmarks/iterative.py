"""A projection by iteration beside conjugate gradients as one would write them with scipy.

The peer solves A A' y = A x - b by `scipy.sparse.linalg.cg` with Jacobi's preconditioner, and takes
A' y from x. It knows the residual alone: its tolerance is the loosest power of ten with which its
answer, too, is within `ACCURACY`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

import projlab

ACCURACY = 1e-12
"""Forward error asked for, and held against a projection down to rounding."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A random sparse system, ten entries a row, with a solution."""

    A: scipy.sparse.csr_array
    b: Array
    x0: Array


def case(columns: int) -> Case:
    """With three rows for ten columns."""
    rng = np.random.default_rng(columns)
    m, each = 3 * columns // 10, 10
    where = np.repeat(np.arange(m), each), rng.integers(0, columns, m * each)
    A = scipy.sparse.csr_array((rng.standard_normal(m * each), where), shape=(m, columns))
    b: Array = np.asarray(A @ rng.standard_normal(columns))
    return Case(A, b, rng.standard_normal(columns))


def jacobi_cg(system: Case, tolerance: float) -> Callable[[], Array]:
    """The peer's projection."""
    A, b, x0 = system.A, system.b, system.x0
    m = A.shape[0]
    inverse = 1 / np.asarray(A.multiply(A).sum(axis=1)).ravel()
    gram = LinearOperator((m, m), matvec=lambda y: A @ (A.T @ y), dtype=A.dtype)
    jacobi = LinearOperator((m, m), matvec=lambda r: inverse * r, dtype=A.dtype)

    def project() -> Array:
        y, failed = cg(gram, A @ x0 - b, rtol=tolerance, atol=0.0, M=jacobi)
        if failed:
            raise AssertionError(f"scipy's cg did not converge: {failed}")
        projected: Array = x0 - A.T @ y
        return projected

    return project


def calls(columns: int) -> dict[str, Callable[[], object]]:
    """Projections to `ACCURACY`, checked: ours, and the peer's."""
    system = case(columns)
    x0 = torch.from_numpy(system.x0)
    reference = projlab.projector(system.A, system.b, "iterative")(x0).numpy()
    P = projlab.projector(system.A, system.b, "iterative", accuracy=ACCURACY)
    _check("projlab", P(x0).numpy(), reference)
    for exponent in range(12, 16):
        theirs = jacobi_cg(system, 10.0**-exponent)
        if _error(theirs(), reference) <= ACCURACY:
            return {"projlab": lambda: P(x0), "scipy": theirs}
    raise AssertionError(f"scipy's cg reaches {ACCURACY} at no tolerance")


def _error(x: Array, reference: Array) -> float:
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


def _check(who: str, x: Array, reference: Array) -> None:
    error = _error(x, reference)
    if error > ACCURACY:
        raise AssertionError(f"{who} errs by {error:.2g}, not within {ACCURACY}")
