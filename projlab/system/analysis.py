"""Rank and consistency of a constraint, decided once and kept with it."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InconsistentError, MemoryLimitError, first_few
from projlab.numerics import sparse_elimination, tuning
from projlab.numerics.exact_rank import independent_rows
from projlab.numerics.triangular import Reflectors
from projlab.system.block_rank import decide_by_blocks, orthonormal_columns
from projlab.system.combinations import Combination, combinations_of
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import Equilibrated, equilibrate, equilibrated_side
from projlab.system.rank import Rank, RankRule, cutoff_of, decide, decide_each, wide_data
from projlab.system.rows import Rows, SparseRows, sparse_rows
from projlab.system.sparse_rank import UndecidedError, decide_sparse
from projlab.system.structure import worthwhile_blocks


@dataclass(frozen=True)
class Analysis:
    """The equilibrated system, and per element of the batch (one without) rank and conflicts."""

    system: Equilibrated
    decisions: tuple[Rank, ...]
    conflicts: dict[int, tuple[Combination, ...]] = field(default_factory=dict)
    """Per element: the rows that contradict the others; absent where it is consistent."""
    tolerated: dict[int, tuple[Combination, ...]] = field(default_factory=dict)
    """Per element: the rows that would, but for the stated error of b."""

    @property
    def reflectors(self) -> Reflectors | None:
        """Householder QR of E' in float64, where the rank decision left one for every system."""
        made = [d.reflectors for d in self.decisions if d.reflectors is not None]
        if len(made) < len(self.decisions):
            return None
        if self.system.rows.batch is None:
            return made[0]
        return Reflectors(*(torch.stack(parts) for parts in zip(*made, strict=True)))


def analyse(
    constraint: AffineConstraint,
    dtype: torch.dtype,
    rule: RankRule,
    data: torch.dtype,
    *,
    measured: bool = False,
) -> Analysis:
    """Equilibrate in `dtype`, decide the rank, judge consistency; kept with the constraint.

    Rank and consistency are of the data: its precision decides them, however wide the work.
    `measured` asks for singular values where the rank can do without.
    """
    system = equilibrate(constraint, dtype)
    key = (dtype, rule, data)
    if key in constraint.decided:
        decisions, conflicts, tolerated = constraint.decided[key]
        if not measured or all(d.measured for d in decisions):
            return Analysis(system, decisions, conflicts, tolerated)
    u = tolerance.unit_roundoff(data)
    if constraint.batch is None:
        decisions = (_decided(system.rows, u, rule),)
    elif system.rows.sparse and _large(system.rows):
        elements = range(constraint.batch)
        decisions = tuple(_decided(system.rows.element(i), u, rule) for i in elements)
    else:
        decisions = decide_each(system.rows, u, rule)
    if measured:
        decisions = tuple(decision.measure() for decision in decisions)
    analysis = Analysis(system, decisions)
    for i, decision in enumerate(decisions):
        if len(decision.dropped):
            part = system.element(i)
            bad = _conflicting(part, decision, u, rule)
            if bad and constraint.b_error is not None:
                error = constraint.b_error if constraint.batch is None else constraint.b_error[i]
                excused = _within(error, part, decision, bad)
                analysis.tolerated[i] = combinations(constraint, analysis, i, excused)
                bad = [k for k in bad if k not in excused]
            if bad:
                analysis.conflicts[i] = combinations(constraint, analysis, i, bad)
    # as large as A: reflectors are for the factorisation that follows, and not kept
    kept = tuple(replace(decision, reflectors=None, inverse=None) for decision in decisions)
    constraint.decided[key] = kept, analysis.conflicts, analysis.tolerated
    return analysis


def _decided(rows: Rows, u: float, rule: RankRule) -> Rank:
    """By blocks where that pays, else by sparse factors where those do, else by a dense matrix."""
    # entries taken literally are dense integers, unless they are eliminated as sparse ones
    blocks = None if rule == "exact" else worthwhile_blocks(rows)
    large = _large(rows) if blocks is None else blocks.operations >= tuning.SPARSE_DECISION
    why = ""
    if large and isinstance(rows, SparseRows) and not rows.disjoint():
        try:
            return decide_sparse(rows, u, rule)
        except UndecidedError as error:
            why = str(error)
    try:
        return decide(rows, u, rule) if blocks is None else decide_by_blocks(blocks, u, rule)
    except MemoryLimitError as error:
        if not why:
            raise
        raise MemoryLimitError(
            f"the rank is undecided. By sparse factors: {why}. By singular values: {error}"
        ) from error


def _large(rows: Rows) -> bool:
    """Whether a dense decision takes longer than a sparse one."""
    m, n = rows.shape
    return float(min(m, n)) * m * n >= tuning.SPARSE_DECISION


def _conflicting(system: Equilibrated, decision: Rank, u: float, rule: RankRule) -> list[int]:
    """Positions in `decision.dropped` whose right-hand sides contradict the kept rows.

    With x^ = E_r^+ f, row i is off where |E x^ - f|_i exceeds the consistency factor times
    ||e_i|| ||x^|| + |f_i|. The residual is the part of f outside the range of E_r. Where only the
    rounding of coarser data counts, a redundant row is held against those that it follows from.
    """
    if rule == "exact":
        return _conflicting_exactly(system, decision)
    m, n = system.rows.shape
    # the decision may have been taken on the CPU where the device has no float64
    dropped, kept = decision.dropped, decision.kept
    f = system.f.to(dropped.device).double()
    norms = system.rows.row_norms().to(dropped.device).double()
    factor = tolerance.consistency_factor(cutoff_of(rule, m, n, u))
    zero = norms[dropped] == 0
    off = zero & (f[dropped] != 0)
    if decision.coefficients is not None:
        C = decision.coefficients
        residual, xhat = _outside(decision, f, norms > 0)
        size = norms * xhat + f.abs()
        allowed = factor * size
        mismatch = _mismatch(decision, f)
        weight = size[dropped] + C.abs().matvec(size[kept])
        if rule == "numerical" and not wide_data(u):
            off = off | (mismatch > tolerance.ROUNDED_ONCE * u * weight)
        elif bool((residual > allowed)[norms > 0].any()):
            # the combinations that carry the contradiction, at least the clearest of them
            weight = (factor * weight).clamp_min(torch.finfo(f.dtype).tiny)
            ratio = torch.where(zero, 0.0, mismatch / weight)
            off = off | (ratio > min(1.0, float(ratio.max()) * (1 - tolerance.TIE)))
    return [int(i) for i in off.nonzero().flatten()]


def _mismatch(decision: Rank, f: Tensor) -> Tensor:
    """By how much the right side of each dropped row misses that of the kept ones it follows from.

    Rows of zeros alone follow from none.
    """
    own = f[decision.dropped]
    if decision.coefficients is not None:
        own = own - decision.coefficients.matvec(f[decision.kept])
    return own.abs()


def _outside(decision: Rank, f: Tensor, nonzero: Tensor) -> tuple[Tensor, float]:
    """Magnitudes of what of f is outside the range of E, and ||E^+ f||."""
    if decision.basis is not None:
        inside = decision.basis.rmatvec(f)
        xhat = torch.linalg.vector_norm(inside / decision.sigma)
        return (f - decision.basis.matvec(inside)).abs(), float(xhat)
    assert decision.inverse is not None
    residual, xhat = decision.inverse.outside(f[nonzero].cpu().numpy())
    whole = torch.zeros_like(f)
    whole[nonzero] = torch.from_numpy(residual).abs().to(f.device)
    return whole, xhat


def _within(
    b_error: Tensor, system: Equilibrated, decision: Rank, positions: list[int]
) -> list[int]:
    """Those of `positions` in `decision.dropped` whose contradiction errors of b explain.

    A row misses the combination that it is by at most its own error and those of the rows in it,
    and what rounding makes of the combination as it is evaluated.
    """
    dropped, kept = decision.dropped, decision.kept
    f = system.f.to(dropped.device).double()
    error = equilibrated_side(b_error, system.exponent).to(dropped.device)
    error = error + tolerance.ROUNDED_ONCE * tolerance.unit_roundoff("float64") * f.abs()
    mismatch, explained = _mismatch(decision, f), error[dropped]
    if decision.coefficients is not None:
        explained = explained + decision.coefficients.abs().matvec(error[kept])
    return [i for i in positions if bool(mismatch[i] <= explained[i])]


def _conflicting_exactly(system: Equilibrated, decision: Rank) -> list[int]:
    """`_conflicting` of entries taken literally: rows that are dependent in E, but not in [E f]."""
    rows = system.rows
    if isinstance(rows, SparseRows) and decision.basis is None:
        independent = set(_independent_augmented(rows, system.f))
    else:
        augmented = torch.cat([rows.to_dense(), system.f.unsqueeze(-1)], -1)
        independent = set(independent_rows(augmented.double().cpu().numpy()))
    return [i for i, row in enumerate(decision.dropped.tolist()) if row in independent]


def _independent_augmented(rows: SparseRows, f: Tensor) -> list[int]:
    """The first maximal set of independent rows of [E f]."""
    (m, n), given = rows.shape, f.nonzero().flatten()
    i = torch.cat([rows.rows, given]).cpu().numpy()
    j = torch.cat([rows.cols, torch.full_like(given, n)]).cpu().numpy()
    values = torch.cat([rows.values, f[given]]).double().cpu().numpy()
    return sparse_elimination.independent_rows(i, j, values, (m, n + 1)).kept


def combinations(
    constraint: AffineConstraint, analysis: Analysis, element: int, positions: Iterable[int]
) -> tuple[Combination, ...]:
    """How the dropped rows at `positions` follow from the kept ones, in the caller's units."""
    decision, exponent = analysis.decisions[element], analysis.system.exponent
    exponent = exponent if constraint.batch is None else exponent[element]
    return combinations_of(constraint, decision, exponent, element, positions)


def raise_inconsistent(constraint: AffineConstraint, analysis: Analysis) -> None:
    """Raise `InconsistentError` with the rows and the combination that prove it."""
    element, conflicts = next(iter(analysis.conflicts.items()))
    where = "A x = b" if constraint.batch is None else f"system {element} of the batch"
    shown = first_few([c.contradiction() for c in conflicts])
    raise InconsistentError(
        f"{where} has no solution: {shown}. Mend b, or ask for the nearest point of the "
        'least-squares set with on_inconsistent="least_squares"; where b is known to be off by so '
        "much, say so with b_error=."
    )


def range_projection(exponent: Tensor, decision: Rank) -> Rows | None:
    """Orthonormal columns (m, rank) whose span is the range of the unscaled A; None where b stays.

    Rows as given: least squares, unlike the affine set itself, depends on their scaling. A global
    power of two keeps the unscaled basis in range.
    """
    if decision.coefficients is None:
        return None
    basis = decision.basis
    if basis is None:
        basis = _spanning(decision, len(exponent))
    exponent = exponent.to(basis.device)
    return orthonormal_columns(basis.scale_rows(exponent.min() - exponent))


def _spanning(decision: Rank, m: int) -> Rows:
    """(m, rank) columns that span the range of E: E = M E_K."""
    assert decision.coefficients is not None
    i, j, values = decision.coefficients.triplets()
    one = torch.arange(decision.rank, device=i.device)
    return sparse_rows(
        torch.cat([decision.kept, decision.dropped[i]]),
        torch.cat([one, j]),
        torch.cat([torch.ones_like(one, dtype=values.dtype), values]),
        (m, decision.rank),
    )
