"""The numba kernels of a training step within bounds, where numba is there."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels.native import PLAIN, loaded, recorded, wanted

STEPS = 50
"""Of Newton's method; torch searches with a bracket where they do not do."""

Bounds = tuple[Tensor, Tensor]
"""Lower and upper ones, (k, n) or (1, n)."""


@cache
def _kernels(dtype: torch.dtype) -> Any:
    return loaded("cone_kernels", dtype)


def kernels(*tensors: Tensor) -> Any:
    """The kernels for these (k, n) of one dtype, written in place; None where torch does it."""
    if recorded():
        return None
    first = tensors[0]
    fits = first.dtype in (torch.float64, torch.float32) and all(
        type(t) in PLAIN and t.device.type == "cpu" and t.dtype is first.dtype and t.is_contiguous()
        for t in tensors
    )
    return _kernels(first.dtype) if fits and wanted() else None


def cone(
    compiled: Any, g: Tensor, x: Tensor, bounds: Bounds, face: Tensor, *, sums: bool, given: bool
) -> bool:
    """-g onto the tangent cone of the bounds at x, in place of g; see `cone_kernels`.

    With `sums` of those x whose rows keep their sums. False where torch has to do it.
    """
    lb, ub = (t.numpy() for t in bounds)
    parts = g.numpy(), x.numpy(), lb, ub, face.numpy(), given
    if sums:
        done: bool = compiled[0](*parts, _noise(g), STEPS)
        return done
    compiled[2](*parts)
    return True


def onto(compiled: Any, x: Tensor, bounds: Bounds, face: Tensor, right: Tensor | None) -> bool:
    """x onto its bounds in place, entries of `face` on theirs; with `right` (k,) also its sums.

    These are overwritten by what the sums are then. False where torch has to do it.
    """
    lb, ub = (t.numpy() for t in bounds)
    if right is None:
        compiled[3](x.numpy(), lb, ub, face.numpy())
        return True
    done: bool = compiled[1](x.numpy(), lb, ub, face.numpy(), right.numpy(), _noise(x), STEPS)
    return done


def _noise(x: Tensor) -> float:
    return tolerance.STEP_ROUNDINGS * tolerance.unit_roundoff(x.dtype)
