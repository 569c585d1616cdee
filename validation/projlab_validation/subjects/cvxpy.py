"""cvxpy itself: Clarabel with tight tolerances on the expanded objective ½‖x‖² − x₀ᵀx.

Expanded, because a distance ‖x − x₀‖ loses half the digits to a tolerance on its square. It works
in float64 whatever it is given; the answer is rounded to x's dtype.
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import torch
from cvxpy.atoms.sum_squares import sum_squares  # cvxpy's own types lose it at the top
from torch import Tensor

TIGHT: dict[str, Any] = {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13}


def project(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Project every x onto {x : A x = b}, one quadratic program each."""
    rows, right = A.numpy().astype(np.float64), b.numpy().astype(np.float64)
    points = x.numpy().astype(np.float64).reshape(-1, x.shape[-1])
    answers = np.stack([_project(point, rows, right) for point in points])
    return torch.from_numpy(answers.reshape(x.shape)).to(x.dtype)


def _project(point: Any, rows: Any, right: Any) -> Any:
    unknown = cp.Variable(point.size)
    objective = cp.Minimize(0.5 * sum_squares(unknown) - point @ unknown)
    problem: Any = cp.Problem(objective, [rows @ unknown == right])
    problem.solve(solver=cp.CLARABEL, **TIGHT)
    if unknown.value is None:
        raise ArithmeticError(f"Clarabel gives no answer: {problem.status}")
    return unknown.value
