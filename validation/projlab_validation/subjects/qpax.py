"""qpax, a differentiable solver of quadratic programs in JAX: its primal-dual interior point.

In float64, which is switched on for its calls alone; the answer is rounded to x's dtype. It takes
one point at a time.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import qpax
import torch
from torch import Tensor

from projlab_validation.subjects.rows import program

TOLERANCE = 1e-10
"""Of its residuals and gap, for 1e-6 by default; less changed no digit where it was tried."""


def project(
    x: Tensor,
    A: Tensor | None,
    b: Tensor | None,
    G: Tensor | None = None,
    h: Tensor | None = None,
    lb: Tensor | None = None,
    ub: Tensor | None = None,
) -> Tensor:
    """Project every x onto {x : A x = b, G x <= h, lb <= x <= ub}."""
    n = x.shape[-1]
    parts = [part.double() for part in program(x, A, b, G, h, lb, ub)]
    points = x.double().reshape(-1, n)
    with jax.enable_x64(True):
        Q, *sides = (_array(t) for t in (torch.eye(n, dtype=torch.float64), *parts))
        answers = [np.array(_solve(Q, -_array(p), *sides)) for p in points]
    return torch.from_numpy(np.stack(answers)).reshape(x.shape).to(x.dtype)


def _solve(*arguments: Any) -> Any:
    return qpax.solve_qp(*arguments, solver_tol=TOLERANCE)[0]


def _array(tensor: Tensor) -> Any:
    return jax.numpy.array(tensor.numpy())
