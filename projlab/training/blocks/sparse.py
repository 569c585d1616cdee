"""Sparse rows that share entries: products with A, and solves with a sparse factor of A A'.

Everything is done in float64, on the factor's own equilibrated rows E = D A with D powers of two,
so that E x / D is A x to the last bit. One correction x -= E' (E E' + s I)^-1 D r leaves a part of
the residual r that the shift s makes: where values are at hand the residual itself says whether
another is needed, elsewhere as many are made as random vectors needed when the block was made.

Reference: Golub and Van Loan, "Matrix Computations", 4th ed., section 5.3.2; see
`projlab.engine.variants.sparse_cholesky`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.corrections import PROBES, probes
from projlab.engine.solver import Solver
from projlab.engine.variants.sparse_cholesky import SparseCholeskyFactor
from projlab.errors import InputError
from projlab.numerics.sparse_matrix import SparseMatrix
from projlab.training.blocks.base import Block, Shift, TouchedEntries, shifted
from projlab.training.partition import MatrixPlan


class SparseBlock(Block):
    """One block of sparse rows, or B with the same coefficients; O(nonzeros) memory and time."""

    work = torch.float64

    def __init__(self, plan: MatrixPlan, parameters: Sequence[Tensor], solver: Solver) -> None:
        factor = solver.factor
        assert isinstance(factor, SparseCholeskyFactor)
        self._solver = solver
        self.gram, self._steps = factor.gram, factor.inner
        # in the order of their elimination, as products give them and solves take them
        self.rows = plan.rows.to(solver.device)[:, self.gram.order]
        self.variant = solver.variant
        self.shape = (len(plan.rows), *solver.shape)
        self._units = _usable(torch.stack(solver.units).prod(0)[self.gram.order])
        self.entries = [TouchedEntries(piece, parameters[piece.parameter]) for piece in plan.pieces]
        rows, cols, values = self.gram.ordered_entries()
        self._absolute = SparseMatrix(rows, cols, values.abs(), solver.shape)
        self._sums = self._absolute.times(values.new_ones(solver.shape[1]))
        own = [parameters[piece.parameter] for piece in plan.pieces]
        u = max(tolerance.unit_roundoff(p.dtype) for p in own)
        self._rounding = tolerance.RESIDUAL_ROUNDINGS * u
        """What may be left of a row, over sum_i |a_i x_i| + |b|."""
        self._passes = self._needed(factor.passes)
        self.corrections = max(self._passes, 2)
        self._reads = solver.device.type == "cpu"

    def _needed(self, most: int) -> int:
        """How many corrections bring random vectors to rounding of the parameters."""
        z = probes(PROBES, self.shape[2], torch.float64, self.rows.device)
        size = self._absolute.times(z.abs())
        for done in range(1, most):
            z = z - self._correction(self.gram.times(z))
            if self._rounds(self.gram.times(z), size):
                return done
        return most

    def residual(self, b: Tensor) -> Tensor:
        r = self.gram.times(self._read(self.ts)).div_(self._units)
        return r if self.homogeneous else r.sub_(b)

    def magnitude(self, b: Tensor) -> Tensor:
        return self._magnitude(self._read(self.ts).abs(), b)

    def _magnitude(self, size: Tensor, b: Tensor) -> Tensor:
        return self._absolute.times(size).div_(self._units).add_(b.abs())

    def subtract(self, r: Tensor) -> None:
        self._subtract(self.ts, self._correction(r * self._units))

    def settled(self, b: Tensor, r: Tensor) -> bool:
        size = self._read(self.ts).abs()
        at_most = self._at_most(size).div_(self._units).add_(b.abs())
        return self._rounds(r, at_most) and self._rounds(r, self._magnitude(size, b))

    def _at_most(self, size: Tensor) -> Tensor:
        """Above |E| times these sizes (B, n), and known without a product."""
        return self._sums * size.amax(-1, keepdim=True)

    def _rounds(self, r: Tensor, size: Tensor) -> bool:
        """Whether residuals are rounding beside the sizes of what they are summed from."""
        return bool((r.abs() <= self._rounding * size).all())

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        v = shifted(self._read(gs), self.entries, self.ts, shift)
        total = self._correction(self.gram.times(v))
        for _ in range(1, self._passes):
            r = self.gram.times(v - total)
            if self._reads and self._rests(r, v):
                break
            total += self._correction(r)
        self._subtract(gs, total)

    def _rests(self, r: Tensor, v: Tensor) -> bool:
        size = v.abs()
        return self._rounds(r, self._at_most(size)) and self._rounds(r, self._absolute.times(size))

    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        v = shifted(self._read(gs), self.entries, self.ts, shift)
        return -least_multipliers(self._solver, v)[:, self.gram.order]

    def _correction(self, r: Tensor) -> Tensor:
        """E^+ r for residuals of E, but for what the shift leaves."""
        return self.gram.transposed_times(self.gram.solve(r, self._steps))

    def _read(self, ts: Sequence[Tensor]) -> Tensor:
        """The entries, (B, n); to be read only."""
        parts = [e.read(ts).to(self.work) for e in self.entries]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _subtract(self, ts: Sequence[Tensor], delta: Tensor) -> None:
        start = 0
        for e in self.entries:
            e.subtract(ts, delta[:, start : start + e.width])
            start += e.width


def least_multipliers(solver: Solver, v: Tensor) -> Tensor:
    """y (B, m) with A'y what the projection of v (B, n) takes out, of least norm of y / D.

    Where rows depend on each other, rounding of E v is divided by the shift s in the combinations
    that no entry has. y - s (E E' + s I)^-1 y leaves y as it is but for these, of which rounding
    leaves about u ||E||^2 / s each time, and for s / sigma^2 of the others, which is put back.
    """
    _, y = solver.solve(v, None, homogeneous=True, dual=False, want_multipliers=True)
    assert y is not None
    factor = solver.factor
    if solver.kept is not None or not isinstance(factor, SparseCholeskyFactor):
        return y
    gram, u = factor.gram, tolerance.unit_roundoff("float64")
    if gram.shift == 0:
        return y
    units = torch.stack(solver.units).prod(0)[gram.order]
    y = y[:, gram.order] / units
    taken = gram.transposed_times(y)
    left = min(u * gram.largest() / gram.shift, 0.1)
    for _ in range(math.ceil(math.log(u) / math.log(left))):
        y = y - gram.shift * gram.solve(y)
    for _ in range(factor.passes):
        y = y + gram.solve(gram.times(taken - gram.transposed_times(y)), factor.inner)
    found = torch.empty_like(y)
    found[:, gram.order] = y * units
    return found


def _usable(units: Tensor) -> Tensor:
    """The scales of the rows, or `InputError` where one is out of float64's range."""
    lowest, highest = torch.aminmax(units)
    if float(lowest) == 0 or float(highest) == torch.inf:
        raise InputError(
            "the coefficients of an equation over- or underflow in float64 when its row is scaled "
            "to norm one; multiply the equation by a number that brings them near one"
        )
    return units
