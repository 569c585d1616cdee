"""Row equilibration E = D A, f = D b with D powers of two: exact, and blind to the caller's units.

Reference: van der Sluis, "Condition numbers and equilibration of matrices", Numer. Math. 14 (1969).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics.scaling import scale
from projlab.system.constraint import AffineConstraint
from projlab.system.rows import Dense, Matrix


@dataclass(frozen=True)
class Equilibrated:
    """E x = f with rows of norm in [sqrt(1/2), sqrt(2)); rows of zeros stay zero."""

    rows: Matrix
    f: Tensor
    """(..., m)."""
    exponent: Tensor
    """(..., m) integers: D = 2**exponent."""


def equilibrate_rows(matrix: Matrix) -> tuple[Matrix, Tensor]:
    """E and the exponents of D; a power of two in a row of A changes no bit of E."""
    if matrix.shape[0] == 0:
        lead = matrix.entries.shape[:-1] if isinstance(matrix, Dense) else (0,)
        return matrix, torch.zeros(lead, dtype=torch.int32, device=matrix.device)
    norms = matrix.row_norms()
    smallest, largest = torch.aminmax(norms)
    info = torch.finfo(norms.dtype)
    if math.sqrt(info.tiny) / info.eps < float(smallest) and float(largest) < math.sqrt(info.max):
        exponent = _exponent(norms)
        return matrix.scale_rows(-exponent), -exponent
    # by the largest entry first: the squares in a norm could over- or underflow
    coarse = torch.frexp(matrix.row_max()).exponent
    matrix = matrix.scale_rows(-coarse)
    fine = _exponent(matrix.row_norms())
    return matrix.scale_rows(-fine), -(coarse + fine)


def _exponent(norms: Tensor) -> Tensor:
    """Of the nearest power of two; zero for a norm of zero."""
    mantissa, exponent = torch.frexp(norms)
    exponent = exponent - (mantissa < math.sqrt(0.5)).to(exponent.dtype)
    return torch.where(mantissa == 0, 0, exponent)


def equilibrate(constraint: AffineConstraint, dtype: torch.dtype) -> Equilibrated:
    """E and f in `dtype`, on the constraint's device.

    Scaled before they are rounded to it: entries of A and b may lie outside its range.
    """
    wide = torch.promote_types(torch.promote_types(constraint.dtype, constraint.b.dtype), dtype)
    rows, exponent = equilibrate_rows(constraint.matrix.to(wide))
    rows = rows.to(dtype)
    f = scale(constraint.b.to(wide), exponent).to(dtype)
    if not bool(torch.isfinite(f).all()):
        row = int((~torch.isfinite(f)).nonzero()[0, -1])
        raise InputError(
            f"b of {constraint.names[row]} divided by the norm of its row of A overflows in "
            f"{dtype}: no x of that size can be represented"
        )
    return Equilibrated(rows, f, exponent)
