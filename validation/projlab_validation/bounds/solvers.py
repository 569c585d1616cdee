"""Quadratic programming solvers, asked through cvxpy for their best: each one's error is shown."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from projlab_validation.bounds.problems import BoundedProblem

Vector = NDArray[np.float64]

SETTINGS: dict[str, dict[str, Any]] = {
    "CLARABEL": {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12},
    "OSQP": {"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iter": 20000},
    "HIGHS": {},
    "PIQP": {"eps_abs": 1e-12, "eps_rel": 1e-12},
    "PROXQP": {"eps_abs": 1e-12, "eps_rel": 1e-12},
}
"""By the name that cvxpy gives them."""

MOST = 2000
"""Variables up to which they are asked."""


def installed() -> tuple[str, ...]:
    """Those that are there."""
    import cvxpy as cp

    return tuple(name for name in SETTINGS if name in cp.installed_solvers())


def solve(problem: BoundedProblem, solver: str) -> tuple[Vector | None, str]:
    """The answer, None for none, and the solver's own status."""
    import cvxpy as cp
    from cvxpy.atoms.sum_squares import sum_squares

    x = cp.Variable(problem.n)
    lb, ub = problem.box
    rows: list[Any] = []
    if problem.A is not None:
        rows.append(problem.A @ x == problem.b)
    if problem.G is not None and problem.h is not None:
        rows.append(problem.G @ x <= problem.h)
    for bound, sign in ((lb, 1), (ub, -1)):
        there = np.isfinite(bound).nonzero()[0]
        if len(there):
            rows.append(sign * x[there] >= sign * bound[there])
    program = cp.Problem(cp.Minimize(0.5 * sum_squares(x - problem.x0)), rows)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.solve(solver=solver, **SETTINGS[solver])
    except Exception as fault:  # whatever a solver raises is a finding about that solver
        return None, f"{type(fault).__name__}: {fault}"
    return (None if x.value is None else np.asarray(x.value, dtype=np.float64)), str(program.status)
