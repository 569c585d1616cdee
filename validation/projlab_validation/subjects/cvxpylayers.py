"""cvxpylayers: a cvxpy program as a layer of torch, by diffcp and SCS, with tight tolerances.

The distance is the parameter's; the set is constant, and the layer is made at each call.
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
from cvxpy.atoms.sum_squares import sum_squares  # cvxpy's own types lose it at the top
from cvxpylayers.torch import CvxpyLayer
from torch import Tensor

from projlab_validation.subjects.rows import program

TIGHT: dict[str, Any] = {"solve_method": "SCS", "eps": 1e-10, "max_iters": 100_000}


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
    parts = program(x.double(), *(t if t is None else t.double() for t in (A, b, G, h, lb, ub)))
    unknown, point = cp.Variable(n), cp.Parameter(n)
    rows: list[Any] = []
    if len(parts.A):
        rows.append(parts.A.numpy() @ unknown == parts.b.numpy())
    if len(parts.G):
        rows.append(parts.G.numpy() @ unknown <= parts.h.numpy())
    program_: Any = cp.Problem(cp.Minimize(sum_squares(unknown - point) / 2), rows)
    layer: Any = CvxpyLayer(program_, parameters=[point], variables=[unknown])
    (answer,) = layer(x.double().reshape(-1, n), solver_args=TIGHT)
    projected: Tensor = answer.detach().reshape(x.shape).to(x.dtype)
    return projected
