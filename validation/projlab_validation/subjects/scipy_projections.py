"""scipy's trust-constr projections: its null space Z and least-squares operators, method QR.

``scipy.optimize._trustregion_constr.projections`` is private: another scipy may lack it. It works
in float64 whatever it is given; the answer is rounded to x's dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize._trustregion_constr import projections as _module
from torch import Tensor

_projections: Any = _module.projections


def project(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Project every x onto {x : A x = b}: Z x + Y b, with Z the null-space projection, Y = A⁺."""
    Z, _, Y = _projections(A.numpy().astype(np.float64), method="QRFactorization")
    shift = Y.dot(b.numpy().astype(np.float64))
    points = x.numpy().astype(np.float64).reshape(-1, x.shape[-1])
    answers = np.stack([Z.dot(point) + shift for point in points])
    return torch.from_numpy(answers.reshape(x.shape)).to(x.dtype)
