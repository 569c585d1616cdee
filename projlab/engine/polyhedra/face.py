"""A face of a polyhedron, and the equality-constrained projection onto it that an answer is.

On a face some variables sit on a bound, some rows are active, and the rest is the projection onto
an affine set: K (p, y) = (v, r), with K = [[I, M_F'], [M_F, 0]]. It is solved by corrections with
true residuals through a shifted Gram matrix; entries of a residual that are rounding move nothing,
so that a direction in which active rows depend on each other keeps the multipliers it came with.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.polyhedra.systems import Factor, System


@dataclass
class Face:
    """Of k vectors: which variables sit on which bound, and which rows are active."""

    low: Tensor
    """(k, n) at the lower bound."""
    high: Tensor
    """(k, n) at the upper bound."""
    active: Tensor
    """(k, m)."""

    @property
    def free(self) -> Tensor:
        """(k, n) between the bounds."""
        return ~(self.low | self.high)

    @classmethod
    def none(cls, x: Tensor, y: Tensor) -> "Face":
        """No face at all: every variable on both bounds."""
        return cls(*(torch.ones_like(t, dtype=torch.bool) for t in (x, x, y)))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """low, high and active."""
        return self.low, self.high, self.active

    def take(self, which: Tensor) -> "Face":
        """Of these vectors."""
        return Face(self.low[which], self.high[which], self.active[which])

    def put(self, which: Tensor, other: "Face") -> None:
        """Write the faces of these vectors."""
        self.low[which], self.high[which] = other.low, other.high
        self.active[which] = other.active

    def same(self, other: "Face") -> Tensor:
        """(k,) whether they are one face."""
        rows = (self.active == other.active).all(-1)
        return rows & (self.low == other.low).all(-1) & (self.high == other.high).all(-1)

    def fixed(self, lb: Tensor, ub: Tensor) -> Tensor:
        """(k, n) the bounds that variables sit on, zero where they are free."""
        return torch.where(self.low, lb, torch.where(self.high, ub, 0.0))


class Polished(NamedTuple):
    """The projection onto faces."""

    x: Tensor
    """(k, n)."""
    y: Tensor
    """(k, m)."""
    holds: Tensor
    """(k,) whether it is the projection onto the polyhedron."""
    off: Tensor
    """(k,) the largest wrong sign, in units of x."""


def polish(
    system: System, face: Face, x0: Tensor, right: Tensor, lb: Tensor, ub: Tensor, y: Tensor
) -> Polished:
    """The projection onto each face, from multipliers y nearby, and whether its signs hold."""
    y = torch.where(face.active, y, 0.0)
    factor = system.factor(face.free, face.active, _shifts(system, x0))
    fixed = face.fixed(lb, ub)
    w, y, rest = corrected(system, factor, face, x0, fixed, right, y)
    x = torch.where(face.free, w, fixed)
    noise = tolerance.ANSWERED * tolerance.unit_roundoff(x.dtype)
    size = noise * (x0.abs() + system.sizes(y))
    wrong = torch.where(face.free, torch.maximum(lb - w, w - ub), 0.0)
    wrong = torch.where(face.low & (lb < ub), w - lb, wrong)
    wrong = torch.where(face.high, ub - w, wrong)
    over = system.times(x.clamp(lb, ub)) - right
    room = noise * row_size(x, right)
    inequality = ~system.is_equation
    unsigned = inequality & (y < -noise * y.abs().amax(-1, keepdim=True))
    holds = rest & (wrong <= size).all(-1)
    holds &= ~(inequality & (over > room)).any(-1) & ~unsigned.any(-1)
    off = wrong.clamp_min(0).amax(-1) if x.shape[-1] else wrong.sum(-1)
    return Polished(x.clamp(lb, ub), torch.where(inequality, y.clamp_min(0), y), holds, off)


def _shifts(system: System, x: Tensor) -> Tensor:
    shift = tolerance.gram_shift(max(1, system.shape[0])) * _FINER
    return torch.full((len(x),), shift, dtype=x.dtype, device=x.device)


_FINER = 2.0**10
"""The shift of a face over that of a Gram matrix: corrections are cheap here beside the search, and
rounding of a residual is amplified by one over the shift in what rows make of each other."""


def row_size(x: Tensor, right: Tensor) -> Tensor:
    """(k, m): what rounding of a residual M x - r is relative to, rows of norm about one."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True) + right.abs()


def corrected(
    system: System,
    factor: Factor,
    face: Face,
    v: Tensor,
    fixed: Tensor,
    right: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """w = v - M'y with M x = right on active rows, x = w on free variables; and whether it is so."""
    free, noise = face.free, tolerance.ANSWERED * tolerance.unit_roundoff(v.dtype)
    w = v - system.transposed(y)
    before = torch.full((len(v),), torch.inf, dtype=v.dtype, device=v.device)
    resting = torch.zeros_like(before, dtype=torch.bool)
    for _ in range(4 * tolerance.CORRECTIONS):
        x = torch.where(free, w, fixed)
        residual = torch.where(face.active, system.times(x) - right, 0.0)
        large = residual.abs() > noise * (row_size(x, right) + row_size(v, right))
        residual = torch.where(large, residual, 0.0)
        size = torch.linalg.vector_norm(residual, dim=-1)
        resting = size == 0
        moving = ~resting & (size < tolerance.CONTRACTING * before)
        if not bool(moving.any()):
            break
        before = size
        y = y + torch.where(moving.unsqueeze(-1), factor.solve(residual), 0.0)
        w = v - system.transposed(y)
    # what is left is rounding: it moves x, along rows as far as they go, and no multipliers
    x = torch.where(free, w, fixed)
    residual = torch.where(face.active, system.times(x) - right, 0.0)
    w = torch.where(free, w - system.transposed(factor.solve(residual)), w)
    return w, y, resting
