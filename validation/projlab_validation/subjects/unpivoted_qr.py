"""The QR that everyone writes: Aᵀ = Q R without pivoting, one pass, no rank decision.

Where rows are redundant R is singular up to rounding, and the answer is noise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Project every x onto {x : A x = b}."""
    Q, R = torch.linalg.qr(A.mT)
    residual = (x @ A.mT - b).unsqueeze(-1)
    y: Tensor = torch.linalg.solve_triangular(R.mT, residual, upper=False)
    correction: Tensor = y.squeeze(-1) @ Q.mT
    return x - correction
