"""cvxpy's answers: three solvers, default and tight tolerances, two ways to write the objective.

"distance" minimises ‖x − x₀‖², "expanded" ½‖x‖² − x₀ᵀx: the same problem, but cvxpy gives the first
n more variables and constraints, and the second is often more accurate by orders of magnitude.
Statuses are the solvers' own words, and lie both ways: "optimal" with few right digits,
"infeasible" for consistent systems.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy.atoms.sum_squares import sum_squares  # cvxpy's own types lose it at the top

from projlab_validation.oracles.answer import Answer
from projlab_validation.problems import Problem
from projlab_validation.stdout import silent_stdout

SOLVERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "clarabel": (
        cp.CLARABEL,
        {},
        {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12, "tol_ktratio": 1e-12},
    ),
    "osqp": (
        cp.OSQP,
        {},
        {"eps_abs": 1e-12, "eps_rel": 1e-12, "max_iter": 200_000, "polishing": True},
    ),
    "highs": (
        cp.HIGHS,
        {},
        {
            "primal_feasibility_tolerance": 1e-10,  # the smallest that it takes
            "dual_feasibility_tolerance": 1e-10,
            "qp_regularization_value": 0.0,
        },
    ),
}
"""cvxpy's name of each solver, and its options at default and at tight tolerances."""

MAX_PARAMETERS = 4000
"""With more entries than this b and x₀ enter as constants: cvxpy stores how an objective depends on
parameters as a dense matrix, 65 GB for ``mm_boyd2``."""

HIGHS_STEP = 5e9
"""d² n of a first step of HiGHS that takes a few seconds, d the dimension of the null space: 1e9 to
5e9 a second as measured on ``netlib_wood1p`` and ``netlib_greenbea``."""


def answers(problem: Problem, *, time_limit: float | None) -> list[Answer]:
    """Twelve answers, "clarabel_default_distance" and so on; the limit is in seconds a solve.

    `Answer.seconds` is the wall time of one solve of a problem that is compiled already. A solver
    that raises gives its exception as status.
    """
    with silent_stdout(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they repeat the status
        return list(_answers(problem, time_limit))


def _answers(problem: Problem, time_limit: float | None) -> Iterator[Answer]:
    x = cp.Variable(problem.n)
    b: Any = problem.b
    x0: Any = problem.x0
    if problem.m + problem.n <= MAX_PARAMETERS:
        b, x0 = cp.Parameter(b.shape, value=b), cp.Parameter(x0.shape, value=x0)
    objectives = {
        "distance": sum_squares(x - x0),
        "expanded": sum_squares(x) / 2 - x0 @ x,
    }
    for formulation, objective in objectives.items():
        equations: Any = problem.A @ x == b
        program: Any = cp.Problem(cp.Minimize(objective), [equations])
        for solver, (name, default, tight) in SOLVERS.items():
            program.get_problem_data(name)  # compiles, once for both tolerances
            limits = _limits(solver, problem, time_limit)
            for tolerance, options in (("default", default), ("tight", tight)):
                start = time.perf_counter()
                try:
                    program.solve(solver=name, warm_start=False, **options, **limits)
                    status, point = str(program.status), x.value
                except Exception as fault:  # whatever a solver raises is its answer
                    status, point = f"{type(fault).__name__}: {fault}", None
                seconds = time.perf_counter() - start
                yield Answer(f"{solver}_{tolerance}_{formulation}", status, _finite(point), seconds)


def _limits(solver: str, problem: Problem, time_limit: float | None) -> dict[str, float]:
    """The options that keep a solve within the limit, roughly.

    HiGHS looks at the clock between the steps of its active-set method. The first forms the Hessian
    on the null space and can take two minutes; its own limit on that dimension then says no.
    """
    if time_limit is None:
        return {}
    if solver != "highs":
        return {"time_limit": time_limit}
    dimension = min(4000, int(np.sqrt(HIGHS_STEP * time_limit / problem.n)))
    return {"time_limit": time_limit, "qp_nullspace_limit": dimension}


def _finite(point: Any) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """The point as an array, or None where there is none worth the name."""
    return None if point is None or not np.all(np.isfinite(point)) else np.asarray(point)
