"""Equations over parameters as one system: what varies, what is constant, and the blocks."""

import bisect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError
from projlab.system.constraint import AffineConstraint
from projlab.system.diagnosis import working_dtype
from projlab.system.rows import SparseRows
from projlab.training import blocks
from projlab.training.blocks import Block, Shift, skipped, working
from projlab.training.expressions.expression import Equation
from projlab.training.expressions.labels import Names
from projlab.training.expressions.maps import Map, Sums
from projlab.training.partition import RowSet, SumsPlan, split


def reads_values(device: torch.device) -> bool:
    """Whether a value is at hand without waiting for the device."""
    return device.type == "cpu"


class Rows:
    """The rows of several equations, one after the other."""

    def __init__(self, equations: Sequence[Equation], names: Names) -> None:
        self.equations, self.names = equations, names
        self.starts = [0]
        for e in equations:
            self.starts.append(self.starts[-1] + e.rows)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    def name(self, row: int) -> str:
        """As in "W0[3].sum() == 1"."""
        i = bisect.bisect_right(self.starts, row) - 1
        return self.equations[i].row_name(row - self.starts[i], self.names)

    def names_of(self, rows: Tensor) -> list[str]:
        """Names of the rows with these numbers."""
        return [self.name(int(row)) for row in rows.flatten()]

    def right_side(self) -> Tensor:
        """b, float64 on the CPU."""
        return torch.cat([e.right_side() for e in self.equations])


class System:
    """A x = b over the parameters that vary, b less what the constant parameters contribute.

    Parameters
    ----------
    rows
        The equations.
    actual
        The tensor that stands for a parameter of the equations (itself, but for copies).
    varies
        Whether a parameter may be moved; the others are constants, read at each step.
    variant
        "auto" or a name, for every block.
    strict
        Whether rows that contradict each other, or hold nothing that varies, are refused; else
        they are met as well as they can be.
    apart
        Keep single rows of many lengths apart: a diagonal metric needs them so.
    """

    def __init__(
        self,
        rows: Rows,
        actual: Callable[[Tensor], Tensor],
        varies: Callable[[Tensor], bool],
        variant: str,
        *,
        strict: bool = True,
        apart: bool = False,
    ) -> None:
        self.rows, self.actual = rows, actual
        self.parameters: list[Tensor] = []
        self._constants: list[tuple[int, int, Map]] = []
        rowsets = self._rowsets(varies, strict)
        device = self._device()
        data = self._data()
        self.dtype = working([actual(p) for e in rows.equations for p in e.parameters])
        self._b = rows.right_side().to(
            device=device, dtype=torch.float32 if device.type == "mps" else torch.float64
        )
        b = self.current_b().double().cpu()
        distinct = self._distinct(rowsets, b) if strict else rowsets
        plans, empty = split(
            distinct, self.parameters, sums=variant in ("auto", "single_row"), join=not apart
        )
        if strict:
            self._refuse_empty(empty, b)
        self.blocks: list[Block] = [
            blocks.make(plan, self.parameters, b, variant, data, rows.names_of, strict=strict)
            for plan in plans
        ]
        self._right = [block.right_side(self._b) for block in self.blocks]
        if not self._constants:
            for block, b in zip(self.blocks, self._right, strict=True):
                block.fix(b)
        self._addresses: list[int] = []

    def _rowsets(self, varies: Callable[[Tensor], bool], strict: bool) -> list[RowSet]:
        index: dict[int, int] = {}
        rowsets = []
        for e, start in zip(self.rows.equations, self.rows.starts, strict=False):
            terms: list[tuple[int, Map]] = []
            for term in e.difference.terms:
                p = self.actual(term.parameter)
                if not varies(p):
                    self._constants.append((start, start + e.rows, term))
                    continue
                if id(p) not in index:
                    index[id(p)] = len(self.parameters)
                    self.parameters.append(p)
                terms.append((index[id(p)], term))
            if strict and not terms:
                raise InputError(
                    f"{e.describe(self.rows.names)} holds no parameter that this optimizer trains"
                )
            rowsets.append(RowSet(start, e.shape, tuple(terms)))
        return rowsets

    def _device(self) -> torch.device:
        found: dict[torch.device, Tensor] = {}
        for e in self.rows.equations:
            for p in e.parameters:
                found.setdefault(self.actual(p).device, p)
        if len(found) > 1:
            where = " and ".join(f"{self.rows.names[p]} on {d}" for d, p in found.items())
            raise InputError(f"the equations span devices: {where}; move the parameters to one")
        return next(iter(found))

    def _data(self) -> torch.dtype:
        """The precision of coefficients and of right sides: constants bring their own."""
        dtypes = [e.difference.data for e in self.rows.equations]
        dtypes += [self.actual(term.parameter).dtype for _, _, term in self._constants]
        coarse = any(working_dtype(d) is torch.float32 for d in dtypes)
        return torch.float32 if coarse else torch.float64

    def _distinct(self, rowsets: list[RowSet], b: Tensor) -> list[RowSet]:
        """Without sums that are stated twice; `InconsistentError` where they differ in b only."""
        kept: dict[object, RowSet] = {}
        for r in rowsets:
            key: object = id(r)
            if all(isinstance(t, Sums) for _, t in r.terms):
                key = tuple((p, t.scale, t.out, t.inner, t.offset) for p, t in r.terms)  # type: ignore[union-attr]
            first = kept.setdefault(key, r)
            if first is r:
                continue
            one, two = (b[s.start : s.start + s.height] for s in (first, r))
            bound = tolerance.consistency_factor(tolerance.rank_cutoff(2, 2, 2.0**-53))
            off = ((one - two).abs() > bound * (one.abs() + two.abs())).nonzero()
            if len(off):
                i = int(off[0])
                raise blocks.inconsistent(
                    [f"{self.rows.name(first.start + i)} and {self.rows.name(r.start + i)}"]
                )
        return list(kept.values())

    def _refuse_empty(self, empty: Tensor, b: Tensor) -> None:
        u = tolerance.unit_roundoff(self.dtype)
        scale = self.rows.right_side().abs()
        for row in empty.tolist():
            if abs(float(b[row])) > tolerance.RESIDUAL_ROUNDINGS * u * float(scale[row]):
                raise blocks.inconsistent([f"{self.rows.name(row)} holds no parameter that varies"])

    def current_b(self) -> Tensor:
        """b less what the constants contribute now, (rows,)."""
        if not self._constants:
            return self._b
        b = self._b.clone()
        for start, stop, term in self._constants:
            b[start:stop] -= term.evaluate(self.actual(term.parameter).detach(), self.dtype)
        return b

    def right_sides(self) -> list[Tensor]:
        """b for each block."""
        if not self._constants:
            return self._right
        b = self.current_b()
        return [block.right_side(b) for block in self.blocks]

    def values(self) -> list[Tensor]:
        """The parameters that vary, without graph."""
        return [p.detach() for p in self.parameters]

    def _current(self) -> list[tuple[Block, Tensor]]:
        """Each block, bound to the parameters' present memory, and its right side."""
        self._bind()
        return list(zip(self.blocks, self.right_sides(), strict=True))

    def _bind(self) -> None:
        addresses = [p.data_ptr() for p in self.parameters]
        if addresses != self._addresses:
            values = self.values()
            for block in self.blocks:
                block.bind(values)
            self._addresses = addresses

    def project_(self, skip: Tensor | None, *, last: bool = True) -> list[Tensor]:
        """Onto the set, in place; and the residuals then, where this `last` look is wanted."""
        left = []
        for block, b in self._current():
            r = block.residual(b)
            once = skip is None and self._reads and block.settles(b, r)
            # a second time for what the first leaves by rounding
            for more in (False,) if once else (True, False):
                block.subtract(skipped(r, skip))
                if more or last:
                    r = block.residual(b)
            left.append(r)
        return left

    def mend_(self, skip: Tensor | None, factor: float) -> None:
        """Onto the set, but blocks whose rows all hold up to `factor` roundings keep their bits."""
        for block, b in self._current():
            for _ in range(2):
                r = block.residual(b)
                holds = self._holds(block, b, r, factor)
                if not block.disjoint:
                    # what one row leaves, rows that repeat it add up
                    holds = holds.all(-1, keepdim=True)
                r = skipped(r, holds if skip is None else holds | skip)
                if self._reads and not bool(r.any()):
                    break
                once = self._reads and block.settles(b, r)
                block.subtract(r)
                if once:
                    break

    @property
    def _reads(self) -> bool:
        """Whether values are looked at, to save passes: only where that does not wait."""
        return reads_values(self._b.device)

    def weighted_(self, inverse: list[Tensor], skip: Tensor | None) -> None:
        """Onto the set in the diagonal metric whose inverse is given for each parameter."""
        for block, b in self._current():
            block.weighted(b, inverse, skip)
            block.weighted(b, inverse, skip)

    def tangent_(self, gs: list[Tensor], shift: Shift | None) -> None:
        """Gradients onto the null space, in place: T(g + shift x) - shift x."""
        if shift is not None:
            self._bind()
        for block in self.blocks:
            block.tangent(gs, shift)

    def residuals(self) -> list[Tensor]:
        """A x - b, block by block."""
        return [block.residual(b) for block, b in self._current()]

    def _holds(self, block: Block, b: Tensor, r: Tensor, factor: float) -> Tensor:
        """Which rows hold up to `factor` roundings of the coarsest parameter."""
        off = r.abs()
        limit = factor * max(tolerance.unit_roundoff(p.dtype) for p in self.parameters)
        if block.weighs and self._reads:
            holds = off <= limit * block.magnitude_at_least(b)
            fails = off > limit * block.magnitude_at_most(b)
            if bool((holds | fails).all()) or (not block.disjoint and bool(fails.any())):
                return holds
        return off <= limit * block.magnitude(b)

    def feasible(self) -> tuple[bool, list[str]]:
        """Whether every row holds to rounding, and the names of some that do not; waits for it."""
        off: list[str] = []
        for block, b in self._current():
            r = block.residual(b)
            holds = self._holds(block, b, r, tolerance.RESIDUAL_ROUNDINGS)
            if not bool(holds.all()):
                off += [self.rows.name(int(i)) for i in block.rows[~holds][:3]]
        return not off, off

    def points(self) -> list[tuple[Tensor, AffineConstraint]]:
        """The current parameters, block by block: points (k, n) and a constraint for each."""
        rows = [
            RowSet(start, e.shape, tuple(self._varying(e)))
            for e, start in zip(self.rows.equations, self.rows.starts, strict=False)
        ]
        ts, b = self.values(), self.current_b().double()
        plans, _ = split(rows, self.parameters, sums=True, join=True)
        found: list[tuple[Tensor, AffineConstraint]] = []
        for plan in plans:
            right = b.cpu()[plan.rows]
            A: Tensor | SparseRows
            if isinstance(plan, SumsPlan):
                x = torch.cat([t.view(ts[p]).reshape(right.numel(), -1) for p, t in plan.terms], 1)
                a = torch.cat(
                    [torch.full((t.count,), t.scale, dtype=torch.float64) for _, t in plan.terms]
                )
                A, right = a.unsqueeze(0), right.reshape(-1, 1)
            else:
                x = torch.cat(
                    [blocks.Entries(p, self.parameters[p.parameter]).read(ts) for p in plan.pieces],
                    1,
                )
                A = plan.A
            A = A.to(device=x.device)
            if isinstance(A, Tensor) and A.dim() == 3:
                found.append((x, AffineConstraint(A, right.to(x.device))))
                continue
            distinct, which = torch.unique(right, dim=0, return_inverse=True)
            found += [
                (x[which == i], AffineConstraint(A, distinct[i].to(x.device)))
                for i in range(len(distinct))
            ]
        return found

    def _varying(self, equation: Equation) -> list[tuple[int, Map]]:
        place = {id(p): i for i, p in enumerate(self.parameters)}
        return [
            (place[id(self.actual(t.parameter))], t)
            for t in equation.difference.terms
            if id(self.actual(t.parameter)) in place
        ]
