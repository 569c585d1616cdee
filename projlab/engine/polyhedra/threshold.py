"""Rows that share no column, with bounds: the simplex, the capped simplex, weighted ones, segments.

Of one row the projection is x(t) = clamp(x0 - t a, lb, ub) for the multiplier t at which a x(t)
meets the right side. phi(t) = a x(t) never increases, and is linear between the breakpoints at
which an entry meets a bound. Newton's method on it, kept within a bracket, moves from piece to
piece; where it ends on the piece that it started from, t is exact but for rounding, and the last
step takes that out: the residual of x itself, summed in two words, moves the free entries once.

Started where phi is above the right side, on a row whose entries are bounded on one side, Newton's
method is Michelot's: it never overshoots, and entries that met their bound stay there. The start
is as far right as the largest entry allows, since no term of a row may exceed the whole: that
leaves a few entries of a million, and the search costs O(n).

References: Brucker, "An O(n) algorithm for quadratic knapsack problems", Oper. Res. Lett. 3 (1984);
Michelot, "A finite algorithm for finding the projection of a point onto the canonical simplex of
R^n", J. Optim. Theory Appl. 50 (1986); Condat, "Fast projection onto the simplex and the l1 ball",
Math. Program. 158 (2016); Cominetti, Mascarenhas and Silva, "A Newton's method for the continuous
quadratic knapsack problem", Math. Prog. Comp. 6 (2014).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels import rows_with_bounds
from projlab.system.inputs import broadcast_shape

_NEWTON_STEPS = 50
"""Newton steps before every other step halves the bracket instead: pieces are skipped fast, and a
few steps do, but a worst case could visit all."""
_SHORT = 4096
"""Sums of so few terms err by a few roundings however they are taken."""
_STEPS = 2200
"""Half of them halve a bracket of float64 numbers, which cannot happen more than 1100 times."""


@dataclass(frozen=True)
class DisjointRows:
    """Rows a (n,) whose columns j belong to row segment[j] each; entries on no row have a = 0.

    Nothing here looks at right sides or bounds, which come with each call: `right` (k, m) or (m,),
    lb and ub (k, n), (n,) or ().
    """

    a: Tensor
    segment: Tensor | None
    """(n,) row numbers; None where there is one row."""
    m: int
    inequality: Tensor
    """(m,) whether a x <= right, rather than a x = right."""

    @cached_property
    def weight(self) -> float | None:
        """The one value of a, where it has one."""
        low, high = torch.aminmax(self.a)
        return float(low) if float(low) == float(high) else None

    @cached_property
    def squares(self) -> Tensor:
        """a_j^2."""
        return self.a.square()

    @cached_property
    def any_inequality(self) -> bool:
        """Whether any row is an inequality."""
        return bool(self.inequality.any())

    def to(self, dtype: torch.dtype, device: torch.device) -> "DisjointRows":
        """The same rows elsewhere."""
        segment = None if self.segment is None else self.segment.to(device)
        a = self.a.to(device=device, dtype=dtype)
        return DisjointRows(a, segment, self.m, self.inequality.to(device))

    def total(self, terms: Tensor) -> Tensor:
        """Sums (k, m) over the rows of terms (k, n), float32 terms in float64 where there is."""
        narrow = terms.dtype is torch.float32 and terms.device.type != "mps"
        if self.segment is None:
            return terms.sum(-1, keepdim=True, dtype=torch.float64 if narrow else None)
        wide = terms.double() if narrow else terms
        return wide.new_zeros(*wide.shape[:-1], self.m).index_add(-1, self.segment, wide)

    def spread(self, values: Tensor) -> Tensor:
        """Values (k, m) of the rows, at their columns: (k, n), or (k, 1) of one row."""
        return values if self.segment is None else values[..., self.segment]

    @cached_property
    def smallest_weight(self) -> float:
        """Smallest magnitude of an entry of a that is not zero."""
        weights = self.a[self.a != 0].abs()
        return float(weights.min()) if len(weights) else 1.0

    def largest(self, x: Tensor) -> Tensor:
        """Largest |x_j| of each row, (k, m)."""
        sizes = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))
        if self.segment is None:
            return sizes.to(_wide(x))
        zeros = x.new_zeros(len(x), self.m)
        sizes = zeros.scatter_reduce(-1, self.segment.expand_as(x), x.abs(), "amax")
        return sizes.to(_wide(x))

    def times(self, x: Tensor) -> Tensor:
        """a_j x_j."""
        if self.weight == 1:
            return x
        return x * self.a if self.weight is None else x * self.weight

    def moved(self, x: Tensor, t: Tensor) -> Tensor:
        """x - t a."""
        t = self.spread(t).to(x.dtype)
        if self.weight == 1:
            return x - t
        return x - t * (self.a if self.weight is None else self.weight)

    def slope(self, free: Tensor) -> Tensor:
        """(k, m) sums of a_j^2 over free entries."""
        if self.segment is None and self.weight is not None:
            count = free.count_nonzero(-1).unsqueeze(-1)
            return count * self.weight**2
        wide = self.squares.double() if self.squares.device.type != "mps" else self.squares
        return self.total(free * wide)


def limits(rows: DisjointRows, lb: Tensor, ub: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least and largest a x within the bounds, (..., m), and what rounding may make of either."""
    none = rows.a == 0
    lower, upper = (
        rows.times(bound.expand(broadcast_shape(bound.shape, none.shape))) for bound in (lb, ub)
    )
    lower, upper = torch.where(none, 0.0, lower), torch.where(none, 0.0, upper)
    least, largest = (
        rows.total(torch.minimum(lower, upper)),
        rows.total(torch.maximum(lower, upper)),
    )
    sizes = torch.where(lower.isfinite(), lower.abs(), 0) + torch.where(
        upper.isfinite(), upper.abs(), 0
    )
    u = tolerance.unit_roundoff(rows.a.dtype)
    return least, largest, tolerance.sum_rounding(rows.a.shape[-1], u) * rows.total(sizes)


@dataclass(frozen=True)
class Found:
    """A projection, and the multipliers of its rows."""

    x: Tensor
    multipliers: Tensor
    """(k, m)."""


def project(rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> Found:
    """The projection of x (k, n), without a graph; NaN stays NaN, an empty set gives any point."""
    right = right.expand(len(x), rows.m)
    found = _project(rows, x, right, lb, ub)
    # of entries near the largest number sums overflow, and the multiplier is as large as they are
    if bool((found.multipliers.abs() <= _ORDINARY[x.dtype]).all()) or x.device.type == "mps":
        return found
    return _smaller(rows, x, right, lb, ub)


_ORDINARY = {torch.float32: 1e30, torch.float64: 1e290}
"""Multipliers up to which nothing has overflown, of rows that are not extreme themselves."""

_DOWN = 2.0**-64
"""For sums of as many entries as there are."""


def _smaller(rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> Found:
    """In float64, and that a power of two smaller: the set and the point scale together."""
    wide = rows.to(torch.float64, x.device)
    parts = (t.double() * _DOWN for t in (x, right, lb, ub))
    found = _project(wide, *parts)
    return Found((found.x / _DOWN).to(x.dtype), (found.multipliers / _DOWN).to(x.dtype))


def _project(rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> Found:
    """`project` of numbers of ordinary size."""
    if len(x) == 1 and rows.segment is None and _one_sided(rows, lb, ub):
        found = _of_one_vector(rows, x, right, lb)
        if found is not None:
            return found
    if rows.segment is None:
        found = _natively(rows, x, right, lb, ub)
        if found is not None:
            return found
    return _searched(rows, x, right, lb, ub)


def _searched(rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> Found:
    """In torch's operators, all vectors at once."""
    t = _search(rows, x, right, lb, ub)
    v = rows.moved(x, t)
    projected = v.clamp(lb, ub)
    held = ~rows.inequality | (t > 0) if rows.any_inequality else None
    free = v == projected
    projected, further = _corrected(rows, projected, right, free, held)
    return Found(projected.clamp_(lb, ub), (t + further).to(x.dtype))


def _natively(rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> Found | None:
    """By the compiled kernel, and in torch for the vectors that it leaves; None where it is not."""
    found = rows_with_bounds.project(
        x,
        rows.a,
        right,
        lb,
        ub,
        inequality=rows.any_inequality,
        ahead=_one_sided(rows, lb, ub) and math.isfinite(float(lb)),
        noise=tolerance.STEP_ROUNDINGS * tolerance.unit_roundoff("float64"),
        steps=_NEWTON_STEPS,
    )
    if found is None:
        return None
    projected, multipliers, done = found
    if not bool(done.all()):
        left = (~done).nonzero().squeeze(-1)
        bounds = (t[left] if t.dim() > 1 else t for t in (lb, ub))
        rest = _searched(rows, x[left], right[left], *bounds)
        projected[left] = rest.x
        multipliers[left] = rest.multipliers[:, 0].double()
    return Found(projected, multipliers.unsqueeze(-1).to(x.dtype))


def _one_sided(rows: DisjointRows, lb: Tensor, ub: Tensor) -> bool:
    """Whether every entry has one weight, above zero, one lower bound, and no upper one."""
    w = rows.weight
    return w is not None and w > 0 and lb.numel() == 1 and ub.numel() == 1 and float(ub) == math.inf


def _of_one_vector(rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor) -> Found | None:
    """As `_search` of one vector: entries that met their bound are left out as it goes.

    None where there is no finite bound, where nothing is left to be shared out, or where that is
    below the rounding of the entries.
    """
    w, floor, n = rows.weight, float(lb), x.shape[-1]
    assert w is not None
    spare = float(right) - w * floor * n
    if not (math.isfinite(spare) and spare > 0):
        return None
    largest, total = float(x.max()), float(rows.total(x))
    if not math.isfinite(total):
        return None
    # no term exceeds what is to be shared out: w (x_j - t w - floor) <= spare
    t = max((largest - floor - spare / w) / w, (w * (total - n * floor) - spare) / (n * w * w))
    free = rows.inequality.new_zeros(())
    if rows.any_inequality and t <= 0:
        t = 0.0
        if float(rows.times(x.clamp_min(floor)).sum()) <= float(right):
            return Found(x.clamp_min(floor), torch.zeros_like(right, dtype=x.dtype))
    free = (x[0] > floor + t * w).nonzero().squeeze(-1)
    entries = x[0][free]
    while len(entries):
        total = float(entries.sum(dtype=_wide(entries)))
        further = (w * (total - len(entries) * floor) - spare) / (len(entries) * w * w)
        if further <= t:
            break
        t = further
        kept = entries > floor + t * w
        if bool(kept.all()):
            break
        free, entries = free[kept], entries[kept]
    if not len(entries):
        return None
    few = DisjointRows(rows.a[: len(entries)], None, 1, rows.inequality)
    multiplier = torch.full_like(right, t, dtype=_wide(x))
    moved = few.moved(entries, multiplier).reshape(1, -1)
    fixed = w * floor * (n - len(entries))
    moved, further_t = _corrected(
        few, moved, right - fixed, torch.ones_like(moved, dtype=torch.bool)
    )
    projected = torch.full_like(x, floor)
    projected[0, free] = moved[0].clamp_min(floor)
    return Found(projected, (multiplier + further_t).to(x.dtype))


def _wide(x: Tensor) -> torch.dtype:
    """The precision that sums are taken in."""
    return x.dtype if x.device.type == "mps" else torch.float64


def _start(rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> Tensor:
    """The multiplier without bounds, or where the largest entry alone meets the right side."""
    n = x.shape[-1]
    w = rows.weight
    slope = rows.slope(torch.ones_like(x, dtype=torch.bool)).to(_wide(x))
    t = (rows.total(rows.times(x)) - right) / slope.clamp_min(torch.finfo(x.dtype).tiny)
    if rows.segment is None and _one_sided(rows, lb, ub) and math.isfinite(float(lb)):
        assert w is not None
        spare = right - w * float(lb) * n
        t = torch.maximum(t, (x.amax(-1, keepdim=True) - float(lb) - spare / w) / w)
    return torch.where(rows.inequality, t.clamp_min(0), t) if rows.any_inequality else t


def _search(rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> Tensor:
    """The multipliers (k, m), on the piece that they are on, to rounding."""
    t = _start(rows, x, right, lb, ub)
    low, high = torch.full_like(t, -torch.inf), torch.full_like(t, torch.inf)
    slack = None
    if rows.any_inequality:
        low = torch.where(rows.inequality, 0.0, low)
        slack = rows.inequality & (rows.total(rows.times(x.clamp(lb, ub))) <= right)
        t = torch.where(slack, 0.0, t)
    noise = tolerance.STEP_ROUNDINGS * tolerance.unit_roundoff(x.dtype)
    reach = noise * (rows.largest(x) / rows.smallest_weight)
    for step in range(_STEPS):
        v = rows.moved(x, t)
        clamped = v.clamp(lb, ub)
        over = rows.total(rows.times(clamped)) - right
        slope = rows.slope(v == clamped).to(t.dtype)
        low, high = torch.where(over >= 0, t, low), torch.where(over <= 0, t, high)
        newton = t + over / slope
        done = ((newton - t).abs() <= noise * t.abs() + reach) | (low >= high) | over.isnan()
        if slack is not None:
            done |= slack
        if bool(done.all()):
            return t
        inside = (newton > low) & (newton < high) & (slope > 0)
        if step >= _NEWTON_STEPS and step % 2:
            inside = torch.zeros_like(inside)
        if not bool((inside | done).all()):
            low, high = _bracketed(rows, x, right, lb, ub, low, high)
            newton = torch.where(inside, newton, low / 2 + high / 2)
            # where no number lies between, the right side is met there or nowhere
            if bool((done | (newton <= low) | (newton >= high)).all()):
                return torch.where(done, t, newton)
        t = torch.where(done, t, newton)
    return t


def _bracketed(
    rows: DisjointRows,
    x: Tensor,
    right: Tensor,
    lb: Tensor,
    ub: Tensor,
    low: Tensor,
    high: Tensor,
) -> tuple[Tensor, Tensor]:
    """A finite bracket: beyond all breakpoints phi is constant, or linear with all entries free.

    One number where the right side is out of reach: the end that is nearest to it.
    """
    if not bool(torch.isinf(low).any() | torch.isinf(high).any()):
        return low, high
    none = rows.a == 0
    divisor = torch.where(none, 1.0, rows.a)
    ends = [((x - bound) / divisor).nan_to_num(0.0, 0.0, 0.0).abs() for bound in (lb, ub)]
    reach = torch.where(none, 0.0, torch.maximum(*ends))
    far = 2 * rows.largest(reach).to(low.dtype) + 1
    low, high = torch.where(torch.isinf(low), -far, low), torch.where(torch.isinf(high), far, high)
    most, least = _value(rows, x, right, lb, ub, low), _value(rows, x, right, lb, ub, high)
    return torch.where(least > 0, high, low), torch.where(most < 0, low, high)


def _value(
    rows: DisjointRows, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, t: Tensor
) -> Tensor:
    """phi(t), (k, m), where it is constant around t; else 0."""
    v = rows.moved(x, t)
    clamped = v.clamp(lb, ub)
    over = rows.total(rows.times(clamped)) - right
    return torch.where(rows.slope(v == clamped) > 0, 0.0, over)


def _corrected(
    rows: DisjointRows, x: Tensor, right: Tensor, free: Tensor, held: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x with what is left of its residual taken out on the free entries, and the step (k, m)."""
    slope = rows.slope(free).to(_wide(x))
    moving = slope > 0 if held is None else (slope > 0) & held
    further = torch.where(moving, _residual(rows, x, right) / slope, 0.0)
    return torch.where(free, rows.moved(x, further), x), further


def _residual(rows: DisjointRows, x: Tensor, right: Tensor) -> Tensor:
    """a x - right, (k, m); of long vectors high parts are added up exactly, then what they left."""
    terms = rows.times(x)
    if terms.dtype is not torch.float64 or terms.shape[-1] <= _SHORT:
        return rows.total(terms) - right
    largest = terms.abs().amax(-1, keepdim=True)
    power = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent)
    sigma = power * 2.0 ** (math.ceil(math.log2(x.shape[-1])) + 1)
    high = (sigma + terms) - sigma
    return (rows.total(high) - right) + rows.total(terms - high)
