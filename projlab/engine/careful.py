"""Setting up by decision: rank and consistency first, then a variant for the rows that are kept.

The way of every system that `projlab.engine.setup` could not answer first, and of what asks for a
decision: a tolerance for the rank, a metric, least squares, `on_redundant="raise"`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from projlab.engine import sparse
from projlab.engine.facts import Facts
from projlab.engine.ranges import DenseRange
from projlab.engine.select import Reason, Traits, choose, settled
from projlab.engine.solver import Solver
from projlab.engine.variants import Factor
from projlab.errors import AccuracyError, InputError, ProjlabError, RankDeficientError
from projlab.numerics import memory
from projlab.numerics.precision import stated_precision
from projlab.numerics.scaling import power_of_two, widened
from projlab.numerics.triangular import Reflectors
from projlab.system.analysis import (
    Analysis,
    analyse,
    combinations,
    raise_inconsistent,
    range_projection,
)
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import equilibrate_rows, equilibrated_side
from projlab.system.metric import Metric, factor_metric
from projlab.system.options import Options
from projlab.system.rank import RankRule, chosen_for_least_squares
from projlab.system.rows import DenseRows, Rows
from projlab.system.structure import require_disjoint


def decided(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> Solver:
    """A solver for the rows that carry the rank; everything that can be refused is refused here."""
    device, (m, n) = constraint.device, (constraint.m, constraint.n)
    analysis, basis = _analysed(constraint, dtype, options, data)
    decisions = analysis.decisions
    rows, kept, exponent = _kept(analysis, constraint.batch)
    reflectors = analysis.reflectors if options.metric is None else None
    metric, measured = None, all(d.measured for d in decisions)
    conditions = tuple(d.condition for d in decisions)
    if options.metric is not None:
        metric = factor_metric(options.metric, dtype, device)
        rows, whitening, conditions = _whiten(rows, metric, constraint.batch)
        exponent, measured = exponent + whitening, True
    system = Traits(
        m=rows.shape[0],
        n=rows.shape[1],
        disjoint=rows.disjoint() if rows.shape[0] else True,
        diagonal_metric=metric is None or metric.diagonal,
        condition=max(conditions),
        measured=measured,
        dtype=dtype,
    )
    asked = (options.variant, system, options.accuracy, options.applications)
    if not measured and settled(*asked) is None:
        conditions = tuple(d.measure().condition for d in decisions)
        system = system._replace(condition=max(conditions), measured=True)
    names = constraint.names
    if kept is not None and constraint.batch is None:
        names = tuple(names[i] for i in kept.tolist())
    if rows.sparse and not system.disjoint and sparse.possible(constraint, options):
        name, reason, factor = _sparse_factor(constraint, rows, system, options, names)
    else:
        name, reason, factor = _factor(rows, reflectors, system, options, names)
    reason = f"{reason}{_tolerated(analysis)}"
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
        facts=Facts(
            constraint,
            dtype,
            options.rank,
            data,
            known_ranks=tuple(d.rank for d in decisions),
            known_conditions=conditions if system.measured else None,
            bounds=conditions,
        ),
        factor=factor,
        kept=kept,
        units=units,
        onto_range=None if basis is None else DenseRange(basis.to(device=device, dtype=dtype)),
        metric=metric,
        c=None,
    )
    if factor is None:
        return solver
    compromise = _range_basis(analysis, constraint, set(analysis.conflicts))
    f = _own_right_side(constraint, compromise, kept, exponent).to(device=device, dtype=dtype)
    if padding is not None:
        f = f.masked_fill(padding, 0)
    return replace(solver, c=factor.right_side(solver.beside(f)))


def _analysed(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> tuple[Analysis, Tensor | None]:
    """Rank and consistency, what is not wanted refused; and the range of A in least squares."""
    analysis = analyse(constraint, dtype, options.rank, data)
    least_squares = options.on_inconsistent == "least_squares"
    if analysis.conflicts and not least_squares:
        raise_inconsistent(constraint, analysis)
    if options.on_redundant == "raise":
        _refuse_redundant(constraint, analysis)
    basis = _range_basis(analysis, constraint) if least_squares else None
    return analysis if basis is None else _compromising(analysis, constraint), basis


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


def _compromising(analysis: Analysis, constraint: AffineConstraint) -> Analysis:
    """Rows chosen afresh where they may contradict each other, and then meet in least squares."""
    exponents = analysis.system.exponent.reshape(len(analysis.decisions), constraint.m)
    decisions = []
    for e, decision in zip(exponents, analysis.decisions, strict=True):
        basis = range_projection(e, decision)
        decisions.append(
            decision if basis is None else chosen_for_least_squares(decision, basis.to_dense(), e)
        )
    return replace(analysis, decisions=tuple(decisions))


def _range_basis(
    analysis: Analysis, constraint: AffineConstraint, elements: set[int] | None = None
) -> Tensor | None:
    """(m, r), or (B, m, m) padded with zeros: None where every b is in the range.

    For the elements named only, the others taking b as it is; by default for all.
    """
    exponents = analysis.system.exponent.reshape(len(analysis.decisions), constraint.m)
    found = [
        None if elements is not None and i not in elements else range_projection(exponents[i], d)
        for i, d in enumerate(analysis.decisions)
    ]
    bases = [None if basis is None else basis.to_dense() for basis in found]
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


def _sparse_factor(
    constraint: AffineConstraint,
    rows: Rows,
    system: Traits,
    options: Options,
    names: tuple[str, ...],
) -> tuple[str, str | Reason, Factor | None]:
    """As `_factor`, by a sparse one where "auto" takes it: accurate enough, and cheaper."""
    if options.variant == sparse.NAME:
        return _factor(rows, None, system, options, names)
    try:
        choose(sparse.NAME, system, options.accuracy, options.applications)
        found = sparse.of_kept(constraint, rows, options)
    except AccuracyError:
        if not sparse.dense_fits(constraint):
            raise
        found = None
    if found is None:
        return _factor(rows, None, system, options, names)
    factor, reason = found
    return sparse.NAME, reason, factor


def _factor(
    rows: Rows,
    reflectors: Reflectors | None,
    system: Traits,
    options: Options,
    names: tuple[str, ...],
) -> tuple[str, str | Reason, Factor | None]:
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


def _tolerated(analysis: Analysis) -> str:
    """What of b was taken as its stated error."""
    apart = [abs(c.left - c.right) for found in analysis.tolerated.values() for c in found]
    if not apart:
        return ""
    rows = (
        "1 redundant row misses its"
        if len(apart) == 1
        else f"{len(apart)} redundant rows miss their"
    )
    return f"; {rows} combination in b by {max(apart):.2g} at most, within b_error"


def _refuse_redundant(constraint: AffineConstraint, analysis: Analysis) -> None:
    for i, decision in enumerate(analysis.decisions):
        if decision.rank < constraint.m:
            found = combinations(constraint, analysis, i, range(min(5, len(decision.dropped))))
            raise RankDeficientError(
                f"the numerical rank is {decision.rank}, less than the {constraint.m} rows: "
                + "; ".join(str(c) for c in found)
                + '. Remove them, or pass on_redundant="drop".'
            )
