"""Bounds on the forward error of one system's answers; the derivation is in `certificate`."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.double_double import Pair, add, exact, negative, two_sum
from projlab.numerics.scaling import scale
from projlab.proof.products import Product
from projlab.proof.redundancy import Redundancy, sparse_redundancy
from projlab.proof.rounding import U, frobenius, norms
from projlab.proof.row_space import RowSpace
from projlab.proof.sparse_steering import SparseSteering
from projlab.system.analysis import Analysis, range_projection
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import equilibrated_side
from projlab.system.rank import Rank
from projlab.system.rows import DenseRows, Rows, SparseRows, sparse_rows
from projlab.system.structure import places, worthwhile_blocks

NOT_FINITE = "x is not finite"


class Figures(NamedTuple):
    """Of k answers, each (k,); the norms are the metric's."""

    feasibility: Tensor
    stationarity: Tensor
    upper: Tensor
    lower: Tensor
    accuracy: Tensor
    """What the bounds are held against."""
    why_not: str
    """Why they may not decide."""


class _Distance(NamedTuple):
    """Bounds on ||x - x*||, each (k,), and where x* is."""

    upper: Tensor
    lower: Tensor
    tangent: Tensor
    """Upper bound on ||T(x - x0)||."""
    shift: Tensor
    """Upper bound on ||A^+(A x - b)||."""
    near: Tensor
    """(k, n) a point near x*."""
    spread: Tensor
    """How near."""


@dataclass(frozen=True)
class SystemBounds:
    """One system, equilibrated: all rows for the residual, the independent ones for the bounds."""

    all_rows: Rows
    f: Pair
    decision: Rank
    row_space: RowSpace | None
    """None at rank 0: the projection is the identity."""
    redundancy: Redundancy | None
    """None where no row was dropped but rows of zeros."""
    f_uncertainty: float
    """2-norm of what is not known of f (least squares)."""

    def figures(self, x0: Tensor, x: Tensor, u: float, accuracy: float | None) -> Figures:
        """Of answers x (k, n) for the points x0, in float64; u is that of x as it was given."""
        m, n = self.all_rows.shape
        finite = torch.isfinite(x).all(-1)
        x = torch.where(finite.unsqueeze(-1), x, x0)
        residual, moved = self._residual(x), two_sum(x, -x0)
        distance = self._distance(x0, x, moved, residual)
        long, long0 = self.norm(x), self.norm(x0)
        below, above = self._length(distance, long)
        vanishing = ~(below > 0)
        if bool(vanishing.any()):
            # x may be too far away to tell x* from 0; the refined point says more, whatever x is
            near = torch.where(torch.isfinite(distance.near).all(-1, True), distance.near, x)
            again = self._distance(x0, near, two_sum(near, -x0), self._residual(near))
            least, most = self._length(again, self.norm(near))
            below, above = torch.maximum(below, least), torch.minimum(above, most)
            below = below.clamp_min(self._from_origin())
            vanishing = ~(below > 0)
        # what may be 0 is judged on the scale of x0
        below, above = torch.where(vanishing, long0, below), torch.where(vanishing, long0, above)
        upper, lower = _ratio(distance.upper, below), _ratio(distance.lower, above)
        infinite = torch.full_like(upper, math.inf)
        if accuracy is None:
            total = long0 + self.norm(moved.value()) + distance.shift
            # from x0 = 0 and f = 0 nothing is rounded: x* = 0, and no other answer is right
            unmoved = (long0 == 0) & bool((self.f.value() == 0).all() and self.f_uncertainty == 0)
            amplification = _ratio(torch.where(unmoved, 0.0, total), above)
            growth = tolerance.dimension_factor(m, n) * u * self.decision.condition
            held = growth * amplification
        else:
            held = torch.full_like(upper, accuracy)
        if self.decision.ambiguous:
            upper, lower = infinite, torch.zeros_like(lower)
        return Figures(
            torch.where(finite, self._feasibility(x0, x, residual), infinite),
            torch.where(finite, _ratio(distance.tangent, long + long0), infinite),
            torch.where(finite, upper, infinite),
            torch.where(finite, lower, infinite),
            held,
            self._why_not(bool(finite.all())),
        )

    def _residual(self, x: Tensor) -> Pair:
        """E x - f of all rows."""
        return add(Product(self.all_rows, False)(exact(x)), negative(self.f))

    def _length(self, distance: _Distance, long: Tensor) -> tuple[Tensor, Tensor]:
        """Between what ||x*|| lies: `upper` from ||x|| = `long`, `spread` from the refined one."""
        middle = self.norm(distance.near)
        below = torch.maximum(middle - distance.spread, long - distance.upper)
        return below, torch.minimum(middle + distance.spread, long + distance.upper)

    def _from_origin(self) -> float:
        """At most the distance of the set from 0: |f_i| <= ||e_i|| ||x*||; 0 in a metric."""
        if self.row_space is None or self.row_space.metric is not None:
            return 0.0
        kept = self.decision.kept
        f = (self.f.high.abs().flatten()[kept] - self.f_uncertainty).clamp_min(0)
        norms = self.all_rows.row_norms()[kept]
        return float((f / norms).amax()) * (1 - tolerance.NORM_ROUNDING)

    def norm(self, v: Tensor) -> Tensor:
        """(k,) norms, in the metric where there is one."""
        return norms(v) if self.row_space is None else self.row_space.norm(v)

    def _feasibility(self, x0: Tensor, x: Tensor, residual: Pair) -> Tensor:
        if self.all_rows.shape[0] == 0:
            return torch.zeros_like(norms(x))
        lengths = (norms(x) + norms(x0)).unsqueeze(-1)
        size = self.all_rows.row_norms() * lengths + self.f.high.abs()
        return (residual.value().abs() / torch.where(size == 0, 1.0, size)).amax(-1)

    def _distance(self, x0: Tensor, x: Tensor, moved: Pair, residual: Pair) -> _Distance:
        """`moved` is x - x0, `residual` is E x - f of all rows."""
        rounding = tolerance.NORM_ROUNDING
        if self.row_space is None:
            size = norms(moved.value())
            zero = torch.zeros_like(size)
            return _Distance(
                size * (1 + rounding), size * (1 - rounding), size, zero, x0, spread=zero
            )
        kept = self.decision.kept
        q = Pair(residual.high[:, kept], residual.low[:, kept])
        q_error = Product(self.all_rows, False).error(exact(x), residual, U) + self.f_uncertainty
        along = self.row_space.tangent_part(moved)
        negligible = tolerance.NEGLIGIBLE_SHIFT * U * self.norm(x)
        across = self.row_space.minimum_norm_part(q, q_error, negligible)
        gap = self._redundancy_gap(x0, self.norm(moved.value()) + across.upper)
        rounded = 4 * U * (self.norm(x) + along.upper + across.upper)
        return _Distance(
            upper=torch.hypot(along.upper, across.upper) * (1 + rounding) + gap,
            lower=(torch.hypot(along.lower, across.lower) * (1 - rounding) - gap).clamp_min(0),
            tangent=along.upper,
            shift=across.upper,
            near=(x - along.vector) - across.vector,
            spread=along.off + across.off + gap + rounded,
        )

    def _redundancy_gap(self, x0: Tensor, travelled: Tensor) -> Tensor:
        """How far the projection at numerical rank may be from that on the kept rows."""
        if self.redundancy is None or self.row_space is None:
            return torch.zeros_like(travelled)
        sigma = self.row_space.steering.sigma_min
        if sigma == 0:
            return torch.full_like(travelled, math.inf)
        delta, size, phi = self.redundancy
        size = size * (1 + tolerance.NORM_ROUNDING)
        misfit = norms(delta.matvec(x0) - phi)
        if self.row_space.metric is not None:
            size = size / self.row_space.metric.extremes[0]
        first_order = 4 * size * travelled + misfit * (1 + 2 * size / sigma)
        return tolerance.SECOND_ORDER * first_order / sigma

    def _why_not(self, finite: bool) -> str:
        if not finite:
            return NOT_FINITE
        if self.decision.ambiguous:
            return "the numerical rank is ambiguous: a cutoff ten times away would change it"
        if self.row_space is not None and self.row_space.steering.sigma_min == 0:
            sparse = isinstance(self.row_space.steering, SparseSteering)
            far = "1/sqrt(u), as far as a sparse factor reaches," if sparse else "1/u"
            return (
                f"condition number {self.decision.condition:.2g}: too near {far} for a positive "
                "lower bound on the smallest singular value"
            )
        if self.redundancy is not None:
            return "redundant rows follow from the others only up to rounding"
        return "the bounds lie on both sides of the accuracy"


def bounds_of(
    constraint: AffineConstraint,
    analysis: Analysis,
    element: int,
    weights: Tensor | None,
    *,
    least_squares: bool,
) -> SystemBounds:
    """Of one element of the batch, or of the system itself; f before any rounding to A's dtype."""
    decision, system = analysis.decisions[element], analysis.system.element(element)
    b = constraint.b if constraint.batch is None else constraint.b[element]
    E, f = system.rows.to(torch.float64), equilibrated_side(b, system.exponent)
    if decision.rank == 0:
        return SystemBounds(E, exact(f), decision, None, None, 0.0)
    row_space = RowSpace.of(E.select(decision.kept), weights)
    if decision.coefficients is None or decision.ambiguous:  # then nothing is proven anyway
        return SystemBounds(E, exact(f), decision, row_space, None, 0.0)
    uncertainty = 0.0
    if least_squares:
        f, uncertainty = _in_range(f, system.exponent, decision)
    plain = row_space if weights is None else RowSpace.of(row_space.E, None)
    redundancy = _redundancy(E, f, decision, plain)
    return SystemBounds(E, exact(f), decision, row_space, redundancy, uncertainty)


def _redundancy(E: Rows, f: Tensor, decision: Rank, row_space: RowSpace) -> Redundancy:
    """Without a metric: C = -y of the stationarity residual of the dropped rows, which is delta."""
    if isinstance(row_space.steering, SparseSteering) and isinstance(E, SparseRows):
        return sparse_redundancy(E, f, decision, row_space.steering)
    layers = _Layers.of(E, decision)
    y, delta, _ = row_space.stationarity_residual(exact(layers.stacked))
    kept_f = exact(f[decision.kept][None])
    high, low = (layers.rows(part, layers.of_kept) for part in y)
    combined = add(Product(high, False)(kept_f), exact(low.matvec(kept_f.high)))
    phi = add(exact(f[decision.dropped][None]), combined).high
    return Redundancy(layers.rows(delta.high, layers.of_column), float(frobenius(delta.high)), phi)


@dataclass(frozen=True)
class _Layers:
    """Dropped rows of different blocks added up to one vector: they share no column.

    Each vector holds at most one row of a block, and there are as few as the blocks allow; without
    blocks it is one dropped row each.
    """

    stacked: Tensor
    """(layers, n)."""
    number: Tensor | None
    """(layers, blocks) which dropped row it is; -1 for none. None where there are no blocks."""
    of_kept: Tensor
    """(r,) the block of each kept row."""
    of_column: Tensor
    """(n,) the block of each column, -1 for none."""
    dropped: int

    @staticmethod
    def of(E: Rows, decision: Rank) -> "_Layers":
        dropped = E.select(decision.dropped)
        count = len(decision.dropped)
        none = decision.dropped[:0]
        blocks = worthwhile_blocks(E)
        if blocks is None:
            return _Layers(dropped.to_dense(), None, none, none, count)
        block = blocks.of_row[decision.dropped]
        layer = places(block, len(blocks))
        some = block >= 0  # not a row of zeros
        layers = int(layer[some].max()) + 1 if bool(some.any()) else 0
        number = torch.full((layers, len(blocks)), -1, device=block.device, dtype=torch.long)
        number[layer[some], block[some]] = some.nonzero().flatten()
        i, j, values = dropped.triplets()
        stacked = values.new_zeros(layers, E.shape[1])
        stacked[layer[i], j] = values
        return _Layers(stacked, number, blocks.of_row[decision.kept], blocks.of_column, count)

    def rows(self, layered: Tensor, block: Tensor) -> Rows:
        """(dropped, p) what is said of each dropped row in the layers (layers, p).

        Each of the p places belongs to a block; a column of none holds zeros.
        """
        if self.number is None:
            return DenseRows(layered)
        number = self.number[:, block]
        layer, place = (number >= 0).nonzero(as_tuple=True)
        shape = (self.dropped, layered.shape[1])
        return sparse_rows(number[layer, place], place, layered[layer, place], shape)


def _in_range(f: Tensor, exponent: Tensor, decision: Rank) -> tuple[Tensor, float]:
    """D times the part of b in the range of A, and the 2-norm of what is not known of it."""
    basis = range_projection(exponent, decision)
    if basis is None:
        return f, 0.0
    b = scale(f, -exponent)
    inside = basis.matvec(basis.rmatvec(b))
    largest = float(scale(torch.ones_like(f), exponent).max())
    error = tolerance.dimension_factor(len(b), len(b)) * U * float(norms(b)) * largest
    return scale(inside, exponent), error


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == 0, 0.0, a / b)
