"""botorch's projections: one solve with the Gram matrix of the given rows, or scipy's SLSQP.

The functions of `botorch.optim.parameter_constraints`: ``project_to_equality_constraints`` where
there are equations alone, ``project_to_feasible_space_via_slsqp`` for inequalities and bounds. A
constraint is a triple of indices, coefficients and right-hand side, and an inequality one that is
at least its right-hand side.
"""

from __future__ import annotations

from typing import Any

import torch
from botorch.optim import parameter_constraints as _module
from torch import Tensor

from projlab_validation.subjects.rows import program

_equations: Any = _module.project_to_equality_constraints
_slsqp: Any = _module.project_to_feasible_space_via_slsqp


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
    points = x.reshape(-1, x.shape[-1])
    # bounds come as rows: its own it refuses to begin outside of
    parts = program(x, A, b, G, h, lb, ub)
    equations = _triples(parts.A, parts.b)
    if G is None and lb is None and ub is None:
        answer: Tensor = _equations(points, equations)
        return answer.reshape(x.shape)
    infinite = x.new_full(x.shape[-1:], torch.inf)
    bounds, inequalities = torch.stack([-infinite, infinite]), _triples(-parts.G, -parts.h)
    each = [_slsqp(p[None], bounds, inequalities, equations) for p in points]
    return torch.cat(each).reshape(x.shape)


def _triples(rows: Tensor, right: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    every = torch.arange(rows.shape[1])
    return [(every, row, bound) for row, bound in zip(rows, right.tolist(), strict=True)]
