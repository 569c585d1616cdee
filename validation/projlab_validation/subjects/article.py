"""The article's recipe: x − A⁺ (A x − b), with the pseudoinverse as torch computes it.

Rows are taken as given, so its forward error grows with the condition number of the rows *before*
equilibration, and its rank is torch's default cutoff.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Project every x onto {x : A x = b}."""
    inverse: Tensor = torch.linalg.pinv(A)
    return x - (x @ A.mT - b) @ inverse.mT
