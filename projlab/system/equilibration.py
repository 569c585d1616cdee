"""Row equilibration E = D A, f = D b with D powers of two: exact, and blind to the caller's units.

Reference: van der Sluis, "Condition numbers and equilibration of matrices", Numer. Math. 14 (1969).
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics.scaling import exact_power, power_of_two, scale, widened
from projlab.system.constraint import AffineConstraint
from projlab.system.rows import Rows


@dataclass(frozen=True)
class Equilibrated:
    """E x = f with rows of norm in [sqrt(1/2), sqrt(2)); rows of zeros stay zero."""

    rows: Rows
    f: Tensor
    """(..., m)."""
    exponent: Tensor
    """(..., m) integers: D = 2**exponent."""
    factor: Tensor | None = None
    """(..., m): D in the rows' dtype, where that has all of these powers."""

    @property
    def units(self) -> tuple[Tensor, ...]:
        """One or two factors in the rows' dtype whose product is D."""
        if self.factor is not None:
            return (self.factor,)
        return power_of_two(self.exponent, self.rows.dtype)

    def element(self, i: int) -> "Equilibrated":
        """System i of a batch; the system itself where there is none."""
        if self.rows.batch is None:
            return self
        return Equilibrated(self.rows.element(i), self.f[i], self.exponent[i])


def equilibrate_rows(rows: Rows) -> tuple[Rows, Tensor]:
    """E and the exponents of D; a power of two in a row of A changes no bit of E."""
    scaled, exponent, _ = _equilibrated(rows)
    return scaled, exponent


def _equilibrated(rows: Rows) -> tuple[Rows, Tensor, Tensor | None]:
    """E, the exponents of D, and D (..., m) in the rows' dtype where it has all of these powers."""
    norms = rows.row_norms()
    if norms.numel() == 0:
        return rows, torch.zeros(norms.shape, dtype=torch.int32, device=rows.device), None
    smallest, largest = torch.aminmax(norms)
    lowest, highest = safe_norms(norms.dtype)
    if lowest < smallest.item() and largest.item() < highest:
        exponent = -_exponent(norms)
        factor = exact_power(exponent, norms.dtype)
        return rows.multiply_rows(factor), exponent, factor
    # by the largest entry first: the squares in a norm could over- or underflow
    coarse = torch.frexp(rows.row_max()).exponent
    rows = rows.scale_rows(-coarse)
    norms = rows.row_norms()
    fine = torch.where(norms == 0, 0, _exponent(norms))
    return rows.scale_rows(-fine), -(coarse + fine), None


@cache
def safe_norms(dtype: torch.dtype) -> tuple[float, float]:
    """Between these, squares that a norm adds up neither over- nor underflow."""
    info = torch.finfo(dtype)
    return math.sqrt(info.tiny) / info.eps, math.sqrt(info.max)


def _exponent(norms: Tensor) -> Tensor:
    """Of the nearest power of two, by ratio."""
    # numpy's, as in `numerics.scaling`: a handful of numbers, for which each torch operator is dear
    mantissa, exponent = np.frexp(norms.cpu().numpy())
    exponent = exponent - (mantissa < math.sqrt(0.5))
    return torch.from_numpy(exponent).to(norms.device)


def equilibrated_side(b: Tensor, exponent: Tensor) -> Tensor:
    """f = D b in float64, before any rounding to a narrower dtype; b and the exponents (..., m).

    On the CPU where b's device has no float64.
    """
    wide = widened(b)
    return scale(wide, exponent.to(wide.device))


def equilibrate(constraint: AffineConstraint, dtype: torch.dtype) -> Equilibrated:
    """E and f in `dtype`, on the constraint's device.

    Scaled before they are rounded to it: entries of A and b may lie outside its range.
    """
    wide = torch.promote_types(torch.promote_types(constraint.dtype, constraint.b.dtype), dtype)
    rows, exponent, factor = _equilibrated(constraint.rows.to(wide))
    if factor is None or constraint.device.type == "mps":
        f = equilibrated_side(constraint.b, exponent)
    else:
        f = constraint.b.double() * factor
    f = f.to(device=constraint.device, dtype=dtype)
    if not math.isfinite(f.sum().item()) and not bool(torch.isfinite(f).all()):
        row = int((~torch.isfinite(f)).nonzero()[0, -1])
        raise InputError(
            f"b of {constraint.names[row]} divided by the norm of its row of A overflows in "
            f"{dtype}: no x of that size can be represented"
        )
    if factor is not None and dtype is not wide:
        factor = None
    return Equilibrated(rows.to(dtype), f, exponent, factor)
