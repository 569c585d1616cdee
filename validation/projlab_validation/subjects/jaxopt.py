"""jaxopt's ``projection.projection_affine_set``, compiled: the KKT system by GMRES.

GMRES stops at jaxopt's own tolerance, 1e-5 whatever the dtype, which the function does not let
anybody choose. Float64 is switched on for the calls that need it and no others. jaxopt takes one
point at a time, and so those of a stack come one by one.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
from jaxopt.projection import projection_affine_set
from torch import Tensor

_compiled: Any = jax.jit(projection_affine_set)


def project(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Project every x onto {x : A x = b}."""
    with jax.enable_x64(x.dtype == torch.float64):
        rows, right = jax.numpy.array(A.numpy()), jax.numpy.array(b.numpy())
        points = [jax.numpy.array(p.numpy()) for p in x.reshape(-1, x.shape[-1])]
        answers = [np.array(_compiled(p, (rows, right))) for p in points]
    return torch.from_numpy(np.stack(answers)).reshape(x.shape)
