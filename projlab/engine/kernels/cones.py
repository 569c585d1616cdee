"""The numba kernels of a training step within bounds, where numba is there."""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels.native import PLAIN, loaded, recorded, wanted

STEPS = 50
"""Of Newton's method; torch searches with a bracket where they do not do."""


class Bounds(NamedTuple):
    """As the kernels take them."""

    dtype: torch.dtype
    lower: Any
    """An array (k, n) or (1, n), or a number of that type for all."""
    upper: Any

    @property
    def uniform(self) -> bool:
        """Whether they are numbers."""
        return not self.lower.ndim

    @staticmethod
    def of(lb: Tensor, ub: Tensor, n: int) -> "Bounds | None":
        """Of bounds (k, n) or (); None where torch does it."""
        if not (_plain(lb, lb.dtype) and _plain(ub, lb.dtype)):
            return None
        if lb.dim() == ub.dim() == 0:
            return Bounds(lb.dtype, lb.numpy()[()], ub.numpy()[()])
        few = (t.expand(1, n).contiguous() if t.dim() == 0 else t for t in (lb, ub))
        return Bounds(lb.dtype, *(t.numpy() for t in few))


def _plain(t: Tensor, dtype: torch.dtype) -> bool:
    return (
        type(t) in PLAIN
        and t.is_cpu
        and t.dtype is dtype
        and (dtype is torch.float32 or dtype is torch.float64)
        and t.is_contiguous()
        and not t.is_neg()
    )


@cache
def _kernels(dtype: torch.dtype, *, uniform: bool) -> Any:
    """Compiled or loaded at the first call; None where numba is not there or fails."""
    one = torch.ones(1, 1, dtype=dtype, device="cpu")
    bound = one[0, 0] if uniform else one
    bounds = Bounds.of(bound, bound, 1)
    assert bounds is not None

    def tried(compiled: Any) -> None:
        g, x, face, right = one.clone(), one.clone(), one.clone(), one[0].double()
        for sums in (True, False):
            cone(compiled, g, x, bounds, face, sums=sums, given=False)
            onto(compiled, x, bounds, face, right if sums else None)

    return loaded("cone_kernels", dtype, tried)


def kernels(bounds: Bounds, *tensors: Tensor) -> Any:
    """The kernels for these (k, n) of one dtype, written in place; None where torch does it."""
    if recorded() or not all(_plain(t, bounds.dtype) for t in tensors):
        return None
    return _kernels(bounds.dtype, uniform=bounds.uniform) if wanted() else None


def cone(
    compiled: Any, g: Tensor, x: Tensor, bounds: Bounds, face: Tensor, *, sums: bool, given: bool
) -> bool:
    """-g onto the tangent cone of the bounds at x, in place of g; see `cone_kernels`.

    With `sums` of those x whose rows keep their sums. False where torch has to do it.
    """
    parts = g.numpy(), x.numpy(), bounds.lower, bounds.upper, face.numpy(), given
    if sums:
        done: bool = compiled[0](*parts, _noise(g), STEPS)
        return done
    compiled[2](*parts)
    return True


def onto(compiled: Any, x: Tensor, bounds: Bounds, face: Tensor, right: Tensor | None) -> bool:
    """x onto its bounds in place, entries of `face` on theirs; with `right` (k,) also its sums.

    These are overwritten by what the sums are then. False where torch has to do it.
    """
    parts = x.numpy(), bounds.lower, bounds.upper, face.numpy()
    if right is None:
        compiled[3](*parts)
        return True
    done: bool = compiled[1](*parts, right.numpy(), _noise(x), STEPS)
    return done


def _noise(x: Tensor) -> float:
    return tolerance.STEP_ROUNDINGS * tolerance.unit_roundoff(x.dtype)
