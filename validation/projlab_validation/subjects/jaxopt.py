"""jaxopt's projections, compiled: whichever of its closed forms and solvers fits the set.

``projection_affine_set`` solves the KKT system by GMRES, ``projection_polyhedron`` runs its OSQP;
both stop at tolerances of jaxopt's own, 1e-5 and 1e-3 whatever the dtype, which the functions do
not let anybody choose. The simplex and the box are closed forms. Float64 is switched on for the
calls that need it and no others. jaxopt takes one point at a time, and so those of a stack come one
by one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from jaxopt import projection
from torch import Tensor

from projlab_validation.subjects.rows import program

_affine_set: Any = jax.jit(projection.projection_affine_set)
_simplex: Any = jax.jit(projection.projection_simplex)
_box: Any = jax.jit(projection.projection_box)
_polyhedron: Any = jax.jit(partial(projection.projection_polyhedron, check_feasible=False))


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
    with jax.enable_x64(x.dtype == torch.float64):
        function, arguments = _function(x, A, b, G, h, lb, ub)
        points = [_array(p) for p in x.reshape(-1, x.shape[-1])]
        answers = [np.array(function(p, arguments)) for p in points]
    return torch.from_numpy(np.stack(answers)).reshape(x.shape)


def _function(
    x: Tensor,
    A: Tensor | None,
    b: Tensor | None,
    G: Tensor | None,
    h: Tensor | None,
    lb: Tensor | None,
    ub: Tensor | None,
) -> tuple[Any, Any]:
    """The function of jaxopt's that is made for such a set, and what it takes beside x."""
    bounded = lb is not None or ub is not None
    if G is None and not bounded:
        return _affine_set, (_array(A), _array(b))
    if A is None and G is None:
        whole = x.new_full(x.shape[-1:], torch.inf)
        sides = (-whole if lb is None else lb, whole if ub is None else ub)
        return _box, tuple(_array(side.expand_as(whole)) for side in sides)
    is_sum = A is not None and len(A) == 1 and bool((A == 1).all())
    nonnegative = lb is not None and not lb.any() and ub is None
    if is_sum and nonnegative and G is None and b is not None and bool((b > 0).all()):
        return _simplex, _array(b[0])
    parts = program(x, A, b, G, h, lb, ub)
    equations = (parts.A, parts.b) if len(parts.A) else _nothing(x)
    return _polyhedron, tuple(map(_array, (*equations, parts.G, parts.h)))


def _nothing(x: Tensor) -> tuple[Tensor, Tensor]:
    """0 x = 0: its solver wants a row."""
    return x.new_zeros(1, x.shape[-1]), x.new_zeros(1)


def _array(tensor: Any) -> Any:
    return jax.numpy.array(tensor.numpy())
