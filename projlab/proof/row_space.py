"""Bounds on the two parts of an error: along the null space of the rows, and along their span."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.double_double import Pair, add, exact, negative, take
from projlab.proof.products import Product
from projlab.proof.refinement import Refined, refine
from projlab.proof.rounding import U, frobenius, norms
from projlab.proof.steering import AnySteering, steering_of
from projlab.system.metric import Metric, factor_metric
from projlab.system.rows import DenseRows, Rows, SparseRows, diagonal


class Part(NamedTuple):
    """k vectors, each known to within `off`, and bounds on their norms; all (k,) but `vector`."""

    upper: Tensor
    lower: Tensor
    vector: Tensor
    """(k, n)."""
    off: Tensor


@dataclass(frozen=True)
class RowSpace:
    """Independent rows E (r, n) with products in pairs; norms are those of the metric W = L L'."""

    E: Rows
    times: Product
    adjoint: Product
    steering: AnySteering
    """Of F = E L^-T; of E without a metric."""
    metric: Metric | None
    weights: Tensor | None
    """W, or its diagonal."""
    slack: float
    """Relative uncertainty of norms in the metric."""

    @staticmethod
    def of(E: Rows, weights: Tensor | None) -> "RowSpace":
        """Of float64 rows."""
        F: Rows = E
        metric, slack, uncertainty = None, tolerance.NORM_ROUNDING, 0.0
        if weights is not None:
            weights = weights.to(device=F.device, dtype=torch.float64)
            metric = factor_metric(weights, torch.float64, F.device)
            if metric.diagonal:
                F = E.divide_columns(metric.L)
            else:
                F = DenseRows(metric.whiten(E.to_dense(), dual=True))
            error = _whitening_error(metric)
            slack = slack + error
            uncertainty = error * _size(F)
        if slack > tolerance.LARGEST_SLACK:
            uncertainty = math.inf
        steering = steering_of(F, uncertainty)
        return RowSpace(E, Product(E, False), Product(E, True), steering, metric, weights, slack)

    def norm(self, v: Tensor) -> Tensor:
        """(k,) norms of vectors, sqrt(v' W v), to a relative `slack`."""
        return norms(v if self.metric is None else self.metric.whiten(v, dual=False))

    def dual_norm(self, g: Tensor) -> Tensor:
        """(k,) norms of W v given as g, sqrt(g' W^-1 g), to a relative `slack`."""
        return norms(self._whitened(g))

    def _whitened(self, g: Tensor) -> Tensor:
        return g if self.metric is None else self.metric.whiten(g, dual=True)

    def _weighted(self, v: Pair) -> Pair:
        """W v."""
        if self.weights is None:
            return v
        W = self.weights
        return Product(diagonal(W) if W.dim() == 1 else DenseRows(W), False)(v)

    def stationarity_residual(self, v: Pair) -> Refined:
        """t = W v + E'y with y, the solution, chosen to make t small.

        Only the part of t in the row space can be made small, so that is what is measured.
        """
        base = self._weighted(v)
        return refine(
            Refined(
                solution=exact(v.high.new_zeros(len(v.high), self.E.shape[0])),
                residual=base,
                size=self._row_part(base),
            ),
            correction=lambda t, _: -self.steering.into_rows(self._whitened(t)),
            residual=lambda y, which: add(take(base, which), self.adjoint(y)),
            size=self._row_part,
        )

    def _row_part(self, t: Pair) -> Tensor:
        return self.steering.row_part(self._whitened(t.value()))

    def tangent_part(self, v: Pair) -> Part:
        """T v, the tangent projection, near the stationarity residual t in the dual variables."""
        y, t, _ = self.stationarity_residual(v)
        error = self.adjoint.error(y, t, U) + 4 * U * U * norms(self._weighted(v).high)
        if self.metric is not None:
            error = error / self.metric.extremes[0]
        value = t.value()
        size = self.dual_norm(value)
        upper = size * (1 + self.slack) + error
        sigma = self.steering.sigma_min
        if sigma == 0:
            rest = torch.full_like(size, math.inf)
        else:
            rest = self.steering.image(self._whitened(value)) / sigma + error
        lower = ((size * (1 - self.slack) - error) ** 2 - rest**2).clamp_min(0).sqrt()
        near = value if self.metric is None else self.metric.inverse(value)
        return Part(upper, lower, near, rest + error + self.slack * size)

    def minimum_norm_part(self, q: Pair, q_error: Tensor, negligible: Tensor) -> Part:
        """E^+ q, the minimum-norm solution, for q (k, r) known to within q_error (k,).

        What is `negligible` (k,) beside it is not worth another step of refinement.
        """
        sigma = self.steering.sigma_min
        nothing = q.high.new_zeros(len(q_error), self.E.shape[1])
        if sigma == 0:
            infinite = torch.full_like(q_error, math.inf)
            return Part(infinite, torch.zeros_like(q_error), nothing, infinite)

        def correction(rest: Tensor, _: Tensor) -> Tensor:
            step = self.steering.shortest(rest)
            return step if self.metric is None else self.metric.unwhiten(step, dual=False)

        def enough(best: Refined) -> Tensor:
            known = tolerance.DIGITS_OF_A_PART * self.norm(best.solution.high)
            return best.size / sigma <= torch.maximum(known, negligible)

        z, _, size = refine(
            Refined(exact(nothing), q, norms(q.high)),
            correction=correction,
            residual=lambda z, which: add(take(q, which), negative(self.times(z))),
            size=lambda rest: norms(rest.high),
            enough=enough,
        )
        off = (size * (1 + tolerance.NORM_ROUNDING) + self.times.error(z, q, U) + q_error) / sigma
        long = self.norm(z.value())
        outside = self.tangent_part(z).upper
        lower = (long * (1 - self.slack) - outside - off).clamp_min(0)
        return Part(long * (1 + self.slack) + off, lower, z.value(), off + outside)


def _size(F: Rows) -> float:
    """Frobenius norm."""
    return float(frobenius(F.values.unsqueeze(0) if isinstance(F, SparseRows) else F.to_dense()))


def _whitening_error(metric: Metric) -> float:
    if metric.diagonal:
        return tolerance.diagonal_whitening_error(U)
    smallest, largest = metric.extremes
    return tolerance.whitening_error(len(metric.L), largest / smallest, U)
