"""botorch's ``project_to_equality_constraints``: one solve with the Gram matrix of the given rows.

The function of `botorch.optim.parameter_constraints` that returns the nearest point on equality
constraints; ``project_to_feasible_space_via_slsqp`` beside it is for inequalities and bounds, by an
iterative solver. A constraint is a triple of indices, coefficients and right-hand side.
"""

from __future__ import annotations

from typing import Any

import torch
from botorch.optim import parameter_constraints as _module
from torch import Tensor

_project: Any = _module.project_to_equality_constraints


def project(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Project every x onto {x : A x = b}."""
    every = torch.arange(A.shape[1])
    constraints = [(every, row, right) for row, right in zip(A, b.tolist(), strict=True)]
    answer: Tensor = _project(x.reshape(-1, x.shape[-1]), constraints)
    return answer.reshape(x.shape)
