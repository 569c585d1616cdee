"""The metric W of an oblique projection, W = L L', and the changes of variables it needs.

A vector x becomes L' x, in which the projection is orthogonal; a gradient g, which lives in the
dual space, becomes L^-1 g.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError
from projlab.numerics.transfer import sent
from projlab.numerics.triangular import columns, exporting, inverted, uncolumns
from projlab.system.inputs import refuse_watched, require_finite, require_values, to_tensor


@dataclass(frozen=True)
class Metric:
    """Cholesky factor L (n, n) of W, or the square root (n,) of a diagonal W."""

    L: Tensor

    @property
    def diagonal(self) -> bool:
        return self.L.dim() == 1

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest singular value of L."""
        sigma = self.L if self.diagonal else torch.linalg.svdvals(self.L)
        return float(sigma.min()), float(sigma.max())

    def to(self, device: torch.device) -> "Metric":
        return Metric(sent(self.L, device))

    def whiten(self, v: Tensor, *, dual: bool) -> Tensor:
        """L' v of a vector, L^-1 v of a gradient, over the last dimension."""
        return self._solve(v, transpose=False) if dual else self._times(v, transpose=True)

    def unwhiten(self, v: Tensor, *, dual: bool) -> Tensor:
        """The inverse of `whiten`."""
        return self._times(v, transpose=False) if dual else self._solve(v, transpose=True)

    def inverse(self, v: Tensor) -> Tensor:
        """W^-1 v."""
        return self._solve(self._solve(v, transpose=False), transpose=True)

    def _times(self, v: Tensor, *, transpose: bool) -> Tensor:
        if self.diagonal:
            return v * self.L
        return v @ (self.L if transpose else self.L.mT)

    def _solve(self, v: Tensor, *, transpose: bool) -> Tensor:
        if self.diagonal:
            return v / self.L
        if exporting():
            inverse = inverted(self.L, upper=False)
            return v @ (inverse if transpose else inverse.mT)
        T = self.L.mT if transpose else self.L
        solved = torch.linalg.solve_triangular(T, columns(v), upper=transpose)
        return uncolumns(solved, v)


def refuse_watched_metric(value: Any) -> None:
    """Raise `InputError` for what autograd or a transform watches; seen outside `set_up` alone."""
    refuse_watched(value, "metric", "it is a constant; detach it")


def metric_weights(value: Any, n: int) -> Tensor:
    """The `metric` argument as a tensor: (n,) positive, or (n, n) symmetric."""
    refuse_watched_metric(value)
    W = to_tensor(value, "metric")
    if W.shape not in {(n,), (n, n)}:
        raise InputError(
            f"metric has shape {tuple(W.shape)}; it must be ({n},), the diagonal of W, "
            f"or ({n}, {n})"
        )
    require_values(W, "metric")
    require_finite(W, "metric")
    if W.dim() == 1 and not bool((W > 0).all()):
        i = int((W <= 0).nonzero()[0])
        raise InputError(f"metric[{i}] is {float(W[i])}; a diagonal metric must be positive")
    if W.dim() == 2:
        if bool(((W - W.mT).abs() > tolerance.symmetry_bound(n, W.dtype) * W.abs().max()).any()):
            raise InputError("metric is not symmetric; it must be symmetric positive definite")
        W = (W + W.mT) / 2
    return W


def factor_metric(W: Tensor, dtype: torch.dtype, device: torch.device) -> Metric:
    """Factor W in the working precision.

    Rows hold to u times the root of how far a diagonal W spreads; beyond 1 / u that is no precision
    at all to the smaller entries, and refused.
    """
    W = W.to(device=device)
    if W.dim() == 1:
        low, high, u = float(W.min()), float(W.max()), tolerance.unit_roundoff(dtype)
        if high * u > low or not low >= torch.finfo(dtype).tiny or high > torch.finfo(dtype).max:
            raise InputError(
                f"metric holds {low:.6g} and {high:.6g}: the largest entry may be at most "
                f"{1 / u:.2g} times the smallest in {dtype}, and both within its range. Take "
                "float64, divide by a common factor, or hold the variables of large entries by "
                "equations"
            )
    W = W.to(dtype)
    if W.dim() == 1:
        return Metric(W.sqrt())
    L, failed = torch.linalg.cholesky_ex(W)
    if int(failed) > 0:
        raise InputError(
            f"metric is not positive definite in {dtype}: its Cholesky factorisation fails at "
            f"row {int(failed) - 1}"
        )
    return Metric(L)
