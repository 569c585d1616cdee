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
from projlab.engine.projector import Projector
from projlab.errors import ProjlabError
from projlab.numerics.double_double import add, exact, negative
from projlab.system.rows import Rows, sparse_rows


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
    system: System,
    face: Face,
    x0: Tensor,
    right: Tensor,
    lb: Tensor,
    ub: Tensor,
    y: Tensor,
    *,
    insist: bool = False,
) -> Polished:
    """The projection onto each face, from multipliers y nearby, and whether its signs hold.

    `insist` goes on, where corrections through a Gram matrix stall, to a factorisation that decides
    the rank.
    """
    fixed = face.fixed(lb, ub)
    w, y, rest = _projected(
        system, face, x0, fixed, right, torch.where(face.active, y, 0.0), insist
    )
    x = torch.where(face.free, w, fixed)
    noise = tolerance.ANSWERED * tolerance.unit_roundoff(x.dtype)
    size = noise * (x0.abs() + system.sizes(y))
    wrong = torch.where(face.free, torch.maximum(lb - w, w - ub), 0.0)
    wrong = torch.where(face.low & (lb < ub), w - lb, wrong)
    wrong = torch.where(face.high, ub - w, wrong)
    over = system.times(x.clamp(lb, ub)) - right
    # what is left of corrections is rounding of rounding of x0
    room = noise * (row_size(x, right) + noise * row_size(x0, torch.zeros_like(right)))
    inequality = ~system.is_equation
    unsigned = inequality & (y < -noise * y.abs().amax(-1, keepdim=True)) if y.shape[-1] else over
    holds = rest & (wrong <= size).all(-1)
    holds &= ~(inequality & (over > room)).any(-1) & ~(unsigned > 0).any(-1)
    off = wrong.clamp_min(0).amax(-1)
    return Polished(x.clamp(lb, ub), torch.where(inequality, y.clamp_min(0), y), holds, off)


def _projected(
    system: System,
    face: Face,
    x0: Tensor,
    fixed: Tensor,
    right: Tensor,
    y: Tensor,
    insist: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """By corrections; those that stall with a smaller shift, and then with the rank decided."""
    shift = tolerance.gram_shift(max(1, system.shape[0]))
    factor = factor_of(system, face)
    w, y, rest = corrected(system, factor, face, x0, fixed, right, y)
    if insist:
        for i in (~rest).nonzero():
            part = face.take(i)
            finer = system.factor(part.free, part.active, _each(x0[i], shift))
            found = corrected(system, finer, part, x0[i], fixed[i], right[i], y[i])
            if not bool(found[2]):
                found = _carefully(system, part, x0[i], fixed[i], right[i], found[1]) or found
            w[i], y[i], rest[i] = found
    return w, y, rest


def factor_of(system: System, face: Face) -> Factor:
    """Of these faces; the last one is kept, for the next call and for derivatives."""
    kept: tuple[Face, Factor] | None = vars(system).get("_kept")
    if kept is not None and len(kept[0].low) == len(face.low) and bool(kept[0].same(face).all()):
        return kept[1]
    factor = system.factor(face.free, face.active, _each(face.low, face_shift(system.shape[0])))
    vars(system)["_kept"] = face, factor
    return factor


def face_shift(m: int) -> float:
    """What is added to the Gram matrix of a face, of m rows in all."""
    return tolerance.gram_shift(max(1, m)) * _FINER


def _each(x: Tensor, shift: float) -> Tensor:
    return torch.full((len(x),), shift, dtype=torch.float64, device=x.device)


_FINER = 2.0**10
"""The shift of a face over that of a Gram matrix: corrections are cheap here beside the search, and
rounding of a residual is amplified by one over the shift in what rows make of each other."""


def _carefully(
    system: System, face: Face, v: Tensor, fixed: Tensor, right: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """As `corrected` of one vector, by the engine for equations; None where it does not answer.

    The multipliers stay where they explain x, to rounding of their own terms: where rows nearly
    depend on each other, those of the rows that the engine keeps may be huge. Else they are these.
    """
    active, free = face.active[0].nonzero().squeeze(-1), face.free[0].nonzero().squeeze(-1)
    if not len(active) or not len(free):
        return None
    rest = right - system.times(fixed)
    w = _pairwise(system, v, y)
    try:
        part = _columns(system.rows.select(active), free)
        engine = Projector(part, rest[0, active])
        x = engine(w[:, free])
        more = engine.multipliers(w[:, free])
    except ProjlabError:
        return None
    noise = tolerance.ANSWERED * tolerance.unit_roundoff(v.dtype)

    def explained(w: Tensor, y: Tensor) -> bool:
        off = (x - w[:, free]).abs()
        return bool((off <= noise * (v.abs() + system.sizes(y))[:, free]).all())

    holds = explained(w, y)
    if not holds:
        other = y.index_add(1, active, more)
        from_it = _pairwise(system, v, other)
        if holds := explained(from_it, other):
            w, y = from_it, other
    w[:, free] = x
    return w, y, torch.tensor([holds], dtype=torch.bool, device=v.device)


def _columns(rows: Rows, kept: Tensor) -> Tensor:
    """These columns of rows, stored as the rows are."""
    if not rows.sparse:
        return rows.to_dense()[:, kept]
    position = torch.full((rows.shape[1],), -1, dtype=torch.long, device=rows.device)
    position[kept] = torch.arange(len(kept), device=rows.device)
    i, j, values = rows.triplets()
    among = position[j] >= 0
    shape = rows.shape[0], len(kept)
    return sparse_rows(i[among], position[j[among]], values[among], shape).as_tensor()


def _pairwise(system: System, v: Tensor, y: Tensor) -> Tensor:
    """v - M'y of one vector, (1, n), in twice the precision."""
    product = system.rows.rmatvec_pair(exact(y[0]))
    return add(exact(v[0]), negative(product)).value().unsqueeze(0)


def row_size(x: Tensor, right: Tensor) -> Tensor:
    """(k, m): what rounding of a residual M x - r is relative to, rows of norm about one."""
    size: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True) + right.abs()
    return size


def _left(
    system: System, face: Face, w: Tensor, fixed: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """x, which is w where free, and what it leaves of M x = right on active rows."""
    x = torch.where(face.free, w, fixed)
    return x, torch.where(face.active, system.times(x) - right, 0.0)


def corrected(
    system: System,
    factor: Factor,
    face: Face,
    v: Tensor,
    fixed: Tensor,
    right: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """w = v - M'y with M x = right on active rows, x = w where free; and whether it is so."""
    free, noise = face.free, tolerance.ANSWERED * tolerance.unit_roundoff(v.dtype)
    w = v - system.transposed(y)
    start = row_size(v, right)
    before = torch.full((len(v),), torch.inf, dtype=v.dtype, device=v.device)
    resting = torch.zeros_like(before, dtype=torch.bool)
    for _ in range(4 * tolerance.CORRECTIONS):
        x, residual = _left(system, face, w, fixed, right)
        large = residual.abs() > noise * (row_size(x, right) + start)
        residual = torch.where(large, residual, 0.0)
        size = torch.linalg.vector_norm(residual, dim=-1)
        resting = size == 0
        moving = ~resting & (size < tolerance.CONTRACTING * before)
        if not bool(moving.any()):
            break
        before = size
        step = torch.where(moving.unsqueeze(-1), factor.solve(residual), 0.0)
        y, w = y + step, w - system.transposed(step)
    w = _stationary(system, factor, face, v, fixed, right, y, w)
    # what is left is rounding: it moves x, along rows as far as they go, and multipliers only where
    # rows that depend on each other do not make more of it than that
    reach = torch.linalg.vector_norm(v, dim=-1, keepdim=True) + system.sizes(y)
    for _ in range(2):
        x, residual = _left(system, face, w, fixed, right)
        step = factor.solve(residual)
        pull = system.transposed(step)
        quiet = (pull.abs() <= 4 * noise * reach).all(-1, keepdim=True)
        y = torch.where(quiet, y + step, y)
        w = torch.where(free | quiet, w - pull, w)
    return w, y, resting


def _stationary(
    system: System,
    factor: Factor,
    face: Face,
    v: Tensor,
    fixed: Tensor,
    right: Tensor,
    y: Tensor,
    w: Tensor,
) -> Tensor:
    """w again, from M'y in twice the precision, where terms of it cancel: y may be large."""
    size = system.sizes(y).amax(-1) if y.shape[-1] else v.new_zeros(len(v))
    large = size > tolerance.LARGE_MULTIPLIERS * (v.abs().amax(-1) + w.abs().amax(-1))
    for i in large.nonzero():
        part = Face(face.low[i], face.high[i], face.active[i])
        fresh = _pairwise(system, v[i], y[i])
        for _ in range(2):
            _, residual = _left(system, part, fresh, fixed[i], right[i])
            whole = torch.zeros_like(y)
            whole[i] = residual
            fresh = fresh - system.transposed(factor.solve(whole)[i])
        w[i] = fresh
    return w
