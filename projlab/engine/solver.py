"""One factorisation in one working precision, in the caller's rows and units.

The solver answers the saddle-point system

    [ W  A' ] [x*]   [W x]
    [ A  0  ] [y ] = [ b ]

whose matrix is symmetric: its adjoint is itself, with a gradient in the place of W x. That one fact
gives every derivative of a projection (`projlab.engine.autograd`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from projlab.engine.kernels.native import PLAIN
from projlab.engine.select import System, choose, undecided
from projlab.engine.variants import Factor
from projlab.errors import InputError, ProjlabError, RankDeficientError
from projlab.numerics import memory
from projlab.numerics.precision import lowered, stated_precision
from projlab.numerics.scaling import power_of_two, widened
from projlab.numerics.triangular import Reflectors
from projlab.system.constraint import AffineConstraint
from projlab.system.diagnosis import (
    Analysis,
    analyse,
    combinations,
    raise_inconsistent,
    range_projection,
)
from projlab.system.equilibration import equilibrate_rows, equilibrated_side
from projlab.system.metric import Metric, factor_metric
from projlab.system.options import Options
from projlab.system.rank import RankRule, chosen_for_least_squares
from projlab.system.rows import DenseRows, Rows
from projlab.system.structure import require_disjoint


class Direct(NamedTuple):
    """A projection of plain tensors, without the checks and choices of the general road.

    Each says with None or False that x is not of that kind: another dtype, shape or device, wanted
    by autograd or a transform, or a precision switch of the caller's in the way.
    """

    fresh: Callable[[Tensor], Tensor | None]
    in_place: Callable[[Tensor], bool]


def needs_function(x: Tensor, b: Tensor | None) -> bool:
    """Whether autograd or a functorch transform must see the projection as one function."""
    if torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))


@dataclass(frozen=True)
class Solver:
    """Projects x (..., n), or (B, ..., n) for B systems, in `dtype` on `device`."""

    shape: tuple[int, int]
    batch: int | None
    dtype: torch.dtype
    device: torch.device
    variant: str
    reason: str
    ranks: tuple[int, ...]
    conditions: tuple[float, ...]
    """Condition numbers, or upper bounds on them (see `measured`)."""
    measured: bool
    factor: Factor | None
    """None where no row is left: the projection is the identity."""
    kept: Tensor | None
    """(r,) or (B, r) rows that the factor holds, None for all; short elements repeat row 0."""
    units: tuple[Tensor, Tensor]
    """(r,) or (B, r): their product takes b to the factor's right-hand side, and multipliers back;
    zero where a row only pads a batch."""
    range_basis: Tensor | None
    """(m, r): b is projected onto the range of A first (least squares)."""
    metric: Metric | None
    c: Tensor | None
    """The right-hand side b of the constraint in the factor's coordinates."""

    @property
    def batched(self) -> bool:
        return self.batch is not None

    def solvers(self) -> list["Solver"]:
        return [self]

    def stacked(self) -> "Solver":
        return self

    @property
    def full_rank(self) -> bool:
        return all(rank == self.shape[0] for rank in self.ranks)

    def to(self, device: torch.device) -> "Solver":
        """The same solver on another device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device)

        return replace(
            self,
            device=device,
            factor=None if self.factor is None else self.factor.to(device),
            kept=move(self.kept),
            units=(self.units[0].to(device), self.units[1].to(device)),
            range_basis=move(self.range_basis),
            metric=None if self.metric is None else self.metric.to(device),
            c=move(self.c),
        )

    def bind(self, x: Tensor, A: Tensor | None, b: Tensor | None) -> "Solver":
        """A solver of constant A and b is its own (see `projlab.engine.autograd`)."""
        return self

    def right_side(self, b: Tensor) -> Tensor | None:
        """b (..., m) in the factor's coordinates; for B systems (B, k, m) gives (B, k, r)."""
        if self.factor is None:
            return None
        if self.range_basis is not None:
            b = b.to(self.dtype) @ self.range_basis @ self.range_basis.mT
        if self.kept is not None:
            b = b[..., self.kept] if self.batch is None else _gather(b, self.kept)
        first, second = (self._beside(t) for t in self.units)
        return self.factor.right_side((b * first * second).to(self.dtype))

    def _beside(self, t: Tensor) -> Tensor:
        """Per-element rows (B, r) beside vectors (B, k, r)."""
        return t if self.batch is None else t.unsqueeze(1)

    def project(self, x: Tensor, c: Tensor | None, *, dual: bool = False) -> Tensor:
        """x - W^-1 A' y; for `dual`, the gradient x - A' y with y of the vector W^-1 x."""
        if self.factor is None:
            return x.clone()
        if self.metric is None:
            return self.factor.project(x, c)
        white = self.metric.whiten(x, dual=dual)
        correction = white - self.factor.project(white, c)
        return x - self.metric.unwhiten(correction, dual=dual)

    def multipliers(self, x: Tensor, c: Tensor | None, *, dual: bool = False) -> Tensor:
        """y (..., m) in the caller's rows and units, zero on rows that were dropped."""
        m = self.shape[0]
        if self.factor is None:
            return x.new_zeros(*x.shape[:-1], m)
        if self.metric is not None:
            x = self.metric.whiten(x, dual=dual)
        first, second = (self._beside(t) for t in self.units)
        y = self.factor.multipliers(x, c) * first * second
        if self.kept is None:
            return y
        whole = y.new_zeros(*y.shape[:-1], m)
        if self.batch is None:
            return whole.index_add(-1, self.kept, y)
        # padding repeats row 0 with zeros
        return whole.scatter_add(-1, self.kept.unsqueeze(1).expand(y.shape), y)

    def solve(
        self,
        x: Tensor,
        b: Tensor | None,
        *,
        homogeneous: bool,
        dual: bool,
        want_multipliers: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Projection and multipliers for any x (..., n); b None is the constraint's, or zero."""
        if self.dtype is not torch.float64 and lowered(self.dtype, self.device.type):
            with stated_precision(self.device):
                return self._solve(x, b, homogeneous, dual, want_multipliers)
        return self._solve(x, b, homogeneous, dual, want_multipliers)

    def _solve(
        self, x: Tensor, b: Tensor | None, homogeneous: bool, dual: bool, want: bool
    ) -> tuple[Tensor, Tensor | None]:
        lead = x.shape[:-1]
        m, n = self.shape
        if self.batch is not None:
            x, b = _vectors(x), None if b is None else _vectors(b)
        if b is not None:
            c = self.right_side(b)
        else:
            c = None if homogeneous else self.c
        projected = self.project(x, c, dual=dual).reshape(*lead, n)
        y = self.multipliers(x, c, dual=dual).reshape(*lead, m) if want else None
        return projected, y

    def direct(self) -> Direct:
        """The hot path for the constraint's own b, made once."""
        factor, c = self.factor, self.c
        if factor is None or c is None or self.metric is not None:
            return Direct(lambda _: None, lambda _: False)
        native, project, project_ = factor.bound(c)
        batch, n, dtype, device = self.batch, self.shape[1], self.dtype, self.device
        on_cpu, exact, kind = device.type == "cpu", dtype is torch.float64, device.type

        # the two repeat their conditions: a function for them would cost a tenth of a projection
        def fresh(x: Tensor) -> Tensor | None:
            if not (
                type(x) in PLAIN
                and x.dtype is dtype
                and (x.is_cpu if on_cpu else x.device == device)
                and 0 < x.ndim <= 2
                and (x.shape[-1] == n if batch is None else x.shape == (batch, n))
                and not needs_function(x, None)
                and (exact or not lowered(dtype, kind))
            ):
                return None
            if native is not None:
                y = x.clone()
                return y if native(y) else project(x)
            return project(x) if batch is None else project(x.unsqueeze(1)).squeeze(1)

        def in_place(x: Tensor) -> bool:
            if native is not None and native(x):
                return True
            if not (
                type(x) in PLAIN
                and x.dtype is dtype
                and (x.is_cpu if on_cpu else x.device == device)
                and 0 < x.ndim <= 2
                and (x.shape[-1] == n if batch is None else x.shape == (batch, n))
                and not x.requires_grad
                and (exact or not lowered(dtype, kind))
            ):
                return False
            project_(x if batch is None else x.unsqueeze(1))
            return True

        return Direct(fresh, in_place)

    def project_(self, x: Tensor) -> None:
        """In place, x in `dtype` on `device`, no graph: the hot path."""
        if self.factor is None:
            return
        if self.dtype is not torch.float64 and lowered(self.dtype, self.device.type):
            with stated_precision(self.device):
                self._project_(x)
        else:
            self._project_(x)

    def _project_(self, x: Tensor) -> None:
        assert self.factor is not None
        if x.requires_grad:
            x = x.detach()
        if self.metric is None and self.batch is None:
            self.factor.project_(x, self.c)
        elif self.metric is None and x.dim() <= 3:
            self.factor.project_(x if x.dim() == 3 else x.unsqueeze(1), self.c)
        else:
            projected, _ = self._solve(x, None, False, False, False)
            x.copy_(projected)


def build(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> Solver:
    """Analyse, choose a variant, factor. Everything that can be refused is refused here.

    `dtype` is the working precision, `data` that of A and b, which decides rank and consistency.
    """
    device = constraint.device
    with torch.no_grad(), torch.inference_mode(False), stated_precision(device):
        return _build(constraint, dtype, options, data)


def _build(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> Solver:
    device, (m, n) = constraint.device, (constraint.m, constraint.n)
    analysis = analyse(constraint, dtype, options.rank, data)
    decisions = analysis.decisions
    least_squares = options.on_inconsistent == "least_squares"
    if analysis.conflicts and not least_squares:
        raise_inconsistent(constraint, analysis)
    if options.on_redundant == "raise":
        _refuse_redundant(constraint, analysis)
    basis = _range_basis(analysis, constraint) if least_squares else None
    if basis is not None:
        analysis = _compromising(analysis, constraint)
    rows, kept, exponent = _kept(analysis, constraint.batch)
    reflectors = analysis.reflectors if options.metric is None else None
    metric, measured = None, all(d.measured for d in decisions)
    conditions = tuple(d.condition for d in decisions)
    if options.metric is not None:
        metric = factor_metric(options.metric, dtype, device)
        rows, whitening, conditions = _whiten(rows, metric, constraint.batch)
        exponent, measured = exponent + whitening, True
    system = System(
        m=rows.shape[0],
        n=rows.shape[1],
        disjoint=rows.disjoint() if rows.shape[0] else True,
        diagonal_metric=metric is None or metric.diagonal,
        condition=max(conditions),
        measured=measured,
        dtype=dtype,
    )
    if not measured and undecided(options.variant, system, options.accuracy, options.applications):
        conditions = tuple(d.measure().condition for d in decisions)
        system = replace(system, condition=max(conditions), measured=True)
    names = constraint.names
    if kept is not None and constraint.batch is None:
        names = tuple(names[i] for i in kept.tolist())
    name, reason, factor = _factor(rows, reflectors, system, options, names)
    units = power_of_two(exponent, dtype)
    padding = (rows.row_max() == 0) if constraint.batch is not None and rows.shape[0] else None
    if padding is not None:
        units = units[0].masked_fill(padding, 0), units[1]
    solver = Solver(
        shape=(m, n),
        batch=constraint.batch,
        dtype=dtype,
        device=device,
        variant=name,
        reason=reason,
        ranks=tuple(d.rank for d in decisions),
        conditions=conditions,
        measured=system.measured,
        factor=factor,
        kept=kept,
        units=units,
        range_basis=None if basis is None else basis.to(device=device, dtype=dtype),
        metric=metric,
        c=None,
    )
    if factor is None:
        return solver
    compromise = _range_basis(analysis, constraint, set(analysis.conflicts))
    f = _own_right_side(constraint, compromise, kept, exponent).to(device=device, dtype=dtype)
    if padding is not None:
        f = f.masked_fill(padding, 0)
    return replace(solver, c=factor.right_side(solver._beside(f)))


def _vectors(t: Tensor) -> Tensor:
    """(B, n) or (B, ..., n) as (B, k, n)."""
    return t.reshape(t.shape[0], math.prod(t.shape[1:-1]), t.shape[-1])


def _compromising(analysis: Analysis, constraint: AffineConstraint) -> Analysis:
    """Rows chosen afresh where they may contradict each other, and then meet in least squares."""
    exponents = analysis.system.exponent.reshape(len(analysis.decisions), constraint.m)
    decisions = []
    for e, decision in zip(exponents, analysis.decisions, strict=True):
        basis = range_projection(e, decision)
        decisions.append(
            decision if basis is None else chosen_for_least_squares(decision, basis, e)
        )
    return replace(analysis, decisions=tuple(decisions))


def _range_basis(
    analysis: Analysis, constraint: AffineConstraint, elements: set[int] | None = None
) -> Tensor | None:
    """(m, r), or (B, m, m) padded with zeros: None where every b is in the range.

    For the elements named only, the others taking b as it is; by default for all.
    """
    exponents = analysis.system.exponent.reshape(len(analysis.decisions), constraint.m)
    bases = [
        None if elements is not None and i not in elements else range_projection(exponents[i], d)
        for i, d in enumerate(analysis.decisions)
    ]
    if constraint.batch is None or all(basis is None for basis in bases):
        return bases[0]
    m = constraint.m
    present = next(basis for basis in bases if basis is not None)
    eye = torch.eye(m, dtype=present.dtype, device=present.device)
    whole = [eye if basis is None else basis for basis in bases]
    return torch.stack([torch.nn.functional.pad(t, (0, m - t.shape[1])) for t in whole])


def _own_right_side(
    constraint: AffineConstraint,
    basis: Tensor | None,
    kept: Tensor | None,
    exponent: Tensor,
) -> Tensor:
    """The constraint's b, scaled before it is rounded to the working precision."""
    b = widened(constraint.b)
    if basis is not None:
        b = (b.to(basis.device).unsqueeze(-2) @ basis @ basis.mT).squeeze(-2)
    if kept is not None:
        b = b[..., kept.to(b.device)] if constraint.batch is None else b.gather(-1, kept)
    return equilibrated_side(b, exponent)


def condition_numbers(
    constraint: AffineConstraint, dtype: torch.dtype, rule: RankRule, data: torch.dtype
) -> tuple[float, ...]:
    """Of each system's equilibrated rows, from singular values, where a bound was enough before."""
    with torch.no_grad(), torch.inference_mode(False), stated_precision(constraint.device):
        decisions = analyse(constraint, dtype, rule, data, measured=True).decisions
    return tuple(decision.condition for decision in decisions)


def null_space(
    constraint: AffineConstraint, dtype: torch.dtype, rule: RankRule, data: torch.dtype
) -> Tensor:
    """Orthonormal basis (n, n - r), or (B, n, n - r) where all elements have rank r."""
    n, device = constraint.n, constraint.device
    memory.require(
        3 * (constraint.batch or 1) * n * n * dtype.itemsize, "a null-space basis", device
    )
    with torch.no_grad(), torch.inference_mode(False), stated_precision(device):
        rows, _, _ = _kept(analyse(constraint, dtype, rule, data), constraint.batch)
        Q: Tensor = torch.linalg.qr(rows.to_dense().mT, mode="complete").Q
        return Q[..., rows.shape[0] :].clone()


def _gather(b: Tensor, kept: Tensor) -> Tensor:
    index = kept.unsqueeze(1).expand(kept.shape[0], b.shape[1], kept.shape[1])
    return b.gather(-1, index)


def _kept(analysis: Analysis, batch: int | None) -> tuple[Rows, Tensor | None, Tensor]:
    """The independent rows, which they are, and the exponents that scaled them."""
    system, decisions = analysis.system, analysis.decisions
    m = system.rows.shape[0]
    if all(d.rank == m for d in decisions):
        return system.rows, None, system.exponent
    if batch is None:
        kept = decisions[0].kept.to(system.rows.device)
        return system.rows.select(kept), kept, system.exponent[kept]
    r = max(d.rank for d in decisions)
    entries = system.rows.to_dense()
    kept = torch.zeros(batch, r, dtype=torch.long, device=entries.device)
    real = torch.zeros(batch, r, 1, dtype=entries.dtype, device=entries.device)
    for i, d in enumerate(decisions):
        kept[i, : d.rank] = d.kept.to(entries.device)
        real[i, : d.rank] = 1
    element = torch.arange(batch, device=entries.device).unsqueeze(1)
    return DenseRows(entries[element, kept] * real), kept, system.exponent[element, kept]


def _whiten(
    rows: Rows, metric: Metric, batch: int | None
) -> tuple[Rows, Tensor, tuple[float, ...]]:
    """Rows in the variables L' x, equilibrated again, by what, and their condition numbers."""
    if metric.diagonal:
        white: Rows = rows.divide_columns(metric.L)
    else:
        dense = rows.to_dense()
        flat = metric.whiten(dense.reshape(-1, dense.shape[-1]), dual=True)
        white = DenseRows(flat.reshape(dense.shape))
    white, exponent = equilibrate_rows(white)
    if white.shape[0] == 0:
        conditions: tuple[float, ...] = (1.0,) * (batch or 1)
    elif white.disjoint():
        norms = white.row_norms().reshape(-1, white.shape[0])
        smallest = torch.where(norms > 0, norms, torch.inf).amin(-1)
        conditions = tuple((norms.amax(-1) / smallest).tolist())
    else:
        # rows of zeros that pad a batch leave singular values of zero: take the smallest real one
        sigma = torch.linalg.svdvals(white.to_dense().reshape(batch or 1, *white.shape))
        smallest = torch.where(sigma > 0, sigma, torch.inf).amin(-1)
        conditions = tuple((sigma[:, 0] / smallest).tolist())
    return white, exponent, conditions


def _factor(
    rows: Rows,
    reflectors: Reflectors | None,
    system: System,
    options: Options,
    names: tuple[str, ...],
) -> tuple[str, str, Factor | None]:
    m, n = rows.shape
    variant, reason = choose(options.variant, system, options.accuracy, options.applications)
    if variant.needs_disjoint_rows:
        if not system.diagonal_metric:
            raise InputError(
                f"variant={variant.name!r} takes a diagonal metric only (a vector); with a matrix, "
                "rows that share no column share some after the change of variables"
            )
        if not system.disjoint:
            require_disjoint(rows, names)
    if m == 0:
        return variant.name, f"{variant.name}: no equation is left to satisfy", None
    try:
        if reflectors is None:
            return variant.name, reason, variant.factor(rows, system.u)
        return variant.name, reason, variant.factor_from(reflectors, rows, system.u)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # not re-exported
        raise ProjlabError(
            f"variant={variant.name!r} failed on {m} rows in {n} variables: {error}. "
            "Try another variant."
        ) from error


def _refuse_redundant(constraint: AffineConstraint, analysis: Analysis) -> None:
    for i, decision in enumerate(analysis.decisions):
        if decision.rank < constraint.m:
            found = combinations(constraint, analysis, i, range(min(5, len(decision.dropped))))
            raise RankDeficientError(
                f"the numerical rank is {decision.rank}, less than the {constraint.m} rows: "
                + "; ".join(str(c) for c in found)
                + '. Remove them, or pass on_redundant="drop".'
            )
