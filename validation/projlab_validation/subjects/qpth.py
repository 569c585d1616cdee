"""qpth, OptNet's layer: a batched interior point in torch, at its own tolerance of 1e-12.

It wants an inequality, and so 0 x <= 1 stands where there is none.
"""

from __future__ import annotations

from typing import Any

import torch
from qpth.qp import QPFunction
from torch import Tensor

from projlab_validation.subjects.rows import program


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
    parts = program(x, A, b, G, h, lb, ub)
    inequalities = (parts.G, parts.h)
    if not len(parts.G):
        inequalities = (x.new_zeros(1, n), x.new_ones(1))
    none = x.new_zeros(0)  # what it takes for no equations
    equations = (parts.A, parts.b) if len(parts.A) else (none, none)
    eye = torch.eye(n, dtype=x.dtype, device=x.device)
    layer: Any = QPFunction(verbose=-1)
    answer: Tensor = layer(eye, -x.reshape(-1, n), *inequalities, *equations)
    return answer.detach().reshape(x.shape)
