"""Norms, and the constants by which rounding in float64 enters a proof."""

import torch
from torch import Tensor

from projlab import tolerance

U = tolerance.unit_roundoff(torch.float64)


def norms(v: Tensor) -> Tensor:
    """(k,) 2-norms of v (k, n), scaled against over- and underflow."""
    peak = v.abs().amax(-1, keepdim=True)
    peak = torch.where((peak > 0) & torch.isfinite(peak), peak, 1.0)
    norm: Tensor = torch.linalg.vector_norm(v / peak, dim=-1) * peak.squeeze(-1)
    return norm


def gamma(k: int) -> float:
    """gamma_k = k u / (1 - k u): the error of k roundings in a row (ASNA section 3.1)."""
    return k * U / (1 - k * U)


def frobenius(M: Tensor) -> Tensor:
    """(...,) Frobenius norms of M (..., m, n), upper bounds on the 2-norms."""
    norm: Tensor = torch.linalg.matrix_norm(M)
    return norm
