"""Independent blocks of a constraint on parameters, applied in place.

Each block holds A_i and W_i for the parameters p_i it touches, W = [W_1 W_2 ...] with orthonormal
rows that span those of A = [A_1 A_2 ...], and K with K A = W: with r = sum_i A_i p_i - b,
the projection is p_i -= W_i' K r, and the tangent projection g_i -= W_i' sum_j W_j g_j. The
residual is taken with A itself, so that rounding in the factors cannot pass for feasibility.

Methods take parameters, or gradients, as a list in the order of the system. None but `settles`
synchronises with the host.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.solver import Solver, build
from projlab.engine.variants.orthonormal import OrthonormalRows
from projlab.errors import InconsistentError, InputError
from projlab.numerics import tuning
from projlab.system.constraint import AffineConstraint
from projlab.system.diagnosis import analyse
from projlab.system.options import check_options
from projlab.training.expressions.maps import Sums
from projlab.training.partition import MatrixPlan, Piece, Plan, SumsPlan

STEPS = 10**6
"""Projections that a factorisation made for training is expected to serve."""

Shift = list[Tensor | float]
"""A factor for each parameter."""


class Entries:
    """The entries of one parameter that a block touches, as (B, n)."""

    def __init__(self, piece: Piece, parameter: Tensor) -> None:
        self.parameter = piece.parameter
        self.view = piece.where if isinstance(piece.where, Sums) else None
        self.index: tuple[Tensor, ...] = ()
        if self.view is not None:
            self.width = self.view.shape[1]
        else:
            assert isinstance(piece.where, Tensor)
            columns = piece.where.to(parameter.device)
            self.width = columns.shape[1]
            self.flat = parameter.is_contiguous()
            # a parameter of other strides has no flat view: one index a dimension
            self.index = (columns,) if self.flat else torch.unravel_index(columns, parameter.shape)

    def read(self, ts: Sequence[Tensor]) -> Tensor:
        """The entries: a view where there is one, else a copy."""
        t = ts[self.parameter]
        if self.view is not None:
            return self.view.view(t)
        return (t.view(-1) if self.flat else t)[self.index]

    def subtract(self, ts: Sequence[Tensor], delta: Tensor) -> None:
        """Subtract (B, n) in the precision of the difference, with one rounding."""
        t = ts[self.parameter]
        if self.view is not None:
            self.view.view(t).sub_(delta)
        else:
            where = t.view(-1) if self.flat else t
            where.index_put_(self.index, (where[self.index] - delta).to(t.dtype))


class Block(ABC):
    """Equations that share no parameter entry with the other blocks'."""

    rows: Tensor
    """Numbers of the equations, in the shape of the residual."""
    work: torch.dtype
    variant: str
    reason: str
    shape: tuple[int, int, int]
    """Equal blocks, rows and entries of each."""
    ts: Sequence[Tensor]
    """The parameters."""
    homogeneous = False
    """Whether b is known to be zero."""
    smallest = 0.0
    """What every |b_i| is known to be at least."""

    def bind(self, ts: Sequence[Tensor]) -> None:
        """Work on these tensors, those of all parameters in the order of the system."""
        self.ts = ts

    def right_side(self, b: Tensor) -> Tensor:
        """The block's own part of b, in the shape of the residual."""
        return b[self.rows].to(self.work)

    def fix(self, b: Tensor) -> None:
        """From here on the right side is always this one."""
        self.homogeneous = not bool(b.any())
        self.smallest = float(b.abs().min())

    @abstractmethod
    def residual(self, b: Tensor) -> Tensor:
        """A x - b."""

    @abstractmethod
    def magnitude(self, b: Tensor) -> Tensor:
        """sum_i |A_i| |p_i| + |b|, on which the rounding of a residual is judged."""

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        """A lower bound on `magnitude` from a few of the entries."""
        raise NotImplementedError

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        """An upper bound on `magnitude` from norms, without reading A."""
        raise NotImplementedError

    @abstractmethod
    def subtract(self, r: Tensor) -> None:
        """x -= A^+ r in place: with the residual, the projection."""

    def settles(self, b: Tensor, r: Tensor) -> bool:
        """Whether subtracting r once surely leaves what rounding leaves; waits for the answer.

        Not asked of a small block, for which subtracting twice is faster.
        """
        if not self.weighs:
            return False
        needed = tolerance.ONE_CORRECTION * self._reach(r)
        return bool((needed <= self.magnitude_at_least(b)).all())

    def _reach(self, r: Tensor) -> Tensor:
        """In units of u: by how much rounding in `subtract` may move each row."""
        return r.abs()

    @abstractmethod
    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        """g -= Q (g + shift * x), Q the projection onto the row space; no shift is zero."""

    def weighted(self, b: Tensor, inverse: Sequence[Tensor], skip: Tensor | None) -> None:
        """Project in the diagonal metric whose inverse is given."""
        raise NotImplementedError

    @property
    def disjoint(self) -> bool:
        """Whether no two rows share an entry, so that `weighted` can be had."""
        return False

    @property
    def weighs(self) -> bool:
        """Whether a pass over the entries takes longer than deciding whether it is needed."""
        return False

    def __str__(self) -> str:
        count, m, n = self.shape
        equal = f"{count} blocks of " if count > 1 else ""
        rows = f"{m} row{'s' if m > 1 else ''}"
        return f"{equal}{rows} in {n} entries: {self.variant}"


class SumsBlock(Block):
    """Rows that are sums of views: a sum and a broadcast subtraction, nothing stored."""

    disjoint = True

    def __init__(self, plan: SumsPlan, parameters: Sequence[Tensor]) -> None:
        self.terms = plan.terms
        self.work = working([parameters[p] for p, _ in plan.terms])
        # as many inner axes in each view, so that sums with kept dimensions broadcast to all
        axes = max(1, *(len(t.inner) for _, t in plan.terms))
        rows = plan.rows.to(parameters[0].device)
        self.rows = rows.reshape(*rows.shape, *[1] * axes)
        self._inner = tuple(range(rows.dim(), rows.dim() + axes))
        self._padded = [
            (p, replace(t, inner=t.inner + ((1, 1),) * (axes - len(t.inner))))
            for p, t in plan.terms
        ]
        self._parts = [(p, t.partial(tuning.GROUPS, tuning.SHARE)) for p, t in self._padded]
        self._scales = [t.scale for _, t in plan.terms]
        self._by_product = [
            axes == 1 and parameters[p].dtype is self.work and _sums_by_product(parameters[p], t)
            for p, t in self._padded
        ]
        self.norm2 = sum(t.scale**2 * t.count for _, t in plan.terms)
        self._steps = [t.scale / self.norm2 for _, t in plan.terms]
        self.variant = "single_row"
        entries = sum(t.count for _, t in plan.terms)
        self.shape = (plan.rows.numel(), 1, entries)
        self.reason = "single_row: sums that share no entry are read and corrected through views"

    @property
    def weighs(self) -> bool:
        count, _, entries = self.shape
        return count * entries >= tuning.DECIDED

    def bind(self, ts: Sequence[Tensor]) -> None:
        self.ts = ts
        self._own = self._views(ts)

    def residual(self, b: Tensor) -> Tensor:
        r = self._sums(self._own)
        return r if self.homogeneous else r.sub_(b)

    def magnitude(self, b: Tensor) -> Tensor:
        total = b.abs()
        for view, scale in zip(self._own, self._scales, strict=True):
            total.add_(self._sum(view.abs()), alpha=abs(scale))
        return total

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        total = b.abs()
        for p, t in self._parts:
            sums = t.view(self.ts[p]).sum([i + 1 for i in self._inner], True, dtype=self.work)
            total.add_(sums.abs_().sum(0), alpha=abs(t.scale))
        return total

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        return torch.full_like(b, torch.inf)

    def subtract(self, r: Tensor) -> None:
        self._subtract(self._own, r)

    def settles(self, b: Tensor, r: Tensor) -> bool:
        if self.smallest > 0 and tolerance.ONE_CORRECTION * r.abs().max().item() <= self.smallest:
            return True
        return super().settles(b, r)

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        views = self._views(gs)
        y = self._sums(views)
        if shift is not None:
            for view, scale, (p, _) in zip(self._own, self._scales, self.terms, strict=True):
                y = y + self._sum(view) * scale * shift[p]
        self._subtract(views, y)

    def weighted(self, b: Tensor, inverse: Sequence[Tensor], skip: Tensor | None) -> None:
        weights = self._views([w.contiguous() for w in inverse])
        norm2 = torch.zeros_like(b)
        for view, scale in zip(weights, self._scales, strict=True):
            norm2 = norm2 + self._sum(view) * scale**2
        y = skipped(skipped(self.residual(b), skip) / norm2, norm2 == 0)
        for view, weight, scale in zip(self._own, weights, self._scales, strict=True):
            view.sub_(y * weight, alpha=scale)

    def _views(self, ts: Sequence[Tensor]) -> list[Tensor]:
        return [t.view(ts[p]) for p, t in self._padded]

    def _sum(self, view: Tensor) -> Tensor:
        return view.sum(self._inner, True, dtype=self.work)

    def _sums(self, views: Sequence[Tensor]) -> Tensor:
        """A x, in memory of its own."""
        found: Tensor | None = None
        for view, scale, product in zip(views, self._scales, self._by_product, strict=True):
            s = _column_sums(view) if product else self._sum(view)
            if found is not None:
                found.add_(s, alpha=scale)
            else:
                found = s if scale == 1 else s.mul_(scale)
        assert found is not None
        return found

    def _subtract(self, views: Sequence[Tensor], r: Tensor) -> None:
        for view, step in zip(views, self._steps, strict=True):
            view.sub_(r, alpha=step)


@dataclass(frozen=True)
class _Parts:
    """Columns of A and W that belong to one parameter: (m, n) and (r, n), or with B in front."""

    entries: Entries
    A: Tensor
    W: Tensor


class MatrixBlock(Block):
    """Dense rows, one block or B of one shape, split by parameter."""

    def __init__(
        self,
        plan: MatrixPlan,
        parameters: Sequence[Tensor],
        A: Tensor,
        W: Tensor,
        K: Tensor,
        solver: Solver,
    ) -> None:
        own = [parameters[piece.parameter] for piece in plan.pieces]
        device = own[0].device
        self.work = working(own)
        self.rows = plan.rows.to(device)
        self.variant, self.reason = solver.variant, solver.reason
        self.shape = (len(plan.rows), A.shape[-2], A.shape[-1])
        self.K = _narrowed(K, self.work).to(device)
        A, W = _narrowed(A, self.work).to(device), W.to(device, self.work)
        self._entries = max(A.numel(), len(plan.rows) * A.shape[-1])
        self.norms: Tensor = torch.linalg.vector_norm(A, dim=-1)
        self.parts = []
        start = 0
        for piece in plan.pieces:
            entries = Entries(piece, parameters[piece.parameter])
            stop = start + entries.width
            own_A, own_W = A[..., start:stop], W[..., start:stop]
            if A.dim() == 3:  # batched products copy what is not contiguous, at each step
                own_A = own_A.contiguous()
            if W.dim() == 3:
                own_W = own_W.contiguous()
            self.parts.append(_Parts(entries, own_A, own_W))
            start = stop

    @property
    def disjoint(self) -> bool:
        """One row for each block."""
        return self.shape[1] == 1

    @property
    def weighs(self) -> bool:
        return self._entries >= tuning.DECIDED

    def residual(self, b: Tensor) -> Tensor:
        return self._times(self.ts, lambda part: part.A) - b

    def magnitude(self, b: Tensor) -> Tensor:
        total = b.abs()
        for part in self.parts:
            x = part.entries.read(self.ts)
            for a, piece in _pieces(part.A, x):
                total = total + _applied(a.abs(), piece.to(self.work).abs())
        return total

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        total = b.abs()
        for part in self.parts:
            x = part.entries.read(self.ts)[:, : tuning.HEAD].to(self.work).abs()
            total = total + _applied(part.A[..., : tuning.HEAD].abs(), x)
        return total

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm
        sizes = [norm(part.entries.read(self.ts), dim=-1, dtype=self.work) for part in self.parts]
        length: Tensor = norm(torch.stack(sizes), dim=0)
        return b.abs() + self.norms * length.unsqueeze(-1)

    def subtract(self, r: Tensor) -> None:
        self._subtract(self.ts, _applied(self.K, r))

    def _reach(self, r: Tensor) -> Tensor:
        y: Tensor = torch.linalg.vector_norm(_applied(self.K, r), dim=-1, keepdim=True)
        return r.abs() + self.shape[1] * self.norms * y

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        y = self._times(gs, lambda part: part.W)
        if shift is not None:
            for part in self.parts:
                x = part.entries.read(self.ts).to(self.work)
                y = y + _applied(part.W, x) * shift[part.entries.parameter]
        self._subtract(gs, y)

    def weighted(self, b: Tensor, inverse: Sequence[Tensor], skip: Tensor | None) -> None:
        norm2 = torch.zeros_like(b)
        for part in self.parts:
            norm2 = norm2 + _applied(part.A.square(), part.entries.read(inverse).to(self.work))
        y = skipped(skipped(self.residual(b), skip) / norm2, norm2 == 0)
        for part in self.parts:
            q = part.entries.read(inverse).to(self.work)
            part.entries.subtract(self.ts, y * part.A.reshape(-1, part.A.shape[-1]) * q)

    def _times(self, ts: Sequence[Tensor], matrix: Callable[[_Parts], Tensor]) -> Tensor:
        total: Tensor | None = None
        for part in self.parts:
            product = _applied(matrix(part), part.entries.read(ts).to(self.work))
            total = product if total is None else total + product
        assert total is not None
        return total

    def _subtract(self, ts: Sequence[Tensor], y: Tensor) -> None:
        for part in self.parts:
            view = part.entries.view
            if (
                view is not None
                and part.W.dim() == 2
                and ts[part.entries.parameter].dtype is self.work
            ):
                x = view.view(ts[part.entries.parameter])
                if len(y) == 1:
                    x[0].addmv_(part.W.mT, y[0], alpha=-1)
                else:
                    x.addmm_(y, part.W, alpha=-1)
            else:
                part.entries.subtract(ts, _applied(part.W.mT, y))


class SolverBlock(Block):
    """Any other variant: the touched entries are gathered, projected and put back."""

    def __init__(
        self, plan: MatrixPlan, parameters: Sequence[Tensor], solver: Solver, A: AffineConstraint
    ) -> None:
        self.solver, self.constraint = solver, A
        self.work = solver.dtype
        self.rows = plan.rows.to(solver.device)
        self.variant, self.reason = solver.variant, solver.reason
        self.shape = (len(plan.rows), A.m, A.n)
        self.entries = [Entries(piece, parameters[piece.parameter]) for piece in plan.pieces]

    def residual(self, b: Tensor) -> Tensor:
        return self.constraint.rows.to(self.work).matvec(self._read(self.ts)) - b

    def magnitude(self, b: Tensor) -> Tensor:
        absolute = self.constraint.rows.to(self.work).abs()
        return absolute.matvec(self._read(self.ts).abs()) + b.abs()

    def subtract(self, r: Tensor) -> None:
        zero = r.new_zeros(len(r), self.shape[2])
        delta, _ = self.solver.solve(zero, r, homogeneous=False, dual=False, want_multipliers=False)
        self._subtract(self.ts, delta)

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        v = self._read(gs)
        if shift is not None:
            parts = [e.read(self.ts).to(self.work) * shift[e.parameter] for e in self.entries]
            v = v + torch.cat(parts, -1)
        kept, _ = self.solver.solve(v, None, homogeneous=True, dual=False, want_multipliers=False)
        self._subtract(gs, v - kept)

    def _read(self, ts: Sequence[Tensor]) -> Tensor:
        return torch.cat([e.read(ts).to(self.work) for e in self.entries], -1)

    def _subtract(self, ts: Sequence[Tensor], delta: Tensor) -> None:
        start = 0
        for e in self.entries:
            e.subtract(ts, delta[:, start : start + e.width])
            start += e.width


def working(parameters: Sequence[Tensor]) -> torch.dtype:
    """The widest dtype of the parameters, float32 at least."""
    dtype = torch.float32
    for p in parameters:
        dtype = torch.promote_types(dtype, p.dtype)
    return dtype


def make(
    plan: Plan,
    parameters: Sequence[Tensor],
    b: Tensor,
    variant: str,
    data: torch.dtype,
    names: Callable[[Tensor], list[str]],
    *,
    strict: bool,
) -> Block:
    """Factor one plan.

    Parameters
    ----------
    b
        Every right-hand side, float64.
    data
        The precision of the coefficients and of b, which decides rank and consistency.
    names
        Names of the rows with these numbers.
    strict
        Whether contradictory rows are refused; else they meet in the least-squares sense.

    Raises
    ------
    InconsistentError
        The rows contradict each other.
    InputError, AccuracyError, MemoryLimitError, RankDeficientError
        As `projlab.projector`.
    """
    if isinstance(plan, SumsPlan):
        return SumsBlock(plan, parameters)
    device = parameters[plan.pieces[0].parameter].device
    right = b.cpu()[plan.rows]
    batched = isinstance(plan.A, Tensor) and plan.A.dim() == 3
    constraint = _constraint(plan, right if batched else right[0], names(plan.rows[0]), device)
    options = check_options(
        constraint.n,
        STEPS,
        variant=variant,
        accuracy=None,
        rank="numerical",
        metric=None,
        on_redundant="drop",
        on_inconsistent="raise" if strict else "least_squares",
    )
    dtype = torch.float64 if device.type != "mps" else torch.float32
    try:
        solver = build(constraint, dtype, options, data)
    except InconsistentError:
        _refuse(plan, right, names, data)
        raise
    if strict and not batched and solver.ranks[0] < constraint.m:
        _refuse(plan, right, names, data)
    factor = solver.factor
    if isinstance(factor, OrthonormalRows):
        W = factor.W
    elif constraint.m == 1 and isinstance(plan.A, Tensor):
        a = plan.A.to(device, dtype)
        norm = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
        return MatrixBlock(plan, parameters, a, a / norm, 1 / norm, solver)
    else:
        return SolverBlock(plan, parameters, solver, constraint)
    eye = torch.eye(constraint.m, dtype=dtype, device=device)
    K = solver.right_side(-(eye.expand(len(right), -1, -1) if batched else eye))
    assert K is not None
    A = plan.A if isinstance(plan.A, Tensor) else constraint.rows.to_dense()
    return MatrixBlock(plan, parameters, A, W, K.mT, solver)


def _constraint(
    plan: MatrixPlan, b: Tensor, names: list[str], device: torch.device
) -> AffineConstraint:
    return AffineConstraint(plan.A.to(device=device), b.to(device), names)


def _refuse(
    plan: MatrixPlan, right: Tensor, names: Callable[[Tensor], list[str]], data: torch.dtype
) -> None:
    """Raise `InconsistentError` for the first block whose rows contradict each other."""
    for i in range(len(right)):
        A = plan.A[i] if isinstance(plan.A, Tensor) and plan.A.dim() == 3 else plan.A
        one = MatrixPlan(plan.rows[i : i + 1], plan.pieces, A)
        quoted = [f"({name})" for name in names(plan.rows[i])]
        constraint = _constraint(one, right[i], quoted, torch.device("cpu"))
        found = analyse(constraint, torch.float64, "numerical", data).conflicts.get(0, ())
        if found:
            raise inconsistent([c.contradiction() for c in found])


def inconsistent(contradictions: Sequence[str]) -> InconsistentError:
    """The error for equations that no parameters satisfy."""
    shown = "; ".join(contradictions[:5])
    more = f"; and {len(contradictions) - 5} more rows" if len(contradictions) > 5 else ""
    return InconsistentError(
        f"the equations contradict each other: {shown}{more}. Nothing was changed."
    )


def _narrowed(t: Tensor, dtype: torch.dtype) -> Tensor:
    """t in the working precision, or `InputError` where its range does not hold it."""
    if t.dtype is dtype:
        return t
    narrow = t.to(dtype)
    vanished = ((narrow == 0).all(-1) & (t != 0).any(-1)).any()
    lost = vanished | (~torch.isfinite(narrow)).any()
    if bool(lost):
        raise InputError(
            f"the coefficients of an equation over- or underflow in {dtype}, the precision of its "
            "parameters; multiply the equation by a number that brings them near one"
        )
    return narrow


def _sums_by_product(parameter: Tensor, sums: Sums) -> bool:
    """Whether sums over one axis of a contiguous parameter are faster as products with ones."""
    if parameter.device.type != "cpu" or len(sums.out) != 1 or len(sums.inner) != 1:
        return False
    (n, across), (k, down) = sums.out[0], sums.inner[0]
    aligned = down * parameter.itemsize % tuning.PAGE == 0 and k % tuning.PIECE == 0
    return aligned and across == 1 and n * k >= tuning.DECIDED


def _column_sums(view: Tensor) -> Tensor:
    """(n, 1) sums of the columns of a matrix (k, n), given as (n, k), as products with ones."""
    pieces = view.mT.unflatten(0, (-1, tuning.PIECE))
    ones = pieces.new_ones(1, 1, tuning.PIECE).expand(len(pieces), -1, -1)
    return torch.bmm(ones, pieces).sum(0).mT


def _applied(M: Tensor, x: Tensor) -> Tensor:
    """M x for each block: M (m, n) or (B, m, n), x (B, n)."""
    if M.dim() == 3:
        return (M @ x.unsqueeze(-1)).squeeze(-1)
    if len(x) > 1:
        return x @ M.mT
    if M.dtype is not torch.float32 or M.shape[1] <= tuning.SUMMED:
        return (M @ x[0]).unsqueeze(0)
    return torch.stack([m @ piece[0] for m, piece in _pieces(M, x)]).sum(0, keepdim=True)


def _pieces(M: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Columns of M and entries of x, a few at a time."""
    return zip(M.split(tuning.SUMMED, -1), x.split(tuning.SUMMED, -1), strict=True)


def skipped(t: Tensor, skip: Tensor | None) -> Tensor:
    """t, and zero where `skip`, which broadcasts to it."""
    return t if skip is None else t.masked_fill(skip, 0)
